"""What Parts2Whole computes, on tensors alone (sections "Shared self-attention" and "Decoupled cross-attention").

With F = norm1(hidden) of a self-attention layer, and part n's features F_n at the same layer of the appearance encoder::

    softmax(W_q F (W_k [F, g_1 F_1 .. g_N F_N])^T / sqrt(d)) W_v [F, g_1 F_1 .. g_N F_N]

and in each cross-attention, before its `to_out`::

    Attn(Q, K_text, V_text) + scale * Attn(Q, K_image, V_image)

(formulas as in the authors' released code). Letters in shapes: B samples, Q positions of a layer, M keys of parts, C = heads x
channels of a head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ...errors import HostError

__all__ = ["attend", "bias_of", "feature_mask"]


def feature_mask(mask: Tensor, positions: int) -> Tensor:
    """g: how much each feature of a masked part counts at a layer.

    The mask's nearest pixel for each position, then the sum over its 3 x 3 neighbors, at most 1: the part with a rim of one
    position. A mask of ones is no mask. A small part may vanish at a coarse layer, as published.

    Args:
        mask: [1, 1, H, W] 0..1, of the picture.
        positions: Q of the layer.

    Returns:
        [Q, 1] float32.

    Raises:
        HostError: no halving of the picture has that many positions.
    """
    height, width = mask.shape[-2:]
    step = 2 ** math.ceil(math.log2(height * width / positions) / 2)
    shape = (math.ceil(height / step), math.ceil(width / step))
    if shape[0] * shape[1] != positions:
        raise HostError(
            f"A layer has {positions} positions, which is no halving of the part's {height} x {width} px: encode the parts "
            "at a size that is a multiple of 64 px.",
            code="part-mask-layer",
        )
    nearest = F.interpolate(mask.float(), shape, mode="nearest")
    grown = F.conv2d(nearest, nearest.new_ones(1, 1, 3, 3), padding=1).clamp(0, 1)
    return grown.reshape(positions, 1)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """Plain attention, [B, Q, C] x [B, M, C] -> [B, Q, C].

    Args:
        query, key, value: of the layer.
        heads: of the layer.
        bias: added to the logits of each key, [M]; None for nothing.
    """
    q, k, v = (rearrange(t, "b n (h d) -> b h n d", h=heads) for t in (query, key, value))
    mask = None if bias is None else bias.to(q)[None, None, None]
    return rearrange(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), "b h n d -> b n (h d)")


def bias_of(strengths: Tensor) -> Tensor | None:
    """Logit bias that multiplies the attention to each key with a strength; None where all are 1.

    Args:
        strengths: [M], above 0. A part of strength 0 has no keys.
    """
    return None if bool(torch.all(strengths == 1)) else strengths.log()
