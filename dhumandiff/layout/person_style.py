"""How people are told apart on pictures: a color and a dash each, the same ones everywhere in the project."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import ImageDraw

__all__ = ["PERSON_COLORS", "PERSON_DASHES", "draw_box", "person_color"]

PERSON_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
"""Of person 1, person 2 and so on: blue and vermilion, which people of any color vision tell apart (Okabe and Ito's palette)."""

PERSON_DASHES: tuple[tuple[float, float] | None, ...] = (None, (4.0, 2.5), (1.5, 1.5), (8.0, 2.5))
"""Length of a dash and of the gap after it, in widths of the line; None is a line without gaps."""


def person_color(person: int) -> str:
    """The color of a person, "#rrggbb"; 0 is person 1."""
    return PERSON_COLORS[person % len(PERSON_COLORS)]


def draw_box(draw: ImageDraw.ImageDraw, box: Sequence[float], person: int, width: int) -> None:
    """Draw the outline of a box x0 y0 x1 y1, px, in a person's color and dash, inside of its edges; 0 is person 1."""
    x0, y0, x1, y1 = (round(edge) for edge in box)
    x1, y1 = max(x0, x1), max(y0, y1)
    color, dash = person_color(person), PERSON_DASHES[person % len(PERSON_DASHES)]
    if dash is None:
        draw.rectangle((x0, y0, x1, y1), outline=color, width=width)
        return
    line, step = dash[0] * width, sum(dash) * width
    for start in _starts(x0, x1, step):
        end = min(start + line, x1)
        draw.rectangle((start, y0, end, y0 + width - 1), fill=color)
        draw.rectangle((start, y1 - width + 1, end, y1), fill=color)
    for start in _starts(y0, y1, step):
        end = min(start + line, y1)
        draw.rectangle((x0, start, x0 + width - 1, end), fill=color)
        draw.rectangle((x1 - width + 1, start, x1, end), fill=color)


def _starts(start: int, end: int, step: float) -> list[float]:
    """Where the dashes of an edge begin, px."""
    return [start + n * step for n in range(int((end - start) / step) + 1)]
