"""Where one to four people are: boxes by name, number of people and shape of the picture.

    boxes = preset_boxes("side by side", 832, 1216, people=3)

A box is left, top, right and bottom as shares of the picture, 0..1. Everything here is this project's choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import NamedTuple

from ..errors import LayoutError

__all__ = [
    "CUSTOM",
    "MAX_SQUARE_RATIO",
    "MOST_PEOPLE",
    "PRESETS",
    "PRESET_CHOICES",
    "Box",
    "Boxes",
    "Preset",
    "check_people",
    "preset_boxes",
    "preset_front",
    "shape_of",
]

Box = tuple[float, float, float, float]
Boxes = tuple[Box, ...]

MOST_PEOPLE = 4


class Preset(NamedTuple):
    """Boxes of the people in order for each shape of a picture, and who is in front (1 is person 1; None for nobody)."""

    portrait: Boxes
    square: Boxes
    landscape: Boxes
    front: int | None = None


def _row(people: int, left: float, top: float, right: float, bottom: float, width: float | None = None) -> Boxes:
    """Boxes of one size from edge to edge, person 1 on the left: side by side, or of a width that leaves gaps or overlaps."""
    width = (right - left) / people if width is None else width
    step = (right - left - width) / (people - 1)
    starts = [left + n * step for n in range(people)]
    return tuple((round(start, 3), top, round(start + width, 3), bottom) for start in starts)


PRESETS: dict[str, Mapping[int, Preset]] = {
    "side by side": {
        2: Preset(
            ((0.03, 0.18, 0.5, 1.0), (0.5, 0.18, 0.97, 1.0)),
            ((0.04, 0.12, 0.5, 1.0), (0.5, 0.12, 0.96, 1.0)),
            ((0.12, 0.08, 0.5, 1.0), (0.5, 0.08, 0.88, 1.0)),
        ),
        3: Preset(_row(3, 0.02, 0.24, 0.98, 1.0), _row(3, 0.02, 0.16, 0.98, 1.0), _row(3, 0.05, 0.1, 0.95, 1.0)),
        4: Preset(_row(4, 0.01, 0.3, 0.99, 1.0), _row(4, 0.01, 0.2, 0.99, 1.0), _row(4, 0.02, 0.12, 0.98, 1.0)),
    },
    "in the middle": {
        1: Preset(((0.14, 0.14, 0.86, 1.0),), ((0.22, 0.1, 0.78, 1.0),), ((0.31, 0.07, 0.69, 1.0),)),
    },
    "close together": {
        2: Preset(
            ((0.06, 0.16, 0.56, 1.0), (0.44, 0.16, 0.94, 1.0)),
            ((0.1, 0.12, 0.56, 1.0), (0.44, 0.12, 0.9, 1.0)),
            ((0.2, 0.08, 0.55, 1.0), (0.45, 0.08, 0.8, 1.0)),
        ),
        3: Preset(
            _row(3, 0.02, 0.22, 0.98, 1.0, width=0.38),
            _row(3, 0.05, 0.16, 0.95, 1.0, width=0.36),
            _row(3, 0.12, 0.1, 0.88, 1.0, width=0.3),
        ),
        4: Preset(
            _row(4, 0.01, 0.28, 0.99, 1.0, width=0.3),
            _row(4, 0.02, 0.2, 0.98, 1.0, width=0.295),
            _row(4, 0.06, 0.12, 0.94, 1.0, width=0.27),
        ),
    },
    "one behind": {
        2: Preset(
            ((0.04, 0.26, 0.64, 1.0), (0.5, 0.12, 0.94, 0.86)),
            ((0.08, 0.2, 0.6, 1.0), (0.5, 0.08, 0.9, 0.86)),
            ((0.18, 0.14, 0.56, 1.0), (0.48, 0.06, 0.78, 0.86)),
            front=1,
        ),
    },
    "parent and child": {
        2: Preset(
            ((0.06, 0.08, 0.62, 1.0), (0.5, 0.46, 0.92, 1.0)),
            ((0.1, 0.06, 0.58, 1.0), (0.5, 0.45, 0.86, 1.0)),
            ((0.22, 0.05, 0.57, 1.0), (0.5, 0.44, 0.77, 1.0)),
            front=2,
        ),
        3: Preset(  # both parents, and the child between them
            ((0.02, 0.14, 0.5, 1.0), (0.5, 0.14, 0.98, 1.0), (0.32, 0.5, 0.68, 1.0)),
            ((0.06, 0.1, 0.5, 1.0), (0.5, 0.1, 0.94, 1.0), (0.34, 0.48, 0.66, 1.0)),
            ((0.14, 0.06, 0.5, 1.0), (0.5, 0.06, 0.86, 1.0), (0.38, 0.46, 0.62, 1.0)),
            front=3,
        ),
    },
    "full body": {
        1: Preset(((0.28, 0.1, 0.72, 0.97),), ((0.34, 0.06, 0.66, 0.97),), ((0.39, 0.05, 0.61, 0.97),)),
        2: Preset(
            ((0.1, 0.12, 0.5, 0.96), (0.5, 0.12, 0.9, 0.96)),
            ((0.2, 0.06, 0.5, 0.97), (0.5, 0.06, 0.8, 0.97)),
            ((0.28, 0.05, 0.5, 0.97), (0.5, 0.05, 0.72, 0.97)),
        ),
        3: Preset(_row(3, 0.04, 0.18, 0.96, 0.96), _row(3, 0.08, 0.08, 0.92, 0.97), _row(3, 0.18, 0.05, 0.82, 0.97)),
        4: Preset(_row(4, 0.02, 0.24, 0.98, 0.96), _row(4, 0.03, 0.12, 0.97, 0.97), _row(4, 0.08, 0.06, 0.92, 0.97)),
    },
    "faces only": {
        1: Preset(((0.31, 0.22, 0.69, 0.55),), ((0.32, 0.2, 0.68, 0.64),), ((0.35, 0.14, 0.65, 0.68),)),
        2: Preset(
            ((0.14, 0.24, 0.44, 0.5), (0.56, 0.24, 0.86, 0.5)),
            ((0.13, 0.22, 0.43, 0.58), (0.57, 0.22, 0.87, 0.58)),
            ((0.19, 0.18, 0.43, 0.62), (0.57, 0.18, 0.81, 0.62)),
        ),
        3: Preset(
            _row(3, 0.06, 0.26, 0.94, 0.47, width=0.24),
            _row(3, 0.06, 0.24, 0.94, 0.54, width=0.25),
            _row(3, 0.1, 0.2, 0.9, 0.565, width=0.2),
        ),
        4: Preset(
            _row(4, 0.04, 0.3, 0.96, 0.475, width=0.2),
            _row(4, 0.04, 0.28, 0.96, 0.52, width=0.2),
            _row(4, 0.06, 0.22, 0.94, 0.55, width=0.18),
        ),
    },
    "two rows": {  # the last two people in front, or the last one of three; whose head is higher stands behind
        3: Preset(
            ((0.06, 0.14, 0.5, 0.74), (0.5, 0.14, 0.94, 0.74), (0.28, 0.44, 0.72, 1.0)),
            ((0.1, 0.08, 0.5, 0.72), (0.5, 0.08, 0.9, 0.72), (0.3, 0.4, 0.7, 1.0)),
            ((0.2, 0.05, 0.5, 0.7), (0.5, 0.05, 0.8, 0.7), (0.36, 0.36, 0.64, 1.0)),
            front=3,
        ),
        4: Preset(
            (*_row(2, 0.12, 0.12, 0.88, 0.6), *_row(2, 0.04, 0.5, 0.96, 1.0)),
            (*_row(2, 0.16, 0.06, 0.84, 0.58), *_row(2, 0.08, 0.48, 0.92, 1.0)),
            (*_row(2, 0.26, 0.04, 0.74, 0.56), *_row(2, 0.2, 0.46, 0.8, 1.0)),
        ),
    },
}
"""Name -> number of people -> boxes."""

CUSTOM = "custom"
"""The name of boxes that are no preset's."""

