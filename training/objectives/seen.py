"""What an objective gets to see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from ..data.batch import Batch
from ..run.base import Base
from ..run.model import LayerMaps

__all__ = ["Objective", "Seen"]


@dataclass
class Seen:
    """One forward pass.

    prediction, target: [B, c, h, w], of the noise or of v. noisy: [B, c, h, w], what it was predicted from. times: [B]. base:
    the frozen base, with diffusers' DDPMScheduler.
    maps: one a watched layer. row_weights: [B] of the noise levels, set by the diffusion objective for all. notes: what objectives share.
    """

    batch: Batch
    prediction: Tensor
    target: Tensor
    noisy: Tensor
    times: Tensor
    base: Base
    maps: Sequence[LayerMaps]
    row_weights: Tensor
    notes: dict[str, Any] = field(default_factory=dict)

    def clean(self) -> Tensor:
        """The one-step clean prediction, [B, c, h, w]: what the picture would be if the prediction were all there is to know."""
        kept = self.base.scheduler.alphas_cumprod.to(self.times.device)[self.times].float().reshape(-1, 1, 1, 1)
        if self.base.scheduler.config.prediction_type == "v_prediction":
            return kept.sqrt() * self.noisy - (1 - kept).sqrt() * self.prediction
        return (self.noisy - (1 - kept).sqrt() * self.prediction) / kept.sqrt()


class Objective(Protocol):
    """A part of the loss; see the package."""

    name: str
    weight: float
    needs: frozenset[str]
    watches: frozenset[str]
    decodes: bool

    def __call__(self, seen: Seen) -> Tensor:
        """The mean over the rows."""
        ...
