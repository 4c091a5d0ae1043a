"""Where two people shall be: presets, boxes, and a soft mask for each person.

    boxes = preset_boxes("side by side", 832, 1216)
    masks = layout_masks(boxes, 832, 1216)    # [2, 1216, 832]

A box is left, top, right and bottom as shares of the picture, 0..1. Everything here is this project's choice.
"""

from __future__ import annotations

import math
import re
from numbers import Integral
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..errors import LayoutError
from ..faces.photos import photo_from_tensor
from ..prompts.typed import fold, without_hidden
from .person_style import draw_box, person_color

__all__ = [
    "CUSTOM",
    "FEATHER",
    "MAX_SQUARE_RATIO",
    "MIN_BOX",
    "PRESETS",
    "Box",
    "Boxes",
    "Preset",
    "draw_layout",
    "format_boxes",
    "layout_masks",
    "parse_boxes",
    "pixel_boxes",
    "preset_boxes",
    "preset_front",
    "shape_of",
]

Box = tuple[float, float, float, float]
Boxes = tuple[Box, Box]


class Preset(NamedTuple):
    """Boxes of person 1 and person 2 for each shape of a picture, and who is in front (1, 2, or None for neither)."""

    portrait: Boxes
    square: Boxes
    landscape: Boxes
    front: int | None = None


PRESETS: dict[str, Preset] = {
    "side by side": Preset(
        ((0.03, 0.18, 0.5, 1.0), (0.5, 0.18, 0.97, 1.0)),
        ((0.04, 0.12, 0.5, 1.0), (0.5, 0.12, 0.96, 1.0)),
        ((0.12, 0.08, 0.5, 1.0), (0.5, 0.08, 0.88, 1.0)),
    ),
    "close together": Preset(
        ((0.06, 0.16, 0.56, 1.0), (0.44, 0.16, 0.94, 1.0)),
        ((0.1, 0.12, 0.56, 1.0), (0.44, 0.12, 0.9, 1.0)),
        ((0.2, 0.08, 0.55, 1.0), (0.45, 0.08, 0.8, 1.0)),
    ),
    "one behind": Preset(
        ((0.04, 0.26, 0.64, 1.0), (0.5, 0.12, 0.94, 0.86)),
        ((0.08, 0.2, 0.6, 1.0), (0.5, 0.08, 0.9, 0.86)),
        ((0.18, 0.14, 0.56, 1.0), (0.48, 0.06, 0.78, 0.86)),
        front=1,
    ),
    "parent and child": Preset(
        ((0.06, 0.08, 0.62, 1.0), (0.5, 0.46, 0.92, 1.0)),
        ((0.1, 0.06, 0.58, 1.0), (0.5, 0.45, 0.86, 1.0)),
        ((0.22, 0.05, 0.57, 1.0), (0.5, 0.44, 0.77, 1.0)),
        front=2,
    ),
    "full body": Preset(
        ((0.1, 0.12, 0.5, 0.96), (0.5, 0.12, 0.9, 0.96)),
        ((0.2, 0.06, 0.5, 0.97), (0.5, 0.06, 0.8, 0.97)),
        ((0.28, 0.05, 0.5, 0.97), (0.5, 0.05, 0.72, 0.97)),
    ),
    "faces only": Preset(
        ((0.14, 0.24, 0.44, 0.5), (0.56, 0.24, 0.86, 0.5)),
        ((0.13, 0.22, 0.43, 0.58), (0.57, 0.22, 0.87, 0.58)),
        ((0.19, 0.18, 0.43, 0.62), (0.57, 0.18, 0.81, 0.62)),
    ),
}
CUSTOM = "custom"
"""The name of boxes that are no preset's."""

MIN_BOX = 0.02
"""The least width and height of a box, as a share of the picture."""
FEATHER = 0.05
"""How wide a soft edge is where nothing else is said, as a share of the picture's shorter side."""

MAX_SQUARE_RATIO = 1.15
"""Up to this ratio of the longer side to the shorter one a picture counts as square."""

MAX_PIXELS = 2**26
"""The most pixels that are laid out, 8192 x 8192: a dozen masks of that size are in memory at once, 3 GB."""

_FORM = "write left top right bottom of person 1, a semicolon, and the same of person 2, as shares of the picture"
_EXAMPLE = "0.04 0.12 0.5 1; 0.5 0.12 0.96 1"


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


def preset_boxes(name: str, width: int, height: int) -> Boxes:
    """The boxes of a preset in a picture of this size, px.

    Raises:
        LayoutError: there is no such preset.
    """
    return getattr(_preset(name), shape_of(width, height))


