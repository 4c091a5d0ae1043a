"""Masks of people in pictures: those that are given, at the pictures' size, and those of faces that were found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from ..conditioning.masks import check_mask, check_shape
from ..errors import ImageError

__all__ = ["face_mask", "resize_person_masks"]


def resize_person_masks(masks: Sequence[Tensor | None], size: tuple[int, int], pictures: int) -> Tensor | None:
    """One mask a person, brought to the pictures' size.

    Args:
        masks: of each person, [H, W] or [N, H, W] 0..1 for N pictures or 1; None for a person without one.
        size: (height, width) of the pictures, px.
        pictures: how many there are.

    Returns:
        [P, N or 1, *size], or None without any mask.

    Raises:
        ImageError: a person's mask is missing, is no mask, or is for another number of pictures.
        HostError: it has another shape than they.
    """
    provided = [mask for mask in masks if mask is not None]
    if not provided:
        return None
    if len(provided) < len(masks):
        missing = [f"mask_{number}" for number, mask in enumerate(masks, 1) if mask is None]
        raise ImageError(
            f"{' and '.join(missing)} of {len(masks)} masks {'is' if len(missing) == 1 else 'are'} not connected. Connect a mask for "
            "each person, or none.",
            code="one-mask-of-two",
        )
    height, width = size
    resized = []
    for number, mask in enumerate(provided, 1):
        mask = check_mask(mask, f"mask_{number}").float().cpu()
        check_shape((mask.shape[-2], mask.shape[-1]), size, f"mask_{number}")
        if len(mask) not in (1, pictures):
            raise ImageError(
                f"mask_{number} holds {len(mask)} masks for {pictures} pictures: give one, or one each.",
                code="mask-count",
            )
        resized.append(torch.nn.functional.interpolate(mask[:, None], (height, width), mode="bilinear")[:, 0])
    most = max(map(len, resized))
    return torch.stack([mask.expand(most, -1, -1) for mask in resized])


def face_mask(box: np.ndarray | None, size: tuple[int, int], grow: float, feather: float) -> Tensor:
    """The mask of a face: an ellipse in its box.

    Args:
        box: x0 y0 x1 y1 px; None for a face that is missing.
        size: (height, width) of the picture, px.
        grow: how much wider and higher than the box, as a share of it.
        feather: radius of the blur, as a share of the face's size.

    Returns:
        [H, W] float32 0..1, black all over without a box.

    Raises:
        ImageError: grow or feather is out of reach.
    """
    for name, value, high in (("grow", grow, 20), ("feather", feather, 5)):
        if not 0 <= value <= high:
            raise ImageError(f"{name} is {value}: give a share of the face from 0 to {high}.", code="mask-edge")
    height, width = size
    mask = Image.new("L", (width, height))
    if box is not None:
        x0, y0, x1, y1 = (float(edge) for edge in box)
        wide, high = grow * (x1 - x0) / 2, grow * (y1 - y0) / 2
        ImageDraw.Draw(mask).ellipse([x0 - wide, y0 - high, x1 + wide, y1 + high], fill=255)
        mask = mask.filter(ImageFilter.GaussianBlur(feather * ((x1 - x0) * (y1 - y0)) ** 0.5))
    return torch.from_numpy(np.asarray(mask).copy()).float() / 255
