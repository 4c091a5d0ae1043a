"""Portraits with diffusers: an SDXL base, people, and the cascade.

    portrait = PortraitPipeline.from_base("models/sdxl-base-1.0")    # a diffusers folder, a checkpoint file, "mini" or "tiny"
    image, focus = portrait(adapter, [reference_1, reference_2], "A man@1 and a woman@2 in a garden")

The cascade is that of the ComfyUI nodes: the same modes, attention store, masks and blend.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from ...conditioning.masks import resize_masks
from ...errors import HostError
from ...methods.paired.adapter_checks import check_weights
from ...methods.paired.cascade_modes import make_mode, resize_focus
from ...methods.paired.settings import CascadeSettings, SamplingSettings, check_released
from ...optional import require
from ...prompts import Prompt, parse_prompt
from .attention import Attached, attach
from .loading import BUILT_IN, choose_device, choose_dtype, load_pipeline
from .memory import Turns, too_small_for
from .sampling import DenoisingLoop, initial_noise
from .text import bound_words, encode_prompt
from .vae import decode

if TYPE_CHECKING:
    from ...methods.paired.adapter import Adapter
    from ...references.reference import FaceReference

__all__ = ["NEGATIVE", "SAMPLERS", "PortraitPipeline", "check_settings"]

SAMPLERS = {"euler": "EulerDiscreteScheduler", "euler_ancestral": "EulerAncestralDiscreteScheduler"}
"""Samplers by ComfyUI's names. The ancestral one adds noise at every step, with which it gets out of early mistakes."""

NEGATIVE = "monochrome, lowres, bad anatomy, worst quality, low quality"
"""The negative prompt of the released script."""


