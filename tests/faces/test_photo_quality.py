"""How good a photo is as a reference, and the light on a face."""

import math
import re

import numpy as np
import pytest
from support.plain_faces import face_at

from dhumandiff.faces import (
    align,
    normalize_light,
)
from dhumandiff.faces.face import Face
from dhumandiff.faces.geometry import ARCFACE_TEMPLATE
from dhumandiff.faces.light import measure_light
from dhumandiff.faces.quality import MAX_DISTORTION, PhotoQuality, assess, estimate_distortion, estimate_yaw

GOOD = PhotoQuality(300, 0.2, 3, 0.5, 0.01, 0.2)


def test_a_good_photo_has_no_warnings():
    assert GOOD.warnings() == []
    assert "face 300 px" in str(GOOD)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"face_size": 100}, "small .100 px"),
        ({"sharpness": 0.004}, "blurred"),
        ({"sharpness": 0.012}, "not this one enlarged"),
        ({"distortion": 3.0}, "stretched or squeezed"),
        ({"yaw": -45}, "turned by about 45 degrees"),
        ({"brightness": 0.1}, "very dark"),
        ({"brightness": 0.9}, "overexposed"),
        ({"clipped": 0.3}, "30% of the face is pure black or white"),
        ({"light_imbalance": 1.5}, "left half of the face gets 2.8 times"),
        ({"light_imbalance": -1.5}, "right half of the face"),
    ],
)
def test_each_fault_has_its_sentence(change, words):
    values = {**vars(GOOD), **change}
    (warning,) = PhotoQuality(**values).warnings()
    assert re.search(words, warning)
    assert "use a" in warning


def test_proportions_of_drawn_faces_are_their_own():
    """Those of the drawn world are no stretched photos."""
    image = np.full((300, 300, 3), 128, np.uint8)
    landmarks = ARCFACE_TEMPLATE * np.array([1.0, 2.0], np.float32) + 20  # twice as high as wide
    box = np.array([20, 20, 130, 250], np.float32)
    found, drawn = (Face(box, landmarks.astype(np.float32), is_drawn=is_drawn) for is_drawn in (False, True))
    assert assess(image, found, image, found).distortion > MAX_DISTORTION
    assert assess(image, drawn, image, drawn).distortion == 0


def test_stretched_faces_miss_the_template():
    """Points as a detector finds them on faces that were made twice as wide, or less than half as wide."""
    usual = ARCFACE_TEMPLATE.astype(np.float64) * 3 + 40
    assert estimate_distortion(usual) < 0.01
    for width in (0.4, 0.6, 1.6, 2.0):
        assert estimate_distortion(usual * (width, 1)) > MAX_DISTORTION
    turned = usual @ np.array([[0.9, 0.4], [-0.4, 0.9]])
    assert estimate_distortion(turned) < 0.01
    assert PhotoQuality(**{**vars(GOOD), "distortion": 3.0, "yaw": 25.0}).warnings() == []


@pytest.mark.parametrize("yaw", [-40, -20, 0, 20, 40])
@pytest.mark.parametrize("roll", [0, 25])
def test_yaw_is_read_whatever_the_roll(yaw, roll):
    # A simple head in units of the pupils' distance: x right, y down, z towards the camera.
    head = np.array([[-0.5, 0, 0], [0.5, 0, 0], [0, 0.55, 0.45], [-0.4, 1.1, 0.05], [0.4, 1.1, 0.05]])
    turn, tilt = math.radians(yaw), math.radians(roll)
    x = head[:, 0] * math.cos(turn) + head[:, 2] * math.sin(turn)
    seen = np.stack([x, head[:, 1]], axis=1) * 100
    seen = seen @ np.array([[math.cos(tilt), math.sin(tilt)], [-math.sin(tilt), math.cos(tilt)]]) + 400
    assert estimate_yaw(seen) == pytest.approx(yaw, abs=10)


def test_light_from_one_side_is_evened_out():
    pytest.importorskip("cv2")
    face = face_at(256, 330, 300)
    crop = np.full((512, 512, 3), 150, np.uint8)
    assert measure_light(align(crop, face.landmarks)).imbalance == pytest.approx(0, abs=0.01)
    assert np.array_equal(normalize_light(crop, face), crop)
    crop[:, :256] = 110
    before, after = (measure_light(align(seen, face.landmarks)) for seen in (crop, normalize_light(crop, face)))
    assert before.imbalance < -0.8
    assert 0.45 < after.imbalance / before.imbalance < 0.75
    assert after.brightness == pytest.approx(before.brightness, abs=0.02)


def test_normalization_keeps_hues_and_brightens_a_little():
    pytest.importorskip("cv2")
    face = face_at(256, 330, 300)
    crop = np.zeros((512, 512, 3), np.uint8) + np.array([40, 30, 20], np.uint8)
    after = normalize_light(crop, face)
    linear = [((value[256, 256] / 255 + 0.055) / 1.055) ** 2.4 for value in (crop, after)]
    assert linear[1] / linear[0] == pytest.approx([2**0.5] * 3, rel=0.1)
