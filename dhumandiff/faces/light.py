"""The light on a face: measured on the aligned face, and, on request, evened out a little in the crop.

The method is sensitive to the light in the reference photo (a limit its paper states). How to measure and correct it is
this project's choice; nothing of it is in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .face import Face
from .geometry import align

__all__ = ["FaceLight", "measure_light", "normalize_light"]

# The inner face on the 112 px template, in rows and columns: brow to mouth, cheek to cheek, no hair and no background.
_ROWS, _LEFT, _RIGHT = slice(44, 100), slice(28, 56), slice(56, 84)

# Luminance of linear RGB (Rec. 709, the primaries of sRGB).
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)

_FLOOR = 1e-3  # of linear light: keeps ratios finite on black, and lies far below any lit skin

# How far normalization goes. The ramp reaches three quarters of the imbalance beside the face, which takes a little
# under half of it off the face itself, and counts at most one stop: a face keeps its modelling and its mood, and a
# wrong measurement (a fringe, a beard) does little harm.
_EVEN_OUT = 0.75
_MOST_IMBALANCE = 1.0

# Mean display brightness that is left alone, and the most it is changed, in stops. The range is wide on purpose: dark
# and pale skin photographed well lie inside it, and are not to be drawn towards a middle.
_FINE_BRIGHTNESS = (0.20, 0.80)
_MOST_EXPOSURE = 0.5


@dataclass(frozen=True)
class FaceLight:
    """Light on the inner face.

    Attributes:
        brightness: mean display brightness 0..1.
        clipped: share of pixels lost to black or white, 0..1.
        imbalance: stops between the picture's left and right half of the face (1 is twice the light; positive: left is brighter).
    """

    brightness: float
    clipped: float
    imbalance: float


def measure_light(aligned: np.ndarray) -> FaceLight:
    """Measure the light on one face, uint8 RGB [112, 112, 3], from `geometry.align`."""
    aligned = aligned.astype(np.float32) / 255
    inner = aligned[_ROWS, _LEFT.start : _RIGHT.stop]
    clipped = ((inner.max(axis=-1) <= 5 / 255) | (inner.min(axis=-1) >= 250 / 255)).mean()
    luminance = _to_linear(aligned) @ _LUMINANCE
    left, right = luminance[_ROWS, _LEFT].mean() + _FLOOR, luminance[_ROWS, _RIGHT].mean() + _FLOOR
    brightness = _to_display(luminance[_ROWS, _LEFT.start : _RIGHT.stop]).mean()
    return FaceLight(float(brightness), float(clipped), float(np.log2(left / right)))


def normalize_light(crop: np.ndarray, face: Face) -> np.ndarray:
    """Even out the light on a face a little.

    In linear light every pixel is multiplied by a gain that is the same for its three channels, so hues stay: a smooth
    ramp across the face takes away a little under half of its left-right imbalance, and a face darker or brighter than
    what is normal is moved towards it by at most half a stop. Detail, contrast and whatever is the same on both sides
    stay as they are.

    Args:
        crop: [S, S, 3] uint8 RGB.
        face: in crop pixels.

    Returns:
        [S, S, 3] uint8.
    """
    light = measure_light(align(crop, face.landmarks))
    ramp = _EVEN_OUT * float(np.clip(light.imbalance, -_MOST_IMBALANCE, _MOST_IMBALANCE))
    target = float(np.clip(light.brightness, *_FINE_BRIGHTNESS))
    wanted, present = _to_linear(np.array([target, light.brightness])) + _FLOOR
    exposure = float(np.clip(np.log2(wanted / present), -_MOST_EXPOSURE, _MOST_EXPOSURE))

    # From -1 at the left to +1 at the right, levelling off beyond the cheeks; it tilts with the eyes, as the face does.
    eyes = face.landmarks[1] - face.landmarks[0]
    middle = face.landmarks[:2].mean(axis=0)
    y, x = np.mgrid[: crop.shape[0], : crop.shape[1]]
    across = np.tanh(2 * ((x - middle[0]) * eyes[0] + (y - middle[1]) * eyes[1]) / max(float(eyes @ eyes), 1.0))
    gain = 2.0 ** (exposure + ramp / 2 * across)
    linear = _to_linear(crop.astype(np.float32) / 255) * gain[..., None].astype(np.float32)
    return np.rint(_to_display(linear).clip(0, 1) * 255).astype(np.uint8)


def _to_linear(display: np.ndarray) -> np.ndarray:
    """sRGB's transfer curve, display 0..1 to linear light."""
    return np.where(display <= 0.04045, display / 12.92, ((display + 0.055) / 1.055) ** 2.4)


def _to_display(linear: np.ndarray) -> np.ndarray:
    """The inverse of `_to_linear`."""
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055)
