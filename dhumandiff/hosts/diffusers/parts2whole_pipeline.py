"""People from pictures of their parts, with diffusers: Stable Diffusion 1.5 and Parts2Whole.

pipeline = PartsPipeline.from_base("models/dhumandiff/Parts2Whole")
parts = [pipeline.encode_part(face, "face", (512, 768)), pipeline.encode_part(shirt, "upper", (512, 768))]
image = pipeline(parts, "A person in a garden", pose=pose_map)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...errors import AdapterError, HostError, short_error
from ...formats import parts2whole as files_of
from ...formats.checkpoint import SD15
from ...io import expand_user
from ...methods.paired.cascade_modes import make_mode
from ...methods.paired.settings import CascadeSettings, SamplingSettings
from ...methods.parts2whole import Part, Parts2Whole
from ...methods.parts2whole.part import label_of
from ...methods.parts2whole.pictures import clip_input, squash, squash_mask
from ...methods.parts2whole.schedule import NoiseSchedule
from ...optional import require
from .loading import check_file, choose_device, choose_dtype
from .parts import sdxl_tokenizer
from .parts2whole import load_unet
from .sampling import DenoisingLoop, initial_noise
from .single_file import load_parts
from .text import encode_words
from .vae import decode
from .vision import ClipVision, load_file

__all__ = ["DEFAULTS", "NEGATIVE", "SAMPLERS", "PartsBase", "PartsPipeline", "make_scheduler"]

NEGATIVE = ""
"""As published."""

DEFAULTS = {"size": (512, 768), "steps": 50, "cfg": 3.5, "sampler": "ddim"}
"""As published; size is (width, height)."""

SAMPLERS = {
    "ddim": "DDIMScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
}


@dataclass
class PartsBase:
    """The Stable Diffusion 1.5 that draws; `image_encoder` is CLIP ViT-L/14 with its projection."""

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    image_encoder: Any

    def to(self, device: torch.device | str) -> PartsBase:
        """Move all of it."""
        for model in (self.unet, self.vae, self.text_encoder, self.image_encoder):
            model.to(device)
        return self


class PartsPipeline:
    """Draws people from parts.

    Attributes:
        weights: of the method.
        base: what draws.
        device, dtype: where and in what.
    """

    def __init__(self, weights: Parts2Whole, base: PartsBase, device: torch.device | str = "cpu") -> None:
        self.device, self.dtype = torch.device(device), next(base.unet.parameters()).dtype
        self.weights, self.base = weights.to(self.device, self.dtype), base.to(self.device)

    @classmethod
    def from_base(
        cls,
        base: str | Path,
        adapter: str | Path | None = None,
        image_encoder: str | Path | None = None,
        device: str = "auto",
        dtype: str = "auto",
    ) -> PartsPipeline:
        """Load everything.

        Args:
            base: a folder in diffusers' layout with unet/, text_encoder/, vae/ and image_encoder/; the released folder is one. Or
                a checkpoint of Stable Diffusion 1.5 in one .safetensors, with `adapter` and `image_encoder`.
            adapter: a folder of Parts2Whole; None: the base is one.
            image_encoder: a folder with CLIP ViT-L/14, or its one file; None: the base's.
            device, dtype: see `PortraitPipeline.from_base`.

        Raises:
            HostError: a package is missing, or a part of the base.
            AdapterError: the weights are incomplete, or another method's.
        """
        place = choose_device(device)
        kind = choose_dtype(dtype, place)
        weights = Parts2Whole.from_pretrained(adapter or base)
        return cls(weights, load_base(base, image_encoder, kind), place)

    def encode_part(
        self,
        picture: np.ndarray,
        label: str,
        size: tuple[int, int],
        mask: np.ndarray | None = None,
        person: int = 1,
        strength: float = 1.0,
        seed: int = 0,
    ) -> Part:
        """A part from its picture.

        Args:
            picture: uint8 [H, W, 3], transparent areas white.
            label: one of `part.LABELS`, or a short name.
            size: (width, height) of the picture that will be drawn, px.
            mask: uint8 [H, W], white where the part is; None: the whole picture.
            person, strength: see `Part`.
            seed: of the latent, which is sampled.

        Raises:
            HostError: there is no such part.
            ImageError: the mask does not fit the picture, or has nothing in it.
        """
        label = label_of(label)
        name = f"the {label} of person {person}"
        shape = (picture.shape[0], picture.shape[1])
        found = None if mask is None else squash_mask(mask, shape, size, name)
        vae, encoder = self.base.vae, self.base.image_encoder
        with torch.no_grad():
            pixels = squash(picture, size) * 2 - 1
            drawn = vae.encode(pixels.to(self.device, vae.dtype)).latent_dist
            noise = initial_noise(seed, drawn.mean.shape[1:])[None].to(drawn.mean)
            latent = (drawn.mean + drawn.std * noise) * vae.config.scaling_factor
            side = encoder.config.image_size
            embed = encoder(clip_input(picture, side).to(self.device, encoder.dtype)).image_embeds
        return Part(label, latent, found, self.encode(label), embed, person=person, strength=strength)

    def encode(self, text: str) -> Tensor:
        """Embeddings [1, L, C] of a text: the text encoder's last states, after its norm."""
        return encode_words(self.base.tokenizer, self.base.text_encoder, text).to(self.device, self.dtype)

    def __call__(
        self,
        parts: Sequence[Part],
        prompt: str,
        negative: str = NEGATIVE,
        *,
        pose: Tensor | None = None,
        regions: Sequence[Tensor | None] | None = None,
        scale: float = 1.0,
        drop_masked: bool = False,
        sampling: SamplingSettings | None = None,
        told: Callable[[str], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Image.Image:
        """Draw one picture. The same settings and seed give the same one.

        Args:
            parts: encoded for the picture's size.
            prompt: what is to be drawn, in words.
            negative: what to keep away from.
            pose: a DensePose map [1, 3, H, W] 0..1, at the picture's size.
            regions, scale, drop_masked: see `Parts2Whole.attach`.
            sampling: steps, guidance, seed, size, sampler; None: as published.
            told: called with what is to be known of the regions.
            progress: called with (steps done, all steps).

        Raises:
            HostError: settings that cannot be used, parts or regions that do not fit, or NaN on the way.
        """
        sampling = sampling or SamplingSettings(**DEFAULTS)
        sampling.check()
        scheduler = make_scheduler(self.weights.info.schedule, sampling.sampler or DEFAULTS["sampler"])
        guided = sampling.cfg != 1
        rows = [self.encode(text) for text in ([negative, prompt] if guided else [prompt])]
        tokens = math.lcm(*{row.shape[1] for row in rows})  # attention to a token twice is attention to it once
        text = torch.cat([row.repeat(1, tokens // row.shape[1], 1) for row in rows])
        unet = self.base.unet
        shape = (unet.config.in_channels, sampling.size[1] // 8, sampling.size[0] // 8)
        noise = initial_noise(sampling.seed, shape)[None]
        attached = self.weights.attach(
            unet, parts, pose, regions=regions, scale=scale, drop_masked=drop_masked, guidance=guided
        )
        self.weights.free_encoder()  # its features are kept
        with torch.no_grad(), attached:
            if told is not None:
                for note in attached.notes:
                    told(note)
            loop = DenoisingLoop(
                unet, scheduler, None, {"encoder_hidden_states": text}, sampling, [sampling.seed], progress
            )
            latent = loop.run(noise, make_mode(CascadeSettings(mode="none")))
        return decode(self.base.vae, latent)


def make_scheduler(schedule: NoiseSchedule, sampler: str) -> Any:
    """A scheduler of diffusers with the noise that the weights were trained on.

    Raises:
        HostError: there is no such sampler.
    """
    if sampler not in SAMPLERS:
        raise HostError(f"There is no sampler {sampler!r}: choose {', '.join(SAMPLERS)}.", code="unknown-sampler")
    diffusers = require("diffusers")
    config = {
        "beta_start": schedule.beta_start,
        "beta_end": schedule.beta_end,
        "beta_schedule": schedule.beta_schedule,
        "num_train_timesteps": schedule.num_train_timesteps,
        "prediction_type": schedule.prediction_type,
        "steps_offset": 1,
        "timestep_spacing": "leading",
    }
    if sampler == "ddim":
        config |= {"clip_sample": False, "set_alpha_to_one": False}
    return getattr(diffusers, SAMPLERS[sampler]).from_config(config)


def load_base(base: str | Path, image_encoder: str | Path | None, dtype: torch.dtype) -> PartsBase:
    """The Stable Diffusion 1.5 of a folder in diffusers' layout, or of one file.

    Raises:
        HostError: a part is missing, or another model's.
    """
    folder = expand_user(base)
    if not folder.is_dir():
        return _base_of_one_file(folder, image_encoder, dtype)
    lacking = [name for name in files_of.BASE_PARTS if not (folder / name).is_dir()]
    if image_encoder is not None and "image_encoder" in lacking:
        lacking.remove("image_encoder")
    if lacking:
        raise HostError(
            f"The base {folder} has no {', no '.join(f'{name}/' for name in lacking)}. Give a folder of Stable Diffusion 1.5 in "
            "diffusers' layout, such as the released folder of Parts2Whole; CLIP ViT-L/14 may come by --image-encoder.",
            code="parts-base-incomplete",
        )
    transformers, diffusers = require("transformers"), require("diffusers")
    try:
        unet: Any = load_unet(*files_of.read_unet(folder / "unet")).to(dtype)
    except AdapterError as error:
        raise HostError(f"The base's UNet cannot be loaded: {error}", code="base-not-loaded") from error
    context = unet.config.cross_attention_dim
    if context in (1024, 2048):
        raise HostError(
            f"The base {folder} is not Stable Diffusion 1.5 (its context is {context} wide), which Parts2Whole needs.",
            code="base-of-another-family",
        )

    def load(kind: Any, where: Path) -> Any:
        try:
            model = kind.from_pretrained(str(where), use_safetensors=True, local_files_only=True, torch_dtype=dtype)
        except Exception as error:  # diffusers, transformers and safetensors have a family of errors each
            raise HostError(
                f"{where} cannot be loaded: {short_error(error)}. Get the folder again, with its .safetensors.",
                code="base-not-loaded",
            ) from error
        return model.requires_grad_(False).eval()

    if image_encoder is not None and expand_user(image_encoder).is_file():
        encoder = _encoder_of_one_file(image_encoder, dtype)
    else:
        encoder = load(
            transformers.CLIPVisionModelWithProjection, expand_user(image_encoder or folder / "image_encoder")
        )
    own = folder / "tokenizer"
    return PartsBase(
        unet,
        load(diffusers.AutoencoderKL, folder / "vae"),
        load(transformers.CLIPTextModel, folder / "text_encoder"),
        transformers.CLIPTokenizer.from_pretrained(str(own)) if own.is_dir() else sdxl_tokenizer(),
        encoder,
    )


def _base_of_one_file(path: Path, image_encoder: str | Path | None, dtype: torch.dtype) -> PartsBase:
    check_file(path)
    if image_encoder is None:
        raise HostError(
            f"The base {path} has no image encoder in it, and no checkpoint has. Name CLIP ViT-L/14 with --image-encoder: a "
            "folder, such as image_encoder/ of the released folder of Parts2Whole, or its one file.",
            code="parts-base-incomplete",
        )
    parts = load_parts(path, dtype, ("unet", "vae", "text_encoder", "tokenizer"), family=SD15)
    for part in ("unet", "vae"):
        parts[part].requires_grad_(False)
    if expand_user(image_encoder).is_file():
        return PartsBase(**parts, image_encoder=_encoder_of_one_file(image_encoder, dtype))
    return PartsBase(**parts, image_encoder=ClipVision.from_pretrained(image_encoder, dtype=dtype).model)


def _encoder_of_one_file(path: str | Path, dtype: torch.dtype) -> Any:
    encoder = load_file(expand_user(path), dtype)
    if encoder.config.projection_dim != SD15_CONTEXT:
        raise HostError(
            f"The image encoder {path} gives {encoder.config.projection_dim} numbers a picture, where Parts2Whole reads "
            f"{SD15_CONTEXT}: those of CLIP ViT-L/14. Choose that one.",
            code="image-encoder-of-another-kind",
        )
    return encoder


SD15_CONTEXT = 768
"""Width of Stable Diffusion 1.5's context, and of what CLIP ViT-L/14 gives."""
