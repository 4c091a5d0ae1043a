"""Cascaded inference: the scene at one strength, the faces at another, joined by a focus mask.

``eps = (1 - M) * eps_scene + M * eps_face`` (paper section "Cascaded inference", strengths 0.7 and 1.0). The mask M
says where the faces are. Two ways to get it live here:

- `released_focus_mask`: as in the authors' released code, quirks included, bit for bit at 512 x 512.
- `focus_mask`: this project's choice, from real attention probabilities of all persons, for any picture shape; gathered
  by `attention_store.AttentionStore`.

`strength_map` is this project's cheaper way to the same end: all that differs between the two predictions is a strength inside
the cross-attention, so one prediction whose strength varies over the picture comes near, at the price of one (not equal:
later layers mix). On the miniature it keeps people apart better than two.

How a host runs the steps is the host's business; everything here is pure tensor work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor

from ...conditioning.focus import face_likeness, reached_by, stretch
from ...errors import HostError

__all__ = [
    "FACE_STRENGTH",
    "FOCUS_FRACTION",
    "SCENE_STRENGTH",
    "blend",
    "focus_mask",
    "initial_strength",
    "released_focus_mask",
    "released_layer_map",
    "released_threshold",
    "strength_map",
]

# The published values (paper and released script).
SCENE_STRENGTH = 0.7
FACE_STRENGTH = 1.0
FOCUS_FRACTION = 0.10


def blend(scene: Tensor, face: Tensor, mask: Tensor) -> Tensor:
    """``(1 - M) * scene + M * face``.

    Args:
        scene: prediction at scene strength, [B, c, H, W] (noise or clean picture: the blend is linear in both).
        face: prediction at face strength, same shape.
        mask: [B, H, W] or [1, H, W], bool or 0..1.
    """
    m = mask.to(scene.dtype).unsqueeze(1)
    return (1 - m) * scene + m * face


def released_focus_mask(
    maps: Sequence[Tensor],
    size: tuple[int, int] = (64, 64),
    percentile: float = 90,
    shapes: Sequence[tuple[int, int]] | None = None,
) -> Tensor:
    """The focus mask as the released script makes it, bit for bit.

    Per layer: mean over heads, reshape to a picture, bilinear to ``size``, softmax over the tokens; then mean over
    layers, token 0, stretched to 0..255 and cut to whole numbers, and 1 where that reaches the percentile and is not 0.

    Args:
        maps: person 1's `attention.released_attention_map` of each layer, [heads, height * width, tokens], in the order
            down, up, mid; the unconditional half of the batch. (The script takes person 1's map twice, which changes
            nothing, and drops person 2's.)
        size: (height, width) of the mask, the latent's.
        percentile: 90 keeps the top tenth.
        shapes: (height, width) of each layer; None takes every layer as a square, as the script does.

    Returns:
        bool [height, width].

    Raises:
        HostError: a layer is no square and no shapes were given, or there are no maps.
    """
    if not maps:
        raise HostError(
            "The focus mask needs the attention maps of at least one layer, but none were gathered.",
            code="no-attention-maps",
        )
    layers = []
    for i, attention in enumerate(maps):
        positions = attention.shape[1]
        if shapes is not None:
            shape = tuple(shapes[i])
        else:
            side = math.isqrt(positions)
            shape = (side, side)
        if shape[0] * shape[1] != positions:
            raise HostError(
                f"Layer {i} has {positions} positions, which is not {shape[0]} x {shape[1]}: "
                "give the height and width of each layer for pictures that are not square.",
                code="layer-not-square",
            )
        layers.append(released_layer_map(attention, shape, size))
    return released_threshold(torch.stack(layers).mean(dim=0)[0], percentile)


def released_layer_map(attention: Tensor, shape: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """One layer of the released focus mask: [heads, height * width, tokens] -> [tokens, *size] in float32."""
    mean = reduce(attention, "heads positions tokens -> positions tokens", "mean")
    picture = rearrange(mean, "(h w) tokens -> 1 tokens h w", h=shape[0]).float()
    return F.interpolate(picture, size=size, mode="bilinear", align_corners=False)[0].softmax(dim=0)


def released_threshold(picture: Tensor, percentile: float = 90) -> Tensor:
    """The last steps of the released focus mask, in NumPy as there: [H, W] float32 -> bool [H, W]."""
    # The script adds person 1's map to itself; doubling is exact in floating point and falls out of the stretch.
    values = picture.detach().cpu().numpy()
    low, high = np.min(values), np.max(values)
    if not high > low:  # a flat map has no focus; the script would divide by zero here
        return torch.zeros(picture.shape, dtype=torch.bool, device=picture.device)
    stretched = ((values - low) / (high - low) * 255).astype(np.uint8)
    kept = (stretched >= np.percentile(stretched, percentile)) & (stretched > 0)
    return torch.from_numpy(kept).to(picture.device)


def focus_mask(maps: Tensor, fraction: float = FOCUS_FRACTION) -> Tensor:
    """Where the faces are: the top ``fraction`` of the picture.

    Each person's map is stretched to 0..1 first, so that the person with the fainter map gets a face too; then a place
    counts by whichever person it shows best.

    Args:
        maps: [images, P, H, W].
        fraction: share of the picture, 0..1.

    Returns:
        bool [images, H, W]. Empty for a flat map, full for a share of 1.
    """
    stretched = stretch(maps).amax(dim=1)
    if fraction <= 0:
        return torch.zeros_like(stretched, dtype=torch.bool)
    # Without the second condition a flat map (all zero) would count as all face.
    return (stretched >= reached_by(stretched, fraction)) & ((stretched > 0) | (fraction >= 1))


def initial_strength(scene: float, face: float, fraction: float = FOCUS_FRACTION) -> float:
    """The strength of a step before anything is known of the focus: the scene's, unless the picture is all face, or the faces,
    whose attention is to be heard, would not count at all."""
    return face if fraction >= 1 or (scene == 0 and fraction > 0) else scene


def strength_map(maps: Tensor, scene: float, face: float, fraction: float = FOCUS_FRACTION) -> Tensor | float:
    """The strength at every place, ``scene + (face - scene) * M`` with a soft M: 1 where `focus_mask` has its faces.

    Around them M falls with the square of how clearly a place reads a face. This project's choice: in one prediction there is
    no seam to blend, and a place that is nearly face gets nearly the face's strength.

    Args:
        maps: [images, P, H, W].
        fraction: share of the picture where M is 1; 0 leaves the scene's strength everywhere.

    Returns:
        [images, 1, H, W]; or the number, where it is the same everywhere.
    """
    if scene == face or fraction <= 0 or fraction >= 1:
        return face if fraction >= 1 else scene
    stretched = stretch(maps).amax(dim=1)
    soft = face_likeness(stretched, reached_by(stretched, fraction))
    return (scene + (face - scene) * soft)[:, None]
