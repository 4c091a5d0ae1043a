"""Where people shall be: boxes as text and in px, a soft mask for each person, and a picture of both.

    boxes = preset_boxes("side by side", 832, 1216, people=3)
    masks = layout_masks(boxes, 832, 1216)    # [3, 1216, 832]

A box is left, top, right and bottom as shares of the picture, 0..1. Everything here is this project's choice.
"""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..errors import LayoutError
from ..faces.photos import photo_from_tensor
from ..prompts.typed import fold, without_hidden
from .person_style import draw_box, person_color
from .presets import (
    CUSTOM,
    MAX_SQUARE_RATIO,
    PRESETS,
    Box,
    Boxes,
    Preset,
    check_people,
    preset_boxes,
    preset_front,
    shape_of,
)

__all__ = [  # also what moved to presets.py
    "CUSTOM",
    "FEATHER",
    "MAX_SQUARE_RATIO",
    "MIN_BOX",
    "PRESETS",
    "Box",
    "Boxes",
    "Preset",
    "check_front",
    "draw_layout",
    "format_boxes",
    "layout_masks",
    "parse_boxes",
    "pixel_boxes",
    "preset_boxes",
    "preset_front",
    "shape_of",
]

MIN_BOX = 0.02
"""The least width and height of a box, as a share of the picture."""
FEATHER = 0.05
"""How wide a soft edge is where nothing else is said, as a share of the picture's shorter side."""

_FORM = "write left top right bottom of each person, as shares of the picture, and a semicolon between two people"
_EXAMPLE = "0.04 0.12 0.5 1; 0.5 0.12 0.96 1"


def parse_boxes(text: str, people: int = 2) -> Boxes:
    """A box for each person from a line such as "0.04 0.12 0.5 1; 0.5 0.12 0.96 1". Commas and line breaks do as well, and
    full-width digits and signs.

    Raises:
        LayoutError: it is not four numbers for each of them, or a box is empty or leaves the picture.
    """
    check_people(people)
    plain = fold(without_hidden(text)) if isinstance(text, str) else ""
    rows = [row for row in re.split(r"[;\r\n]", plain) if row.strip()]
    if len(rows) != people:
        plural = "box" if people == 1 else "boxes"
        raise LayoutError(
            f"boxes needs {people} {plural} and has {len(rows)}, since people is {people}: {_FORM}, for example {_EXAMPLE}.",
            code="not-two-boxes",
        )
    return tuple(_parse_box(row, person) for person, row in enumerate(rows, 1))


def format_boxes(boxes: Boxes) -> str:
    """The line that `parse_boxes` reads, each share to three decimals."""
    return "; ".join(" ".join(f"{round(edge, 3):g}" for edge in box) for box in boxes)


def pixel_boxes(boxes: Boxes, width: int, height: int) -> list[tuple[int, int, int, int]]:
    """Left, top, right and bottom of each box in px."""
    return [(round(x0 * width), round(y0 * height), round(x1 * width), round(y1 * height)) for x0, y0, x1, y1 in boxes]


def layout_masks(
    boxes: Boxes, width: int, height: int, *, feather: float = FEATHER, front: int | None = None
) -> Tensor:
    """Where each person may be: soft masks [people, height, width] 0..1 whose sum is nowhere more than 1.

    An edge fades over `feather` (a share of the picture's shorter side; never over more than the box), half of it inside of
    the box. Where a box reaches the picture's border it does not fade. Where boxes overlap, `front` (1 is person 1) says who
    wins; among the others, or with None, a place goes to the one whose box's middle is nearer, counted in sizes of that box.

    Raises:
        LayoutError: the feather is not 0..1, or front is nobody.
    """
    shape_of(width, height)
    if not 0 <= feather <= 1:
        raise LayoutError(
            f"feather is {feather:g}: give a share of the picture's shorter side from 0 to 1.",
            code="feather-out-of-range",
        )
    check_front(front, len(boxes))
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    alone, far = [], []
    for box in boxes:
        left, top, right, bottom = box[0] * width, box[1] * height, box[2] * width, box[3] * height
        soft = max(min(feather * min(width, height), right - left, bottom - top), 1e-6)
        alone.append(_within(y, top, bottom, height, soft)[:, None] * _within(x, left, right, width, soft))
        across = (2 * x - left - right) / (right - left)
        down = (2 * y - top - bottom) / (bottom - top)
        far.append(across.square() + down.square()[:, None])
    # As if each person were there, and won against each other, by chance: that somebody is there and wins against all who are
    # excludes the same of anybody else, so these chances never add up to more than 1.
    masks = list(alone)
    for one, other in itertools.combinations(range(len(boxes)), 2):
        if front in (one + 1, other + 1):
            wins: Tensor | float = float(front == one + 1)
        else:  # the factor makes this seam about as soft as the edges of boxes that overlap by a third
            wins = ((far[other] - far[one]) / max(8 * feather, 1e-6) + 0.5).clamp(0, 1)
        masks[one] = masks[one] * (1 - alone[other] * (1 - wins))
        masks[other] = masks[other] * (1 - alone[one] * wins)
    return torch.stack(masks)


