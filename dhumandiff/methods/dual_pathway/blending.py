"""What the dual pathway computes, on tensors alone. This is our reading: the paper's formulas (arXiv 2502.13999) are not public.

At a cross-attention layer with queries X, keys and values of the text K_t, V_t::

    A_t = Attn(X, K_t, V_t)
    H_v = A_t + s_v A_v          identity-enhancing path (IEA): A_v is DHumanDiff's attention to the people's face tokens
    H_t = A_t + s_t A_c          text-consistency path (TCA): A_c from small projections of its own; A_v where there are none
    H   = W_o [ M H_v + (1 - M) H_t ]

Both paths hold A_t, so it falls out of the blend: hosts compute it as they do anyway, and the functions here give the rest,
``M s_v A_v + (1 - M) s_t A_c``. M is a mask at the layer's size times a gate per layer and head group (`Gates`).

With several people, A_v is the sum of each person's attention, times their share of the position: inside of one person's region
nobody else's identity counts, outside of all regions M is 0. M = 0 is the text-consistency path, M = 1 the identity path, and paths
that are equal make the mask void: in `blend`, which says what is computed, to the last bit (`torch.lerp` is exact at its ends).
`dual_residual` computes the same in one attention.

Letters in shapes: B samples, Q positions of a layer, P persons, C = heads x channels of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ...conditioning.kv_cache import KVCache

__all__ = ["blend", "dual_residual", "feathered", "gated", "path_weights", "region_masks"]


def blend(words: Tensor, identity: Tensor, mask: Tensor) -> Tensor:
    """``mask * identity + (1 - mask) * words``, exact at 0 and 1 and where both are equal.

    Args:
        words, identity: what each path makes, [B, Q, C].
        mask: [B or 1, 1, Q]; or one for each head, [B or 1, heads, Q].
    """
    weight = mask.to(words.dtype).transpose(1, 2)[..., None]
    heads = weight.shape[2]
    outside, inside = (rearrange(path, "b q (h d) -> b q h d", h=heads) for path in (words, identity))
    return rearrange(torch.lerp(outside, inside, weight), "b q h d -> b q (h d)")


def region_masks(regions: Tensor) -> tuple[Tensor, Tensor]:
    """Which path a position takes, and whose identity it sees there.

    Args:
        regions: how much of a position lies in each person's region, [B, P, Q] 0..1.

    Returns:
        Each person's share of the identity path, [B, P, Q], and the mask M of that path, [B, 1, Q]. Where regions overlap, all
        their people count.
    """
    mask = regions.sum(dim=1, keepdim=True).clamp(max=1)
    return regions / mask.clamp(min=torch.finfo(regions.dtype).tiny), mask


def gated(mask: Tensor, factors: Tensor) -> Tensor:
    """The mask [B, 1, Q] times the factor of each head [heads] (`Gates`), at most 1: [B, heads, Q]."""
    return (mask * factors[None, :, None]).clamp(max=1)


def feathered(masks: Tensor, radius: int) -> Tensor:
    """Masks with ramps in place of borders: the mean over a square of ``2 radius + 1``, of what lies in the picture.

    Args:
        masks: [N, P, H, W] 0..1.
        radius: positions on either side of a border; 0 changes nothing. Empty and full masks stay as they are.
    """
    if radius < 1:
        return masks
    return F.avg_pool2d(masks, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)


def path_weights(
    shares: Tensor, mask: Tensor, identity_weights: Tensor, text_weights: Tensor, separate: bool
) -> Tensor:
    """How much each person counts on each path: the blend, moved into the weights of one attention, which is linear in them.

    Args:
        shares: each person's share of a position, [B or 1, P, Q] of `region_masks`.
        mask: M, [B or 1, 1, Q]; or for each head, [B or 1, heads, Q].
        identity_weights, text_weights: s_v and s_t times each person's own strength, [P].
        separate: whether the text-consistency path has keys and values of its own.

    Returns:
        [B or 1, P, Q]: of the identity path's keys and values, which both paths read. Separate: [B or 1, 2 P, Q], the identity path
        first. Of each head, [B or 1, heads, P or 2 P, Q], if the mask is.
    """
    inside = identity_weights[None, :, None] * shares
    outside = text_weights[None, :, None].expand_as(shares)
    if mask.shape[1] > 1:
        inside, outside, mask = inside[:, None], outside[:, None], mask[:, :, None]
    if not separate:
        return torch.lerp(outside, inside, mask)
    return torch.cat([mask * inside, (1 - mask) * outside], dim=-2)


def dual_residual(
    query: Tensor,
    identity: KVCache,
    words: KVCache | None,
    shares: Tensor,
    mask: Tensor,
    identity_weights: Tensor,
    text_weights: Tensor,
) -> tuple[Tensor, Tensor]:
    """What both paths add to a layer, ``M s_v A_v + (1 - M) s_t A_c``.

    Args:
        query: [B, Q, C], the layer's own.
        identity: keys and values of the identity path.
        words: those of the text-consistency path; None: untrained, so that it is a weaker identity path.
        shares, mask, identity_weights, text_weights: see `path_weights`.

    Returns:
        The residual before the layer's `to_out`, [B, Q, C] in the query's dtype; and the identity path's probabilities, [B, heads,
        Q, P, T] in float32.
    """
    weights = path_weights(shares, mask, identity_weights, text_weights, words is not None)
    residual, probabilities = (identity if words is None else identity.joined(words)).attend(query, weights)
    return residual, probabilities[..., : identity.persons, :]
