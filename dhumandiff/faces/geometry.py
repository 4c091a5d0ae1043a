"""Where a face lies in the two small pictures made of it: 112 px aligned for the recognizer, a square head crop for
CLIP."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from ..errors import FaceError
from .face import Face

__all__ = ["ARCFACE_TEMPLATE", "CROP_SIZE", "align", "align_matrix", "crop_face", "square_face", "warp"]

ARCFACE_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
    dtype=np.float32,
)
"""Where eyes, nose tip and mouth corners lie in the 112 x 112 px picture that ArcFace recognizers were trained on."""

CROP_SIZE = 512
"""Side of a head crop in px: the size of the pictures the released adapter was trained with."""

# The released example references, measured with a detector of square boxes: face box 0.60 to 0.65 of the side, center
# at x 0.50 to 0.51, y 0.65 to 0.68. Boxes found in a crop came out about 5 % larger than in the whole photo, hence 0.60
# here. The chin's place follows (the box ends there), and it is the chin that is held: a detector whose boxes reach up
# to the hair line then gives the same crop instead of one that cuts the chin off.
_FACE_SHARE = 0.60
_FACE_CENTER_X = 0.505
_CHIN_Y = 0.665 + _FACE_SHARE / 2


def align_matrix(landmarks: np.ndarray, size: int = 112) -> np.ndarray:
    """The least-squares similarity [2, 3] that takes five landmarks [5, 2] px to the ArcFace template.

    Points are read as complex numbers, where such a map is z -> a z + b and the best a is a quotient of two sums.

    Raises:
        FaceError: not five landmarks, or all on one point.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise FaceError(
            f"Alignment needs five landmarks of two finite coordinates, not an array of shape {list(points.shape)}. "
            "Use another detector or photo.",
            code="not-five-landmarks",
        )
    source = points[:, 0] + 1j * points[:, 1]
    template = ARCFACE_TEMPLATE.astype(np.float64) * (size / 112)
    target = template[:, 0] + 1j * template[:, 1]
    centered = source - source.mean()
    spread = (centered * centered.conj()).real.sum()
    if spread == 0:
        raise FaceError(
            "All landmarks of the face lie on one point, so it cannot be aligned. Use another photo.",
            code="landmarks-on-one-point",
        )
    a = (centered.conj() * (target - target.mean())).sum() / spread
    b = target.mean() - a * source.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def align(image: np.ndarray, landmarks: np.ndarray, size: int = 112) -> np.ndarray:
    """The face warped onto the ArcFace template: [H, W, 3] uint8 -> [size, size, 3] uint8, channels in the order given.

    The same pixels as InsightFace's own `norm_crop` for sizes that are multiples of 112: bilinear, black outside.

    Raises:
        FaceError: landmarks that cannot be aligned, or OpenCV is not installed.
    """
    return warp(image, align_matrix(landmarks, size), size)


def warp(image: np.ndarray, matrix: np.ndarray, size: int = 112) -> np.ndarray:
    """A picture [H, W, 3] uint8 through a matrix of `align_matrix` -> [size, size, 3] uint8.

    Raises:
        FaceError: OpenCV is not installed.
    """
    return import_opencv().warpAffine(np.ascontiguousarray(image), matrix, (size, size), borderValue=0.0)


def import_opencv() -> Any:
    """The module cv2, which is optional, and present wherever insightface is.

    Raises:
        FaceError: it is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise FaceError(
            f"Face alignment needs OpenCV ({error}). Install it with: pip install opencv-python-headless",
            code="opencv-missing",
        ) from error
    return cv2


def crop_face(image: np.ndarray, face: Face, size: int = CROP_SIZE) -> tuple[np.ndarray, Face, str | None]:
    """A square head crop with the geometry of the released example references (docs/method.md#reference-pictures).

    Upright, not rotated. Where the square reaches beyond the picture, the picture's edge pixels are repeated.

    Args:
        image: [H, W, 3] uint8.
        face: in it.
        size: of the crop, px.

    Returns:
        The crop [size, size, 3] uint8, the face in crop pixels, and a note that says how much of the crop is repeated, or None.
    """
    height, width = image.shape[:2]
    side = max(1, round(face.size / _FACE_SHARE))
    left = round(face.center[0] - _FACE_CENTER_X * side)
    top = round(float(face.box[3]) - _CHIN_Y * side)
    columns, rows = np.arange(left, left + side), np.arange(top, top + side)
    square = image[rows.clip(0, height - 1)[:, None], columns.clip(0, width - 1)[None]]
    scale = size / side
    # PIL's resize widens the filter when shrinking, so big photos do not alias.
    crop = np.asarray(Image.fromarray(square).resize((size, size), Image.Resampling.BICUBIC))
    offset = np.array([left, top], dtype=np.float32)
    face_in_crop = Face(
        (face.box.reshape(2, 2) - offset).reshape(4) * scale, (face.landmarks - offset) * scale, face.score
    )

    inside = ((columns >= 0) & (columns < width)).mean() * ((rows >= 0) & (rows < height)).mean()
    note = None
    if inside < 0.995:  # a sliver of a few pixels is not worth a word
        note = (
            f"the face is close to the picture's edge: {1 - inside:.0%} of the crop repeats edge pixels; a photo with "
            "more room around the head is better"
        )
    return crop, face_in_crop, note


def square_face(image: np.ndarray, face: Face, size: int = CROP_SIZE) -> tuple[np.ndarray, Face, str | None]:
    """The face alone, as WithAnyone's SigLIP sees it: the box made square by growing its short side, with Pillow's Lanczos filter.

    As released: edges are cut to whole px, and where the square reaches beyond the picture, what is inside is stretched.

    Args:
        image: [H, W, 3] uint8.
        face: in it.
        size: of the result, px.

    Returns:
        The face [size, size, 3] uint8, the face in its pixels, and a note that says that it was stretched, or None.

    Raises:
        FaceError: the box lies beyond the picture.
    """
    height, width = image.shape[:2]
    x0, y0, x1, y1 = (int(edge) for edge in face.box)
    grow_x, grow_y = max(y1 - y0 - (x1 - x0), 0), max(x1 - x0 - (y1 - y0), 0)
    left, right = max(x0 - grow_x // 2, 0), min(x1 + grow_x - grow_x // 2, width)
    top, bottom = max(y0 - grow_y // 2, 0), min(y1 + grow_y - grow_y // 2, height)
    if left >= right or top >= bottom:
        raise FaceError(
            f"The face's box ({x0}, {y0}) to ({x1}, {y1}) px holds nothing of the {width} x {height} px photo. Use a photo with "
            "the whole face in it.",
            code="face-beyond-the-picture",
        )
    square = Image.fromarray(np.ascontiguousarray(image[top:bottom, left:right]))
    scale = np.array([size / (right - left), size / (bottom - top)], dtype=np.float32)
    offset = np.array([left, top], dtype=np.float32)
    inside = Face(
        ((face.box.reshape(2, 2) - offset) * scale).reshape(4),
        (face.landmarks - offset) * scale,
        face.score,
        face.is_drawn,
    )
    stretched = max(scale) / min(scale) - 1
    note = None
    if stretched > 0.05:
        note = f"the picture's edge cuts the face, so SigLIP sees it stretched by {stretched:.0%}; a photo with the whole face is better"
    return np.asarray(square.resize((size, size), Image.Resampling.LANCZOS)), inside, note
