"""What an objective gets to see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ..data.batch import Batch
from ..model import LayerMaps

__all__ = ["Objective", "Seen"]


@dataclass
class Seen:
    """One forward pass.

    prediction, target: [B, c, h, w], of the noise or of v. times: [B]. scheduler: diffusers' DDPMScheduler.
    maps: one a watched layer. row_weights: [B] of the noise levels, set by the diffusion objective for all.
    """

    batch: Batch
    prediction: Tensor
    target: Tensor
    times: Tensor
    scheduler: Any
    maps: Sequence[LayerMaps]
    row_weights: Tensor


class Objective(Protocol):
    """A part of the loss; see the package."""

    name: str
    weight: float
    needs: frozenset[str]
    watches: frozenset[str]

    def __call__(self, seen: Seen) -> Tensor:
        """The mean over the rows."""
        ...
