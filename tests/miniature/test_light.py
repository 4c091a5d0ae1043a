"""Drawn photos in other light."""

import numpy as np
import pytest
from support.refused import refused

from dhumandiff.errors import DHumanDiffError
from dhumandiff.faces.geometry import align
from dhumandiff.faces.light import measure_light
from dhumandiff.miniature.world import EVEN_LIGHT, LIGHTS, draw_reference, relight, sample_identity


@pytest.fixture(scope="module")
def drawn():
    return draw_reference(sample_identity(3), 0, light=EVEN_LIGHT)


def light_of(picture, drawn):
    large = np.kron(picture, np.ones((3, 3, 1), np.uint8))
    return measure_light(align(large, (drawn.people[0].landmarks * 3).astype(np.float32)))


def test_a_given_light_changes_nothing_but_the_light(drawn):
    other = draw_reference(sample_identity(3), 0)
    assert not np.array_equal(other.picture, drawn.picture)
    assert np.array_equal(other.people[0].mask, drawn.people[0].mask)
    assert np.array_equal(other.people[0].landmarks, drawn.people[0].landmarks)


def test_even_light_is_the_photo_itself(drawn):
    assert np.array_equal(relight(drawn.picture, "even"), drawn.picture)
    assert abs(light_of(drawn.picture, drawn).imbalance) < 0.6


def test_light_from_the_side_leaves_half_of_the_face_dark(drawn):
    stops = {round(light_of(relight(drawn.picture, "side", seed), drawn).imbalance, 1) for seed in range(8)}
    assert min(stops) < -0.9
    assert max(stops) > 0.9


def test_dark_photos_are_dark(drawn):
    before, after = (light_of(picture, drawn).brightness for picture in (drawn.picture, relight(drawn.picture, "dark")))
    assert after == pytest.approx(before * 2 ** (-2 / 2.2), abs=0.02)


def test_tinted_light_moves_the_channels_apart(drawn):
    before = drawn.picture.mean((0, 1)) / drawn.picture.mean()
    hues = [np.round((relight(drawn.picture, "tinted", seed).mean((0, 1))) / before, 0) for seed in range(12)]
    assert len({tuple(hue) for hue in hues}) == 4
    assert min(np.ptp(hue) / hue.mean() for hue in hues) > 0.15


def test_an_old_photo_is_sepia_and_grainy(drawn):
    old = relight(drawn.picture, "old photo").astype(float)
    red, green, blue = old.mean((0, 1))
    assert red > green > blue
    assert old.std((0, 1)).mean() < drawn.picture.std((0, 1)).mean()
    assert np.abs(np.diff(old[:8, :8], axis=1)).mean() > 2  # of a plain background
    assert np.array_equal(old, relight(drawn.picture, "old photo"))
    assert not np.array_equal(old, relight(drawn.picture, "old photo", 1))


@pytest.mark.parametrize("light", LIGHTS)
def test_every_light_keeps_the_photo_as_it_was(drawn, light):
    before = drawn.picture.copy()
    relit = relight(drawn.picture, light, 5)
    assert relit.shape == before.shape
    assert relit.dtype == np.uint8
    assert np.array_equal(drawn.picture, before)


def test_an_unknown_light_is_refused_with_those_there_are(drawn):
    with refused("unknown-light", "candle", "old photo", error=DHumanDiffError):
        relight(drawn.picture, "candle")
