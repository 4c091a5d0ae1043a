"""A guider run as ComfyUI's KSampler runs its own."""

from __future__ import annotations

from typing import Any

import comfy.model_management as model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
from torch import Tensor

__all__ = ["SAMPLERS", "SCHEDULERS", "sample_like_ksampler"]

SAMPLERS: list[str] = comfy.samplers.KSampler.SAMPLERS
SCHEDULERS: list[str] = comfy.samplers.KSampler.SCHEDULERS


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
    """
    samples = comfy.sample.fix_empty_latent_channels(model, latent_image["samples"])
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
