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

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ...errors import HostError

__all__ = ["ReadyKeysValues", "fit_masks", "paired_attention", "person_weights", "released_attention_map"]


@dataclass(frozen=True)
class ReadyKeysValues:
    """Keys and values of all persons at one layer, laid out for `ReadyKeysValues.attend`. They do not change while sampling, so
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
    def of(cls, keys: Tensor, values: Tensor, heads: int) -> ReadyKeysValues:
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
            weights: strength of each person at each place, [B or 1, P, Q or 1]; or one number.

        Returns:
            The term to add before the layer's ``to_out``, [B, Q, C] in the query's dtype; and the attention probabilities
            before weighting, [B, heads, Q, P, T] in float32.
        """
        rows, places, width = query.shape
        heads, tokens = self.keys.shape[1], self.keys.shape[3]
        # Plain views: this runs in every layer at every step, where a pattern's reading would cost as much as the product.
        q = query.view(rows, places, heads, -1).transpose(1, 2)
        logits = (q @ self.keys).view(rows, heads, places, self.persons, -1)
        probabilities = logits.softmax(dim=-1, dtype=torch.float32)
        weighted = probabilities
        if isinstance(weights, Tensor):
            weighted = probabilities * weights.transpose(1, 2)[:, None, :, :, None]
        elif weights != 1:
            weighted = probabilities * weights
        term = weighted.view(rows, heads, places, tokens).to(self.values.dtype) @ self.values
        return term.transpose(1, 2).reshape(rows, places, width), probabilities


def paired_attention(
    query: Tensor, keys: Tensor, values: Tensor, heads: int, weights: Tensor | float = 1.0
) -> tuple[Tensor, Tensor]:
    """`ReadyKeysValues.attend` for keys and values [B, P, T, C] that are used once, as in training."""
    return ReadyKeysValues.of(keys, values, heads).attend(query, weights)


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


def fit_masks(masks: Tensor, size: tuple[int, int], images: int, name: str = "person mask") -> Tensor:
    """Bring person masks to the latent's size.

    Args:
        masks: [P, N, H, W] 0..1, N pictures or 1 for all.
        size: (height, width) of the latent.
        images: pictures of the batch.
        name: what messages call them.

    Returns:
        [N or 1, P, *size].

    Raises:
        HostError: the masks have another shape (beyond what rounding to latent pixels explains) or count than the pictures.
    """
    count, height, width = masks.shape[1:]
    if count not in (1, images):
        raise HostError(f"There are {count} {name}s for {images} pictures: give one for all, or one a picture.")
    ratio = (width / height) / (size[1] / size[0])
    if not 0.97 < ratio < 1.03:
        raise HostError(
            f"A {name} is {width} x {height}, but the picture is {size[1] * 8} x {size[0] * 8}: "
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
