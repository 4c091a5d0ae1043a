"""Reading clothes back by rule: the pattern and both colors, for judging pictures of `parts_drawing`'s world.

Nothing is trained: every pattern, at several phases, says for each px of a chest which of two colors it has, and the one that the
px agree with most is read. The world's own drawings through the autoencoder tell how often that errs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dhumandiff.miniature.world import COLORS
from dhumandiff.miniature.world.read import color_votes

from .parts_drawing import STRIPE, Clothes

__all__ = ["Reading", "read_clothes"]

STEPS = 8
"""Phases of a period of two stripes that are tried."""


@dataclass(frozen=True)
class Reading:
    """What was read: a pattern of `PATTERNS`, and the colors in it."""

    pattern: str
    colors: frozenset[str]

    def is_of(self, clothes: Clothes) -> bool:
        """Whether it is what these look like."""
        return self.pattern == clothes.pattern and self.colors == clothes.seen


NOTHING = Reading("", frozenset())
"""Where no chest is in the picture."""


def read_clothes(picture: np.ndarray, face_box: Sequence[float] | np.ndarray) -> Reading:
    """What the person with this face wears.

    Args:
        picture: uint8 [H, W, 3].
        face_box: x0 y0 x1 y1 px, ear to ear and forehead to chin.
    """
    x0, y0, x1, y1 = (float(value) for value in face_box)
    unit = ((y1 - y0) / 1.6 + (x1 - x0) / 1.55) / 2  # of a head: see world/read.py
    middle, height = (x0 + x1) / 2, picture.shape[0]
    top = min(y1 + 0.75 * unit, height - 0.8 * unit)
    rows = np.clip((round(top), round(y1 + 2.4 * unit)), 0, height)
    columns = np.clip((round(middle - 0.95 * unit), round(middle + 0.95 * unit)), 0, picture.shape[1])
    chest = picture[slice(*rows), slice(*columns)]
    if top < y1 or min(chest.shape[:2]) < STRIPE:
        return NOTHING
    votes = color_votes(chest)
    names, best = tuple(COLORS), (float(votes.sum((0, 1)).max()), "plain", {int(votes.sum((0, 1)).argmax())})
    for pattern, second in _phases(chest.shape[:2], middle - columns[0]):
        one, two = votes[~second].sum(0), votes[second].sum(0)
        both = one[:, None] + two[None]
        np.fill_diagonal(both, 0)  # one color twice is plain
        at = np.unravel_index(both.argmax(), both.shape)
        if both[at] > best[0]:
            best = (float(both[at]), pattern, {int(at[0]), int(at[1])})
    return Reading(best[1], frozenset(names[color] for color in best[2]))


def _phases(shape: tuple[int, ...], middle: float) -> Iterator[tuple[str, np.ndarray]]:
    """Every pattern of two colors where its second one may be, bool [H, W]."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    for phase in np.arange(STEPS) * (2 * STRIPE / STEPS):
        yield "stripes", (y + phase) // STRIPE % 2 == 1
        yield "bars", (x + phase) // STRIPE % 2 == 1
    for shift in (-3 * STRIPE / 8, 0, 3 * STRIPE / 8):
        yield "halves", x >= middle + shift
