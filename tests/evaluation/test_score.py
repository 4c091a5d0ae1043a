"""A scored picture: what passes, which is the best, and how it is told."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.layouts import random_reference
from support.refused import refused

from dhumandiff.errors import FaceReferenceError
from dhumandiff.evaluation.metrics import PersonScore, PictureScore
from dhumandiff.evaluation.report import describe_score, draw_score
from dhumandiff.evaluation.score import ScoredImage, embed_faces, mean_identities, ranking
from dhumandiff.faces import Face, load_photo
from dhumandiff.faces.analyzer import ModelAnalyzer
from dhumandiff.layout.person_style import person_color
from dhumandiff.references.encode import encode_reference


def person(sim, right=None):
    return PersonScore(sim, assigned_correctly=right)


def test_right_people_come_first_then_likeness_then_words():
    both = PictureScore((person(0.3, True), person(0.3, True)), 2, 0.0)
    one = PictureScore((person(0.9, True), person(0.9, False)), 2, 0.0)
    nobody = PictureScore((person(0.9, False), person(0.0, False)), 1, 0.0)
    closer = PictureScore((person(0.31, True), person(0.31, True)), 2, 0.0)
    assert ranking([nobody, one, both, closer]) == [3, 2, 1, 0]
    assert ranking([nobody, one, both, closer], [0.9, 0.9, 0.5, 0.2]) == [2, 3, 1, 0]
    far = PictureScore((person(0.4, True), person(0.4, True)), 2, 0.0)
    assert ranking([both, far], [1.0, 0.0]) == [1, 0]


def face(x):
    return Face(np.array([x, 20, x + 20, 44], np.float32), np.zeros((5, 2), np.float32))


def scored(*persons, faces=2, face_of_person=(0, 1), assigned_by="sides"):
    found = tuple(face(10 + 40 * n) for n in range(faces))
    score, likeness = PictureScore(persons, faces, 0.0), np.eye(max(faces, len(persons)))[:faces, : len(persons)]
    return ScoredImage(found, np.eye(8)[:faces], face_of_person, assigned_by, score, likeness=likeness)


GOOD = (PersonScore(0.6, assigned_correctly=True, margin=0.4), PersonScore(0.5, assigned_correctly=True, margin=0.3))


@pytest.mark.parametrize(
    ("image", "passes"),
    [
        (scored(*GOOD), True),
        (scored(GOOD[0], PersonScore(0.3, assigned_correctly=True, margin=0.3)), False),
        (scored(GOOD[0], PersonScore(0.5, assigned_correctly=True, margin=0.05)), False),
        (scored(GOOD[0], PersonScore(0.5, assigned_correctly=False, margin=0.3)), False),
        (scored(PersonScore(0.6), PersonScore(0.5)), True),  # nothing says whose face is whose
        (scored(*GOOD, faces=3), False),
    ],
)
def test_a_picture_passes_when_every_person_does(image, passes):
    assert image.passes(min_similarity=0.4, min_margin=0.1) is passes


def test_a_line_tells_of_each_person():
    wrong = PersonScore(0.5, assigned_correctly=False)
    assert describe_score(3, scored(GOOD[0], wrong), ["Ann", ""], passed=False) == (
        "picture 3: FAILED; person 1 (Ann) 0.60, right; person 2 0.50, WRONG; 2 faces for 2 people, said by sides"
    )
    alone = scored(PersonScore(0.6), faces=1, face_of_person=(0,), assigned_by="")
    assert describe_score(1, alone, [""]) == "picture 1; person 1 0.60; 1 faces for 1 people"


def test_faces_are_boxed_in_their_person_s_color():
    drawn = draw_score(np.full((90, 160, 3), 128, np.uint8), scored(*GOOD, faces=3), ["", ""])
    assert drawn.shape == (90, 160, 3)
    for number, color in enumerate((person_color(0), person_color(1), "#888888")):
        rgb = [int(color[k : k + 2], 16) for k in (1, 3, 5)]
        column = drawn[21:44, 10 + 40 * number]
        assert (np.abs(column.astype(int) - rgb).max(axis=-1) == 0).any()


def test_faces_are_embedded_from_left_to_right():
    class Analyzer:
        name = "sides"

        def detect(self, image):
            return [face(90), face(10)]

        def identity(self, image, found, swap_channels=False):
            return np.eye(4)[int(found.center[0] > 50)]

    faces, identities = embed_faces(np.zeros((60, 160, 3), np.uint8), Analyzer())
    assert [one.center[0] for one in faces] == [20, 100]
    assert np.array_equal(identities, np.eye(4)[:2])


def test_references_of_different_recognizers_are_not_compared():
    first, second = random_reference(identity_width=512), random_reference(identity_width=128)
    analyzer = SimpleNamespace(name="mini")
    assert mean_identities([first, first], analyzer).shape == (2, 512)
    with refused("references-of-different-recognizers", "512", "128", error=FaceReferenceError):
        mean_identities([first, second], analyzer)


class TestJudge:
    """A recognizer that scores and that no reference was encoded with."""

    class Judge:
        name, scores_only = "sface", True

        def detect(self, image):
            return (
                [] if image.max() == 0 else [face(50), Face(np.array([0, 0, 5, 5], np.float32), np.zeros((5, 2)), 1.0)]
            )

        def identity(self, image, found, swap_channels=False):
            assert found.size > 10  # the person's face is the largest of a crop
            return np.eye(128)[int(image[0, 0, 0])]

    def crops(self, *reds):
        made = random_reference(photos=len(reds))
        crop = torch.tensor([[[[red / 255, 0.5, 0.5]]] for red in reds]).repeat(1, 64, 64, 1)
        return dataclasses.replace(made, crop=crop)

    def test_it_looks_at_the_crops_that_references_keep(self):
        found = mean_identities([self.crops(3, 3), self.crops(5)], self.Judge())
        assert np.array_equal(found, np.eye(128)[[3, 5]])
        between = mean_identities([self.crops(3, 4)], self.Judge())
        assert np.linalg.norm(between) == pytest.approx(1)
        assert between[0, 3] == pytest.approx(0.5**0.5)

    def test_a_reference_without_anything_to_look_at_is_refused(self):
        with refused("nothing-to-judge", "person 0", "sface", "no crop", error=FaceReferenceError):
            mean_identities([random_reference()], self.Judge())
        black = dataclasses.replace(random_reference(), crop=torch.zeros(1, 64, 64, 3))
        with refused("nothing-to-judge", "no face is found"):
            mean_identities([black], self.Judge())


@pytest.mark.faces
def test_another_recognizer_tells_people_apart_by_the_crops(face_analyzer, face_photos):
    class Judge(ModelAnalyzer):
        scores_only = True

    def encode(*names):
        photos = [face_photos / f"{name}.jpg" for name in names]
        return encode_reference(photos, lambda pixels: torch.zeros(len(pixels), 3, 8), face_analyzer)[0]

    judge = Judge(face_analyzer.detector, face_analyzer.recognizer, "judge")
    both = mean_identities([encode("obama"), encode("biden")], judge)
    other = load_photo(face_photos / "obama2.jpg").pixels
    seen = judge.identity(other, judge.detect(other)[0])
    assert seen @ both[0] > 0.6
    assert seen @ both[1] < 0.3
