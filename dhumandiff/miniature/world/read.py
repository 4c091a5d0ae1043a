"""Reading a picture back by rule: which color somebody wears, which scene it is. For judging generated pictures.

Both compare with what the world itself draws, so there is nothing to tune: a torso with the eight colors in light and
shadow, a background with a few drawings of each scene. Soft edges, noise and missing detail change little, because
only colors of broad areas count.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image

from ...errors import ImageError
from .body import COLORS
from .picture import draw_figures
from .scene import SCENES

__all__ = ["color_votes", "read_clothing_color", "read_scene"]

_SHADES = (1.04, 0.92, 0.80)  # a cloth in the light, plain, and in its folds
_BRIGHTNESS = 0.6  # how much lightness counts against color: light varies it most
_GRID = (16, 12)  # cells of a picture in which scenes are compared
_EXAMPLES = 12  # drawings of each scene to compare with


def _opponent(rgb: np.ndarray) -> np.ndarray:
    """RGB 0..255 [..., 3] -> lightness (weighed down), red against green, yellow against blue."""
    r, g, b = (rgb[..., i].astype(np.float32) for i in range(3))
    return np.stack(((r + g + b) / 3 * _BRIGHTNESS, r - g, (r + g) / 2 - b), -1)


_NAMES = tuple(COLORS)
_CLOTH = np.stack([_opponent(np.array(list(COLORS.values()), dtype=np.float32) * shade) for shade in _SHADES])


def read_clothing_color(picture: np.ndarray, face_box: Sequence[float] | np.ndarray) -> tuple[str, float]:
    """The color of what the person with this face wears: (one of `COLOURS`, score 0..1).

    Each px of the torso, left and right of its middle (where buttons, ties and flowers are), votes for the nearest
    color; the score is the share of votes.

    Args:
        picture: [H, W, 3] uint8 RGB.
        face_box: x0 y0 x1 y1 px, ear to ear and forehead to chin.
    """
    picture = _checked(picture)
    x0, _, x1, y1, unit = _face(face_box)
    height, width = picture.shape[:2]
    middle = (x0 + x1) / 2
    # Head units below the chin: from under the collar to the elbows, from the shoulders where the picture ends early.
    top, bottom = min(y1 + 0.95 * unit, max(y1 + 0.6 * unit, height - 0.5 * unit)), min(y1 + 2.3 * unit, height)
    rows = slice(*np.clip((round(top), round(bottom)), 0, height))
    votes = np.zeros(len(_NAMES))
    for side in (-1, 1):
        ends = sorted((middle + side * 0.30 * unit, middle + side * 0.92 * unit))
        patch = picture[rows, slice(*np.clip((round(ends[0]), round(ends[1])), 0, width))]
        if patch.size:
            votes += color_votes(patch).sum((0, 1))
    if votes.sum() == 0:
        raise ImageError(
            f"Below the face at {[round(float(v)) for v in face_box]} no clothes are in the picture of {width} x {height} "
            "px. Give the box of a face whose chest is seen.",
            code="no-clothes-in-picture",
        )
    best = int(votes.argmax())
    return _NAMES[best], float(votes[best] / votes.sum())


def color_votes(pixels: np.ndarray) -> np.ndarray:
    """How much each px votes for each color of `COLORS`, in light and shadow: uint8 [H, W, 3] -> [H, W, 8]; at most 1 in all.

    The votes are soft: a px between two colors counts for both.
    """
    apart = np.linalg.norm(_opponent(pixels)[..., None, None, :] - _CLOTH, axis=-1).min(-2)
    weight = np.exp(-apart / 14)
    return weight / (weight.sum(-1, keepdims=True) + 1e-4)


def read_scene(picture: np.ndarray, face_boxes: Sequence[Sequence[float] | np.ndarray] = ()) -> tuple[str, float]:
    """The scene behind the people: (one of `SCENES`, score 0..1, 0 when two are equally near or none is).

    What head and body of a face cover is left out; the rest is compared, cell by cell and up to the color of the
    light, with drawings of every scene.
    """
    picture = _checked(picture)
    height, width = picture.shape[:2]
    columns, rows = _GRID
    cells = _cells(picture)
    y, x = np.mgrid[0:rows, 0:columns] + 0.5
    y, x = y * height / rows, x * width / columns
    seen = np.ones((rows, columns), dtype=bool)
    for box in face_boxes:
        x0, y0, x1, y1, unit = _face(box)
        middle = (x0 + x1) / 2
        head = (abs(x - middle) < 1.15 * unit) & (y > y0 - 0.7 * unit) & (y < y1 + 0.6 * unit)
        trunk = (abs(x - middle) < 1.65 * unit) & (y >= y1 + 0.4 * unit)
        seen &= ~(head | trunk)
    if seen.sum() < 8:
        raise ImageError(
            "The faces fill the picture, so no scene is seen. Give the boxes of faces, not of whole people.",
            code="no-scene-in-picture",
        )
    ours, names, examples = cells[seen], *_examples(round(64 * width / height))
    theirs = examples[:, seen]
    light = np.clip((theirs * ours).sum(1) / ((theirs**2).sum(1) + 1e-6), 0.75, 1.2)
    apart = np.abs(theirs * light[:, None] - ours).mean((1, 2))
    nearest = {name: float(apart[[other == name for other in names]].min()) for name in SCENES}
    first, second = sorted(nearest, key=nearest.__getitem__)[:2]
    # Clearly nearer than the next, and near: a picture of nothing is far from every scene.
    return first, (1 - nearest[first] / max(nearest[second], 1e-6)) * float(np.exp(-nearest[first] / 40))


def _cells(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize(_GRID, Image.Resampling.BOX), dtype=np.float32)


@lru_cache(maxsize=8)
def _examples(width: int) -> tuple[tuple[str, ...], np.ndarray]:
    """Scenes without people, in cells: their names, and [N, rows, columns, 3]."""
    names = tuple(name for name in SCENES for _ in range(_EXAMPLES))
    size = (max(width, 16), 64)
    cells = [_cells(draw_figures((), name, seed, size=size).picture) for name in SCENES for seed in range(_EXAMPLES)]
    return names, np.stack(cells)


def _checked(picture: np.ndarray) -> np.ndarray:
    picture = np.asarray(picture)
    if picture.ndim != 3 or picture.shape[-1] != 3 or picture.dtype != np.uint8:
        raise ImageError(
            f"A picture to read is an array [H, W, 3] of uint8, not {list(picture.shape)} of {picture.dtype}.",
            code="picture-of-another-shape",
        )
    return picture


def _face(box: Sequence[float] | np.ndarray) -> tuple[float, float, float, float, float]:
    """A face box and its head unit: a drawn face is 1.6 units high and 1.55 wide."""
    x0, y0, x1, y1 = (float(value) for value in box)
    if not (x1 > x0 and y1 > y0):
        raise ImageError(
            f"A face box is x0 y0 x1 y1 with x0 < x1 and y0 < y1, not {[x0, y0, x1, y1]}.", code="box-not-clear"
        )
    return x0, y0, x1, y1, ((y1 - y0) / 1.6 + (x1 - x0) / 1.55) / 2
