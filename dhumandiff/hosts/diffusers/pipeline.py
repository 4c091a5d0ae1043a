"""Portraits with diffusers: an SDXL base, the pair, and the cascade.

    portrait = Portrait.from_base("models/sdxl-base-1.0")            # a diffusers folder, a checkpoint file, "mini" or "tiny"
    image, focus = portrait.generate(adapter, [reference_1, reference_2], "A man@1 and a woman@2 in a garden")

The cascade is that of the ComfyUI nodes, with the same listeners, masks and blend.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from ...errors import HostError
from ...methods.paired.attention import fit_masks
from ...methods.paired.attention_store import fit_focus
from ...methods.paired.cascade import FACE_STRENGTH, FOCUS_SHARE, SCENE_STRENGTH
from ...optional import require
from ...prompts import Prompt, parse_prompt
from .attention import attach
from .loading import BUILT_IN, choose_device, choose_dtype, load_pipeline
from .sampling import (
    MASK_ADVICE,
    NO_MASK,
    Sampler,
    check_finite,
    first_noise,
    one_pass,
    released,
    two_strength,
)
from .text import bound_words, encode_prompt

if TYPE_CHECKING:
    from ...methods.paired.adapter import Adapter
    from ...references.reference import FaceReference

__all__ = ["MODES", "NEGATIVE", "Portrait", "check_settings"]

MODES = ("none", "one_pass", "two_strength", "released")
"""Of the cascade: without it, with one trajectory and one prediction a step, or two, or as published (cascade.py)."""

SAMPLERS = {"euler": "EulerDiscreteScheduler", "euler_ancestral": "EulerAncestralDiscreteScheduler"}
"""Samplers by ComfyUI's names. The ancestral one adds noise at every step, with which it gets out of early mistakes."""

NEGATIVE = "monochrome, lowres, bad anatomy, worst quality, low quality"
"""The negative prompt of the released script."""


