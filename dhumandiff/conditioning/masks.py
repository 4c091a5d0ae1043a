"""Masks: checked once, brought to the latent's size, and from there to the positions of a layer.

Letters in shapes: P persons, N pictures (or 1 for all), Q positions of a layer (height x width).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..errors import HostError, ImageError

__all__ = [
    "SHAPE_TOLERANCE",
    "check_mask",
    "check_shape",
    "downsample_masks",
    "layer_shape",
    "resize_masks",
    "stack_masks",
]

SHAPE_TOLERANCE = 0.05
"""How far a mask's aspect ratio may be from the picture's: what rounding to latent pixels and to photos' own shapes explains."""


def check_mask(mask: Tensor, name: str) -> Tensor:
    """A mask as [N, H, W], 0..1.

    Args:
        mask: [H, W], [N, H, W] or [N, 1, H, W].
        name: what messages call it.

    Raises:
        ImageError: it has another shape, or values outside of 0..1.
    """
    if mask.ndim == 4 and mask.shape[1] == 1:
        mask = mask[:, 0]
    mask = mask[None] if mask.ndim == 2 else mask
    if mask.ndim != 3 or 0 in mask.shape:
        raise ImageError(
            f"The {name} has the shape {list(mask.shape)}; [pictures, height, width] is needed, none of them 0. "
            "Connect a MASK, or turn the image into one (Convert Image to Mask).",
            code="no-mask",
        )
    if not torch.isfinite(mask).all() or mask.min() < 0 or mask.max() > 1:
        raise ImageError(f"The {name} holds values that are not between 0 and 1. Make it anew.", code="mask-values")
    return mask


def stack_masks(masks: Sequence[Tensor | None]) -> Tensor | None:
    """One mask a person -> [P, N, H, W]; a person without one may be anywhere. None where nobody has one.

    Raises:
        ImageError: a mask is none, or the masks differ in size or count.
    """
    # On the CPU, whichever node made them where: a run copies them to its device once.
    on_cpu = [None if mask is None else mask.float().cpu() for mask in masks]
    given = [check_mask(mask, f"mask of person {n}") for n, mask in enumerate(on_cpu, 1) if mask is not None]
    if not given:
        return None
    sizes = {tuple(mask.shape[-2:]) for mask in given}
    counts = {mask.shape[0] for mask in given} - {1}
    if len(sizes) > 1 or len(counts) > 1:
        shapes = ", ".join(f"{m.shape[0]} of {m.shape[-1]} x {m.shape[-2]}" for m in given)
        raise ImageError(
            f"The person masks differ ({shapes}): give each person masks of one size and number.", code="masks-differ"
        )
    like = max(given, key=lambda mask: mask.shape[0])
    everywhere = torch.ones_like(like)
    remaining = iter(given)
    return torch.stack([everywhere if mask is None else next(remaining).expand_as(like) for mask in masks])


def check_shape(mask: tuple[int, int], picture: tuple[int, int], name: str, scale: int = 1) -> None:
    """Refuse a mask of another shape than the picture's.

    Args:
        mask, picture: (height, width) each.
        name: what messages call the mask.
        scale: pixels of the picture for one of `picture`; 8 where that is a latent.

    Raises:
        HostError: the aspect ratios differ by more than `SHAPE_TOLERANCE`.
    """
    ratio = (mask[1] / mask[0]) / (picture[1] / picture[0])
    if not 1 - SHAPE_TOLERANCE < ratio < 1 + SHAPE_TOLERANCE:
        raise HostError(
            f"The {name} is {mask[1]} x {mask[0]}, but the picture is {picture[1] * scale} x {picture[0] * scale}: "
            "draw the mask on a canvas of the picture's shape, or crop it to that shape.",
            code="mask-of-another-shape",
        )


def resize_masks(masks: Tensor, size: tuple[int, int], images: int, name: str = "person mask") -> Tensor:
    """Bring person masks to the latent's size.

    Args:
        masks: [P, N, H, W] 0..1.
        size: (height, width) of the latent.
        images: pictures of the batch.
        name: what messages call them.

    Returns:
        [N, P, *size].

    Raises:
        HostError: the masks have another shape or count than the pictures.
    """
    count, height, width = masks.shape[1:]
    if count not in (1, images):
        raise HostError(
            f"There are {count} {name}s for {images} pictures: give one for all, or one a picture.", code="mask-count"
        )
    check_shape((height, width), size, name, scale=8)
    masks = masks.transpose(0, 1).float()
    if masks.device.type == "mps":  # Apple's GPUs pool whole multiples only
        masks = masks.cpu()
    if height >= size[0]:
        return F.interpolate(masks, size=size, mode="area")
    return F.interpolate(masks, size=size, mode="bilinear", align_corners=False)


def downsample_masks(masks: Tensor, shape: tuple[int, int]) -> Tensor:
    """Bring what varies over the latent to the positions of one layer.

    Args:
        masks: [N, P, H, W], any size.
        shape: (height, width) of the layer.

    Returns:
        [N, P, height * width]. Averaged over the area that a position covers, so that thin masks do not vanish between the
        samples of a coarse layer.
    """
    height, width = shape
    if height <= masks.shape[-2] and width <= masks.shape[-1]:
        # Apple's GPUs pool whole multiples only.
        uneven = masks.shape[-2] % height or masks.shape[-1] % width
        source = masks.cpu() if uneven and masks.device.type == "mps" else masks
        resized = F.adaptive_avg_pool2d(source, shape).to(masks.device)
    else:
        resized = F.interpolate(masks, size=shape, mode="bilinear", align_corners=False)
    return rearrange(resized, "n p h w -> n p (h w)")


def layer_shape(size: tuple[int, int], positions: int) -> tuple[int, int]:
    """(height, width) of a layer with that many positions: the latent's size, halved and rounded up as needed.

    Raises:
        HostError: no halving has that many.
    """
    height, width = size
    while height * width > positions:
        height, width = (height + 1) // 2, (width + 1) // 2
    if height * width != positions:
        raise HostError(
            f"A layer has {positions} positions, which is no halving of the latent's {size[0]} x {size[1]}: "
            "something merges them (token merging, for instance). Switch it off.",
            code="merged-positions",
        )
    return height, width
