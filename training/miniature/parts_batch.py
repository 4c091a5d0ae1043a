"""Parts of many couples on one UNet, for training and for scores: a batch in which every picture has people of its own.

What it computes is what `PartsConditioning` computes for one picture in which each person has one half (a test compares them), with
gradients, and so fast that hundreds of pictures can be drawn on a CPU.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from dhumandiff.conditioning.masks import layer_shape
from dhumandiff.hosts.diffusers.parts2whole import transformer_layers
from dhumandiff.methods.parts2whole import Parts2Whole
from dhumandiff.methods.parts2whole.attention import feature_mask
from dhumandiff.methods.parts2whole.part import IMAGE_ROWS
from dhumandiff.miniature.design import DESIGN

__all__ = ["PartsBatch"]

LATENT = (DESIGN.size[1] // 8, DESIGN.size[0] // 8)
"""Height and width."""


class PartsBatch:
    """Parts of many couples on one UNet, with gradients: what `PartsConditioning` computes for one picture, for a batch.

    Attributes:
        embeds: image embeddings of the batch's parts, [B, 6, E], zeros for those that are not there.
        pose: what the pose adds, [B, C, h, w].
        first_is_left: whether person 1 has the left half of each picture, [B].
        slots: the number of the part in each slot of each picture, -1 for none, [B, 6].
    """

    def __init__(self, unet: Any, weights: Parts2Whole) -> None:
        self.unet, self.weights = unet, weights
        self.embeds = self.pose = self.slots = torch.zeros(0)
        self._masks: list[Tensor] = []
        self.first_is_left = torch.zeros(0)
        self._hooks = [unet.conv_in.register_forward_hook(lambda _, __, output: output + self.pose)]
        self._encoded: dict[int, Tensor] = {}
        for number, (_, block) in enumerate(transformer_layers(weights.encoder or unet)):
            self._hooks.append(block.norm1.register_forward_hook(self._keep(number)))
        self._before = []
        for number, (_, block) in enumerate(transformer_layers(unet)):
            self._before += [(module, module.processor) for module in (block.attn1, block.attn2)]
            block.attn1.processor = _SelfAttention(self, number)
            block.attn2.processor = _CrossAttention(self, number)

    def detach(self) -> None:
        """Put both UNets back as they were."""
        for hook in self._hooks:
            hook.remove()
        for module, processor in self._before:
            module.processor = processor

    def encode(self, latents: Tensor, labels: Tensor, masks: Tensor, seen: Tensor, each: int) -> None:
        """Run the appearance encoder.

        Args:
            latents: of the parts that are seen, [P, C, h, w].
            labels: their labels' embeddings, [P, L, C].
            masks: [P, 1, H, W].
            seen: which slots of each couple they fill, [couples, 6].
            each: pictures of a couple.
        """
        self._encoded = {}
        numbers = torch.full(seen.shape, -1)
        numbers[seen] = torch.arange(len(latents))
        self.slots = numbers.repeat_interleave(each, dim=0)
        if len(latents):
            encoder = self.weights.encoder
            assert encoder is not None
            encoder(latents, 0, encoder_hidden_states=labels)
            self._masks = [
                torch.stack([feature_mask(mask[None], features.shape[1]) for mask in masks])
                for features in (self._encoded[number] for number in range(len(self._encoded)))
            ]

    def halves(self, positions: Tensor) -> Tensor:
        """Each person's half of a layer, [B, Q, C] -> [2 B, Q / 2, C]: first those of all persons 1."""
        height, width = layer_shape(LATENT, positions.shape[1])
        left, right = rearrange(positions, "b (h two w) c -> two b (h w) c", h=height, two=2, w=width // 2)
        first = self.first_is_left[:, None, None]
        return torch.cat([torch.where(first, left, right), torch.where(first, right, left)])

    def whole(self, halves: Tensor) -> Tensor:
        """The way back, [2 B, Q / 2, C] -> [B, Q, C]."""
        height, width = layer_shape(LATENT, 2 * halves.shape[1])
        one, two = halves.chunk(2)
        first = self.first_is_left[:, None, None]
        both = torch.stack([torch.where(first, one, two), torch.where(first, two, one)])
        return rearrange(both, "two b (h w) c -> b (h two w) c", h=height, w=width // 2)

    def features(self, layer: int) -> Tensor | None:
        """Masked features of the parts that are encoded, [P, L, C]; None without any."""
        return self._encoded[layer] * self._masks[layer] if self._encoded else None

    def _keep(self, number: int) -> Any:
        return lambda _, __, output: self._encoded.__setitem__(number, output)


class _SelfAttention:
    def __init__(self, batch: PartsBatch, layer: int) -> None:
        self.batch, self.layer = batch, layer

    def __call__(self, attn: Any, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        batch = self.batch
        query, key, value = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
        features = batch.features(self.layer)
        if features is None:
            out = _attend(query, key, value, attn.heads)
        else:
            slots = rearrange(batch.slots, "b (persons parts) -> (persons b) parts", persons=2)
            keys, values = (
                torch.cat([own.repeat(2, 1, 1), to(features)[slots.clamp(min=0)].flatten(1, 2)], dim=1)
                for own, to in ((key, attn.to_k), (value, attn.to_v))
            )
            there = (slots >= 0).repeat_interleave(features.shape[1], dim=1)
            there = F.pad(there, (key.shape[1], 0), value=True)[:, None, None]
            bias = None if there.all() else torch.zeros(there.shape).masked_fill(~there, float("-inf"))
            out = batch.whole(_attend(batch.halves(query), keys, values, attn.heads, bias))
        return attn.to_out[1](attn.to_out[0](out))


class _CrossAttention:
    def __init__(self, batch: PartsBatch, layer: int) -> None:
        self.batch, self.layer = batch, layer

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        batch = self.batch
        query = attn.to_q(hidden_states)
        text = _attend(query, attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states), attn.heads)
        rows = rearrange(batch.embeds, "b (persons parts) e -> (persons b) parts e", persons=2)
        rows = F.pad(rows, (0, 0, 0, IMAGE_ROWS - rows.shape[1]))
        images = batch.weights.image_projections[self.layer](rows)
        out = text + batch.whole(_attend(batch.halves(query), *images, attn.heads))
        return attn.to_out[1](attn.to_out[0](out))


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    q, k, v = (rearrange(t, "b n (h d) -> b h n d", h=heads) for t in (query, key, value))
    return rearrange(F.scaled_dot_product_attention(q, k, v, attn_mask=bias), "b h n d -> b n (h d)")
