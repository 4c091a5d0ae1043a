"""A scored picture in words, and with its faces boxed, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ..layout.person_style import draw_box, person_color
from .score import ScoredImage

__all__ = ["describe_score", "draw_score"]


def describe_score(number: int, scored: ScoredImage, names: Sequence[str], passed: bool | None = None) -> str:
    """One line on a picture.

    Args:
        number: of the picture, from 1 on.
        scored: from `score_image`.
        names: of each person; "" where they have none.
        passed: the verdict; None says none.
    """
    score = scored.score
    verdicts = {True: "right", False: "WRONG", None: "not decidable"}
    who = [
        f"person {k}{f' ({name})' if name else ''} {person.sim_ref:.2f}"
        + (f", {verdicts[person.assigned_correctly]}" if len(names) > 1 else "")
        for k, (name, person) in enumerate(zip(names, score.persons, strict=True), 1)
    ]
    verdict = "" if passed is None else f": {'passed' if passed else 'FAILED'}"
    assigned = f", said by {scored.assigned_by}" if scored.assigned_by else ""
    return f"picture {number}{verdict}; {'; '.join(who)}; {score.faces} faces for {len(names)} people{assigned}"


def draw_score(pixels: np.ndarray, scored: ScoredImage, names: Sequence[str]) -> np.ndarray:
    """A picture with its faces boxed, named and scored.

    Args:
        pixels: uint8 [H, W, 3] RGB.
        scored: from `score_image`.
        names: of each person; "" where they have none, and their number stands there.

    Returns:
        uint8 [H, W, 3].
    """
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    size = max(8.0, image.height / 24)
    width = max(1, image.height // 200)
    person_of_face = {face: k for k, face in enumerate(scored.face_of_person) if face is not None}
    labels: list[tuple[float, float, float, float]] = []
    for number, face in enumerate(scored.faces):
        person = person_of_face.get(number)
        box = [float(edge) for edge in face.box]
        if person is None:
            color, text = "#888888", "?"
            draw.rectangle(box, outline=color, width=width)
        else:
            color = person_color(person)
            draw_box(draw, box, person, width)
            score = scored.score.persons[person]
            wrong = " WRONG" if score.assigned_correctly is False else ""
            # Of this very face: a wrong one is unlike, wherever the person it should be is alike.
            text = f"{names[person] or person + 1} {scored.likeness[number, person]:.2f}{wrong}"
        outline = max(1, int(size / 10))
        label = _free_place(draw, box, text, size, labels)
        draw.text(label[:2], text, fill=color, font_size=size, stroke_width=outline, stroke_fill="white")
        labels.append(label)
    return np.array(image)


def _free_place(
    draw: ImageDraw.ImageDraw,
    box: Sequence[float],
    text: str,
    size: float,
    taken: Sequence[tuple[float, float, float, float]],
) -> tuple[float, float, float, float]:
    """x0 y0 x1 y1 px for a label of a face: above its box, or a line higher, below or lower where another label stands."""
    line, width = 1.2 * size, draw.textlength(text, font_size=size)
    above = max(box[1] - line, 0)
    places = [(box[0], y, box[0] + width, y + line) for y in (above, above - line, box[3], box[3] + line) if y >= 0]
    free = (one for one in places if not any(_meet(one, other) for other in taken))
    return next(free, places[0])


def _meet(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
