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
            text = f"{names[person] or person + 1} {score.sim_ref:.2f}{wrong}"
        corner = (box[0], max(box[1] - 1.2 * size, 0))
        draw.text(corner, text, fill=color, font_size=size, stroke_width=max(1, int(size / 10)), stroke_fill="white")
    return np.array(image)
