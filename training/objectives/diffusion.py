"""The diffusion loss: mean squared error on what the base predicts, noise or v.

Source: Ho et al., "Denoising diffusion probabilistic models" (arXiv 2006.11239), the simple loss; v after Salimans and Ho
(arXiv 2202.00512). Whether the paper of this method used more is unknown. Min-SNR weighting: Hang et al., "Efficient diffusion
training via min-SNR weighting strategy" (arXiv 2303.09556); it keeps the many timesteps of little noise from ruling the
gradient. That the other objectives on the prediction take the same weights is this project's choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.dataset import PreparedDataset
from .config import DiffusionConfig
from .protocol import ForwardOutput, Objective

__all__ = ["Diffusion", "build", "min_snr_weights", "sample_timesteps"]


def build(config: DiffusionConfig, folders: Sequence[PreparedDataset] = ()) -> list[Objective]:
    """The diffusion loss is always on."""
    return [Diffusion(config)]


class Diffusion:
    """Mean over samples of weight(timestep) * mean((prediction - target)^2)."""

    name = "diffusion"
    setting = "objectives.diffusion.weight"
    required_tensors: frozenset[str] = frozenset()
    required_attention: frozenset[str] = frozenset()
    needs_vae = False

    def __init__(self, config: DiffusionConfig) -> None:
        self.weight = config.weight

    def __call__(self, output: ForwardOutput) -> Tensor:
        error = (output.prediction - output.target).square().mean(dim=(1, 2, 3))
        return (error * output.sample_weights).mean()


def sample_timesteps(uniform: Tensor, sampling: str) -> Tensor:
    """Timesteps as fractions of the schedule, [B] from 0 (no noise) to below 1, of uniform random numbers [B].

    sampling: `DiffusionConfig.timestep_sampling`; "linear" has the density 2t. T2I-Adapter samples its timesteps likewise,
    "cubic", since guidance acts early in denoising (Mou et al., arXiv 2302.08453); the gentler slope here is this project's
    choice.
    """
    return uniform.sqrt().clamp(max=1 - 2**-24) if sampling == "linear" else uniform


def min_snr_weights(scheduler: Any, timesteps: Tensor, gamma: float | None) -> Tensor:
    """Weight of every sample's timestep, [B]: min(SNR, gamma) over SNR for noise, over SNR + 1 for v; 1 without gamma."""
    if gamma is None:
        return torch.ones(timesteps.shape, device=timesteps.device)
    kept = scheduler.alphas_cumprod.to(timesteps.device)[timesteps].float()
    ratio = kept / (1 - kept)
    divisor = ratio + 1 if scheduler.config.prediction_type == "v_prediction" else ratio
    return ratio.clamp(max=gamma) / divisor.clamp(min=1e-8)  # a timestep of pure noise has a ratio of 0
