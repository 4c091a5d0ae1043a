"""Drawn people side by side in one picture, more of them than the miniature's detector was made for, with faces that are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

WIDTH, HEIGHT = 80, 160
"""Px that each person has in a row."""


@dataclass(frozen=True, eq=False)
class DrawnRow:
    """A row of people.

    Attributes:
        picture: uint8 [H, W, 3].
        faces: of them, from left to right.
        who: number of the person at each place.
    """

    picture: np.ndarray
    faces: list[Any]
    who: tuple[int, ...]

    def analyzer(self, recognizer: Any, faces: Sequence[Any] | None = None) -> Any:
        """Knows where the faces are (or says what it is told), and embeds them with the miniature's recognizer."""
        found = list(self.faces if faces is None else faces)

        class Known:
            name = recognizer.name
            detect = staticmethod(lambda image: found)
            identity = staticmethod(recognizer.identity)

        return Known()


def drawn_row(people: Sequence[Any], order: Sequence[int], world: Any, face_type: type) -> DrawnRow:
    """Draw couples of `people` (an even number) and put everybody at their place.

    Args:
        people: identities of the drawn world.
        order: which of them stands at each place, from left to right.
        world: the module of the drawn world, and `face_type` its `Face`: ComfyUI has the pack under another name.
    """
    strips: dict[int, tuple[np.ndarray, Any]] = {}
    for first in range(0, len(people), 2):
        script = world.sample_script(1 + first, tuple(people[first : first + 2]))
        drawn = world.draw_script(script, 1, (256, 192))
        across = sorted(drawn.people, key=lambda one: one.face_box[0])
        for side, one in zip(("left", "right"), across, strict=True):
            number = first + (script.side(1) == side)
            left = int(np.clip((one.face_box[0] + one.face_box[2]) / 2 - WIDTH / 2, 0, 256 - WIDTH))
            face = face_type(
                np.asarray(one.face_box, np.float32) - np.float32([left, 0, left, 0]),
                np.asarray(one.landmarks, np.float32) - np.float32([left, 0]),
            )
            strips[number] = drawn.picture[:HEIGHT, left : left + WIDTH], face
    faces = []
    for place, number in enumerate(order):
        face, shift = strips[number][1], np.float32([place * WIDTH, 0])
        faces.append(face_type(face.box + np.tile(shift, 2), face.landmarks + shift))
    picture = np.concatenate([strips[number][0] for number in order], axis=1)
    return DrawnRow(picture, faces, tuple(order))
