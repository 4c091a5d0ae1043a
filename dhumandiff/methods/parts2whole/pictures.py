"""Pictures of parts, masks and pose maps, as the weights saw them in training: everything squashed to the picture's size."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...conditioning.masks import check_shape
from ...errors import HostError, ImageError
from ...references.encode import CLIP_MEAN, CLIP_STD

__all__ = ["check_pose_picture", "clip_input", "squash", "squash_mask"]

BODY_PARTS = 24
"""Of DensePose; the largest value of a map's blue channel."""


def squash(pixels: np.ndarray, size: tuple[int, int]) -> Tensor:
    """A picture at another size, whatever its shape was.

    Args:
        pixels: uint8 [H, W, 3], transparent areas white.
        size: (width, height) px.

    Returns:
        [1, 3, height, width] 0..1.
    """
    resized = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None].float() / 255


def squash_mask(mask: np.ndarray, picture: tuple[int, int], size: tuple[int, int], name: str) -> Tensor:
    """A part's mask at another size; grey is kept.

    Args:
        mask: uint8 [H, W].
        picture: (height, width) of the part's picture.
        size: (width, height) px.
        name: what messages call the part.

    Returns:
        [1, 1, height, width] 0..1.

    Raises:
        ImageError: the mask is of another shape than the picture, or has nothing in it.
    """
    try:
        check_shape((mask.shape[0], mask.shape[1]), picture, f"mask of {name}")
    except HostError as error:
        raise ImageError(str(error), code=error.code) from error
    resized = Image.fromarray(mask).resize(size, Image.Resampling.BICUBIC)
    found = torch.from_numpy(np.array(resized))[None, None].float() / 255
    if not bool(found.any()):
        raise ImageError(
            f"There is nothing in the mask of {name}: paint it white where the part is, or leave it away to take the whole "
            "picture.",
            code="part-mask-empty",
        )
    return found


def clip_input(pixels: np.ndarray, side: int = 224) -> Tensor:
    """What CLIP's image encoder gets of a part, [1, 3, side, side]: the whole picture squashed, as in training.

    The released inference crops the middle instead, and loses what lies beside it.
    """
    picture = squash(pixels, (side, side))
    return (picture - torch.tensor(CLIP_MEAN).view(1, 3, 1, 1)) / torch.tensor(CLIP_STD).view(1, 3, 1, 1)


def check_pose_picture(pixels: np.ndarray, name: str) -> None:
    """Refuse a pose picture of another kind than DensePose's raw IUV map, which the weights were trained with.

    In such a map blue is the number of the body part, 0 to 24, so it is nearly black; a skeleton, a colored body map or a depth
    picture has far larger values there. The limits are this project's choice.

    Args:
        pixels: uint8 [H, W, 3].
        name: what messages call it.

    Raises:
        ImageError: it is of another kind, or shows nobody.
    """
    drawn = pixels.max(axis=-1) > 16
    if drawn.mean() < 0.001:
        raise ImageError(
            f"{name} is black all over: there is nobody on it. Make it of a photo with a person.", code="pose-empty"
        )
    strange = float((pixels[..., 2][drawn] > BODY_PARTS + 8).mean())  # 8: what a JPEG adds
    if strange > 0.05:
        raise ImageError(
            f"{name} is no DensePose map of the kind that Parts2Whole was trained with: raw IUV on black, with the body part (0 to "
            "24) in blue. An OpenPose skeleton, or a body map in false colors (such as the DensePose Estimator of ControlNet's "
            "preprocessors makes), looks different. The right kind is what detectron2's DensePose gives (`apply_net.py dump`: "
            "I, U, V written as blue, green, red), or an _IUV.png of DensePose.",
            code="pose-of-another-kind",
        )
