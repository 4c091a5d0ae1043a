"""Attention of a layer's positions to the tokens of people, each with a softmax of their own.

Letters in shapes: B samples of a batch, Q positions of a layer (height x width), P persons, T tokens of a person, C = heads x
channels of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

__all__ = ["FusedKV", "KVCache"]


@dataclass(frozen=True)
class KVCache:
    """Keys and values of all persons at one layer, laid out for `KVCache.attend`. They do not change while sampling, so
    a host makes them once a run and layer.

    Attributes:
        keys: [B, heads, channels of a head, P * T], times ``1 / sqrt(channels of a head)``.
        values: [B, heads, P * T, channels of a head].
        persons: P.
    """

    keys: Tensor
    values: Tensor
    persons: int

    @classmethod
    def from_kv(cls, keys: Tensor, values: Tensor, heads: int) -> KVCache:
        """Lay out keys and values, each [B, P, T, C]."""
        k = rearrange(keys, "b p t (h d) -> b h d (p t)", h=heads)
        v = rearrange(values, "b p t (h d) -> b h (p t) d", h=heads)
        # Scaling before the product keeps it inside the range of float16.
        return cls((k * k.shape[2] ** -0.5).contiguous(), v.contiguous(), keys.shape[1])

    def attend(self, query: Tensor, weights: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
        """Sum over the persons of ``weight * softmax(Q K^T / sqrt(d)) V``, and the probabilities on the way.

        All persons go through one product; the softmax runs within each person's own tokens, so that nobody takes attention from
        another.

        Args:
            query: [B, Q, C], the layer's own query.
            weights: strength of each person at each position, [B or 1, P, Q or 1]; for each head, [B or 1, heads, P, Q]; or one number.

        Returns:
            The residual to add before the layer's ``to_out``, [B, Q, C] in the query's dtype; and the attention
            probabilities before weighting, [B, heads, Q, P, T] in float32.
        """
        batch, positions, width = query.shape
        heads, tokens = self.keys.shape[1], self.keys.shape[3]
        # Plain views: this runs in every layer at every step, where a pattern's reading would cost as much as the product.
        q = query.view(batch, positions, heads, -1).transpose(1, 2)
        logits = (q @ self.keys).view(batch, heads, positions, self.persons, -1)
        if query.device.type == "privateuseone":  # DirectML: may lack a softmax that casts
            logits = logits.float()
        probabilities = logits.softmax(dim=-1, dtype=torch.float32)
        weighted = probabilities
        if isinstance(weights, Tensor):
            of_heads = weights if weights.ndim == 4 else weights[:, None]
            weighted = probabilities * of_heads.transpose(2, 3)[..., None]
        elif weights != 1:
            weighted = probabilities * weights
        residual = weighted.view(batch, heads, positions, tokens).to(self.values.dtype) @ self.values
        return residual.transpose(1, 2).reshape(batch, positions, width), probabilities

    def joined(self, other: KVCache) -> KVCache:
        """These persons, then the others, who have as many tokens each: one attention for all of them."""
        keys, values = torch.cat([self.keys, other.keys], dim=3), torch.cat([self.values, other.values], dim=2)
        return KVCache(keys, values, self.persons + other.persons)


@dataclass(frozen=True)
class FusedKV:
    """The same for a GPU, where every step on the way is a launch of a kernel: each person's attention is one.

    Half the launches and no probabilities in memory, but rounded otherwise than `KVCache.attend`. So the CPU, whose pictures are
    promised to the bit, does not take it, and neither does a layer whose probabilities are recorded.

    Attributes:
        people: for each person keys, times ``1 / sqrt(channels of a head)``, and values, [B, heads, T, channels of a head] each.
    """

    people: tuple[tuple[Tensor, Tensor], ...]

    @classmethod
    def from_kv(cls, keys: Tensor, values: Tensor, heads: int, weights: Tensor | float = 1.0) -> FusedKV:
        """Lay out keys and values, each [B, P, T, C].

        Args:
            keys, values: of all persons.
            heads: of the layer.
            weights: of each person, [B or 1, P, 1], or one number: what does not vary over the positions is put into the values.
        """
        k, v = (rearrange(tensor, "b p t (h d) -> p b h t d", h=heads) for tensor in (keys, values))
        if isinstance(weights, Tensor):
            v = (v.float() * weights.transpose(0, 1)[..., None, None]).to(v.dtype)
        elif weights != 1:
            v = v * weights
        k = k * k.shape[-1] ** -0.5
        return cls(tuple(zip(k.contiguous().unbind(), v.contiguous().unbind(), strict=True)))

    def attend(self, query: Tensor, weights: Tensor | None = None, onto: Tensor | None = None) -> Tensor:
        """What is added before the layer's ``to_out``, [B, Q, C] in the query's dtype.

        Args:
            query: [B, Q, C], the layer's own.
            weights: of each person at each position, [B or 1, P, Q]; None: they are in the values.
            onto: [B, Q, C] that it is added to: the sum is given back then.
        """
        batch, positions, width = query.shape
        q = query.view(batch, positions, self.people[0][0].shape[1], -1).transpose(1, 2)
        total = onto
        for person, (keys, values) in enumerate(self.people):
            read = F.scaled_dot_product_attention(q, keys, values, scale=1.0).transpose(1, 2)
            read = read.reshape(batch, positions, width)
            weight = None if weights is None else weights[:, person, :, None]
            if total is None:
                total = read if weight is None else read * weight
            else:
                total = total + read if weight is None else torch.addcmul(total, read, weight)
        assert total is not None  # nobody is refused before
        return total
