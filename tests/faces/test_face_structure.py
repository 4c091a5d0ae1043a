"""No drawn face without structure inside of its box."""

import numpy as np
import pytest
import torch
from support.refused import refused

from dhumandiff.errors import FaceError
from dhumandiff.evaluation.score import score_image
from dhumandiff.faces.face import Face, with_structure
from dhumandiff.miniature.base import mini_vision
from dhumandiff.miniature.faces import mini_faces
from dhumandiff.miniature.world import SPLITS, draw_reference, sample_identity
from dhumandiff.references.encode import encode_reference


def even(light, noise=0.0, side=384):
    """A picture of nothing: an even wall, as a sensor sees it."""
    pixels = np.random.default_rng(0).normal(light, noise, (side, side, 3))
    return pixels.clip(0, 255).round().astype(np.uint8)


@pytest.mark.parametrize("noise", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("light", [0, 200, 230, 255])
def test_nobody_is_on_an_even_picture(light, noise):
    pixels = even(light, noise)
    faces = mini_faces()
    with refused("no-face", error=FaceError):
        encode_reference([torch.from_numpy(pixels).float() / 255], mini_vision(), faces)
    assert score_image(pixels, np.eye(1, 512), faces).faces == ()


def test_the_miniature_s_detector_alone_would_see_one_there(monkeypatch):
    """What this file is about."""
    monkeypatch.setattr("dhumandiff.miniature.faces.with_structure", lambda image, found: found)
    assert any(mini_faces().detect(even(light)) for light in range(0, 256, 5))


def test_everybody_drawn_has_structure(monkeypatch):
    faces = mini_faces()
    monkeypatch.setattr("dhumandiff.miniature.faces.with_structure", lambda image, found: found)
    for seed in range(20):
        pixels = draw_reference(sample_identity(SPLITS["test"][seed]), seed, 384).picture
        found = faces.detect(pixels)
        assert with_structure(pixels, found) == found


def test_a_box_beside_the_picture_holds_nobody():
    box = np.array([-90, -90, -10, -10], np.float32)
    assert with_structure(even(100, 50), [Face(box, np.zeros((5, 2), np.float32))]) == []
