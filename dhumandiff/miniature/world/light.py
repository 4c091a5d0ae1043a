"""A drawn photo in other light: what people's photos come in, from an even flash to an old print.

Light adds up in linear light, so gains act there (gamma 2.2, as in training/data/pictures.py). How strong each kind is is this
project's choice: clearly worse than what the world draws by itself, and still somebody that people recognize.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from ...errors import DHumanDiffError
from .dice import Dice

__all__ = ["LIGHTS", "relight"]

LIGHTS = ("even", "side", "dark", "tinted", "old photo")
"""Kinds of light. Even is the photo as it is; draw it with `picture.EVEN_LIGHT`."""

_SIDE = 3.5
"""Stops between the two halves of the picture, at their middles; the darker one loses most of it."""
_DARK = -2.0
"""Stops."""
_TINTS = ((1.5, 0.75, 0.65), (0.6, 0.85, 1.6), (0.7, 1.3, 0.75), (1.35, 0.65, 1.35))
"""Of the three channels: a red, a blue, a green and a violet lamp."""
_SEPIA = np.array([1.08, 0.97, 0.78], dtype=np.float32)
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)


def relight(picture: np.ndarray, light: str, seed: int = 0) -> np.ndarray:
    """A picture in other light.

    Args:
        picture: uint8 [H, W, 3].
        light: one of `LIGHTS`.
        seed: from which side, in which color, which grain.

    Returns:
        uint8 [H, W, 3].

    Raises:
        DHumanDiffError: no such light.
    """
    if light not in LIGHTS:
        raise DHumanDiffError(f"There is no light {light!r}; there are {', '.join(LIGHTS)}.", code="unknown-light")
    if light == "even":
        return picture.copy()
    dice, linear = Dice("relight", light, seed), (picture.astype(np.float32) / 255) ** 2.2
    if light == "side":
        across = dice.side() * np.linspace(-1, 1, picture.shape[1], dtype=np.float32)[None, :, None]
        linear *= np.exp2(_SIDE * across - 0.35 * _SIDE)
    elif light == "dark":
        linear *= 2.0**_DARK
    elif light == "tinted":
        linear *= np.array(dice.pick(_TINTS), dtype=np.float32)
    else:
        return _old(linear, dice)
    return _shown(linear)


def _old(linear: np.ndarray, dice: Dice) -> np.ndarray:
    """A faded, grainy, soft print in sepia."""
    gray = ((linear @ _LUMINANCE)[..., None] ** (1 / 2.2)) * _SEPIA
    faded = 0.2 + 0.7 * gray.clip(0, 1)
    soft = Image.fromarray(_bytes(faded)).filter(ImageFilter.GaussianBlur(len(linear) / 96))
    grain = np.random.default_rng(dice.number(2**31)).normal(0, 7, (*linear.shape[:2], 1))
    return np.rint(np.asarray(soft) + grain).clip(0, 255).astype(np.uint8)


def _shown(linear: np.ndarray) -> np.ndarray:
    return _bytes(linear.clip(0, 1) ** (1 / 2.2))


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(values.clip(0, 1) * 255).astype(np.uint8)
