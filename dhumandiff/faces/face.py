"""What a detected face is, what a backend has to offer, and how one face of several is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..errors import FaceError

__all__ = ["MIN_FACE_SIZE", "Face", "choose_face", "with_structure"]

MIN_FACE_SIZE = 64
"""Default smallest face, px. The recognizer looks at 112 x 112 px: below 64 more than two thirds of what it sees would
be interpolated, and identity similarity falls apart (this project's choice)."""

FLAT = 2.0
"""Standard deviation of the light in 12 x 12 parts of a box, of 255, below which there is no face in it: an even wall, with or
without a sensor's noise (this project's choice)."""


@dataclass(frozen=True, eq=False)
class Face:
    """One detected face, in pixels of the photo.

    Attributes:
        box: [4] float32 x0 y0 x1 y1 (it may reach beyond the picture).
        landmarks: [5, 2] float32 x y of left eye, right eye, nose tip, left and right mouth corner (left as the viewer sees it).
        score: the detector's confidence.
        is_drawn: of the drawn world, whose faces have proportions of their own.
    """

    box: np.ndarray
    landmarks: np.ndarray
    score: float = 1.0
    is_drawn: bool = False

    @property
    def center(self) -> tuple[float, float]:
        """Center of the box, px."""
        return float(self.box[0] + self.box[2]) / 2, float(self.box[1] + self.box[3]) / 2

    @property
    def size(self) -> float:
        """Side in px of the square with the box's area: alike for detectors of square and of tall boxes."""
        width, height = float(self.box[2] - self.box[0]), float(self.box[3] - self.box[1])
        return (max(width, 0.0) * max(height, 0.0)) ** 0.5


def with_structure(pixels: np.ndarray, faces: Sequence[Face]) -> list[Face]:
    """The faces with something in their box: a small detector sees one on an even wall, too, and is sure of it.

    Args:
        pixels: uint8 [H, W, 3] RGB.
        faces: found in it.
    """
    height, width = pixels.shape[:2]
    kept = []
    for face in faces:
        x0, y0, x1, y1 = np.clip(np.round(face.box), 0, (width, height, width, height)).astype(int)
        inside = pixels[y0:y1, x0:x1]
        if (
            inside.size
            and np.asarray(Image.fromarray(inside).convert("L").resize((12, 12), Image.Resampling.BOX)).std() >= FLAT
        ):
            kept.append(face)
    return kept


def choose_face(faces: Sequence[Face], which: str | int = "largest", min_size: float = MIN_FACE_SIZE) -> Face:
    """The face wanted among those found.

    Args:
        faces: of one photo.
        which: "largest", "left-most", "right-most" (by the center of the box), or an index by size, 0 being the largest.
        min_size: px.

    Raises:
        FaceError: there is no such face, or it is smaller.
    """
    if not faces:
        raise FaceError(
            "No face was found. Use a sharper, upright photo in which the face is seen from the front and fills a good "
            "part of the picture.",
            code="no-face",
        )
    by_size = sorted(faces, key=lambda face: face.size, reverse=True)
    if which == "largest":
        face = by_size[0]
    elif which == "left-most":
        face = min(faces, key=lambda face: face.center[0])
    elif which == "right-most":
        face = max(faces, key=lambda face: face.center[0])
    elif isinstance(which, int) and not isinstance(which, bool):
        if not 0 <= which < len(faces):
            found = (
                "1 face was found: its index is 0"
                if len(faces) == 1
                else f"{len(faces)} faces were found: indices go from 0 (the largest) to {len(faces) - 1}"
            )
            raise FaceError(f"There is no face with index {which}. {found}.", code="no-face-of-that-index")
        face = by_size[which]
    else:
        raise FaceError(
            f'Which face is meant by {which!r}? Choose "largest", "left-most", "right-most" or an index (0 is the '
            "largest).",
            code="unknown-choice-of-face",
        )
    if face.size < min_size:
        raise FaceError(
            f"The face is {face.size:.0f} px in size, less than the {min_size:.0f} px needed to tell who it is. "
            "Use a photo taken closer or of higher resolution; enlarging this one adds no detail.",
            code="face-too-small",
        )
    return face
