"""The diffusion loss once more, inside the two faces: they are a small part of the picture and most of what people look at.

This project's choice. (Whether the paper weighs faces is unknown.) The mean runs over the latent pixels of both faces, so
a small face counts as much as a large one. Samples without a face region, and those whose face was dropped, add 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from ..data.dataset import PreparedDataset
from .config import FaceRegionConfig
from .protocol import ForwardOutput, Objective

__all__ = ["FaceRegion", "build"]


def build(config: FaceRegionConfig, folders: Sequence[PreparedDataset] = ()) -> list[Objective]:
    """None at weight 0."""
    return [FaceRegion(config)] if config.weight > 0 else []


class FaceRegion:
    """Mean over samples of weight(timestep) * mean over the faces' latent pixels of (prediction - target)^2."""

    name = "face_region"
    setting = "objectives.face_region.weight"
    required_tensors = frozenset({"face"})
    required_attention: frozenset[str] = frozenset()
    needs_vae = False

    def __init__(self, config: FaceRegionConfig) -> None:
        self.weight, self.margin = config.weight, config.margin

    def __call__(self, output: ForwardOutput) -> Tensor:
        batch = output.batch
        faces = batch.faces * (~batch.drop_identity)[..., None, None]
        region = F.max_pool2d(faces.amax(dim=1), 2 * self.margin + 1, stride=1, padding=self.margin)
        error = (output.prediction - output.target).square().mean(dim=1)
        inside = (error * region).sum(dim=(1, 2)) / region.sum(dim=(1, 2)).clamp(min=1e-6)
        return (inside * output.sample_weights).mean()
