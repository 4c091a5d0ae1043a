"""How well a picture keeps several people: WithAnyone's measures (arXiv 2510.14975) and whether each face is the right one.

    score = score_picture(faces, references, truth=truth, assignment=assignment)    # embeddings [F, D], [P, D], [P, D]
    summarize([person.assigned_correctly for score in scores for person in score.persons])

Faces are matched to people by Hungarian assignment for likeness (Sim_Ref, Sim_GT) and what follows from it. "Right person"
never uses that matching, which would make every exchanged pair look right: which face should be whose is given from outside
(assignment.py), and a swapped pair is wrong twice.

Nothing is left out of a mean: a person without a face gets `FAILED`, the worst value of each measure, and in a picture with
too many or too few faces no person is right. Pure NumPy; cosines are of unit vectors, angles in radians.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import DHumanDiffError
from ..protocols import PictureScorer

__all__ = [
    "FAILED",
    "PersonScore",
    "PictureScore",
    "PictureScorer",
    "Summary",
    "blending",
    "copy_paste",
    "cosines",
    "interval",
    "match",
    "score_picture",
    "summarize",
    "trimmed_mean",
]

FAILED = {"sim_ref": 0.0, "sim_gt": 0.0, "copy_paste": 1.0, "blending": 1.0}
"""What a person without a face counts. Were Copy-Paste and Blending 0 there, an empty picture would be the best one."""

SMALLEST_ANGLE = 1e-6
"""Radians between reference and truth below which Copy-Paste says nothing (docs/method.md#measures)."""


def cosines(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    """Cosines between the rows of two arrays: [N, D], [M, D] -> [N, M] float64, clipped to -1..1.

    Raises:
        DHumanDiffError: other shapes, widths that differ (two recognizers), or a row that is zero or not finite.
    """
    rows = []
    for array in (first, second):
        array = np.asarray(array, dtype=np.float64)
        if array.ndim != 2:
            raise DHumanDiffError(
                f"Embeddings are rows, [N, D], not an array {list(array.shape)}.", code="embeddings-not-rows"
            )
        lengths = np.linalg.norm(array, axis=1, keepdims=True)
        if not np.isfinite(lengths).all() or (lengths == 0).any():
            raise DHumanDiffError(
                "An embedding is zero or not finite, which is nobody's face. Encode that face again.",
                code="embedding-without-direction",
            )
        rows.append(array / lengths)
    if rows[0].shape[1] != rows[1].shape[1]:
        raise DHumanDiffError(
            f"Embeddings of widths {rows[0].shape[1]} and {rows[1].shape[1]} come from different face recognizers and "
            "cannot be compared. Encode all faces with the same one.",
            code="recognizers-differ",
        )
    return np.clip(rows[0] @ rows[1].T, -1.0, 1.0)


def match(similarity: ArrayLike) -> tuple[int | None, ...]:
    """Who is which face, by likeness: [faces, people] -> for every person the number of a face, or None without one.

    The assignment with the largest sum (Hungarian); no face is two people.
    """
    from scipy.optimize import linear_sum_assignment

    similarity = np.asarray(similarity, dtype=np.float64)
    found: list[int | None] = [None] * similarity.shape[1]
    for face, person in zip(*linear_sum_assignment(similarity, maximize=True), strict=True):
        found[person] = int(face)
    return tuple(found)


def copy_paste(
    sim_truth_reference: ArrayLike, sim_truth_generated: ArrayLike, sim_reference_generated: ArrayLike
) -> float | np.ndarray:
    """Copy-Paste, M_CP = (theta_gt - theta_gr) / max(theta_tr, eps): 1 is a copy of the reference, -1 the ground truth.

    Args:
        sim_truth_reference: cosine of the ground truth and the reference; arrays give arrays.
        sim_truth_generated: cosine of the ground truth and what was generated (Sim_GT).
        sim_reference_generated: cosine of the reference and what was generated (Sim_Ref).

    Returns:
        -1..1; 0 where the truth is the reference, so that nothing can be told.
    """
    given = (sim_truth_reference, sim_truth_generated, sim_reference_generated)
    apart, from_truth, from_reference = (np.arccos(np.clip(np.asarray(cosine, np.float64), -1, 1)) for cosine in given)
    value = (from_truth - from_reference) / np.maximum(apart, SMALLEST_ANGLE)
    value = np.where(apart < SMALLEST_ANGLE, 0.0, value)
    return float(value) if value.ndim == 0 else value


def blending(similarity: ArrayLike, matched: Sequence[int | None]) -> float:
    """Blending, M_Bld: mean over people i and j != i of cos(face of i, person j): how much of the others is in each face.

    Args:
        similarity: cosines [faces, people].
        matched: for each person the number of their face, or None, which counts as failed.

    Returns:
        -1..1; 0 for one person alone.
    """
    similarity = np.asarray(similarity, dtype=np.float64)
    if len(matched) < 2:
        return 0.0
    rows = [
        FAILED["blending"] if face is None else float(np.delete(similarity[face], k).mean())
        for k, face in enumerate(matched)
    ]
    return float(np.mean(rows))


@dataclass(frozen=True)
class PersonScore:
    """One person in one picture.

    Attributes:
        sim_ref: cosine to the reference.
        sim_gt: cosine to the ground truth; None without one.
        copy_paste: with a ground truth, else None.
        assigned_correctly: whether the face that should be this person is nearer to them than to anybody else asked for; None
            where nothing says which face that is. What tables call "right person".
        margin: by how much (0 where that face is missing).
    """

    sim_ref: float
    sim_gt: float | None = None
    copy_paste: float | None = None
    assigned_correctly: bool | None = None
    margin: float | None = None


@dataclass(frozen=True)
class PictureScore:
    """One picture: its people in the order of the references, faces found and asked for, and Blending."""

    persons: tuple[PersonScore, ...]
    faces: int
    blending: float

    @property
    def face_count_correct(self) -> bool:
        """Exactly as many faces as people."""
        return self.faces == len(self.persons)

    @property
    def all_assigned_correctly(self) -> bool | None:
        """Whether every person is the right one; None where that cannot be decided for one of them."""
        each = [person.assigned_correctly for person in self.persons]
        return None if None in each else all(each)


def score_picture(
    faces: ArrayLike,
    references: ArrayLike,
    *,
    truth: ArrayLike | None = None,
    assignment: Sequence[int | None] | None = None,
) -> PictureScore:
    """Score the faces of one picture.

    Args:
        faces: [F, D] embeddings of the faces found in it; F may be 0.
        references: [P, D] of the people it should show.
        truth: [P, D] of the same people in a real picture of that scene, where there is one.
        assignment: for each person the number of the face that should be theirs, never found by likeness (assignment.py); None for
            a person whose face is missing; None altogether where nothing says who should be where.

    Raises:
        DHumanDiffError: no references, another number of truths or assigned faces than people, or embeddings that cannot be compared.
    """
    references = np.asarray(references, dtype=np.float64)
    people = len(references)
    for name, given in (("truth", truth), ("assignment", assignment)):
        entries = people if given is None else len(np.asarray(given, dtype=object))
        if entries != people:
            raise DHumanDiffError(
                f"{name} has {entries} entries for {people} people; one each is needed.",
                code="entries-for-other-people",
            )
    if people == 0:
        raise DHumanDiffError(
            "A picture is scored against the people it should show; give one reference or more.",
            code="no-reference-to-score",
        )
    found = np.asarray(faces, dtype=np.float64)
    faces = found if len(found) else np.empty((0, references.shape[1]))
    to_reference = cosines(faces, references)
    by_reference = match(to_reference)
    sim_ref = _of(to_reference, by_reference, FAILED["sim_ref"])
    sim_gt = copied = [None] * people
    if truth is not None:
        to_truth = cosines(faces, truth)
        by_truth = match(to_truth)
        sim_gt = _of(to_truth, by_truth, FAILED["sim_gt"])
        known = np.diag(cosines(truth, references))
        copied = [
            float(copy_paste(known[k], sim_gt[k], sim_ref[k])) if by_truth[k] is not None else FAILED["copy_paste"]
            for k in range(people)
        ]
        leak = blending(to_truth, by_truth)
    else:
        leak = blending(to_reference, by_reference)
    rights = [_right(to_reference, k, assignment) for k in range(people)]
    persons = tuple(
        PersonScore(ref, gt, copy, *right) for ref, gt, copy, right in zip(sim_ref, sim_gt, copied, rights, strict=True)
    )
    return PictureScore(persons, len(faces), leak)


def _of(similarity: np.ndarray, matched: Sequence[int | None], missing: float) -> list[float]:
    return [missing if face is None else float(similarity[face, k]) for k, face in enumerate(matched)]


def _right(
    similarity: np.ndarray, person: int, assignment: Sequence[int | None] | None
) -> tuple[bool | None, float | None]:
    """Right-person and margin of one person; one alone cannot be confused with another."""
    faces, people = similarity.shape
    if assignment is None or people < 2:
        return None, None
    face = assignment[person]
    if face is None or not 0 <= face < faces:
        return False, 0.0
    own = float(similarity[face, person])
    margin = own - float(np.delete(similarity[face], person).max())
    return margin > 0 and faces == people, margin


@dataclass(frozen=True)
class Summary:
    """Many values of one measure.

    Attributes:
        mean: with its 95 % interval from resampling, `low` to `high`.
        median: the middle value.
        trimmed: the mean as MultiID-Bench's tool takes it, which drops outliers without saying so.
        count: how many values there are.
        undecided: those that were None, in none of these.
    """

    mean: float
    low: float
    high: float
    median: float
    trimmed: float
    count: int
    undecided: int = 0


def summarize(values: Sequence[float | bool | None], draws: int = 2000) -> Summary | None:
    """The summary of a measure over pictures or people; None when not one value is decided.

    None among the values means "not decidable" and is counted apart. Failures are values like any other.
    """
    decided = np.array([float(value) for value in values if value is not None])
    if not len(decided):
        return None
    spread = interval(decided, draws)
    middle, trimmed = float(np.median(decided)), trimmed_mean(decided)
    return Summary(**spread, median=middle, trimmed=trimmed, count=len(decided), undecided=len(values) - len(decided))


def trimmed_mean(values: ArrayLike) -> float:
    """Mean of what lies within 1.5 interquartile ranges of the quartiles: what MultiID-Bench's tool calls the mean."""
    values = np.asarray(values, dtype=np.float64)
    low, high = np.percentile(values, (25, 75))
    reach = 1.5 * (high - low)
    return float(values[(values >= low - reach) & (values <= high + reach)].mean())


def interval(values: ArrayLike, draws: int = 2000) -> dict[str, float]:
    """{"mean", "low", "high"}: the mean of independent values [N] and the middle 95 % of the means of resampled ones.

    Always the same draws, so that two runs over the same pictures are resampled alike.
    """
    values = np.asarray(values, dtype=np.float64)
    random = np.random.default_rng(0)
    means = values[random.integers(len(values), size=(draws, len(values)))].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}
