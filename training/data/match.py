"""The faces of the two people of a picture, and which annotated person each belongs to.

Faces and annotated boxes are matched by `scipy.optimize.linear_sum_assignment` (this project's choice).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from dhumandiff.faces import Face, FaceAnalyzer

from .. import TrainingError
from .annotation import Box, Person
from .settings import PrepareSettings

__all__ = ["Unusable", "box_of", "two_faces"]


class Unusable(TrainingError):
    """This picture cannot be used.

    Args:
        message: why, in words.
        reason: of the kinds in `report.REASONS`.
        code: as every error's.
    """

    def __init__(self, message: str, *, reason: str, code: str) -> None:
        super().__init__(message, code=code)
        self.reason = reason


def two_faces(
    image: np.ndarray, people: Sequence[Person], faces: FaceAnalyzer, settings: PrepareSettings
) -> list[Face]:
    """The faces of the two people, in the order of the annotation, or from left to right without one.

    Args:
        image: uint8 [H, W, 3].
        people: as annotated, or none.
        faces: the detector.
        settings: how large faces have to be.

    Raises:
        Unusable: there are not exactly two people whose faces can be found.
    """
    found = sorted(faces.detect(image), key=lambda face: face.size, reverse=True)
    if people:
        chosen = _match(image, people, found, faces)
    elif len(found) < 2:
        count = "1 face was" if found else "no face was"
        raise Unusable(
            f"{count} found; two people are needed.",
            reason="one person" if found else "no face",
            code="fewer-than-two-faces",
        )
    else:
        chosen = sorted(found[:2], key=lambda face: face.center[0])
    smaller = min(face.size for face in chosen)
    if smaller < settings.faces.min_size:
        raise Unusable(
            f"a face has {smaller:.0f} px, less than faces.min_size ({settings.faces.min_size:g}).",
            reason="small face",
            code="small-face",
        )
    others = [face for face in found if not any(_same(face, one) for one in chosen)]
    third = max((face.size for face in others), default=0.0)
    if third >= settings.faces.third_face_ratio * smaller:
        raise Unusable(
            f"there is a third face of {third:.0f} px beside faces of {smaller:.0f} px and more.",
            reason="three people",
            code="third-face",
        )
    return chosen


def _match(image: np.ndarray, people: Sequence[Person], found: list[Face], faces: FaceAnalyzer) -> list[Face]:
    """One face for each annotated person; a second look at the body of who has none."""
    if all(person.box is None and person.face_box is None for person in people):
        raise Unusable(
            "the annotated people have no box inside the picture, so no face can be theirs.",
            reason="not matched",
            code="people-without-box",
        )
    chosen: list[Face | None] = [None, None]
    costs = np.array([[_cost(person, face) for face in found] for person in people]).reshape(len(people), len(found))
    for row, column in zip(*linear_sum_assignment(np.minimum(costs, 1e3)), strict=True):
        if costs[row, column] < math.inf:
            chosen[row] = found[column]
    for index, person in enumerate(people):
        if chosen[index] is None and person.box is not None:  # small faces of whole figures show when one looks closer
            closer = [face for face in _detect_in_body(image, person.box, faces) if _cost(person, face) < math.inf]
            closer = [face for face in closer if not any(one is not None and _same(face, one) for one in chosen)]
            chosen[index] = min(closer, key=lambda face: _cost(person, face), default=None)
        if chosen[index] is None:
            seen = f"{len(found)} face{'' if len(found) == 1 else 's'} found in the picture"
            raise Unusable(
                f"person {person.object_id} has no face; {seen}.",
                reason="no face" if not found else "not matched",
                code="person-without-face",
            )
    if _same(chosen[0], chosen[1]):
        raise Unusable(
            "both annotated people got the same face: their boxes overlap too much.",
            reason="not matched",
            code="one-face-for-both",
        )
    return chosen


def _cost(person: Person, face: Face) -> float:
    """How far a face is from where this person's should be, in widths of the body; infinite when it is not theirs."""
    x, y = face.center
    if person.face_box is not None:
        box = person.face_box
        width, expected = 3 * (box[2] - box[0]), ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        inside = _overlap(box_of(face), box) > 0
    elif person.box is not None:
        box = person.box
        width, expected = box[2] - box[0], ((box[0] + box[2]) / 2, box[1] + 0.5 * face.size)
        head = [point for point in person.keypoints[:5] if point[2] > 0 and _holds(box, point)]
        if len(person.keypoints) == 17 and head:  # COCO: nose, eyes, ears
            expected = tuple(np.mean([point[:2] for point in head], axis=0))
        inside = _holds(box, (x, y))
    else:  # the other person has a box, so this one gets what is left
        return 1e2
    return math.hypot(x - expected[0], y - expected[1]) / max(width, 1.0) if inside else math.inf


def _detect_in_body(image: np.ndarray, box: Box, faces: FaceAnalyzer) -> list[Face]:
    """Faces in the upper half of a body's box, which the detector sees larger; px of the picture."""
    room = 0.1 * (box[2] - box[0])
    x0, y0 = max(0, int(box[0] - room)), max(0, int(box[1] - room))
    x1, y1 = int(min(image.shape[1], box[2] + room)), int(min(image.shape[0], (box[1] + box[3]) / 2 + room))
    if min(x1 - x0, y1 - y0) < 16:
        return []
    moved = np.float32([x0, y0])
    return [
        Face((face.box.reshape(2, 2) + moved).reshape(4), face.landmarks + moved, face.score)
        for face in faces.detect(np.ascontiguousarray(image[y0:y1, x0:x1]))
    ]


def box_of(face: Face) -> Box:
    """The box of a face, x0 y0 x1 y1 px."""
    return tuple(map(float, face.box))


def _holds(box: Box, point: Sequence[float]) -> bool:
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


def _overlap(first: Box, second: Box) -> float:
    """Share of the smaller box that lies in the other."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return max(width, 0.0) * max(height, 0.0) / max(min(areas), 1e-6)


def _same(first: Face, second: Face) -> bool:
    return first is second or _overlap(box_of(first), box_of(second)) > 0.5
