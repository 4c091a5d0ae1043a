"""`python -m dhumandiff generate --method parts2whole`."""

import json

import numpy as np
import pytest
from PIL import Image
from support.generate_command import command_line as paired
from support.generate_command import half_mask, make_photos, run
from support.part_pictures import densepose, openpose, part_mask, part_picture
from support.small_parts import parts_base

from dhumandiff.cli.parts import parts_of


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return parts_base(tmp_path_factory.mktemp("base") / "Parts2Whole")


@pytest.fixture
def arguments(base, tmp_path):
    """A command line that works, as a dict to change."""
    face, shirt = part_picture(tmp_path / "a.png"), part_picture(tmp_path / "shirt.png", 1)
    mask = part_mask(tmp_path / "shirt_mask.png")
    return {
        "--method": ["parts2whole"],
        "--person-1": [f"face={face}", f"upper={shirt}", f"upper-mask={mask}", "upper-strength=0.8"],
        "--prompt": ["A person on a beach"],
        "--base": [base],
        "--device": ["cpu"],
        "--out": [tmp_path / "whole.png"],
        "--size": ["64x96"],
        "--steps": [2],
    }


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


def error_of(capsys, arguments):
    assert run(arguments) == 1
    return capsys.readouterr().err


def test_parts_and_a_sentence_become_a_picture_that_says_how_it_was_made(arguments, tmp_path):
    pose = densepose(tmp_path / "pose.png")
    assert run({**arguments, "--pose": [pose]}) == 0
    image = Image.open(tmp_path / "whole.png")
    assert image.size == (64, 96)
    told = json.loads(image.text["dhumandiff"])
    assert told["method"] == "parts2whole"
    assert told["parts"][1] == {
        "person": 1,
        "part": "upper body clothes",
        "picture": "shirt.png",
        "mask": "shirt_mask.png",
        "strength": 0.8,
    }
    assert (told["pose"], told["sampler"], told["cfg"]) == ("pose.png", "ddim", 3.5)
    assert str(tmp_path) not in image.text["dhumandiff"]
    with_pose = pixels(tmp_path / "whole.png")
    run(arguments)
    assert not np.array_equal(pixels(tmp_path / "whole.png"), with_pose)


def test_two_people_have_parts_and_a_region_each(arguments, tmp_path, capsys):
    left = half_mask(tmp_path / "left.png")
    dress = part_picture(tmp_path / "dress.png", 2, mode="RGBA")
    two = {**arguments, "--person-2": [f"whole={dress}"], "--mask-1": [left], "--drop-masked": []}
    assert run({**two, "--prompt": ["A man@1 and a woman@2 at the beach"]}) == 0
    told = json.loads(Image.open(tmp_path / "whole.png").text["dhumandiff"])
    assert [part["person"] for part in told["parts"]] == [1, 1, 2]
    assert told["drop_masked"] is True
    del two["--mask-1"]
    assert "a region" in error_of(capsys, two)


def test_transparent_parts_of_a_picture_are_its_mask(arguments, tmp_path):
    def drawn(mode, *more):
        picture = part_picture(tmp_path / f"{mode}.png", 3, mode=mode)
        run({**arguments, "--person-1": [f"face={picture}", *more]})
        return pixels(tmp_path / "whole.png")

    with_alpha = drawn("RGBA")
    Image.open(tmp_path / "RGBA.png").getchannel("A").save(tmp_path / "alpha.png")
    assert np.array_equal(drawn("RGBA", f"face-mask={tmp_path / 'alpha.png'}"), with_alpha)
    white = part_mask(tmp_path / "white.png")
    Image.new("L", (60, 80), 255).save(white)
    assert not np.array_equal(drawn("RGBA", f"face-mask={white}"), with_alpha)


def test_the_short_names_of_parts():
    words = ["face=f", "hair=h", "upper=u", "lower=l", "whole=w", "shoes=s", "lower-mask=m", "hair-strength=0.5"]
    found = parts_of(2, words)
    assert [part.file for part in found] == list("fhulws")
    assert (found[3].mask, found[1].strength, found[0].person) == ("m", 0.5, 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--person-1": ["a.jpg"]}, ["not clear", "face=a.jpg"]),
        ({"--person-1": ["beard=a.jpg"]}, ["beard", "shoes"]),
        ({"--person-1": ["upper-mask=a.jpg"]}, ["no picture of it"]),
        ({"--person-1": ["face=nowhere.jpg"]}, ["nowhere.jpg", "does not exist"]),
        ({"--person-1": ["face=a", "face-strength=much"]}, ["much", "no number"]),
        ({"--person-3": ["face=a.png"]}, ["--person-2", "without a gap"]),
        ({"--mask-2": ["left.png"]}, ["--mask-2", "two people"]),
        ({"--which-face-1": ["largest"]}, ["--which-face-1", "parts2whole"]),
        ({"--focus-out": ["f.png"]}, ["--focus-out", "parts2whole"]),
        ({"--size": ["65x96"]}, ["multiples of 8"]),
    ],
)
def test_command_lines_that_are_refused(arguments, capsys, changes, words):
    message = error_of(capsys, {**arguments, **changes})
    assert all(word in message for word in words)


def test_pictures_that_are_refused(arguments, tmp_path, capsys):
    face = part_picture(tmp_path / "a.png")
    empty, tall = part_mask(tmp_path / "empty.png", empty=True), part_mask(tmp_path / "tall.png", (30, 80))
    assert "nothing in the mask of the face" in error_of(
        capsys, {**arguments, "--person-1": [f"face={face}", f"face-mask={empty}"]}
    )
    assert "mask of the face of person 1 is 30 x 80" in error_of(
        capsys, {**arguments, "--person-1": [f"face={face}", f"face-mask={tall}"]}
    )
    assert "OpenPose" in error_of(capsys, {**arguments, "--pose": [openpose(tmp_path / "skeleton.png")]})
    assert "64 x 64" in error_of(capsys, {**arguments, "--pose": [densepose(tmp_path / "square.png", (64, 64))]})
    seven = [f"face={face}"] * 7
    assert "at most 6" in error_of(capsys, {**arguments, "--person-1": seven})


def test_a_base_without_the_weights_says_how_to_get_them(arguments, base, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "unet").symlink_to(base / "unet")
    assert "download --method parts2whole" in error_of(capsys, {**arguments, "--base": [plain]})
    (tmp_path / "models" / "dhumandiff").mkdir(parents=True)
    (tmp_path / "models" / "dhumandiff" / "Parts2Whole").symlink_to(base)
    assert "has no text_encoder/" in error_of(capsys, {**arguments, "--base": [plain]})


def test_the_options_of_parts_are_not_for_pairs(tmp_path, capsys):
    line = paired(make_photos(tmp_path), tmp_path)
    assert "--drop-masked" in error_of(capsys, {**line, "--drop-masked": []})
