"""The diffusion loss: mean squared error on what the base predicts, noise or v.

Source: Ho et al., "Denoising diffusion probabilistic models" (arXiv 2006.11239), the simple loss; v after Salimans and Ho
(arXiv 2202.00512). Whether the paper of this method used more is unknown. Min-SNR weighting: Hang et al., "Efficient diffusion
training via min-SNR weighting strategy" (arXiv 2303.09556); it keeps the many levels of little noise from ruling the
gradient. That the other objectives on the prediction take the same weights is this project's choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.dataset import PreparedDataset
from ..run.config import DiffusionConfig
from .seen import Objective, Seen

__all__ = ["Diffusion", "build", "min_snr_weights", "noise_levels"]


def build(config: DiffusionConfig, folders: Sequence[PreparedDataset] = ()) -> list[Objective]:
    """The diffusion loss is always on."""
    return [Diffusion(config)]


class Diffusion:
    """Mean over rows of weight(noise level) * mean((prediction - target)^2)."""

    name = "diffusion"
    needs: frozenset[str] = frozenset()
    watches: frozenset[str] = frozenset()
    decodes = False

    def __init__(self, config: DiffusionConfig) -> None:
        self.weight = config.weight

    def __call__(self, seen: Seen) -> Tensor:
        error = (seen.prediction - seen.target).square().mean(dim=(1, 2, 3))
        return (error * seen.row_weights).mean()


def noise_levels(drawn: Tensor, levels: str) -> Tensor:
    """Places among the noise levels, [B] from 0 to below 1, of numbers drawn evenly; by `DiffusionConfig.levels`.

    T2I-Adapter draws its levels likewise, "cubic", since guidance acts early in sampling (Mou et al., arXiv 2302.08453); the
    gentler slope here is this project's choice.
    """
    return drawn.sqrt().clamp(max=1 - 2**-24) if levels == "rising" else drawn


def min_snr_weights(scheduler: Any, times: Tensor, gamma: float | None) -> Tensor:
    """Weight of every row's noise level, [B]: min(SNR, gamma) over SNR for noise, over SNR + 1 for v; 1 without gamma."""
    if gamma is None:
        return torch.ones(times.shape, device=times.device)
    kept = scheduler.alphas_cumprod.to(times.device)[times].float()
    ratio = kept / (1 - kept)
    divisor = ratio + 1 if scheduler.config.prediction_type == "v_prediction" else ratio
    return ratio.clamp(max=gamma) / divisor.clamp(min=1e-8)  # a level of pure noise has a ratio of 0
