"""A contact sheet of the world: people, each drawn several times, and pairs with their sentences."""

from __future__ import annotations

import textwrap

import numpy as np
from PIL import Image, ImageDraw

from ...faces.drawing import default_font
from ...layout.person_style import draw_box, person_color
from .identity import Identity, people, sample_identity
from .picture import draw_reference
from .sample import sample_couple, sample_pair

__all__ = ["draw_sheet"]

_GAP, _TEXT = 6, 80


def draw_sheet(count: int, pairs: int, seed: int = 0, zoom: int = 3, boxes: bool = False) -> Image.Image:
    """`count` people, each in three drawings, and `pairs` pictures of two with what belongs to them.

    Pictures are drawn at their true size and shown `zoom` times larger, as a model sees them; with `boxes` face boxes and
    landmarks are drawn in.
    """
    pool = people("train", max(count + seed, 2))[seed:]
    tiles = [_person(who, zoom) for who in pool[:count]]
    wide = [_pair(seed * 1000 + i, zoom, boxes) for i in range(pairs)]
    blocks = [block for block in (_grid(tiles, 4), _grid(wide, 2)) if block is not None]
    if not blocks:
        return Image.new("RGB", (64, 64), "white")
    sheet = Image.new("RGB", (max(b.width for b in blocks), sum(b.height for b in blocks)), "white")
    top = 0
    for block in blocks:
        sheet.paste(block, (0, top))
        top += block.height
    return sheet


def _person(who: Identity, zoom: int) -> Image.Image:
    photos = [draw_reference(who, seed, 48).picture for seed in range(3)]
    return _large(np.concatenate(photos, 1), zoom / 1.5)


def _pair(seed: int, zoom: int, boxes: bool) -> Image.Image:
    sample = sample_pair(seed, sample_couple(seed, [sample_identity(s) for s in range(200)]), references=1)
    picture = _large(sample.picture, zoom)
    draw = ImageDraw.Draw(picture)
    for k, portrait in enumerate(sample.people):
        if not boxes:
            break
        color = person_color(k)
        box = [float(value) * zoom for value in portrait.face_box]
        draw_box(draw, box, k, 1)
        draw.text((box[0] + 3, box[1] + 1), str(k + 1), fill=color, font=default_font(14))
        for x, y in portrait.landmarks * zoom:
            draw.ellipse([x - 2, y - 2, x + 2, y + 2], fill=color)
    side = picture.height // 2
    photos = [_large(photos[0].picture, side / photos[0].picture.shape[0]) for photos in sample.references]
    tile = Image.new("RGB", (picture.width + side + _GAP, picture.height + _TEXT), "white")
    tile.paste(picture, (0, 0))
    for k, photo in enumerate(photos):
        tile.paste(photo, (picture.width + _GAP, k * side))
    text = textwrap.fill(sample.caption_marked, 80)
    ImageDraw.Draw(tile).multiline_text(
        (2, picture.height + 4), text, fill=(30, 30, 30), font=default_font(13), spacing=3
    )
    return tile


def _large(picture: np.ndarray, zoom: float) -> Image.Image:
    height, width = picture.shape[:2]
    return Image.fromarray(picture).resize((round(width * zoom), round(height * zoom)), Image.Resampling.BICUBIC)


def _grid(tiles: list[Image.Image], columns: int) -> Image.Image | None:
    if not tiles:
        return None
    width, height = tiles[0].width + _GAP, tiles[0].height + _GAP
    rows = -(-len(tiles) // columns)
    grid = Image.new("RGB", (min(columns, len(tiles)) * width, rows * height), "white")
    for i, tile in enumerate(tiles):
        grid.paste(tile, (i % columns * width, i // columns * height))
    return grid
