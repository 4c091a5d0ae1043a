"""`generate --method dual_pathway`: pictures by both paths from the command line, and what is refused."""

import json

import pytest
from PIL import Image
from support.generate_command import command_line, half_mask, make_photos, run
from support.tiny_dual import tiny_dual

pytest.importorskip("diffusers", reason="install it with: pip install diffusers transformers accelerate")

from dhumandiff import testing as tiny
from dhumandiff.cli.dual import PRESETS
from dhumandiff.methods.dual_pathway import presets


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder with whole.safetensors and trained.safetensors."""
    folder = tmp_path_factory.mktemp("weights")
    dual = tiny_dual(tiny.tiny_adapter())
    dual.save_pretrained(folder / "whole.safetensors")
    dual.save_pretrained(folder / "trained.safetensors", ["tca", "gates", "router"])
    tiny_dual(tiny.random_adapter([96] * 17, 192), router=False).save_pretrained(folder / "other.safetensors")
    return folder


@pytest.fixture
def line(photos, tmp_path):
    return command_line(photos, tmp_path) | {"--method": ["dual_pathway"]}


def drawn(line):
    """What the picture's record says, and its pixels."""
    assert run(line) == 0
    picture = Image.open(line["--out"][0])
    return json.loads(picture.text["dhumandiff"]), picture.convert("RGB").tobytes()


def test_regions_are_found_where_none_are_given(line, tmp_path, capsys):
    made, first = drawn(line | {"--focus-out": [tmp_path / "focus.png"]})
    assert (made["method"], made["regions"], made["parts"]) == ("dual_pathway", "attention", ["identity"])
    assert "mode" not in made
    assert Image.open(tmp_path / "focus.png").size == (64, 96)
    assert "untrained" in capsys.readouterr().out
    assert drawn(line)[1] == first
    assert drawn(line | {"--text-strength": [0.9]})[1] != first


def test_a_layout_gives_each_person_a_region(line):
    made, first = drawn(line | {"--layout": ["side by side"], "--feather": [8]})
    assert (made["regions"], made["layout"], made["feather"]) == ("given", "side by side", 8)
    assert drawn(line | {"--layout": ["0 0 0.5 1; 0.5 0 1 1"], "--feather": [0]})[1] != first


def test_masks_give_regions_too(line, tmp_path):
    left = half_mask(tmp_path / "left.png")
    right = tmp_path / "right.png"
    Image.open(left).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(right)
    made, _ = drawn(line | {"--mask-1": [left], "--mask-2": [right]})
    assert (made["regions"], made["masks"]) == ("given", ["left.png", "right.png"])


def test_one_file_with_all_parts_and_a_file_beside_the_adapter_draw_the_same(line, weights):
    whole = line | {"--adapter": [weights / "whole.safetensors"], "--regions": ["router"], "--require-trained": []}
    beside = line | {"--pathway": [weights / "trained.safetensors"], "--regions": ["router"]}
    (made, first), (also_made, second) = drawn(whole), drawn(beside)
    # A mapped file's tensors lie elsewhere in memory than copied ones, which a product's rounding may tell.
    assert max(abs(a - b) for a, b in zip(first, second, strict=True)) <= 1
    assert made["parts"] == also_made["parts"] == ["identity", "tca", "gates", "router"]
    assert also_made["pathway"] == "trained.safetensors"


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_fills_in_what_is_not_said(line, name):
    made, _ = drawn(line | {"--preset": [name], "--text-strength": [0.25]})
    expected = presets.PRESETS[name].settings
    assert made["preset"] == name
    assert made["text_strength"] == 0.25
    assert (made["identity_strength"], made["face_share"]) == (expected.identity_strength, expected.face_share)
    assert made["start"] == expected.start
    assert made["normalise_light"] == presets.PRESETS[name].normalize_light


def test_models_that_take_turns_draw_the_same(line, weights):
    whole = line | {"--adapter": [weights / "whole.safetensors"], "--regions": ["router"]}
    assert drawn(whole | {"--offload": ["on"]})[1] == drawn(whole)[1]


def test_with_a_preset_a_layout_narrows_down_what_is_found(line):
    made, first = drawn(line | {"--preset": ["full_body"], "--layout": ["side by side"]})
    assert (made["regions"], made["layout"], made["face_share"]) == ("attention", "side by side", 0.03)
    assert drawn(line | {"--preset": ["full_body"], "--layout": ["side by side"], "--regions": ["given"]})[1] != first


def test_the_presets_of_the_command_line_are_those_of_the_method():
    assert tuple(presets.PRESETS) == PRESETS
    for preset in presets.PRESETS.values():
        preset.settings.check()
        assert not any(side % 8 for side in preset.size)


def refusal(line, capsys):
    assert run(line) == 1
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"--require-trained": []}, "no text-consistency path of their own"),
        ({"--regions": ["router"]}, "no router"),
        ({"--regions": ["given"]}, "2 people and no regions"),
        ({"--identity-strength": [4]}, "identity strength"),
        ({"--layout": ["side by side"], "--focus-out": ["focus.png"]}, "no focus mask"),
        ({"--layout": ["arm in arm"]}, "no preset 'arm in arm'"),
        ({"--layout": ["0 0 1 1"]}, "needs 2 boxes"),
        ({"--mode": ["one_pass"]}, "--mode is not for the method dual_pathway"),
        ({"--scene-strength": [0]}, "--scene-strength is not for the method dual_pathway"),
        ({"--start": [0.6], "--end": [0.5]}, "start"),
        ({"--adapter": ["other"]}, "does not fit the UNet"),
        ({"--pathway": ["other"]}, "17 of width 96"),
        ({"--pathway": ["nowhere.safetensors"]}, "nowhere.safetensors"),
    ],
)
def test_what_makes_no_picture_is_refused(line, weights, tmp_path, capsys, options, words):
    options = {
        name: [weights / "other.safetensors" if value == "other" else value for value in values]
        for name, values in options.items()
    }
    if "--focus-out" in options:
        options["--focus-out"] = [tmp_path / "focus.png"]
    assert words in refusal(line | options, capsys)
    assert not line["--out"][0].exists()


def test_regions_that_make_no_sense_are_refused_or_said(line, tmp_path, capsys):
    left = half_mask(tmp_path / "left.png")
    assert "2 people and 1 region:" in refusal(line | {"--mask-1": [left]}, capsys)
    wide = half_mask(tmp_path / "wide.png", size=(96, 64))
    assert "wide.png" in refusal(line | {"--mask-1": [wide], "--mask-2": [left]}, capsys)
    Image.new("L", (64, 96), 0).save(tmp_path / "black.png")
    assert "black all over" in refusal(line | {"--mask-1": [left], "--mask-2": [tmp_path / "black.png"]}, capsys)
    assert "leave one of them away" in refusal(line | {"--mask-1": [left], "--layout": ["side by side"]}, capsys)
    Image.new("L", (64, 96), 255).save(tmp_path / "white.png")
    drawn(line | {"--mask-1": [tmp_path / "white.png"], "--mask-2": [left]})
    assert "covers the whole picture" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--layout", "--text-strength", "--pathway", "--preset", "--hard-routes"])
def test_options_of_the_method_are_refused_beside_another(line, capsys, option):
    value = {"--text-strength": [0], "--preset": ["full_body"], "--hard-routes": []}.get(option, ["x"])
    for method in ("paired", "parts2whole"):
        assert f"{option} is not for the method {method}" in refusal(
            line | {"--method": [method], option: value}, capsys
        )
