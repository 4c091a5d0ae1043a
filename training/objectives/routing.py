"""The router says who is where: its map of each person, and of nobody, is the person's mask, and the background.

Source: AnyStory (arXiv 2501.09503) and UniPortrait (arXiv 2408.05939), 0.1 * MSE between the softmax of the router's scores and the masks;
whole-body masks and an entry for the background as the first of them. That all layers count alike, the small ones,
too, since each has a router of its own, and that samples in which somebody's face was dropped do not count, is this project's choice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dhumandiff.conditioning.masks import downsample_masks, layer_shape

from .. import TrainingError
from ..data.dataset import PreparedDataset
from .config import RoutingConfig
from .protocol import ForwardOutput, Objective

__all__ = ["Routing", "build", "routes_of"]


def build(config: RoutingConfig, folders: Sequence[PreparedDataset] = ()) -> list[Objective]:
    """None at weight 0."""
    return [Routing(config)] if config.weight > 0 else []


def routes_of(masks: Tensor) -> Tensor:
    """masks [B, P, Q] 0..1 -> what a router should say, [B, P + 1, Q] that sum to 1; the background comes last."""
    shares = masks / masks.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.cat([shares, 1 - shares.sum(dim=1, keepdim=True)], dim=1)


class Routing:
    """Mean over layers, and over samples with both faces, of the squared error of the routes."""

    name = "routing"
    setting = "objectives.routing.weight"
    required_tensors = frozenset({"mask"})
    required_attention = frozenset({"routes"})
    needs_vae = False

    def __init__(self, config: RoutingConfig) -> None:
        self.weight = config.weight

    def __call__(self, output: ForwardOutput) -> Tensor:
        batch = output.batch
        counts = (~batch.drop_identity.any(dim=1)).float()
        losses = []
        for layer in output.attention_maps:
            if layer.routes is None:
                continue
            shape = layer_shape(tuple(batch.masks.shape[-2:]), layer.routes.shape[-1])
            error = (layer.routes - routes_of(downsample_masks(batch.masks, shape))).square().mean(dim=(1, 2))
            losses.append((error * counts).sum() / counts.sum().clamp(min=1))
        if not losses:
            raise TrainingError(
                "objectives.routing found no layer with a router. Train one (dual.train: [router]), or set routing.weight to 0.",
                code="routing-without-layers",
            )
        return torch.stack(losses).mean()