def check_front(front: int | None, people: int) -> None:
    """Refuse somebody in front who is not there.

    Raises:
        LayoutError: says who is.
    """
    if front is not None and not 1 <= front <= people:
        there = ", ".join(map(str, range(1, people + 1)))
        raise LayoutError(
            f"Nobody is called person {front}: in front is {there} or neither. For more people set people.",
            code="nobody-in-front",
        )


def draw_layout(boxes: Boxes, masks: Tensor, background: Tensor | None = None) -> Tensor:
    """The layout as a picture [H, W, 3] 0..1: masks tinted, boxes outlined and numbered, each in its person's look.

    Args:
        boxes: of all people.
        masks: [people, H, W] of `layout_masks`.
        background: [H', W', 3] 0..1, cut to the shape of the masks around its middle; grey without one.
    """
    height, width = masks.shape[1:]
    canvas = (
        Image.new("RGB", (width, height), "#808080") if background is None else _covering(background, width, height)
    )
    for person, mask in enumerate(masks):
        tint = Image.fromarray((mask * 0.35 * 255).round().byte().numpy())
        canvas.paste(Image.new("RGB", (width, height), person_color(person)), mask=tint)
    draw, short = ImageDraw.Draw(canvas), min(width, height)
    chip = max(short / 11, 9.0)
    # In a picture of a few pixels a box may be none wide: it is drawn as one.
    edges = [(x0, y0, max(x1 - 1, x0), max(y1 - 1, y0)) for x0, y0, x1, y1 in pixel_boxes(boxes, width, height)]
    line = max(round(short / 110), 1)
    for person, (x0, y0, x1, y1) in enumerate(edges):
        draw.rectangle(
            (x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline="white", width=line + 2
        )  # to be seen on any background
        draw_box(draw, (x0, y0, x1, y1), person, line)
    for person, (x0, y0, x1, _) in enumerate(edges):  # labels last, and from left to right, so that all are seen
        across = person / max(len(edges) - 1, 1)
        left = (1 - across) * x0 + across * (x1 - chip)
        draw.rectangle((left, y0, left + chip, y0 + chip), fill=person_color(person))
        middle = (left + chip / 2, y0 + chip / 2)
        draw.text(middle, str(person + 1), fill="white", font_size=0.8 * chip, anchor="mm")
    return torch.from_numpy(np.asarray(canvas).copy()).float() / 255


def _parse_box(row: str, person: int) -> Box:
    try:
        values = [float(word) for word in row.replace(",", " ").split()]
    except ValueError:
        values = []
    if len(values) != 4 or not all(map(math.isfinite, values)):
        raise LayoutError(
            f"boxes: {row.strip()!r} of person {person} is not four numbers: {_FORM}, such as {_EXAMPLE}.",
            code="not-four-numbers",
        )
    left, top, right, bottom = values
    if min(values) < 0 or max(values) > 1:
        raise LayoutError(
            f"boxes: person {person}'s box ({row.strip()}) leaves the picture: its shares are 0 to 1.",
            code="box-outside",
        )
    if right - left < MIN_BOX - 1e-9 or bottom - top < MIN_BOX - 1e-9:
        raise LayoutError(
            f"boxes: person {person}'s box ({row.strip()}) is empty: the order is left top right bottom, and each way a box is "
            f"at least {MIN_BOX:g} of the picture.",
            code="box-empty",
        )
    return left, top, right, bottom


def _within(at: Tensor, start: float, end: float, size: int, soft: float) -> Tensor:
    """1 between two edges, px, 0 beyond, and a smooth ramp `soft` wide around each that is not the picture's border."""
    rise = ((at - start) / soft + 0.5).clamp(0, 1) if start >= 1 else torch.ones_like(at)
    fall = ((end - at) / soft + 0.5).clamp(0, 1) if end <= size - 1 else torch.ones_like(at)
    ramp = torch.minimum(rise, fall)
    return ramp * ramp * (3 - 2 * ramp)


def _covering(picture: Tensor, width: int, height: int) -> Image.Image:
    """A picture [H', W', 3] 0..1 enlarged or reduced to cover the size, its middle kept."""
    image = Image.fromarray(photo_from_tensor(picture, "background").pixels)
    scale = max(width / image.width, height / image.height)
    cut_x, cut_y = (image.width - width / scale) / 2, (image.height - height / scale) / 2
    box = (cut_x, cut_y, image.width - cut_x, image.height - cut_y)
    return image.resize((width, height), Image.Resampling.BICUBIC, box=box)
