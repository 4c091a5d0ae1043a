"""How good a photo is as a reference: a few measurements, and a sentence for each that is out of range.

Every threshold has its reason beside it. None of them refuses a photo; they are warnings (this project's choice
throughout).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from .face import Face
from .geometry import ARCFACE_TEMPLATE, align_matrix, warp
from .light import measure_light

__all__ = ["PhotoQuality", "QualityIssue", "assess", "estimate_yaw"]

GOOD_FACE_SIZE = 135.0
"""px. A head crop is shown to CLIP at 224 px, 0.60 of it face: a smaller face is enlarged for it, and has less detail
than it could."""

MIN_SHARPNESS = 0.02
"""Share of the face's contrast that lies in the finest detail CLIP can see. Sharp portraits measured 0.24 to 0.41 and
small faces of an old group photo 0.026 and more; blurred so far that eyelids and lips run into each other (Gaussian of
2.5 % of the face) none of them reached 0.005, and faces of 27 to 35 px that were enlarged to ten times their size had 0.001
to 0.017: nobody is known by those, and a larger file of the same photo shows no more."""

MAX_DISTORTION = 2.55
"""px of the 112 of an aligned face by which the five landmarks miss the recognizer's template (root mean square). Portraits
measured 0.95 to 2.3; stretched to 1.5 or 2 times their width, 2.7 to 3.5, squeezed to 0.4 of it, 2.6 and more, where cosines to
the same photo fell to 0.8 and to 0.3 and less. A turned head misses it, too, so it counts below `DISTORTION_YAW` only."""

DISTORTION_YAW = 20.0
"""Degrees of yaw."""

MAX_YAW = 30.0
"""Degrees of yaw. Recognizers hold up to about 30; beyond, the far cheek is hidden, and a portrait has to invent it."""

MAX_ROLL = 40.0
"""Degrees of roll. The crop is not turned upright, and CLIP saw few faces on their side; people tilt their heads by 20 or so,
so what is beyond 40 is most likely a photo on its side."""

MIN_BRIGHTNESS, MAX_BRIGHTNESS = 0.15, 0.85
"""Mean display brightness of the inner face, 0..1. Wide on purpose: well exposed dark and pale skin lies inside, so
what lies outside is the exposure, not the person."""

MAX_CLIPPED = 0.10
"""Share of the inner face lost to pure black or white. Pupils, nostrils and a glint on the nose make a few per cent; a
tenth is skin."""

MAX_LIGHT_IMBALANCE = 1.0
"""Stops between the two halves of the face: one side gets twice the light of the other, which the method tends to take
for the person's looks. Official portraits measured 0.2 to 0.4, a face lit from one side 1.0."""


class QualityIssue(NamedTuple):
    """What is wrong with a photo: two or three words to be drawn onto it, and a sentence with what to do."""

    label: str
    advice: str


@dataclass(frozen=True)
class PhotoQuality:
    """What was measured of one face in one photo.

    Attributes:
        face_size: px (`Face.size`).
        sharpness: share of contrast in fine detail, no unit.
        yaw: degrees, a rough estimate from landmarks, positive when the nose points to the picture's right.
        brightness: mean display brightness of the inner face, 0..1.
        clipped: share of the inner face lost to black or white, 0..1.
        light_imbalance: stops, positive when the picture's left half of the face is brighter.
        roll: degrees, positive clockwise.
        distortion: px of 112 by which the landmarks miss a face of usual proportions, see `MAX_DISTORTION`.
    """

    face_size: float
    sharpness: float
    yaw: float
    brightness: float
    clipped: float
    light_imbalance: float
    roll: float = 0.0
    distortion: float = 0.0

    def issues(self) -> list[QualityIssue]:
        """One per measurement out of range; empty for a good photo."""
        found: list[QualityIssue] = []

        def add(label: str, advice: str) -> None:
            found.append(QualityIssue(label, advice))

        if self.face_size < GOOD_FACE_SIZE:
            add(
                f"small: {self.face_size:.0f} px",
                f"the face is small ({self.face_size:.0f} px, better {GOOD_FACE_SIZE:.0f} or more): use a closer photo or "
                "the file in full resolution",
            )
        if self.sharpness < MIN_SHARPNESS:
            add(
                "blurred",
                f"the face is blurred (sharpness {self.sharpness:.4f}, better {MIN_SHARPNESS} or more): use a sharper photo; "
                "one in which the face is larger, not this one enlarged",
            )
        if abs(self.yaw) > MAX_YAW:
            add(
                f"turned {abs(self.yaw):.0f}°",
                f"the head is turned by about {abs(self.yaw):.0f} degrees (better below {MAX_YAW:.0f}): use a photo "
                "from the front, or add one",
            )
        if abs(self.roll) > MAX_ROLL:
            add(
                f"tilted {abs(self.roll):.0f}°",
                f"the head is tilted by {abs(self.roll):.0f} degrees (better below {MAX_ROLL:.0f}): turn the photo upright",
            )
        if self.distortion > MAX_DISTORTION and abs(self.yaw) < DISTORTION_YAW:
            add(
                "stretched?",
                "the face has unusual proportions, as in a photo that was stretched or squeezed to another shape, on which nobody "
                "is recognized: use a photo in its own proportions (crop instead of stretching)",
            )
        if self.brightness < MIN_BRIGHTNESS:
            add(
                "dark",
                f"the face is very dark (brightness {self.brightness:.2f}, better above {MIN_BRIGHTNESS}): use a photo with more "
                "light",
            )
        if self.brightness > MAX_BRIGHTNESS:
            add(
                "overexposed",
                f"the face is overexposed (brightness {self.brightness:.2f}, better below {MAX_BRIGHTNESS}): use a photo with "
                "softer light",
            )
        if self.clipped > MAX_CLIPPED:
            add(
                f"{self.clipped:.0%} without detail",
                f"{self.clipped:.0%} of the face is pure black or white (better below {MAX_CLIPPED:.0%}): use a photo with "
                "less harsh light",
            )
        if abs(self.light_imbalance) > MAX_LIGHT_IMBALANCE:
            side = "left" if self.light_imbalance > 0 else "right"
            add(
                f"light from the {side}",
                f"the light is uneven: the {side} half of the face gets {2 ** abs(self.light_imbalance):.1f} times the "
                f"light of the other (better below {2**MAX_LIGHT_IMBALANCE:.0f}): use a photo with light from the front, or switch "
                "light normalisation on",
            )
        return found

    def warnings(self) -> list[str]:
        """The issues' sentences."""
        return [issue.advice for issue in self.issues()]

    def __str__(self) -> str:
        return (
            f"face {self.face_size:.0f} px, sharpness {self.sharpness:.3f}, turned {self.yaw:+.0f} and tilted {self.roll:+.0f} degrees, "
            f"brightness {self.brightness:.2f}, clipped {self.clipped:.0%}, light left to right "
            f"{self.light_imbalance:+.1f} stops"
        )


