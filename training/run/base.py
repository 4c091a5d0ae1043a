"""The frozen base model: only what training needs of it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dhumandiff.errors import short_error
from dhumandiff.hosts.diffusers.attention import cross_attention_layers
from dhumandiff.hosts.diffusers.loading import BUILT_IN, check_file, load_pipeline
from dhumandiff.hosts.diffusers.single_file import load_parts, meta_parts
from dhumandiff.io import expand_user
from dhumandiff.optional import require

from .. import TrainingError
from ..data.dataset import PreparedDataset

__all__ = ["BaseModel", "check_shards_compatible", "load_base", "meta_base", "pooled_width"]


@dataclass
class BaseModel:
    """A frozen base.

    Attributes:
        unet: diffusers' UNet2DConditionModel.
        scheduler: DDPMScheduler with the base's noise schedule and prediction type.
        text_encoder: CLIP-L, where the subject path needs it.
        vae: where sample grids or an objective need it.
        name: what it was loaded from.
    """

    unet: nn.Module
    scheduler: Any
    text_encoder: nn.Module | None
    vae: nn.Module | None
    name: str

    def to(self, device: torch.device | str, unet: bool = True) -> None:
        """Move what there is. unet: False leaves it to `frozen.BlockOffload`."""
        for part in (self.unet if unet else None, self.text_encoder, self.vae):
            if part is not None:
                part.to(device)

    @property
    def sizes(self) -> dict[str, Any]:
        """What an adapter and a checkpoint must agree with."""
        layers = cross_attention_layers(self.unet)
        return {
            "context_width": int(layers[0][1].cross_attention_dim),
            "hidden": [int(module.inner_dim) for _, module in layers],
            "latent_channels": int(self.unet.config.in_channels),
            "pooled_width": pooled_width(self.unet.config),
            "prediction": str(self.scheduler.config.prediction_type),
        }


def pooled_width(config: Any) -> int:
    """Width of the pooled text embedding that a UNet reads beside six sizes; 0 for those without (SD 1.5)."""
    if config.addition_embed_type != "text_time":
        return 0
    return int(config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim)


def load_base(path: str, *, text_encoder: bool, vae: bool, dtype: torch.dtype = torch.float32) -> BaseModel:
    """Load the UNet and the scheduler of a base, and CLIP-L and the VAE if asked for.

    Args:
        path: a diffusers folder (SDXL, or of SD 1.5's shape), one checkpoint .safetensors of SDXL, "mini"
            (the drawn world's base, which ships) or "tiny" (random weights).
        text_encoder: load CLIP-L.
        vae: load the VAE, in float32, where there is one.
        dtype: of UNet and text encoder.

    Raises:
        TrainingError: a part of the folder is missing or cannot be loaded, or the base is of another kind.
        HostError: there is no such base.
    """
    diffusers = require("diffusers")
    if path not in BUILT_IN and expand_user(path).is_dir():
        parts = _from_folder(expand_user(path), text_encoder, vae, dtype)
    else:
        parts = _shipped(path, dtype) if path in BUILT_IN else _from_file(expand_user(path), text_encoder, vae, dtype)
    if parts["unet"].config.addition_embed_type not in (None, "text_time"):
        raise TrainingError(
            f"The base {path} wants {parts['unet'].config.addition_embed_type!r} beside the text, which prepared shards do "
            "not hold. Choose a base of SDXL's or SD 1.5's kind.",
            code="base-of-another-kind",
        )
    frozen = {name: parts[name].requires_grad_(False).eval() for name in ("unet", "text_encoder", "vae") if parts[name]}
    return BaseModel(
        unet=frozen["unet"],
        scheduler=diffusers.DDPMScheduler.from_config(parts["scheduler"].config),
        text_encoder=frozen["text_encoder"] if text_encoder else None,
        vae=frozen["vae"].float() if vae and "vae" in frozen else None,
        name=path,
    )


def meta_base(path: str, *, text_encoder: bool) -> BaseModel:
    """A base without values, on the device "meta": everything has its shape, nothing takes memory. For estimates.

    Of a folder only the small configuration files are read, of a checkpoint file only the head. Raises what `load_base` raises.
    """
    folder = expand_user(path)
    if path not in BUILT_IN and folder.is_file():
        check_file(folder)
        parts = meta_parts(folder, text_encoder)
        scheduler = require("diffusers").DDPMScheduler.from_config(parts["scheduler"].config)
        frozen = [
            part.requires_grad_(False).eval() if part is not None else None
            for part in (parts["unet"], parts["text_encoder"])
        ]
        return BaseModel(frozen[0], scheduler, frozen[1], None, path)
    if path in BUILT_IN or not (folder / "unet" / "config.json").is_file():
        base = load_base(path, text_encoder=text_encoder, vae=False)
        base.to("meta")
        return base
    diffusers, transformers = require("diffusers"), require("transformers")
    with torch.device("meta"):
        config = diffusers.UNet2DConditionModel.load_config(str(folder / "unet"))
        unet = diffusers.UNet2DConditionModel.from_config(config)
        encoder = None
        if text_encoder:
            encoder = transformers.CLIPTextModel(
                transformers.CLIPTextConfig.from_pretrained(str(folder / "text_encoder"))
            )
    scheduler = diffusers.DDPMScheduler.from_pretrained(str(folder), subfolder="scheduler", local_files_only=True)
    for part in (unet, encoder):
        if part is not None:
            part.requires_grad_(False).eval()
    return BaseModel(unet, scheduler, encoder, None, path)


def check_shards_compatible(base: BaseModel, folders: list[PreparedDataset]) -> None:
    """Refuse shards that were prepared for a base of other sizes.

    Raises:
        TrainingError: names what differs.
    """
    sizes = base.sizes
    for folder in folders:
        made_for = folder.header["base"]
        differing = [
            f"{name} {made_for.get(name) or 0} instead of {sizes[name]}"
            for name in ("context_width", "latent_channels", "pooled_width")
            if int(made_for.get(name) or 0) != sizes[name]
        ]
        if differing:
            raise TrainingError(
                f"{folder.path} was prepared for another base ({made_for.get('name')}), not for {base.name}: "
                f"{', '.join(differing)}. Prepare the data with this base, or train on that one.",
                code="shards-for-another-base",
            )
    if base.text_encoder is not None:
        width = base.text_encoder.get_input_embeddings().weight.shape[1]
        wanted = folders[0].header["base"]["text_width"]
        if width != wanted:
            raise TrainingError(
                f"{folders[0].path} was prepared with a CLIP-L of width {wanted}, the base {base.name} has one of {width}. "
                "Prepare the data with this base.",
                code="shards-for-another-text-encoder",
            )


def _shipped(name: str, dtype: torch.dtype) -> dict[str, Any]:
    pipeline = load_pipeline(name, dtype)
    return {part: getattr(pipeline, part) for part in ("unet", "scheduler", "text_encoder", "vae")}


def _from_file(path: Path, text_encoder: bool, vae: bool, dtype: torch.dtype) -> dict[str, Any]:
    """The parts of one checkpoint file that are asked for; the others are not read."""
    check_file(path)
    parts = load_parts(path, dtype, ["unet", "scheduler", *(["text_encoder"] if text_encoder else [])])
    if vae:
        parts |= load_parts(path, torch.float32, ["vae"])
    return {"text_encoder": None, "vae": None, **parts}


def _from_folder(folder: Path, text_encoder: bool, vae: bool, dtype: torch.dtype) -> dict[str, Any]:
    """The parts of a folder in diffusers' layout, of SDXL or another family with the same UNet class."""
    diffusers, transformers = require("diffusers"), require("transformers")
    if not (folder / "unet" / "config.json").is_file():
        raise TrainingError(
            f"The folder {folder} is no diffusers base: unet/config.json is not there. "
            "Give the folder that holds unet/, scheduler/, text_encoder/ and vae/.",
            code="not-a-diffusers-folder",
        )

    def load(kind: Any, inside: str, dtype: torch.dtype = torch.float32) -> nn.Module:
        weights = list((folder / inside).glob("*.safetensors"))
        variant = "fp16" if weights and all(".fp16" in path.name for path in weights) else None
        try:
            return kind.from_pretrained(
                str(folder),
                subfolder=inside,
                variant=variant,
                use_safetensors=True,
                local_files_only=True,
                torch_dtype=dtype,
            )
        except Exception as error:  # diffusers, transformers and safetensors have a family of errors each
            raise TrainingError(
                f"{folder / inside} cannot be loaded: {short_error(error)}. Get the folder again.",
                code="base-not-loaded",
            ) from error

    try:
        scheduler = diffusers.DDPMScheduler.from_pretrained(str(folder), subfolder="scheduler", local_files_only=True)
    except Exception as error:
        raise TrainingError(
            f"{folder / 'scheduler'} cannot be loaded ({error}). Get the folder again.", code="base-not-loaded"
        ) from error
    return {
        "unet": load(diffusers.UNet2DConditionModel, "unet", dtype),
        "scheduler": scheduler,
        "text_encoder": load(transformers.CLIPTextModel, "text_encoder", dtype) if text_encoder else None,
        "vae": load(diffusers.AutoencoderKL, "vae") if vae and (folder / "vae").is_dir() else None,
    }
