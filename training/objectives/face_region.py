"""The diffusion loss once more, inside the two faces: they are a small part of the picture and most of what is judged.

This project's choice. (Whether the paper weighs faces is unknown.) The mean runs over the places of both faces, so a small
face counts as much as a large one. Rows without a face region, and rows whose face was dropped, have nothing to say there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from ..data.dataset import PreparedDataset
from ..run.config import FaceRegionConfig
from .seen import Objective, Seen

__all__ = ["FaceRegion", "build"]


def build(config: FaceRegionConfig, folders: Sequence[PreparedDataset] = ()) -> list[Objective]:
    """None at weight 0."""
    return [FaceRegion(config)] if config.weight > 0 else []


class FaceRegion:
    """Mean over rows of weight(noise level) * mean over face places of (prediction - target)^2."""

    name = "face_region"
    needs = frozenset({"face"})
    watches: frozenset[str] = frozenset()
    decodes = False

    def __init__(self, config: FaceRegionConfig) -> None:
        self.weight, self.margin = config.weight, config.margin

    def __call__(self, seen: Seen) -> Tensor:
        faces = seen.batch.faces * (~seen.batch.drop_identity)[..., None, None]
        where = F.max_pool2d(faces.amax(dim=1), 2 * self.margin + 1, stride=1, padding=self.margin)
        error = (seen.prediction - seen.target).square().mean(dim=1)
        inside = (error * where).sum(dim=(1, 2)) / where.sum(dim=(1, 2)).clamp(min=1e-6)
        return (inside * seen.row_weights).mean()