def assess(image: np.ndarray, face: Face, crop: np.ndarray, face_in_crop: Face) -> PhotoQuality:
    """Measure one face.

    Args:
        image: uint8 [H, W, 3] RGB.
        face: in it.
        crop: the head crop made of it, uint8 [S, S, 3].
        face_in_crop: the same face, in crop pixels.

    Raises:
        FaceError: landmarks that cannot be aligned, or OpenCV is not installed.
    """
    matrix = align_matrix(face.landmarks)
    light = measure_light(warp(image, matrix))
    return PhotoQuality(
        face.size,
        _sharpness(crop, face_in_crop),
        estimate_yaw(face.landmarks, matrix),
        light.brightness,
        light.clipped,
        light.imbalance,
        estimate_roll(face.landmarks),
        0.0 if face.is_drawn else estimate_distortion(face.landmarks, matrix),
    )


def estimate_yaw(landmarks: np.ndarray, matrix: np.ndarray | None = None) -> float:
    """Rough yaw in degrees from five landmarks [5, 2]: how far the nose tip lies off the middle between the eyes.

    The nose tip stands about 0.45 of the distance between the pupils in front of the eyes, so turning the head by y
    moves it by 0.45 tan(y) of the distance seen. Roll is taken out first. Good to about 10 degrees, which is enough for
    a warning.

    Args:
        landmarks: of a `Face`.
        matrix: `align_matrix` of them, where it is known.
    """
    matrix = align_matrix(landmarks) if matrix is None else matrix
    points = np.asarray(landmarks, dtype=np.float64) @ matrix[:, :2].T + matrix[:, 2]
    eyes = max(float(np.linalg.norm(points[1] - points[0])), 1e-6)
    mouth, nose = points[3:].mean(axis=0), points[2]
    middle = points[:2].mean(axis=0)
    # The middle of the face at the nose's height, on the line from between the eyes to the mouth.
    share = float(np.clip((nose[1] - middle[1]) / max(mouth[1] - middle[1], 1e-6), 0, 1))
    offset = nose[0] - (middle[0] + share * (mouth[0] - middle[0]))
    return float(np.degrees(np.arctan(offset / (0.45 * eyes))))


def estimate_roll(landmarks: np.ndarray) -> float:
    """Roll in degrees from five landmarks [5, 2]: how far the line between the eyes is from level, positive clockwise."""
    across = landmarks[1] - landmarks[0]
    return float(np.degrees(np.arctan2(across[1], across[0])))


def estimate_distortion(landmarks: np.ndarray, matrix: np.ndarray | None = None) -> float:
    """How far five landmarks [5, 2] lie from the template that recognizers know, after the best similarity: root mean square, px
    of 112."""
    matrix = align_matrix(landmarks) if matrix is None else matrix
    points = np.asarray(landmarks, dtype=np.float64) @ matrix[:, :2].T + matrix[:, 2]
    return float(np.sqrt(((points - ARCFACE_TEMPLATE) ** 2).sum(axis=1).mean()))


def _sharpness(crop: np.ndarray, face: Face) -> float:
    """Variance of the Laplacian over the variance of brightness, on the face as CLIP sees it (crop at 224 px)."""
    scale = 224 / crop.shape[0]
    grey = np.asarray(Image.fromarray(crop).convert("L").resize((224, 224), Image.Resampling.BICUBIC), dtype=np.float64)
    x0, y0, x1, y1 = (round(float(edge) * scale) for edge in face.box)
    grey = grey[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
    if min(grey.shape) < 3:
        return 0.0
    laplacian = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    return float(laplacian.var() / max(grey.var(), 1.0))
