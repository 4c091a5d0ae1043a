"""Visual disparity-aware conditioning: what every person adds to a cross-attention layer.

In each cross-attention of the base model (paper section "Visual disparity-aware conditioning"; formula as in the
authors' released code)::

    h = Attn(Q, K_text, V_text) + s * (Attn(Q, K_1 f_1, V_1 f_1) + Attn(Q, K_2 f_2, V_2 f_2))

The hosts compute the text's part themselves, with whatever attention they use; the functions here are pure and give the
sum in the bracket. Both hosts call them, and what differs is only where query, keys and values come from.

Letters in shapes: B samples of a batch, Q positions of a layer (height x width), P persons, T face tokens of a person,
C = heads x channels of a head.
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor

from ...conditioning.kv_cache import KVCache

__all__ = ["KVCache", "paired_attention", "released_attention_map"]


def paired_attention(
    query: Tensor, keys: Tensor, values: Tensor, heads: int, weights: Tensor | float = 1.0
) -> tuple[Tensor, Tensor]:
    """`KVCache.attend` for keys and values [B, P, T, C] that are used once, as in training."""
    return KVCache.from_kv(keys, values, heads).attend(query, weights)


def released_attention_map(query: Tensor, keys: Tensor, heads: int) -> Tensor:
    """The quantity that the authors' released script calls an attention map: ``q @ softmax_tokens(k^T)``.

    It is not an attention probability (the softmax runs over the keys alone); it exists to reproduce the released focus
    mask, see `cascade.released_focus_mask`.

    Args:
        query: [B, Q, C].
        keys: [B, T, C], one person's.
        heads: attention heads of the layer.

    Returns:
        [B, heads, Q, T].
    """
    q = rearrange(query, "b q (h d) -> b h q d", h=heads)
    k = rearrange(keys, "b t (h d) -> b h d t", h=heads)
    return q @ k.softmax(dim=-1)
