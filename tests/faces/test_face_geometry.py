"""Which face of a photo is meant, and how it is aligned and cropped."""

import math

import numpy as np
import pytest
from PIL import Image
from support.plain_faces import face_at, gradient
from support.refused import refused

from dhumandiff.errors import FaceError
from dhumandiff.faces import (
    ARCFACE_TEMPLATE,
    Face,
    align,
    choose_face,
    crop_face,
)
from dhumandiff.faces.geometry import square_face

FACES = (face_at(300, 100, 80), face_at(100, 100, 120), face_at(500, 100, 100))


@pytest.mark.parametrize(
    ("which", "x"), [("largest", 100), ("left-most", 100), ("right-most", 500), (0, 100), (1, 500), (2, 300)]
)
def test_each_way_of_choosing_finds_its_face(which, x):
    assert choose_face(FACES, which).center[0] == pytest.approx(x)


def test_a_choice_that_cannot_be_made():
    with refused("no-face-of-that-index", "index 3", "3 faces were found: indices go from 0", error=FaceError):
        choose_face(FACES, 3)
    with refused("no-face-of-that-index", "1 face was found"):
        choose_face(FACES[:1], 1)
    with refused("no-face-of-that-index", "index -1"):
        choose_face(FACES, -1)
    with refused("unknown-choice-of-face", "'biggest'", error=FaceError):
        choose_face(FACES, "biggest")
    with refused("no-face", error=FaceError):
        choose_face([])


def test_a_face_too_small_is_refused_with_its_size():
    with refused("face-too-small", "48 px in size, less than the 64 px", error=FaceError):
        choose_face([face_at(100, 100, 48)])
    assert choose_face([face_at(100, 100, 48)], min_size=40).size == pytest.approx(48)


# --- alignment and crop


def test_landmarks_on_the_template_stay():
    pytest.importorskip("cv2")
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    assert np.array_equal(align(image, ARCFACE_TEMPLATE), image)


def test_bad_landmarks_are_refused():
    with refused("not-five-landmarks", "[4, 2]", error=FaceError):
        align(gradient(), np.zeros((4, 2)))
    with refused("not-five-landmarks", "finite"):
        align(gradient(), np.full((5, 2), math.nan))
    with refused("landmarks-on-one-point", error=FaceError):
        align(gradient(), np.zeros((5, 2)))


def test_the_crop_has_the_released_geometry():
    crop, face, note = crop_face(gradient(900, 1200), face_at(640, 500, 240))
    assert crop.shape == (512, 512, 3)
    assert note is None
    assert face.size / 512 == pytest.approx(0.60, abs=0.01)
    assert face.center[0] / 512 == pytest.approx(0.505, abs=0.01)
    assert face.center[1] / 512 == pytest.approx(0.665, abs=0.01)


def test_a_detector_of_tall_boxes_gives_the_same_crop():
    square = face_at(640, 500, 240)
    tall = Face(np.array([540, 332, 740, 620], np.float32), square.landmarks)  # same area, same chin
    same, taller = (crop_face(gradient(900, 1200), face)[0] for face in (square, tall))
    assert np.array_equal(same, taller)


def test_landmarks_and_pixels_move_together():
    image = np.zeros((600, 600, 3), np.uint8)
    face = face_at(300, 320, 200)
    x, y = face.landmarks[2].round().astype(int)
    image[y - 4 : y + 5, x - 4 : x + 5] = 255
    crop, moved, _ = crop_face(image, face)
    rows, columns = np.nonzero(crop[..., 0] > 128)
    assert (columns.mean() + 0.5, rows.mean() + 0.5) == pytest.approx(tuple(moved.landmarks[2]), abs=1.5)


def test_beyond_the_edge_pixels_repeat_with_a_note():
    crop, _, note = crop_face(gradient(300, 300), face_at(40, 60, 100))
    assert (crop[:20] == crop[0]).all(axis=(1, 2)).sum() > 10
    assert "close to the picture's edge" in note


def face_in(*box):
    """A face with a box and landmarks anywhere in it."""
    corner, size = np.array(box[:2], np.float32), np.array(box[2:], np.float32) - box[:2]
    return Face(np.array(box, np.float32), corner + np.linspace(0.3, 0.7, 10, dtype=np.float32).reshape(5, 2) * size)


@pytest.mark.parametrize(
    ("box", "taken"),
    [
        ((100, 100, 200, 250), (75, 100, 225, 250)),  # tall: grows to both sides alike
        ((100, 100, 251, 200), (100, 75, 251, 226)),  # an odd rest goes below
        ((100.9, 50.9, 140.9, 100.2), (95, 50, 145, 100)),  # edges are cut to whole px
        ((-20, 100, 60, 200), (0, 100, 70, 200)),  # what lies beyond the picture is not there
    ],
)
def test_the_face_alone_is_a_square_grown_from_its_box(box, taken):
    image = gradient(300, 400)
    square, face, note = square_face(image, face_in(*box), 64)
    inside = Image.fromarray(image).crop(taken).resize((64, 64), Image.Resampling.LANCZOS)
    assert np.array_equal(square, np.asarray(inside))
    size = np.array([taken[2] - taken[0], taken[3] - taken[1]])
    expected = (face_in(*box).landmarks - taken[:2]) * 64 / size
    assert np.allclose(face.landmarks, expected, atol=1e-3)
    assert (note is not None) == (size[0] != size[1])
    if note:
        assert "stretched by 43%" in note


def test_a_face_beyond_the_picture_cannot_be_cut_out():
    with refused("face-beyond-the-picture", "400 x 300 px", error=FaceError):
        square_face(gradient(300, 400), face_in(-60, 10, -20, 50))
