"""A guider run as ComfyUI's KSampler runs its own."""

from __future__ import annotations

from typing import Any

import comfy.model_management as model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
from torch import Tensor

from ...dhumandiff.errors import HostError

__all__ = ["MAX_STEPS", "SAMPLERS", "SCHEDULERS", "sample_like_ksampler"]

SAMPLERS: list[str] = comfy.samplers.KSampler.SAMPLERS
SCHEDULERS: list[str] = comfy.samplers.KSampler.SCHEDULERS
MAX_STEPS = 10_000
"""What the input offers; a link may bring more, of which not even the schedule would be in memory."""


def sample_like_ksampler(
    guider: comfy.samplers.CFGGuider,
    model: Any,
    latent_image: dict[str, Any],
    *,
    seed: int,
    steps: int,
    sampler_name: str,
    scheduler: str,
    denoise: float,
) -> Tensor:
    """The sampled latent [N, C, H, W], with ComfyUI's noise, schedule, progress and previews.

    Args:
        guider: with its conditionings set.
        model: its MODEL.
        latent_image: LATENT to begin with.
        seed, steps, sampler_name, scheduler, denoise: as in KSampler.

    Raises:
        HostError: the latent is another model's, or steps are none.
    """
    if not 1 <= steps <= MAX_STEPS:
        raise HostError(f"steps is {steps}: choose 1 to {MAX_STEPS}.", code="steps-out-of-range")
    samples = latent_image["samples"]
    if samples.ndim > 1:
        samples = comfy.sample.fix_empty_latent_channels(model, samples)
    channels = model.get_model_object("latent_format").latent_channels
    if samples.ndim != 4 or samples.shape[1] != channels or not samples.numel():
        raise HostError(
            f"latent_image has the shape {list(samples.shape)}: this MODEL draws in [pictures, {channels}, height, width]. Connect an "
            "empty latent, or one that its own VAE encoded.",
            code="latent-of-another-model",
        )
    noise = comfy.sample.prepare_noise(samples, seed, latent_image.get("batch_index"))
    schedule = comfy.samplers.KSampler(
        model, steps, model.load_device, sampler_name, scheduler, denoise, model.model_options
    )
    sampled = guider.sample(
        noise,
        samples,
        comfy.samplers.sampler_object(sampler_name),
        schedule.sigmas,
        denoise_mask=latent_image.get("noise_mask"),
        callback=latent_preview.prepare_callback(model, steps),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
    return sampled.to(model_management.intermediate_device())
