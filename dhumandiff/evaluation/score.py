"""One picture judged: its faces, who each should be, and how good they are.

    judged = score_image(pixels, identities, faces, prompt=parse_prompt(text, mentions="all"))
    judged.score.persons[0].right

What the nodes and `python -m training evaluate` share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..faces.face import Face, FaceAnalyzer
from ..references.reference import FaceReference
from .assignment import assign_faces
from .metrics import PictureScore, cosines, match, score_picture

__all__ = ["TIE_TOLERANCE", "ScoredImage", "embed_faces", "mean_identities", "ranking", "score_image"]

TIE_TOLERANCE = 0.02
"""Mean similarities that differ by less count as alike, so that words may decide between two pictures."""


@dataclass(frozen=True, eq=False)
class ScoredImage:
    """What was found in a picture.

    faces: from left to right. identities: [F, D] of them. people: for each person the number of their face, None where there
    is none: as said where something says it, else by likeness. assigned_by: what said who should be where ("sides", "clothes",
    "boxes", "masks"), "" when nothing did.
    """

    faces: tuple[Face, ...]
    identities: np.ndarray
    people: tuple[int | None, ...]
    assigned_by: str
    score: PictureScore


def score_image(
    pixels: np.ndarray, references: np.ndarray, analyzer: FaceAnalyzer, truth: np.ndarray | None = None, **said: Any
) -> ScoredImage:
    """Judge a picture, uint8 [H, W, 3] RGB.

    Args:
        references: identities [P, D] of the people it should show, of the same recognizer.
        truth: identities [P, D] of the same people in a real picture of the scene.
        said: who should be where: prompt, boxes, masks, clothes (see `assignment.assign_faces`).
    """
    faces, identities = embed_faces(pixels, analyzer, references.shape[1])
    assignment, assigned_by = assign_faces(len(references), faces, pixels, **said)
    score = score_picture(identities, references, truth=truth, assignment=assignment)
    people = assignment if assignment is not None else match(cosines(identities, references))
    return ScoredImage(faces, identities, people, assigned_by, score)


def embed_faces(pixels: np.ndarray, analyzer: FaceAnalyzer, width: int = 512) -> tuple[tuple[Face, ...], np.ndarray]:
    """The faces of a picture from left to right, and their identities [F, D]."""
    faces = tuple(sorted(analyzer.detect(pixels), key=lambda face: face.center[0]))
    found = [analyzer.identity(pixels, face) for face in faces]
    return faces, np.stack(found) if found else np.empty((0, width))


def mean_identities(references: Sequence[FaceReference]) -> np.ndarray:
    """Mean identities [P, D] of references. FaceReferenceError for one that was encoded without a recognizer."""
    return np.concatenate([reference.mean_identity().float().cpu().numpy() for reference in references])


def ranking(scores: Sequence[PictureScore], words: Sequence[float] | None = None) -> list[int]:
    """Numbers of pictures, the best first: most right people, everybody there, likeness, and among those alike (`TIE_TOLERANCE`) how
    well each fits the `words`."""
    alike = [float(np.mean([person.sim_ref for person in score.persons])) for score in scores]
    right = [sum(person.right is True for person in score.persons) for score in scores]
    left = sorted(range(len(scores)), key=lambda n: (-right[n], -scores[n].present, -alike[n]))
    order: list[int] = []
    while left:
        first = left[0]
        near = [
            n
            for n in left
            if (right[n], scores[n].present) == (right[first], scores[first].present)
            and alike[first] - alike[n] < TIE_TOLERANCE
        ]
        best = first if words is None else max(near, key=lambda n: words[n])
        order.append(best)
        left.remove(best)
    return order
