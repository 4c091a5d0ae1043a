"""Outside of the faces the picture is what the words alone would make: the frozen base's own prediction, without any person.

This project's choice, after FreeCure's finding that with the identity left out the prompt is kept intact (arXiv 2411.15277); the
losses of DP-Adapter (arXiv 2502.13999) are unknown. Teacher and student see the same noise, time and sentence, so what differs is
what the identity term costs the words. It needs no annotation of what the words mean.

Inside the faces the loss asks nothing: whose face it is, words do not know. `inside` lets it ask a little there, too, for what
words do know: an expression, say.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from ..data.dataset import PreparedDataset
from .config import TextConsistencyConfig
from .protocol import ForwardOutput, Objective

__all__ = ["TextConsistency", "build"]


def build(config: TextConsistencyConfig, folders: Sequence[PreparedDataset] = ()) -> list[Objective]:
    """None at weight 0."""
    return [TextConsistency(config)] if config.weight > 0 else []


class TextConsistency:
    """Mean over samples of weight(timestep) * weighted mean over latent pixels of (prediction - the base's prediction)^2.

    A latent pixel weighs 1 outside of the regions, `inside` within; a sample without regions (nobody's face is there) weighs 1
    everywhere.
    """

    name = "text_consistency"
    setting = "objectives.text_consistency.weight"
    required_attention: frozenset[str] = frozenset()
    needs_vae = False
    needs_base_prediction = True

    def __init__(self, config: TextConsistencyConfig) -> None:
        self.weight, self.region, self.margin, self.inside = config.weight, config.region, config.margin, config.inside
        self.required_tensors = frozenset({"face" if config.region == "faces" else "mask"})

    def __call__(self, output: ForwardOutput) -> Tensor:
        batch = output.batch
        regions = batch.faces if self.region == "faces" else batch.masks
        region = (regions * (~batch.drop_identity)[..., None, None]).amax(dim=1)
        region = F.max_pool2d(region, 2 * self.margin + 1, stride=1, padding=self.margin)
        weights = 1 - (1 - self.inside) * region
        error = (output.prediction - output.base_prediction).square().mean(dim=1)
        apart = (error * weights).sum(dim=(1, 2)) / weights.sum(dim=(1, 2)).clamp(min=1e-6)
        return (apart * output.sample_weights).mean()
