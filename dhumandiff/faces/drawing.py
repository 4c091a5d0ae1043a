"""A head crop for people to look at: the face's box, and what is wrong with the photo written above the face."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .face import Face

__all__ = ["default_font", "draw_crop"]

# No person's color (person_style.PERSON_COLORS): whether this is person 1 or 2 is not known here.
_LABEL, _INK = "#f0e442", "#000000"

# A page shows a crop of 512 px at about half its size: letters of a sixteenth of the side are 15 px high there. Where many
# labels need room they shrink, down to letters that can still be read when the picture is opened.
_SIZE, _SMALLEST = 1 / 16, 1 / 30


def draw_crop(crop: np.ndarray, face: Face, labels: Sequence[str] = ()) -> np.ndarray:
    """Draw the face's box and short labels onto a head crop.

    The labels stand in rows at the top, over hair and background; a crop from `crop_face` has a third of its height there.

    Args:
        crop: [S, S, 3] uint8.
        face: in crop pixels.
        labels: of quality issues.

    Returns:
        [S, S, 3] uint8.
    """
    picture = Image.fromarray(crop)
    draw = ImageDraw.Draw(picture)
    side = picture.height
    line = max(1, side // 128)
    box = [round(float(edge)) for edge in face.box]
    outer = (box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1)
    draw.rectangle(outer, outline="black", width=line + 2)  # a dark edge, so that the box is seen on white, too
    draw.rectangle(box, outline="white", width=line)
    if not labels:
        return np.asarray(picture)

    size, rows = _SIZE * side, []
    while True:
        font = default_font(size)
        gap = size / 4
        rows = _rows([font.getlength(label) + 2 * gap for label in labels], picture.width - gap, gap)
        high = 1.3 * size + gap
        if gap + len(rows) * high <= box[1] or size <= _SMALLEST * side:
            break
        size *= 0.9
    for number, row in enumerate(rows):
        top = gap + number * high
        for label, left, right in ((labels[at], *span) for at, span in row.items()):
            draw.rounded_rectangle((left, top, right, top + 1.3 * size), radius=gap, fill=_LABEL, outline=_INK)
            draw.text(((left + right) / 2, top + 0.65 * size), label, fill=_INK, font=font, anchor="mm")
    return np.asarray(picture)


@lru_cache(maxsize=16)
def default_font(size: float) -> Any:
    """Pillow's own font; before Pillow 10.1 it has one size only."""
    try:
        return ImageFont.load_default(size)
    except TypeError:
        return ImageFont.load_default()


def _rows(widths: Sequence[float], room: float, gap: float) -> list[dict[int, tuple[float, float]]]:
    """Boxes set like words: rows of number -> (left, right), a new row where one is full."""
    rows: list[dict[int, tuple[float, float]]] = []
    left = room
    for number, width in enumerate(widths):
        if not rows or left + width > room:
            rows.append({})
            left = gap
        rows[-1][number] = (left, left + width)
        left += width + gap
    return rows
