"""The measures of docs/method.md#measures with WithAnyone's test vectors, and what failures and undecidable pictures count."""

import math

import numpy as np
import pytest
from support.refused import refused

from dhumandiff.evaluation import metrics
from dhumandiff.evaluation.metrics import FAILED, blending, cosines, match, score_picture, summarize, trimmed_mean

FIRST, SECOND, THIRD = np.eye(8)[:3]


def at(cosine, towards=FIRST, away=THIRD):
    """A unit vector at this cosine to `towards`."""
    return cosine * towards + math.sqrt(1 - cosine**2) * away


@pytest.mark.parametrize(("truth", "reference", "expected"), [(0.464, 0.734, 0.3341), (0.460, 0.578, 0.1352)])
def test_copy_paste_is_that_of_the_method(truth, reference, expected):
    assert metrics.copy_paste(0.521, truth, reference) == pytest.approx(expected, abs=1e-4)


def test_copy_paste_goes_from_copy_to_truth():
    assert metrics.copy_paste(0.521, 0.521, 1.0) == pytest.approx(1)
    assert metrics.copy_paste(0.521, 1.0, 0.521) == pytest.approx(-1)


def test_copy_paste_is_0_where_truth_is_reference():
    assert metrics.copy_paste(1.0, 0.3, 0.3) == 0
    assert metrics.copy_paste(1.0 + 1e-12, 0.3, 0.4) == 0


def test_copy_paste_of_arrays_is_that_of_each():
    each = metrics.copy_paste([0.521, 0.521], [0.464, 0.460], [0.734, 0.578])
    assert each == pytest.approx([0.3341, 0.1352], abs=1e-4)


def test_the_largest_sum_wins_over_nearest_first():
    assert match([[0.9, 0.8], [0.8, 0.1]]) == (1, 0)
    assert match([[0.2, 0.3]]) == (None, 0)
    assert match([[0.1], [0.7], [0.3]]) == (1,)
    assert match(np.zeros((0, 2))) == (None, None)


def test_blending_is_what_a_face_has_of_the_others():
    truth = np.stack([FIRST, SECOND])
    faces = np.stack([at(0.8, FIRST, SECOND), SECOND])
    assert blending(cosines(faces, truth), (0, 1)) == pytest.approx(0.3)
    assert blending(cosines(faces[:1], truth[:1]), (0,)) == 0
    assert blending(cosines(faces, truth), (None, 1)) == pytest.approx(0.5)


def test_a_swapped_pair_is_wrong_twice():
    references = np.stack([FIRST, SECOND])
    faces = np.stack([at(0.7, SECOND), at(0.6, FIRST)])  # the left face is person 2
    right = score_picture(faces, references, assignment=(1, 0))
    swapped = score_picture(faces, references, assignment=(0, 1))
    assert [person.assigned_correctly for person in right.persons] == [True, True]
    assert [person.assigned_correctly for person in swapped.persons] == [False, False]
    assert right.all_assigned_correctly
    assert swapped.all_assigned_correctly is False
    assert [person.margin for person in right.persons] == pytest.approx([0.6, 0.7])
    assert [person.margin for person in swapped.persons] == pytest.approx([-0.7, -0.6])
    # Likeness is matched, so it cannot tell the two apart.
    assert [person.sim_ref for person in right.persons] == [person.sim_ref for person in swapped.persons]
    assert [person.sim_ref for person in right.persons] == pytest.approx([0.6, 0.7])


def test_without_assignment_nobody_is_right_or_wrong():
    score = score_picture(np.stack([FIRST, SECOND]), np.stack([FIRST, SECOND]))
    assert score.all_assigned_correctly is None
    assert [person.assigned_correctly for person in score.persons] == [None, None]


def test_one_person_alone_cannot_be_confused():
    score = score_picture([FIRST], [FIRST], assignment=(0,))
    assert score.persons[0].assigned_correctly is None
    assert score.persons[0].sim_ref == pytest.approx(1)