def preset_front(name: str) -> int | None:
    """Who is in front in a preset: 1, 2, or None for neither. In custom boxes neither is.

    Raises:
        LayoutError: there is no such preset.
    """
    return None if name == CUSTOM else _preset(name).front


def parse_boxes(text: str) -> Boxes:
    """Two boxes from a line such as "0.04 0.12 0.5 1; 0.5 0.12 0.96 1". Commas and line breaks do as well, and full-width
    digits and signs.

    Raises:
        LayoutError: it is not two times four numbers, or a box is empty or leaves the picture.
    """
    plain = fold(without_hidden(text)) if isinstance(text, str) else ""
    rows = [row for row in re.split(r"[;\r\n]", plain) if row.strip()]
    if len(rows) != 2:
        raise LayoutError(
            f"boxes needs 2 boxes and has {len(rows)}: {_FORM}, for example {_EXAMPLE}.", code="not-two-boxes"
        )
    first, second = (_parse_box(row, person) for person, row in enumerate(rows, 1))
    return first, second


def format_boxes(boxes: Boxes) -> str:
    """The line that `parse_boxes` reads, each share to three decimals."""
    return "; ".join(" ".join(f"{round(edge, 3):g}" for edge in box) for box in boxes)


def pixel_boxes(boxes: Boxes, width: int, height: int) -> list[tuple[int, int, int, int]]:
    """Left, top, right and bottom of each box in px."""
    return [(round(x0 * width), round(y0 * height), round(x1 * width), round(y1 * height)) for x0, y0, x1, y1 in boxes]


def layout_masks(
    boxes: Boxes, width: int, height: int, *, feather: float = FEATHER, front: int | None = None
) -> Tensor:
    """Where each person may be: soft masks [2, height, width] 0..1 whose sum is nowhere more than 1.

    An edge fades over `feather` (a share of the picture's shorter side; never over more than the box), half of it inside of
    the box. Where a box reaches the picture's border it does not fade. Where boxes overlap, `front` (1 or 2) says who wins;
    None gives each place to the one whose box's middle is nearer, counted in sizes of that box.

    Raises:
        LayoutError: the feather is not 0..1, or front is none of them.
    """
    shape_of(width, height)
    if not 0 <= feather <= 1:
        raise LayoutError(
            f"feather is {feather:g}: give a share of the picture's shorter side from 0 to 1.",
            code="feather-out-of-range",
        )
    if front not in (None, 1, 2):
        raise LayoutError(f"Nobody is called person {front}: in front is 1, 2 or neither.", code="nobody-in-front")
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    alone, far = [], []
    for box in boxes:
        left, top, right, bottom = box[0] * width, box[1] * height, box[2] * width, box[3] * height
        soft = max(min(feather * min(width, height), right - left, bottom - top), 1e-6)
        alone.append(_within(y, top, bottom, height, soft)[:, None] * _within(x, left, right, width, soft))
        across = (2 * x - left - right) / (right - left)
        down = (2 * y - top - bottom) / (bottom - top)
        far.append(across.square() + down.square()[:, None])
    if front is None:
        # The factor makes this seam about as soft as the edges of boxes that overlap by a third.
        first = ((far[1] - far[0]) / max(8 * feather, 1e-6) + 0.5).clamp(0, 1)
    else:
        first = torch.full_like(alone[0], float(front == 1))
    # What is lost to the other adds up to the product, so the sum is 1 - (1 - a)(1 - b): never more than 1.
    return torch.stack([alone[0] * (1 - alone[1] * (1 - first)), alone[1] * (1 - alone[0] * first)])


def draw_layout(boxes: Boxes, masks: Tensor, background: Tensor | None = None) -> Tensor:
    """The layout as a picture [H, W, 3] 0..1: masks tinted, boxes outlined and labelled 1 and 2, each in its person's look.

    Args:
        boxes: of both people.
        masks: [2, H, W] of `layout_masks`.
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
    for person, (x0, y0, x1, _) in enumerate(
        edges
    ):  # labels last, 1 on the left and 2 on the right, so that both are seen
        left = x0 if person == 0 else x1 - chip
        draw.rectangle((left, y0, left + chip, y0 + chip), fill=person_color(person))
        middle = (left + chip / 2, y0 + chip / 2)
        draw.text(middle, str(person + 1), fill="white", font_size=0.8 * chip, anchor="mm")
    return torch.from_numpy(np.asarray(canvas).copy()).float() / 255


def _preset(name: str) -> Preset:
    if name not in PRESETS:
        raise LayoutError(
            f"There is no preset {name!r}: choose one of {', '.join((*PRESETS, CUSTOM))}.", code="unknown-preset"
        )
    return PRESETS[name]


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
