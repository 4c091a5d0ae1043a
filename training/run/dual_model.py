"""A dual pathway to train: both paths on the UNet, blended by the data's own regions, with gradients for what is trained.

Regions come from the annotation (masks, boxes of faces), never from the router: it is trained by its own loss
(objectives/routing.py) and reads a layer's query without shaping it. So text consistency and gates learn with regions that are
right, and one set of weights works with drawn, found and predicted ones.

Letters in shapes as in model.py.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dhumandiff.conditioning.kv_cache import KVCache
from dhumandiff.conditioning.masks import downsample_masks, layer_shape
from dhumandiff.methods.dual_pathway.adapter import DualPathway
from dhumandiff.methods.dual_pathway.blending import dual_residual, feathered, region_masks
from dhumandiff.methods.dual_pathway.conditioning import LATENT

from ..data.batch import Batch
from .base import BaseModel
from .dual_config import DualConfig
from .model import TrainableModel

__all__ = ["DualModel", "training_regions"]


def training_regions(batch: Batch, config: DualConfig) -> Tensor:
    """The people's regions at the latent's size, [B, P, h, w] 0..1; none where a person's face is dropped."""
    regions = batch.faces if config.regions == "faces" else batch.masks
    regions = regions * (~batch.drop_identity)[..., None, None]
    grown = F.max_pool2d(regions, 2 * config.margin + 1, stride=1, padding=config.margin)
    return feathered(grown, round(config.feather / LATENT))


class DualModel(TrainableModel):
    """`TrainableModel` with both paths.

    Args:
        base: frozen.
        pathway: its trained parts have gradients.
        config: strengths, and what the regions are.
        uncond_clip_hidden: as there; also the router's picture of zeros.
        recorded, min_layer_size: as there; "routes" is one more kind, of all layers: each has a router of its own to train.
    """

    def __init__(
        self, base: BaseModel, pathway: DualPathway, config: DualConfig, uncond_clip_hidden: Tensor, *more: Any
    ) -> None:
        super().__init__(base, pathway.identity, uncond_clip_hidden, *more)
        self.pathway, self.config = pathway, config
        self._regions: Tensor | None = None
        self._routing_tokens: Tensor | None = None

    @property
    def weights(self) -> DualPathway:
        """What is trained and saved."""
        return self.pathway

    def begin(self, batch: Batch) -> None:
        """Take a batch's regions, and the routing tokens of its people."""
        self._regions, router = training_regions(batch, self.config), self.pathway.router
        if router is not None:
            people = router.tokens(batch.hidden.to(self.uncond_clip_hidden))
            nobody = router.tokens(self.uncond_clip_hidden)[:, None].expand(len(people), -1, -1)
            self._routing_tokens = torch.cat([people, nobody], dim=1)

    def residual(self, layer: int, query: Tensor, heads: int) -> Tensor | None:
        """What both paths add to a layer's attention output, [B, Q, C]; None where nobody is on the UNet."""
        if self._face_tokens is None:
            return None
        pathway, persons = self.pathway, self._face_tokens.shape[1]
        identity = self._keys_values(pathway.identity, layer, query, heads)
        words = None if pathway.tca is None else self._keys_values(pathway.tca, layer, query, heads)
        shares, mask = region_masks(self._regions_at(query, persons))
        if pathway.gates is not None:
            mask = pathway.gates.apply_to(mask, layer, heads)
        strengths = [
            torch.full((persons,), value, device=query.device)
            for value in (self.config.identity_strength, self.config.text_strength)
        ]
        output, probabilities = dual_residual(query, identity, words, shares, mask, *strengths)
        if self._records("faces", query):
            lengths = identity.values.float().norm(dim=-1).unflatten(-1, (persons, -1))
            self._maps_of(layer).faces = torch.einsum("bhqpt,bhpt->bpq", probabilities, lengths)
        if pathway.router is not None and self._maps is not None and "routes" in self.recorded:
            tokens = self._routing_tokens
            if tokens is None:  # an estimate of memory has no batch
                tokens = torch.zeros(1, persons + 1, pathway.router.width, device=query.device)
            logits = pathway.router.logits(layer, query.detach(), tokens).float()
            self._maps_of(layer).routes = logits.softmax(dim=-1).transpose(1, 2)
        return output

    def _keys_values(self, part: Any, layer: int, query: Tensor, heads: int) -> KVCache:
        keys, values = part.keys_values(layer, self._face_tokens)
        return KVCache.from_kv(keys.to(query.dtype), values.to(query.dtype), heads)

    def _regions_at(self, query: Tensor, persons: int) -> Tensor:
        """Regions at a layer's size, [B, P, Q]; everywhere before a batch has come, as for estimates of memory."""
        samples, positions = query.shape[:2]
        if self._regions is None:
            return torch.ones(1, persons, positions, device=query.device)
        shape = layer_shape(tuple(self._regions.shape[-2:]), positions)
        regions = downsample_masks(self._regions, shape)
        return regions.repeat(samples // len(regions), 1, 1)  # a grid draws both halves of its guidance at once