class PortraitPipeline:
    """An SDXL base that draws portraits of the people in references.

    Attributes:
        pipeline: diffusers' StableDiffusionXLPipeline; only its parts are used.
        device, dtype: where and in what the base runs.
        scheduler: any of diffusers' that steps on a noise prediction; Euler from the start, as the nodes' default.
        offload: whether text encoders, UNet, VAE and adapter wait on the CPU until it is their turn; by default so where the GPU is
            too small for all. Only a call does so: whoever uses the parts moves them.
        batched: whether the modes with two predictions a step make them in one call, if memory allows. On a CPU that gains nothing.
    """

    def __init__(self, pipeline: Any, device: torch.device | str = "cpu", offload: bool | None = None) -> None:
        self.device, self.dtype = torch.device(device), pipeline.unet.dtype
        parts = (pipeline.text_encoder, pipeline.text_encoder_2, pipeline.unet, pipeline.vae)
        self.offload = too_small_for(parts, self.device) if offload is None else offload
        self.pipeline = pipeline if self.offload else pipeline.to(device)
        self.turns = Turns(self.device, self.offload)
        self.batched = self.device.type != "cpu"
        self.use_sampler("euler")

    def use_sampler(self, name: str) -> None:
        """Sample with one of `SAMPLERS` from now on. HostError for another name."""
        if name not in SAMPLERS:
            raise HostError(f"There is no sampler {name!r}: choose {' or '.join(SAMPLERS)}.", code="unknown-sampler")
        self.scheduler = getattr(require("diffusers"), SAMPLERS[name]).from_config(self.pipeline.scheduler.config)

    @classmethod
    def from_base(
        cls,
        base: str | Path,
        device: str = "auto",
        dtype: str = "auto",
        vae: str | Path | None = None,
        offload: bool | None = None,
    ) -> PortraitPipeline:
        """Load a base.

        Args:
            base: a diffusers folder (with model_index.json), a checkpoint in one .safetensors, "mini" (the drawn world), or "tiny": random
                weights, whose pictures are noise.
            device: "auto" (cuda, else mps, else cpu), or one of them.
            dtype: "auto" (fp16, on the CPU fp32), "fp16", "bf16" or "fp32".
            vae: a VAE in a file of its own, in place of the base's.
            offload: see `PortraitPipeline`; None: where the GPU is too small for all.

        Raises:
            HostError: a package is missing, there is no such base, or it is not SDXL's.
        """
        place = choose_device(device)
        kind = choose_dtype("fp32" if base in BUILT_IN and dtype == "auto" else dtype, place)
        pipeline = load_pipeline(base, kind, vae)
        return cls(pipeline, place, offload)

    def noise(self, seed: int, size: tuple[int, int]) -> Tensor:
        """The noise of a seed for a picture (width, height) px, [1, C, height / 8, width / 8]; drawn on the CPU."""
        channels = self.pipeline.unet.config.in_channels
        return initial_noise(seed, (channels, size[1] // 8, size[0] // 8))[None]

    def __call__(
        self,
        adapter: Adapter,
        references: Sequence[FaceReference],
        prompt: Prompt | str,
        negative: str = NEGATIVE,
        *,
        cascade: CascadeSettings | None = None,
        sampling: SamplingSettings | None = None,
        masks: Tensor | None = None,
        focus: Tensor | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[Image.Image, Tensor | None]:
        """Draw one portrait. The same settings and seed give the same picture.

        Args:
            adapter: the weights. Without a subject branch the people still act, but no word is mapped.
            references: one a person, in order.
            prompt: a sentence with marks (`parse_prompt`), or one already parsed.
            negative: what to keep away from; without effect at a cfg of 1.
            cascade: how much the faces count, and where; None: the defaults.
            sampling: steps, guidance, seed, size; None: as published.
            masks: where each person may be, [P, 1, H, W] 0..1, any size of the picture's shape.
            focus: where the faces are, [1, H, W] 0..1, any size of the picture's shape, in place of what is found while sampling.
            progress: called with (steps done, all steps).

        Returns:
            The picture, and the focus mask, bool [height / 8, width / 8], a provided one float: None in the mode none, and where
            the persons have no strength.

        Raises:
            HostError: settings that cannot be used, an adapter that does not fit, or NaN on the way.
            AdapterError: the adapter holds NaN.
        """
        check_weights(adapter)
        cascade, sampling = cascade or CascadeSettings(), sampling or SamplingSettings()
        check_settings(cascade, sampling)
        if sampling.sampler is not None:
            self.use_sampler(sampling.sampler)
        latent_size = (sampling.size[1] // 8, sampling.size[0] // 8)
        if masks is not None and masks.ndim == 4:  # refused here, not in the first step
            resize_masks(masks, latent_size, 1)
        if focus is not None:
            resize_focus(focus, latent_size, 1)
            if cascade.mode == "none":
                raise HostError(
                    "The mode none has no focus: choose another one, or leave the focus away.",
                    code="focus-without-cascade",
                )
        if references:
            adapter.check_persons(len(references))
        if isinstance(prompt, str):
            prompt = parse_prompt(prompt, persons=len(references))
        guidance = sampling.cfg != 1
        noise = self.noise(sampling.seed, sampling.size)
        mode = make_mode(cascade, focus)
        people = (references, cascade.strength, sampling.person_strengths, masks, guidance)
        base, turns = self.pipeline, self.turns
        with torch.no_grad(), ExitStack() as stack:
            with turns.of(base.text_encoder, base.text_encoder_2, adapter):
                unconditional = self.encode(negative) if guidance else None
                conditions = self.conditions([self.encode(prompt, adapter, references)], unconditional, sampling.size)
                attached = stack.enter_context(attach(base.unet, adapter, *people))
                if self.offload:
                    attached.people.finish(attached.layers, self.device, self.dtype)
            with turns.of(base.unet):
                latent = self.loop(attached, conditions, sampling, [sampling.seed], progress).run(noise, mode)
        found = None if mode.focus is None else mode.focus[0].cpu()
        with turns.of(base.vae):
            return decode(base.vae, latent), found

    def loop(
        self,
        attached: Attached | None,
        conditions: dict[str, Any],
        sampling: SamplingSettings,
        seeds: Sequence[int],
        progress: Callable[[int, int], None] | None = None,
    ) -> DenoisingLoop:
        """The denoising loop of this base."""
        parts = (self.pipeline.unet, self.scheduler, attached, conditions, sampling, seeds, progress)
        return DenoisingLoop(*parts, batched=self.batched)

    def conditions(
        self, texts: Sequence[tuple[Tensor, Tensor]], negative: tuple[Tensor, Tensor] | None, size: tuple[int, int]
    ) -> dict[str, Any]:
        """What the UNet gets beside latent and time.

        Args:
            texts: of each picture the embeddings [1, L, C] and the pooled one [1, C'].
            negative: those of the negative prompt, for every picture; None without guidance.
            size: (width, height) of the pictures, px.

        Returns:
            encoder_hidden_states [B, L, C], text_embeds [B, C'] and time_ids [B, 6]; unconditional samples first.
        """
        rows = [*([negative] * len(texts) if negative is not None else []), *texts]
        # Rows of unlike length are repeated up to a common one: attention to a token twice is attention to it once.
        tokens = math.lcm(*{embeds.shape[1] for embeds, _ in rows})
        embeds = torch.cat([embeds.repeat(1, tokens // embeds.shape[1], 1) for embeds, _ in rows])
        pooled = torch.cat([pooled for _, pooled in rows])
        width, height = size
        ids = torch.tensor([[height, width, 0, 0, height, width]] * len(rows))  # original size, corner, target size
        where = {"device": self.device, "dtype": self.dtype}
        return {
            "encoder_hidden_states": embeds.to(**where),
            "added_cond_kwargs": {"text_embeds": pooled.to(**where), "time_ids": ids.to(**where)},
        }

    def encode(
        self, prompt: Prompt | str, adapter: Adapter | None = None, references: Sequence[FaceReference] = ()
    ) -> tuple[Tensor, Tensor]:
        """Embeddings [1, L, C] and the pooled one [1, C'] of a prompt; words carry faces where the adapter can do that."""
        parts = self.pipeline
        encoders = ((parts.tokenizer, parts.tokenizer_2), (parts.text_encoder, parts.text_encoder_2))
        mapping = adapter if adapter is not None and adapter.has_subject_path else None
        return encode_prompt(*encoders, prompt, mapping, references)[:2]

    def bound_words(self, prompt: Prompt) -> str:
        """Say for people which words of a prompt stand for whom."""
        return bound_words(self.pipeline.tokenizer, prompt)


def check_settings(cascade: CascadeSettings, sampling: SamplingSettings) -> None:
    """Refuse settings that make no picture, before anything heavy is done. HostError."""
    cascade.check()
    sampling.check()
    if cascade.mode == "released":
        check_released(cascade.scene_strength, sampling.person_strengths, sampling.end >= 1)