_LATER = ("in the middle", "two rows")
PRESET_CHOICES = (*(name for name in PRESETS if name not in _LATER), CUSTOM, *_LATER)
"""All names, in the order in which they came."""

MAX_SQUARE_RATIO = 1.15
"""Up to this ratio of the longer side to the shorter one a picture counts as square."""

MAX_PIXELS = 2**26
"""The most pixels that are laid out, 8192 x 8192: for four people some twenty masks of that size are in memory at once, 5 GB."""


def check_people(people: int) -> None:
    """Refuse a number of people that nothing is laid out for.

    Raises:
        LayoutError: it is none of 1 to `MOST_PEOPLE`.
    """
    if not isinstance(people, Integral) or isinstance(people, bool) or not 1 <= people <= MOST_PEOPLE:
        raise LayoutError(
            f"people is {str(people)[:80]!r}: a portrait is laid out for 1 to {MOST_PEOPLE} people, a whole number.",
            code="people-out-of-range",
        )


def shape_of(width: int, height: int) -> str:
    """ "portrait", "square" or "landscape", by the sides of a picture.

    Raises:
        LayoutError: a side is not a positive whole number, or there is more to the picture than `MAX_PIXELS`.
    """
    if not all(isinstance(side, Integral) and side >= 1 for side in (width, height)):
        raise LayoutError(
            f"width and height are {width} x {height}: a picture has a whole number of pixels each way, at least one.",
            code="no-picture-size",
        )
    if width * height > MAX_PIXELS:
        raise LayoutError(
            f"width and height are {width} x {height}: masks of more than {MAX_PIXELS / 1e6:.0f} megapixels would need "
            "more memory than most machines have. Lay out a smaller picture of this shape: masks are resized.",
            code="picture-too-large",
        )
    if max(width, height) <= MAX_SQUARE_RATIO * min(width, height):
        return "square"
    return "portrait" if height > width else "landscape"


def preset_boxes(name: str, width: int, height: int, people: int = 2) -> Boxes:
    """The boxes of a preset in a picture of this size, px.

    Raises:
        LayoutError: there is no such preset for so many people.
    """
    return getattr(_preset(name, people), shape_of(width, height))


def preset_front(name: str, people: int = 2) -> int | None:
    """Who is in front in a preset: 1 for person 1 and so on, or None for nobody. In custom boxes nobody is.

    Raises:
        LayoutError: there is no such preset for so many people.
    """
    return None if name == CUSTOM else _preset(name, people).front


def _preset(name: str, people: int) -> Preset:
    check_people(people)
    if name not in PRESETS:
        raise LayoutError(
            f"There is no preset {name!r}: choose one of {', '.join(PRESET_CHOICES)}.", code="unknown-preset"
        )
    if people not in PRESETS[name]:
        there = [other for other in PRESET_CHOICES if other == CUSTOM or people in PRESETS[other]]
        whom = "1 person" if people == 1 else f"{people} people"
        raise LayoutError(
            f"The preset {name!r} has no boxes for {whom}: choose one of {', '.join(there)}.",
            code="preset-for-other-people",
        )
    return PRESETS[name][people]
