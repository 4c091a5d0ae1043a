"""What people add to the picture after a block of FLUX: one cross-attention a block and branch, on the rows of their regions.

As published: `x = norm1(tokens)`, `h = norm2(picture)`, `q = to_q h`, `[k, v] = to_kv x`, heads of 64, no position embedding, and
`to_out` of what they attend to, times the weight of the branch, added to the picture.

Letters in shapes: B samples, P persons, T tokens of a person, R rows (picture tokens in a region), D width of FLUX.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import AdapterError
from .regions import Regions

__all__ = ["HEAD_WIDTH", "IdentityAttention", "region_residual"]

HEAD_WIDTH = 64
"""Width of an attention head (as released)."""


class IdentityAttention(nn.Module):
    """The identity cross-attention of one block and branch, with the released names.

    casts: whether the layers cast their weights to what they are given (a host's operations); else what comes is cast.
    """

    def __init__(self, width: int, inner: int, operations: Any = nn) -> None:
        super().__init__()
        if inner % HEAD_WIDTH:
            raise AdapterError(
                f"to_q is {inner} wide, which is no multiple of the method's head width {HEAD_WIDTH}",
                code="heads-of-another-width",
            )
        self.heads = inner // HEAD_WIDTH
        self.casts = operations is not nn
        self.norm1 = operations.LayerNorm(width)
        self.norm2 = operations.LayerNorm(width)
        self.to_q = operations.Linear(width, inner, bias=False)
        self.to_kv = operations.Linear(width, 2 * inner, bias=False)
        self.to_out = operations.Linear(inner, width, bias=False)

    def keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the people's tokens [P, T, D]: each [P, heads, T, 64], in the tokens' dtype."""
        persons, count, _ = tokens.shape
        kv = self.to_kv(self.norm1(self._inside(tokens))).to(tokens.dtype)
        keys, values = kv.view(persons, count, 2, self.heads, HEAD_WIDTH).permute(2, 0, 3, 1, 4)
        return keys.contiguous(), values.contiguous()

    def query(self, rows: Tensor) -> Tensor:
        """Queries of picture tokens [B, R, D]: [B, heads, R, 64], in their dtype."""
        batch, count, _ = rows.shape
        query = self.to_q(self.norm2(self._inside(rows))).to(rows.dtype)
        return query.view(batch, count, self.heads, HEAD_WIDTH).transpose(1, 2)

    def out(self, attended: Tensor) -> Tensor:
        """What is added to the picture, [B, R, D], of what was attended to, [B, heads, R, 64]."""
        joined = attended.transpose(1, 2).flatten(2)
        return self.to_out(self._inside(joined)).to(attended.dtype)

    def _inside(self, x: Tensor) -> Tensor:
        return x if self.casts else x.to(self.to_q.weight.dtype)


def region_residual(
    layers: Sequence[tuple[float, IdentityAttention, tuple[Tensor, Tensor]]], picture: Tensor, regions: Regions
) -> Tensor | None:
    """What the people add to the rows of their regions after a block. `regions.rows` says which rows those are.

    Args:
        layers: (weight of the branch, its attention at the block, its keys and values [P, heads, T, 64]); a branch of weight 0
            is not computed.
        picture: [B, L, D] picture tokens after the block.
        regions: where each person counts, on the picture's device.

    Returns:
        [B, R, D]; None where nothing is added.
    """
    total = None
    rows = picture.index_select(1, regions.rows)
    for weight, layer, (keys, values) in layers:
        if weight == 0 or not len(regions.rows):
            continue
        attended = _attend(layer.query(rows), keys, values, regions)
        if regions.scale is not None:
            attended = attended * regions.scale.to(attended.dtype)
        added = weight * layer.out(attended)
        total = added if total is None else total + added
    return total


def _attend(query: Tensor, keys: Tensor, values: Tensor, regions: Regions) -> Tensor:
    """Softmax over the tokens of those who count in a row, [B, heads, R, 64]. No row is masked altogether."""
    parts = []
    for group in regions.groups:
        k, v = (_joined([side[person] for person in group.people]) for side in (keys, values))
        bias = group.bias
        if bias is not None:
            bias = bias.repeat_interleave(keys.shape[2], dim=1).to(query.dtype)[None, None]
        q = query[:, :, group.start : group.stop]
        size = (q.shape[0], *k.shape)
        parts.append(F.scaled_dot_product_attention(q, k.expand(size), v.expand(size), attn_mask=bias))
    return torch.cat(parts, dim=2)


def _joined(people: Sequence[Tensor]) -> Tensor:
    """People's keys or values [heads, T, 64] one after another, [heads, people * T, 64]."""
    return people[0] if len(people) == 1 else torch.cat(list(people), dim=1)
