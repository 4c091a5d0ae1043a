"""The reader that judges words by rule: clothes and scenes of drawn pictures, clean and spoilt as a small model spoils them."""

import numpy as np
import pytest
from PIL import Image, ImageFilter
from support.refused import refused

from dhumandiff.miniature.world import (
    COLORS,
    SCENES,
    people,
    read_clothing_color,
    read_scene,
    sample_couple,
    sample_pair,
)

COUNT = 250


@pytest.fixture(scope="module")
def samples():
    pool = people("test", 120)
    return [sample_pair(seed, sample_couple(seed, pool), references=0) for seed in range(50_000, 50_000 + COUNT)]


def clean(picture, chance):
    return picture


def blurred(picture, chance):
    return np.array(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(2)))


def shrunk(picture, chance):
    image = Image.fromarray(picture)
    small = image.resize((image.width // 8, image.height // 8), Image.Resampling.BOX)
    return np.array(small.resize(image.size, Image.Resampling.BICUBIC))


def noisy(picture, chance):
    return np.clip(picture + chance.normal(0, 30, picture.shape), 0, 255).astype(np.uint8)


def noisy_and_blurred(picture, chance):
    return noisy(blurred(picture, chance), chance)


def pale(picture, chance):
    """Less contrast and another light, as an unsure model paints."""
    return np.clip(picture * chance.uniform(0.75, 0.9, 3) + 25, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("spoil", "wanted"),
    [(clean, 0.99), (blurred, 0.97), (shrunk, 0.97), (noisy, 0.97), (noisy_and_blurred, 0.97), (pale, 0.95)],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_colours_and_scenes_are_read_as_they_were_drawn(samples, spoil, wanted):
    chance = np.random.default_rng(0)
    colors, scenes = [], []
    for sample in samples:
        picture = spoil(sample.picture, chance)
        boxes = [person.face_box for person in sample.people]
        for box, outfit in zip(boxes, sample.script.outfits, strict=True):
            colors.append(read_clothing_color(picture, box)[0] == outfit.color)
        scenes.append(read_scene(picture, boxes)[0] == sample.script.scene)
    print(f"{spoil.__name__}: colours {np.mean(colors):.4f}, scenes {np.mean(scenes):.4f} of {COUNT} pictures")
    assert np.mean(colors) >= wanted
    assert np.mean(scenes) >= wanted


def test_scores_are_shares_and_fall_where_the_picture_says_nothing(samples):
    sample = samples[0]
    boxes = [person.face_box for person in sample.people]
    box = boxes[0]
    color, sure = read_clothing_color(sample.picture, box)
    assert color in COLORS
    assert 0.5 < sure <= 1
    grey = np.random.default_rng(0).integers(0, 256, sample.picture.shape, dtype=np.uint8)
    assert read_clothing_color(grey, box)[1] < sure
    scene, certain = read_scene(sample.picture, boxes)
    assert scene in SCENES
    assert 0 <= read_scene(grey, boxes)[1] < certain <= 1


def test_what_cannot_be_read_is_refused_with_the_reason():
    picture = np.zeros((96, 128, 3), dtype=np.uint8)
    with refused("picture-of-another-shape", "[96, 128]", "float32"):
        read_scene(np.zeros((96, 128), dtype=np.float32))
    with refused("box-not-clear"):
        read_clothing_color(picture, (30, 10, 10, 40))
    with refused("no-clothes-in-picture", "128 x 96"):
        read_clothing_color(picture, (40, 60, 70, 95))
    with refused("no-scene-in-picture"):
        read_scene(picture, [(0, 0, 128, 96)])
