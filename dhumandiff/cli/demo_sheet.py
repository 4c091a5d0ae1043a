"""The sheet of `python -m dhumandiff demo`: rows of pictures with what a judge says of the faces in them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..faces.drawing import default_font
from ..layout.person_style import person_color

__all__ = ["Row", "Seen", "draw_sheet"]

INK, SOFT, LINE, PAPER = (28, 30, 34), (98, 102, 110), (214, 217, 222), (255, 255, 255)
RIGHT, WRONG = (0, 122, 88), (60, 62, 68)

WIDE = 384
"""Px of a picture on the sheet, whatever it was drawn at."""
MARGIN, GAP = 40, 22
SENTENCE, NOTE, LABEL = 26, 22, 19
NOTE_LINE, BAR = 32, 22
UNDER = 8 + BAR * 3 + 6
"""Height of what stands below a picture: a line of words and two bars."""

TITLE = "Two photos and one sentence become a portrait of both"
ABOUT = (
    "The miniature: a small drawn world in which the whole method works on a CPU. The sentence says where @1 and @2 stand "
    "and what they wear; who they are comes from their pictures alone."
)
HEADS = {
    "references": ("People", "never trained on"),
    "portrait": ("DHumanDiff", "each person has K/V of their own"),
    "focus": ("Focus mask", "faces at strength 1.0, the rest at 0.7"),
    "plain": ("Without the adapter", "same noise, same sentence"),
    "shared": ("One K/V for both", "the usual way; here the two averaged"),
}


@dataclass(frozen=True)
class Seen:
    """One face of a portrait.

    Args:
        asked: whom the sentence puts there, 1 or 2.
        similarity: to person 1 and 2, cosine; None where no face was found.
        stranger: up to here a face is as unlike the people as strangers are.
    """

    asked: int
    similarity: tuple[float, float] | None
    stranger: float

    @property
    def taken(self) -> int | None:
        """Whom the judge takes it for: 1, 2, 0 for a stranger, None without a face."""
        if self.similarity is None:
            return None
        nearest = 1 if self.similarity[0] >= self.similarity[1] else 2
        return nearest if self.similarity[nearest - 1] > self.stranger else 0

    @property
    def right(self) -> bool:
        """Whether it is who the sentence says."""
        return self.taken == self.asked


@dataclass(frozen=True, eq=False)
class Row:
    """One sentence.

    Args:
        marked: with @1 and @2.
        references: uint8 [S, S, 3] of person 1 and 2.
        pictures: "portrait", "plain", "shared", all of one size.
        focus: bool [h, w] of the portrait, or None.
        seen: for each picture its left and its right face.
    """

    marked: str
    references: tuple[np.ndarray, np.ndarray]
    pictures: Mapping[str, Image.Image]
    focus: np.ndarray | None
    seen: Mapping[str, tuple[Seen, Seen]]


def draw_sheet(rows: Sequence[Row], *, same: float, stranger: float, how: str) -> Image.Image:
    """All rows below each other with headings and a legend.

    Args:
        rows: the sentences.
        same: similarity of two drawings of one person, on average.
        stranger: up to here a face is a stranger's.
        how: seed and settings, for the legend.
    """
    width, height = rows[0].pictures["portrait"].size
    wide, high = WIDE, round(WIDE * height / width)
    small = (high - GAP) // 2
    lefts, left = {}, MARGIN
    for name in HEADS:
        lefts[name] = left
        left += (small if name == "references" else wide) + GAP
    width = left - GAP + MARGIN
    sentences = [_lines(row.marked, width - 2 * MARGIN, SENTENCE) for row in rows]
    tall = [round(SENTENCE * 1.35) * len(lines) + 14 + high + UNDER + 40 for lines in sentences]
    about = _lines(ABOUT, width - 2 * MARGIN, NOTE)
    notes = [line for note in _legend(same, stranger, how) for line in _lines(note, width - 2 * MARGIN, NOTE)]
    head = 96 + NOTE_LINE * len(about)
    sheet = Image.new("RGB", (width, head + 100 + sum(tall) + 30 + NOTE_LINE * len(notes) + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, 30), TITLE, INK, default_font(46))
    for number, line in enumerate(about):
        _words(draw, (MARGIN, 96 + NOTE_LINE * number), line, NOTE, SOFT)
    for name, left in lefts.items():
        draw.text((left, head + 22), HEADS[name][0], INK, default_font(28))
        draw.text((left, head + 60), HEADS[name][1], SOFT, default_font(LABEL - 2 * (name == "references")))
    top = head + 96
    for row, lines, height in zip(rows, sentences, tall, strict=True):
        draw.line((MARGIN, top, width - MARGIN, top), LINE, 2)
        y = top + 16
        for line in lines:
            _words(draw, (MARGIN, y), line, SENTENCE)
            y += round(SENTENCE * 1.35)
        _pictures(sheet, row, lefts, y + 10, (wide, high), small)
        top += height
    draw.line((MARGIN, top, width - MARGIN, top), LINE, 2)
    for number, line in enumerate(notes):
        _words(draw, (MARGIN, top + 22 + NOTE_LINE * number), line, NOTE, SOFT)
    return sheet


def _legend(same: float, stranger: float, how: str) -> list[str]:
    return [
        "Bars: how similar a face is to the picture of @1 and of @2, by a recogniser of other people that took no part in "
        "drawing. A tick: it takes the face for whom the sentence puts there.",
        f"Two drawings of one person measure {same:.2f} on average. A stranger is who measures no more than {stranger:.2f} "
        "(the grey mark), which 19 of 20 other people do not exceed.",
        f"{how}; cascade one_pass. In the last "
        "column everything but the K/V is as in the second, and the noise of a row is the same throughout.",
    ]


def _pictures(
    sheet: Image.Image, row: Row, lefts: Mapping[str, int], top: int, size: tuple[int, int], small: int
) -> None:
    """References, pictures and mask of one row, and the judge's words below."""
    draw = ImageDraw.Draw(sheet)
    for person, reference in enumerate(row.references):
        place = lefts["references"], top + person * (small + GAP)
        sheet.paste(_enlarged(Image.fromarray(reference), (small, small)), place)
        box = (place[0], place[1], place[0] + small - 1, place[1] + small - 1)
        draw.rectangle(box, outline=person_color(person), width=5)
        draw.rectangle((box[0], box[1], box[0] + 40, box[1] + 28), person_color(person))
        draw.text((box[0] + 7, box[1] + 2), f"@{person + 1}", PAPER, default_font(20))
    for name, picture in row.pictures.items():
        sheet.paste(_enlarged(picture, size), (lefts[name], top))
        for side, seen in enumerate(row.seen[name]):
            left = lefts[name] + side * (size[0] // 2)
            _verdict(draw, seen, (left, top + size[1] + 8), size[0] // 2 - 16)
    sheet.paste(_focused(row, size), (lefts["focus"], top))


def _enlarged(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def _focused(row: Row, size: tuple[int, int]) -> Image.Image:
    """The portrait, in colour where the mask is and pale and grey elsewhere."""
    picture = _enlarged(row.pictures["portrait"], size)
    pale = Image.blend(picture.convert("L").convert("RGB"), Image.new("RGB", size, PAPER), 0.62)
    if row.focus is None:
        return pale
    mask = Image.fromarray(row.focus.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)
    return Image.composite(picture, pale, mask)


def _verdict(draw: ImageDraw.ImageDraw, seen: Seen, place: tuple[int, int], width: int) -> None:
    """Whom the judge sees in a face: a line of words, and a bar for each person."""
    left, top = place
    words = {None: "no face found", 0: "a stranger"}.get(seen.taken, f"looks like @{seen.taken}")
    end = _words(draw, place, words.split(), LABEL)
    _mark(draw, (round(end) + 4, top + 4), seen.right)
    if seen.similarity is None:
        return
    start, end = left + 34, left + width - 48
    for person, value in enumerate(seen.similarity):
        y = top + BAR * (person + 1) + 6
        draw.text((left, y - 3), f"@{person + 1}", person_color(person), default_font(LABEL))
        draw.rectangle((start, y, end, y + 13), (238, 240, 243))
        reach = start + (end - start) * min(max(value, 0.0), 1.0)
        if reach > start + 1:
            draw.rectangle((start, y, reach, y + 13), person_color(person))
        mark = start + (end - start) * min(max(seen.stranger, 0.0), 1.0)
        draw.line((mark, y - 2, mark, y + 15), (128, 132, 140), 2)
        draw.text((end + 8, y - 3), f"{value:.2f}", INK, default_font(LABEL))


def _mark(draw: ImageDraw.ImageDraw, place: tuple[int, int], right: bool) -> None:
    """A tick or a cross, 14 px: their shapes tell them apart, not their colours."""
    x, y = place
    if right:
        draw.line((x, y + 8, x + 5, y + 13, x + 14, y + 1), RIGHT, 4, joint="curve")
    else:
        draw.line((x + 1, y + 1, x + 13, y + 13), WRONG, 3)
        draw.line((x + 1, y + 13, x + 13, y + 1), WRONG, 3)


def _lines(text: str, width: int, size: int) -> list[list[str]]:
    """Words in lines no wider than that many px."""
    lines: list[list[str]] = [[]]
    for word in text.split():
        if lines[-1] and default_font(size).getlength(" ".join([*lines[-1], word])) > width:
            lines.append([])
        lines[-1].append(word)
    return lines


def _words(draw: ImageDraw.ImageDraw, place: tuple[int, int], words: Sequence[str], size: int, ink: Any = INK) -> float:
    """One line of text, a word with a mark in its person's colour; where it ends, px."""
    x, y = float(place[0]), place[1]
    for word in words:
        person = re.search(r"@([12])", word)
        color = person_color(int(person[1]) - 1) if person else ink
        # A stroke makes it bold: the font that Pillow brings has one weight.
        draw.text((x, y), word, color, default_font(size), stroke_width=0.5 if person else 0)
        x += default_font(size).getlength(f"{word} ")
    return x
