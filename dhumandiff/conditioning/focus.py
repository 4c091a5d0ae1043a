"""Maps of where faces are being drawn -> how much of a face each position is. Letters in shapes: P persons."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["face_likeness", "reached_by", "stretch"]


def stretch(maps: Tensor) -> Tensor:
    """Every person's map from 0 to 1, [images, P, H, W], so that the person with the fainter map gets a face too."""
    low = maps.amin(dim=(-2, -1), keepdim=True)
    high = maps.amax(dim=(-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny)


def reached_by(stretched: Tensor, fraction: float) -> Tensor:
    """What the top `fraction` of the positions reach, [images, H, W] -> [images, 1, 1]."""
    positions = stretched.flatten(1)
    wanted = max(1, round(positions.shape[1] * min(fraction, 1.0)))
    return positions.topk(wanted, dim=1).values[:, -1][:, None, None]


def face_likeness(stretched: Tensor, threshold: Tensor) -> Tensor:
    """1 where the threshold is reached; around, falling with the square of how clearly a place reads a face. Project's choice."""
    return (stretched / threshold.clamp(min=torch.finfo(stretched.dtype).tiny)).clamp(max=1).square()
