"""Visual disparity-aware conditioning: what every person adds to a cross-attention layer.

In each cross-attention of the base model (paper section "Visual disparity-aware conditioning"; formula as in the
authors' released code)::

    h = Attn(Q, K_text, V_text) + s * (Attn(Q, K_1 f_1, V_1 f_1) + Attn(Q, K_2 f_2, V_2 f_2))

The hosts compute the text's term themselves, with whatever attention they use; the functions here are pure and give the
sum in the bracket. Both hosts call them, and what differs is only where query, keys and values come from.

Letters in shapes: B rows of a batch, Q places of a layer (height x width), P persons, T face tokens of a person,
C = heads x channels of a head.
"""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .errors import HostError

__all__ = ["fit_masks", "paired_attention", "person_weights", "released_attention_map"]


def paired_attention(
    query: Tensor, keys: Tensor, values: Tensor, heads: int, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sum over the persons of ``weight * softmax(Q K^T / sqrt(d)) V``, and the probabilities on the way.

    Both persons go through one product; the softmax runs within each person's own tokens, so that neither takes
    attention from the other.

    Args:
        query: [B, Q, C], the layer's own query.
        keys: [B, P, T, C].
        values: [B, P, T, C].
        heads: attention heads of the layer.
        weights: strength of each person at each place, [B, P, Q], or smaller where it does not vary ([B, P, 1]).
            None means 1 everywhere.

    Returns:
        The term to add before the layer's ``to_out``, [B, Q, C] in the query's dtype; and the attention probabilities
        before weighting, [B, heads, Q, P, T] in float32.
    """
    persons = keys.shape[1]
    q = rearrange(query, "b q (h d) -> b h q d", h=heads)
    k = rearrange(keys, "b p t (h d) -> b h d (p t)", h=heads)
    v = rearrange(values, "b p t (h d) -> b h (p t) d", h=heads)
    # Scaling the query first keeps the product inside the range of float16.
    logits = (q * q.shape[-1] ** -0.5) @ k
    probabilities = rearrange(logits, "b h q (p t) -> b h q p t", p=persons).float().softmax(dim=-1)
    weighted = probabilities
    if weights is not None:
        weighted = probabilities * rearrange(weights, "b p q -> b 1 q p 1")
    term = rearrange(weighted, "b h q p t -> b h q (p t)").to(v.dtype) @ v
    return rearrange(term, "b h q d -> b q (h d)"), probabilities


def person_weights(masks: Tensor, shape: tuple[int, int]) -> Tensor:
    """Bring each person's mask to the places of one layer.

    Args:
        masks: [B, P, H, W], any size, 0..1.
        shape: (height, width) of the layer.

    Returns:
        [B, P, height * width]. Averaged over the area that a place covers, so that thin masks do not vanish between
        the samples of a coarse layer.
    """
    height, width = shape
    if height <= masks.shape[-2] and width <= masks.shape[-1]:
        # Apple's GPUs pool whole multiples only.
        uneven = masks.shape[-2] % height or masks.shape[-1] % width
        source = masks.cpu() if uneven and masks.device.type == "mps" else masks
        resized = F.adaptive_avg_pool2d(source, shape).to(masks.device)
    else:
        resized = F.interpolate(masks, size=shape, mode="bilinear", align_corners=False)
    return rearrange(resized, "b p h w -> b p (h w)")


def fit_masks(masks: Tensor, size: tuple[int, int], images: int) -> Tensor:
    """Bring person masks to the latent's size.

    Args:
        masks: [P, N, H, W] 0..1, N pictures or 1 for all.
        size: (height, width) of the latent.
        images: pictures of the batch.

    Returns:
        [N or 1, P, *size].

    Raises:
        HostError: the masks have another shape (beyond what rounding to latent pixels explains) or count than the pictures.
    """
    count, height, width = masks.shape[1:]
    if count not in (1, images):
        raise HostError(
            f"There are {count} masks of a person for {images} pictures: give one mask for all, or one a picture."
        )
    ratio = (width / height) / (size[1] / size[0])
    if not 0.97 < ratio < 1.03:
        raise HostError(
            f"A person mask is {width} x {height}, but the picture is {size[1] * 8} x {size[0] * 8}: "
            "draw the mask on a canvas of the picture's shape, or crop it to that shape."
        )
    mode = {"mode": "area"} if height >= size[0] else {"mode": "bilinear", "align_corners": False}
    return F.interpolate(masks.transpose(0, 1).float(), size=size, **mode)


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