def test_a_missing_face_counts_as_failed():
    references, truth = np.stack([FIRST, SECOND]), np.stack([at(0.5, FIRST), at(0.5, SECOND)])
    score = score_picture([FIRST], references, truth=truth, assignment=(0, None))
    there, missing = score.persons
    assert (there.assigned_correctly, missing.assigned_correctly) == (
        False,
        False,
    )  # one face for two people: nobody is the right person
    assert missing.margin == 0
    assert there.sim_ref == pytest.approx(1)
    assert (missing.sim_ref, missing.sim_gt, missing.copy_paste) == tuple(
        FAILED[name] for name in ("sim_ref", "sim_gt", "copy_paste")
    )
    assert not score.face_count_correct


def test_a_picture_without_faces_is_the_worst_one():
    score = score_picture(
        np.zeros((0, 8)), np.stack([FIRST, SECOND]), truth=np.stack([FIRST, SECOND]), assignment=(None, None)
    )
    assert score.faces == 0
    assert score.blending == 1
    assert [person.sim_gt for person in score.persons] == [0, 0]
    assert score.all_assigned_correctly is False


def test_a_face_too_many_leaves_nobody_right():
    faces = np.stack([FIRST, SECOND, THIRD])
    score = score_picture(faces, np.stack([FIRST, SECOND]), assignment=(0, 1))
    assert not score.face_count_correct
    assert score.all_assigned_correctly is False
    assert [person.sim_ref for person in score.persons] == pytest.approx([1, 1])


def test_truth_and_reference_are_matched_apart():
    references = np.stack([FIRST, SECOND])
    truth = np.stack([at(0.521, FIRST), at(0.521, SECOND)])
    copy = score_picture(references[::-1], references, truth=truth)
    assert [person.copy_paste for person in copy.persons] == pytest.approx([1, 1])
    real = score_picture(truth, references, truth=truth)
    assert [person.copy_paste for person in real.persons] == pytest.approx([-1, -1])
    assert [person.sim_gt for person in real.persons] == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("given", "code", "named"),
    [
        ({"references": np.zeros((0, 8))}, "no-reference-to-score", "one reference or more"),
        ({"assignment": (0,)}, "entries-for-other-people", "assignment has 1 entries for 2 people"),
        ({"truth": np.eye(8)[:3]}, "entries-for-other-people", "truth has 3 entries"),
        ({"references": np.eye(4)[:2]}, "recognizers-differ", "widths 8 and 4"),
        ({"faces": np.zeros((2, 8))}, "embedding-without-direction", "zero or not finite"),
        ({"faces": np.full((2, 8), np.nan)}, "embedding-without-direction", "zero or not finite"),
        ({"faces": np.ones(8)}, "embeddings-not-rows", "[8]"),
    ],
)
def test_what_cannot_be_scored_is_refused(given, code, named):
    settings = {"faces": np.eye(8)[:2], "references": np.eye(8)[:2], **given}
    with refused(code, named):
        score_picture(settings.pop("faces"), settings.pop("references"), **settings)


def test_a_summary_counts_undecided_values_apart():
    summary = summarize([True, False, None, True, True])
    assert (summary.mean, summary.median) == (0.75, 1)
    assert (summary.count, summary.undecided) == (4, 1)
    assert summary.low <= summary.mean <= summary.high
    assert summarize([None, None]) is None
    assert summarize([]) is None


def test_the_trimmed_mean_drops_what_lies_far_out():
    values = [0.4, 0.41, 0.42, 0.43, 0.44, 0.0]
    assert trimmed_mean(values) == pytest.approx(0.42)
    assert summarize(values).mean == pytest.approx(0.35)
    assert summarize(values).trimmed == pytest.approx(0.42)


def test_the_interval_covers_the_truth_as_often():
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        spread = metrics.interval(random.normal(0.3, 1, 80), draws=400)
        hits += spread["low"] <= 0.3 <= spread["high"]
    assert 180 <= hits <= 199
