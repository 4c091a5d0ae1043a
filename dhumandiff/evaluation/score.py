"""One picture scored: its faces, who each should be, and how good they are.

    scored = score_image(pixels, identities, analyzer, prompt=parse_prompt(text, mentions="all"))
    scored.score.persons[0].assigned_correctly

What the nodes and `python -m training evaluate` share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import FaceReferenceError
from ..faces.face import Face
from ..protocols import FaceAnalyzer
from ..references.lacks import called
from ..references.recognizers import check_face_analysis
from ..references.reference import FaceReference
from .assignment import assign_faces
from .metrics import PictureScore, cosines, match, score_picture

__all__ = ["TIE_TOLERANCE", "ScoredImage", "embed_faces", "mean_identities", "ranking", "score_image"]

TIE_TOLERANCE = 0.02
"""Mean similarities that differ by less count as alike, so that the text may decide between two pictures."""


@dataclass(frozen=True, eq=False)
class ScoredImage:
    """What was found in a picture.

    Attributes:
        faces: from left to right.
        identities: [F, D] of them.
        face_of_person: for each person the number of their face, None where there is none: as assigned where something assigns
            them, else by likeness.
        assigned_by: what said who should be where ("sides", "clothes", "boxes", "masks"), "" when nothing did.
        score: the figures.
        located: as `face_of_person`; but where fewer faces than people were found, also a face that the sentence's sides or
            clothes give to somebody alone. For masks: in the score such a picture is a failure of everybody.
        likeness: [F, P] cosine of each face to each reference.
    """

    faces: tuple[Face, ...]
    identities: np.ndarray
    face_of_person: tuple[int | None, ...]
    assigned_by: str
    score: PictureScore
    located: tuple[int | None, ...] = ()
    likeness: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))

    def passes(self, min_similarity: float, min_margin: float) -> bool:
        """Whether there is one face a person, each alike enough and of the right person.

        Args:
            min_similarity: least cosine to the reference.
            min_margin: how much nearer each face has to be to its own reference than to another; where nothing says whose face
                it should be there is no margin to ask for.
        """
        return self.score.face_count_correct and all(
            person.sim_ref >= min_similarity
            and person.assigned_correctly is not False
            and (person.margin is None or person.margin >= min_margin)
            for person in self.score.persons
        )


def score_image(
    pixels: np.ndarray, references: np.ndarray, analyzer: FaceAnalyzer, truth: np.ndarray | None = None, **cues: Any
) -> ScoredImage:
    """Find the faces of a picture and score them.

    Args:
        pixels: uint8 [H, W, 3] RGB.
        references: identities [P, D] of the people it should show, of the same recognizer.
        analyzer: finds and recognizes.
        truth: identities [P, D] of the same people in a real picture of the scene.
        cues: who should be where: prompt, boxes, masks, clothes (see `assignment.assign_faces`).

    Raises:
        DHumanDiffError: embeddings that cannot be compared.
    """
    faces, identities = embed_faces(pixels, analyzer, references.shape[1])
    assignment, assigned_by = assign_faces(len(references), faces, pixels, **cues)
    likeness = cosines(identities, references)
    located = assignment if assignment is not None else match(likeness)
    face_of_person = located
    if assigned_by in ("sides", "clothes") and len(faces) < len(references):
        # Whoever is left may be the right one in the place of the other: no score is given for half a couple.
        assignment = face_of_person = (None,) * len(references)
    score = score_picture(identities, references, truth=truth, assignment=assignment)
    return ScoredImage(faces, identities, face_of_person, assigned_by, score, located, likeness)


def embed_faces(pixels: np.ndarray, analyzer: FaceAnalyzer, width: int = 512) -> tuple[tuple[Face, ...], np.ndarray]:
    """The faces of a picture, uint8 [H, W, 3], from left to right, and their identities [F, D]; D is `width` without a face."""
    faces = tuple(sorted(analyzer.detect(pixels), key=lambda face: face.center[0]))
    found = [analyzer.identity(pixels, face) for face in faces]
    return faces, np.stack(found) if found else np.empty((0, width))


def mean_identities(references: Sequence[FaceReference], analyzer: FaceAnalyzer) -> np.ndarray:
    """Mean identities [P, D] of references, to be compared with what an analyzer recognizes.

    A judge (SFace), which references are never encoded with, looks at the crops that they keep.

    Raises:
        FaceReferenceError: one was encoded without a recognizer, or with another one than the analyzer's or the others'; or a judge
            finds no face to look at.
    """
    if getattr(analyzer, "scores_only", False):
        return np.concatenate([_judged(reference, analyzer) for reference in references])
    check_face_analysis(references, analyzer)
    found = [reference.mean_identity().float().cpu().numpy() for reference in references]
    if len({identity.shape[1] for identity in found}) > 1:
        told = ", ".join(
            f"{one.name or 'one'} {identity.shape[1]}" for one, identity in zip(references, found, strict=True)
        )
        raise FaceReferenceError(
            f"The references have identities of different lengths ({told}), so they come from different face recognizers and cannot be "
            "told apart in one picture. Encode all of them with one.",
            code="references-of-different-recognizers",
        )
    return np.concatenate(found)


def _judged(reference: FaceReference, analyzer: FaceAnalyzer) -> np.ndarray:
    """Mean identity [1, D] of the crops of a reference, by a recognizer that it was not encoded with."""
    crops = [] if reference.crop is None else (reference.crop * 255).round().byte().cpu().numpy()
    found = []
    for crop in crops:
        faces = analyzer.detect(crop)
        if faces:  # the person's is the largest: the crop is made around it
            found.append(analyzer.identity(crop, max(faces, key=lambda face: face.size)))
    if not found:
        why = "no face is found in its crops" if len(crops) else "it keeps no crop of its photos"
        raise FaceReferenceError(
            f"{called(reference)} cannot be looked at by the judge {analyzer.name}: {why}. Encode the photos again, or score with the "
            "recognizer that it was encoded with.",
            code="nothing-to-judge",
        )
    mean = np.mean(found, axis=0, keepdims=True)
    return mean / np.linalg.norm(mean)


def ranking(scores: Sequence[PictureScore], text_alignment: Sequence[float] | None = None) -> list[int]:
    """Which picture is the best, the second best, and so on.

    Args:
        scores: of the pictures.
        text_alignment: how well each fits its text; None does not ask.

    Returns:
        Their numbers, the best first: most people assigned correctly, one face a person, likeness, and among those alike
        (`TIE_TOLERANCE`) the text.
    """
    similarity = [float(np.mean([person.sim_ref for person in score.persons])) for score in scores]
    correct = [sum(person.assigned_correctly is True for person in score.persons) for score in scores]
    complete = [score.face_count_correct for score in scores]
    left = sorted(range(len(scores)), key=lambda n: (-correct[n], -complete[n], -similarity[n]))
    order: list[int] = []
    while left:
        first = left[0]
        near = [
            n
            for n in left
            if (correct[n], complete[n]) == (correct[first], complete[first])
            and similarity[first] - similarity[n] < TIE_TOLERANCE
        ]
        best = first if text_alignment is None else max(near, key=lambda n: text_alignment[n])
        order.append(best)
        left.remove(best)
    return order