class Portrait:
    """An SDXL base that draws portraits of the people in references.

    Attributes:
        pipeline: diffusers' StableDiffusionXLPipeline; only its parts are used.
        device, dtype: where and in what the base runs.
        scheduler: any of diffusers' that steps on a noise prediction; Euler from the start, as the nodes' default.
        joined: whether the modes with two predictions a step make them in one call, if memory allows. On a CPU that gains nothing.
    """

    def __init__(self, pipeline: Any, device: torch.device | str = "cpu") -> None:
        self.pipeline = pipeline.to(device)
        self.device, self.dtype = torch.device(device), pipeline.unet.dtype
        self.joined = self.device.type != "cpu"
        self.use_sampler("euler")

    def use_sampler(self, name: str) -> None:
        """Sample with one of `SAMPLERS` from now on. HostError for another name."""
        if name not in SAMPLERS:
            raise HostError(f"There is no sampler {name!r}: choose {' or '.join(SAMPLERS)}.")
        self.scheduler = getattr(require("diffusers"), SAMPLERS[name]).from_config(self.pipeline.scheduler.config)

    @classmethod
    def from_base(cls, base: str | Path, device: str = "auto", dtype: str = "auto") -> Portrait:
        """Load a base.

        Args:
            base: a diffusers folder (with model_index.json), a checkpoint in one .safetensors, "mini" (the drawn world), or "tiny": random
                weights, whose pictures are noise.
            device: "auto" (cuda, else mps, else cpu), or one of them.
            dtype: "auto" (fp16, on the CPU fp32), "fp16", "bf16" or "fp32".

        Raises:
            HostError: a package is missing, there is no such base, or it is not SDXL's.
        """
        place = choose_device(device)
        pipeline = load_pipeline(base, choose_dtype("fp32" if base in BUILT_IN and dtype == "auto" else dtype, place))
        return cls(pipeline, place)

    def noise(self, seed: int, size: tuple[int, int]) -> Tensor:
        """The noise of a seed for a picture (width, height) px, [1, C, height / 8, width / 8]; drawn on the CPU."""
        channels = self.pipeline.unet.config.in_channels
        return first_noise(seed, (channels, size[1] // 8, size[0] // 8))[None]

    def generate(
        self,
        adapter: Adapter,
        references: Sequence[FaceReference],
        prompt: Prompt | str,
        negative: str = NEGATIVE,
        *,
        seed: int = 0,
        size: tuple[int, int] = (512, 512),
        steps: int = 50,
        cfg: float = 5.0,
        mode: str = "one_pass",
        scene_strength: float = SCENE_STRENGTH,
        face_strength: float = FACE_STRENGTH,
        focus_share: float = FOCUS_SHARE,
        strength: float = 1.0,
        person_strengths: Sequence[float] | None = None,
        masks: Tensor | None = None,
        focus: Tensor | None = None,
        start: float = 0.0,
        end: float = 1.0,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[Image.Image, Tensor | None]:
        """Draw one portrait. The same settings and seed give the same picture.

        Args:
            adapter: the weights. Without a subject path the pair still acts, but no word is mapped.
            references: one a person, in order.
            prompt: a sentence with marks (`parse_prompt`), or one already parsed.
            negative: what to keep away from; without effect at a cfg of 1.
            seed: of the noise, which is drawn on the CPU and so is the same on every device.
            size: (width, height) in px, multiples of 8. 512 x 512 is as published.
            steps: of the scheduler; 50 is as published. The mode released takes them twice.
            cfg: guidance; 5 is as published, 1 computes no unconditional half.
            mode: one of `MODES`.
            scene_strength, face_strength, focus_share: of the cascade.
            strength: of both persons where the mode is none; in the cascade scene and face strength take its place.
            person_strengths: one a person, multiplied with the strength in every mode.
            masks: where each person may be, [P, 1, H, W] 0..1, any size of the picture's shape.
            focus: where the faces are, [1, H, W] 0..1, any size of the picture's shape, in place of what is found while sampling.
            start, end: share of sampling in which the pair acts, 0..1, counted in noise levels as ComfyUI does it: a
                share p is the noise of training timestep (1 - p) * (T - 1), and 0 and 1 leave nothing out.
            progress: called with (steps done, all steps).

        Returns:
            The picture, and the focus mask, bool [height / 8, width / 8], a given one float: None in the mode none, and where
            the persons have no strength.

        Raises:
            HostError: settings that cannot be used, an adapter that does not fit, or NaN on the way.
        """
        strengths = (scene_strength, face_strength, focus_share, strength)
        check_settings(size, steps, cfg, mode, *strengths, seed, person_strengths, start, end)
        if masks is not None and masks.ndim == 4:  # refused here, not in the first step
            fit_masks(masks, (size[1] // 8, size[0] // 8), 1)
        if focus is not None:
            fit_focus(focus, (size[1] // 8, size[0] // 8), 1)
            if mode == "none":
                raise HostError("The mode none has no focus: choose another one, or leave the focus away.")
        if isinstance(prompt, str):
            prompt = parse_prompt(prompt, persons=len(references))
        conditions = self._conditions(adapter, references, prompt, negative if cfg != 1 else None, size)
        noise = self.noise(seed, size)
        guidance = cfg != 1
        with (
            torch.no_grad(),
            attach(self.pipeline.unet, adapter, references, strength, person_strengths, masks, guidance) as attached,
        ):
            total = steps * (2 if mode == "released" and focus is None else 1)
            sampler = Sampler(self, attached, conditions, cfg, [seed], (start, end), total, progress, self.joined)
            if mode == "none":
                latent, used = sampler.sample(noise, steps, lambda x, t, _: sampler.predict(strength, x, t)), None
            else:
                run = {"one_pass": one_pass, "two_strength": two_strength, "released": released}[mode]
                latent, used = run(sampler, noise, steps, scene_strength, face_strength, focus_share, focus)
        return self._decode(latent), None if used is None else used[0].cpu()

    def bound_words(self, prompt: Prompt) -> str:
        """Say for people which words of a prompt stand for whom."""
        return bound_words(self.pipeline.tokenizer, prompt)

    def _conditions(
        self,
        adapter: Adapter,
        references: Sequence[FaceReference],
        prompt: Prompt,
        negative: str | None,
        size: tuple[int, int],
    ) -> dict[str, Any]:
        """What the UNet gets beside latent and time: rows [negative; prompt], or the prompt's alone."""
        parts = self.pipeline
        encoders = ((parts.tokenizer, parts.tokenizer_2), (parts.text_encoder, parts.text_encoder_2))
        mapping = adapter if adapter.has_subject_path else None
        rows = [encode_prompt(*encoders, prompt, mapping, references)[:2]]
        if negative is not None:
            rows.insert(0, encode_prompt(*encoders, negative)[:2])
        # Rows of unlike length are repeated up to a common one: attention to a token twice is attention to it once.
        tokens = math.lcm(*(embeds.shape[1] for embeds, _ in rows))
        embeds = torch.cat([embeds.repeat(1, tokens // embeds.shape[1], 1) for embeds, _ in rows])
        pooled = torch.cat([pooled for _, pooled in rows])
        width, height = size
        ids = torch.tensor([[height, width, 0, 0, height, width]] * len(rows))  # original size, corner, target size
        where = {"device": self.device, "dtype": self.dtype}
        return {
            "encoder_hidden_states": embeds.to(**where),
            "added_cond_kwargs": {"text_embeds": pooled.to(**where), "time_ids": ids.to(**where)},
        }

    def _decode(self, latent: Tensor) -> Image.Image:
        vae = self.pipeline.vae
        if vae.dtype == torch.float16 and vae.config.force_upcast:  # SDXL's VAE overflows in float16
            vae.to(torch.float32)
        with torch.no_grad():
            picture = vae.decode((latent / vae.config.scaling_factor).to(vae.dtype)).sample[0].float()
        check_finite(picture, "decoding the picture")
        values = ((picture / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        return Image.fromarray(values.permute(1, 2, 0).cpu().numpy())


def check_settings(
    size: tuple[int, int],
    steps: int,
    cfg: float,
    mode: str,
    scene_strength: float = SCENE_STRENGTH,
    face_strength: float = FACE_STRENGTH,
    focus_share: float = FOCUS_SHARE,
    strength: float = 1.0,
    seed: int = 0,
    person_strengths: Sequence[float] | None = None,
    start: float = 0.0,
    end: float = 1.0,
) -> None:
    """Refuse settings of `Portrait.generate` that make no picture, before anything heavy is done. HostError."""
    width, height = size
    if width % 8 or height % 8 or min(width, height) < 64:
        raise HostError(
            f"A picture of {width} x {height} cannot be made: width and height are multiples of 8, from 64 on. "
            f"Nearest: {max(64, round(width / 8) * 8)} x {max(64, round(height / 8) * 8)}."
        )
    if steps < 1:
        raise HostError(f"{steps} steps make no picture: 1 or more are needed, 50 are as published.")
    if not 0 <= seed < 2**64:
        raise HostError(f"The seed is {seed}; it lies between 0 and {2**64 - 1}.")
    if mode not in MODES:
        raise HostError(f"The cascade knows the modes {', '.join(MODES)}, not {mode!r}.")
    limits = {
        "cfg": (cfg, 1, 100),
        "strength": (strength, 0, 3),
        "scene strength": (scene_strength, 0, 3),
        "face strength": (face_strength, 0, 3),
        "focus share": (focus_share, 0, 1),
        **{f"strength of person {n}": (value, 0, 3) for n, value in enumerate(person_strengths or (), 1)},
    }
    for name, (value, low, high) in limits.items():
        if not low <= value <= high:  # false for NaN too
            raise HostError(f"The {name} is {value}; it lies between {low} and {high}.")
    if not 0 <= start < end <= 1:
        raise HostError(
            f"The pair starts at {start:g} and ends at {end:g} of sampling: choose shares from 0 to 1, the start before "
            "the end."
        )
    if mode == "released":
        _check_released(scene_strength, person_strengths, end)


def _check_released(scene_strength: float, person_strengths: Sequence[float] | None, end: float) -> None:
    """Refuse what would leave the mode `released` without a mask after a whole run. HostError."""
    reasons = {
        "The scene strength is 0.": scene_strength == 0,
        f"The pair ends at {end:g} of sampling.": end < 1,
        "All person strengths are 0.": person_strengths is not None and not any(person_strengths),
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise HostError(" ".join((NO_MASK, *found, MASK_ADVICE)))
