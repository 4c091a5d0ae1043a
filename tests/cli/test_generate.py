"""`python -m dhumandiff generate`: from files to a PNG that says how it was made."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.generate_command import command_line, half_mask, make_photos, run

pytest.importorskip("diffusers", reason="install it with: pip install diffusers transformers accelerate")
pytest.importorskip("cv2", reason="photo quality is measured with OpenCV: pip install opencv-python-headless")

from dhumandiff import testing as tiny
from dhumandiff.hosts.diffusers import pipeline as diffusers_pipeline
from dhumandiff.hosts.diffusers.pipeline import NEGATIVE
from dhumandiff.methods.paired.cascade import FACE_STRENGTH, FOCUS_FRACTION, SCENE_STRENGTH
from dhumandiff.miniature.design import DESIGN
from dhumandiff.references.encode import encode_reference
from dhumandiff.references.reference import FaceReference

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def arguments(photos, tmp_path):
    return command_line(photos, tmp_path)


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


def test_two_photos_and_a_sentence_become_a_picture(arguments, capsys):
    assert run(arguments) == 0
    out = capsys.readouterr()
    image = Image.open(arguments["--out"][0])
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (64, 96))
    assert np.asarray(image).std() > 10
    assert "random weights: the picture will be noise" in out.out
    assert "Person 1: A [man] and a woman" in out.out
    assert "token 2 'man'" in out.out
    assert "token 5 'woman'" in out.out
    assert "sampling: 100%" in out.err
    assert list(arguments["--out"][0].parent.iterdir()) == arguments["--out"]


def test_the_same_command_makes_the_same_picture(arguments, tmp_path):
    run(arguments)
    first = pixels(tmp_path / "portrait.png")
    run(arguments)
    assert np.array_equal(pixels(tmp_path / "portrait.png"), first)
    run({**arguments, "--seed": [7]})
    assert not np.array_equal(pixels(tmp_path / "portrait.png"), first)


def test_the_settings_are_in_the_png_without_the_places_of_files(arguments, tmp_path):
    more = {"--seed": [5], "--mode": ["released"], "--cfg": [3.5], "--negative": ["naïve, 雨"]}
    assert run({**arguments, **more}) == 0
    text = Image.open(tmp_path / "portrait.png").text
    told = json.loads(text["dhumandiff"])
    assert told["prompt"] == "A man@1 and a woman@2 in a garden"
    assert told["negative"] == "naïve, 雨"
    assert (told["seed"], told["steps"], told["cfg"], told["mode"]) == (5, 2, 3.5, "released")
    assert told["size"] == [64, 96]
    assert told["persons"] == [["a.png"], ["b.png"]]
    assert (told["base"], told["device"], told["dtype"]) == ("tiny", "cpu", "float32")
    assert (
        "Negative prompt: naïve, 雨\nSteps: 2, Sampler: euler, CFG scale: 3.5, Seed: 5, Size: 64x96"
        in text["parameters"]
    )
    assert str(tmp_path) not in str(text)


@pytest.fixture
def asked(monkeypatch):
    """What the command asks of `PortraitPipeline`, which is interrupted before it samples."""
    seen = {}

    def stop(self, adapter, references, prompt, negative, *, progress, cascade, sampling, **more):
        seen.update(asdict(cascade), **asdict(sampling), **more, references=references, negative=negative)
        raise KeyboardInterrupt

    monkeypatch.setattr(diffusers_pipeline.PortraitPipeline, "__call__", stop)
    return seen


def test_the_command_s_defaults_are_the_library_s(arguments, asked):
    del arguments["--steps"], arguments["--size"]
    assert run(arguments) == 130
    assert asked.pop("negative") == NEGATIVE
    assert len(asked.pop("references")) == 2
    assert asked == {
        "seed": 0,
        "size": (512, 512),
        "steps": 50,
        "cfg": 5.0,
        "mode": "one_pass",
        "scene_strength": SCENE_STRENGTH,
        "face_strength": FACE_STRENGTH,
        "focus_fraction": FOCUS_FRACTION,
        "sampler": "euler",
        "strength": 1.0,
        "person_strengths": (1.0, 1.0),
        "masks": None,
        "focus": None,
        "start": 0.0,
        "end": 1.0,
    }
    assert not arguments["--out"][0].exists()


@pytest.fixture
def drawn(tmp_path):
    """Two people of the miniature as saved references, and a command line about them."""
    random = torch.Generator().manual_seed(0)
    line = {"--base": ["mini"], "--device": ["cpu"], "--out": [tmp_path / "portrait.png"]}
    line["--prompt"] = [
        "A man@1 on the left in a red suit and a woman@2 on the right in a blue dress stand at the beach."
    ]
    for number in (1, 2):
        identity = torch.nn.functional.normalize(torch.randn(1, 512, generator=random), dim=-1)
        hidden, zero = (torch.randn(1, 65, 128, generator=random) for _ in range(2))
        FaceReference(identity, hidden, zero, identity).save(tmp_path / f"{number}.safetensors")
        line[f"--person-{number}"] = [tmp_path / f"{number}.safetensors"]
    return line


def test_with_the_base_mini_the_defaults_are_those_of_its_world(drawn, asked, capsys):
    assert run(drawn) == 130
    assert (asked["size"], asked["steps"], asked["cfg"], asked["negative"]) == (DESIGN.size, DESIGN.steps, 2.0, "")
    assert "knows a small drawn world" in capsys.readouterr().out
    more = {"--size": ["192x128"], "--steps": [3], "--cfg": [1.5], "--negative": ["snow"]}
    assert run({**drawn, **more}) == 130
    assert (asked["size"], asked["steps"], asked["cfg"], asked["negative"]) == ((192, 128), 3, 1.5, "snow")


@pytest.mark.parametrize("size", [DESIGN.size, (64, 160)])
def test_the_base_mini_needs_nothing_that_does_not_ship(drawn, tmp_path, size):
    assert run({**drawn, "--steps": [1], "--size": ["{}x{}".format(*size)]}) == 0
    picture = Image.open(tmp_path / "portrait.png")
    assert picture.size == size
    told = json.loads(picture.text["dhumandiff"])
    assert (told["base"], told["steps"], told["cfg"], told["negative"]) == ("mini", 1, 2.0, "")
    assert "Negative prompt: \nSteps: 1, Sampler: euler_ancestral, CFG scale: 2.0" in picture.text["parameters"]


def test_drawn_people_are_seen_by_the_miniature_s_own_eyes_and_are_no_bad_photos(
    drawn, asked, tmp_path, capsys, monkeypatch
):
    from support.known_faces import detect

    from dhumandiff.miniature.faces import MiniFaces
    from dhumandiff.miniature.world import draw_reference, sample_identity

    monkeypatch.setattr(MiniFaces, "detect", detect)
    for number in (1, 2):
        Image.fromarray(draw_reference(sample_identity(number), 0).picture).save(tmp_path / f"{number}.png")
        drawn[f"--person-{number}"] = [tmp_path / f"{number}.png"]
    assert run(drawn) == 130
    assert [person.clip_hidden.shape for person in asked["references"]] == [(1, 65, 128)] * 2
    assert "face is small" not in capsys.readouterr().out


def test_share_strengths_and_masks_reach_the_picture_and_its_record(arguments, tmp_path):
    run(arguments)
    plain = pixels(tmp_path / "portrait.png")
    places = tmp_path / "places"
    places.mkdir()
    more = {
        "--start": [0.25],
        "--end": [0.9],
        "--strength-1": [0.5],
        "--mask-2": [half_mask(places / "left.png")],
        "--which-face-2": ["right-most"],
    }
    assert run({**arguments, **more}) == 0
    assert not np.array_equal(pixels(tmp_path / "portrait.png"), plain)
    text = Image.open(tmp_path / "portrait.png").text
    told = json.loads(text["dhumandiff"])
    assert (told["start"], told["end"], told["person_strengths"]) == (0.25, 0.9, [0.5, 1.0])
    assert told["masks"] == [None, "left.png"]
    assert told["which_face"] == ["largest", "right-most"]
    assert str(places) not in str(text)


@pytest.mark.parametrize(
    ("name", "size", "mode"),
    [
        ("mask.png", (64, 96), "L"),
        ("mask.png", (640, 960), "1"),
        ("mask.png", (32, 48), "RGB"),
        ("mask.png", (64, 96), "RGBA"),
        ("mask.jpg", (64, 96), "RGB"),
    ],
)
def test_a_mask_is_white_where_the_person_may_be_at_any_size(arguments, asked, tmp_path, name, size, mode):
    mask = half_mask(tmp_path / name, size, mode)
    run({**arguments, "--mask-1": [mask], "--strength-2": [1.5], "--swap": []})
    masks = asked["masks"]
    assert masks.shape == (2, 1, 12, 8)
    assert (masks[0, 0, :, :4] > 0.99).all()
    assert (masks[0, 0, :, 4:] < 0.01).all()
    assert torch.equal(masks[1], torch.ones(1, 12, 8))
    assert asked["person_strengths"] == (1.0, 1.5)  # masks and strengths stay with @1 and @2 when people are swapped


def test_two_people_come_from_one_photo_by_choosing_faces(arguments, asked, photos, capsys, monkeypatch):
    detect = tiny.TinyFaces.detect

    def both_halves(self, image):
        half = image.shape[1] // 2
        left, right = detect(self, image[:, :half])[0], detect(self, image[:, half:])[0]
        shift = np.array([half, 0], dtype=np.float32)
        return [left, type(right)(right.box + np.tile(shift, 2), right.landmarks + shift)]

    monkeypatch.setattr(tiny.TinyFaces, "detect", both_halves)
    arguments |= {"--person-2": arguments["--person-1"], "--which-face": ["left-most"]}
    run({**arguments, "--which-face-2": ["right-most"]})
    assert "same person" not in capsys.readouterr().out
    assert [bool(person.box[0, 0] > 150) for person in asked["references"]] == [False, True]
    run({**arguments, "--which-face-2": ["right-most"], "--swap": []})  # the choice goes with the photos
    assert [bool(person.box[0, 0] > 150) for person in asked["references"]] == [True, False]
    run(arguments)
    assert "look like the same person" in capsys.readouterr().out


def test_people_are_kept_for_the_next_time(arguments, asked, tmp_path, capsys):
    anna, ben = tmp_path / "anna.safetensors", tmp_path / "ben.safetensors"
    run({**arguments, "--save-reference-1": [ben], "--save-reference-2": [anna]})
    run({**arguments, "--save-reference-1": [anna], "--save-reference-2": [ben], "--swap": []})
    assert f"{anna}: whom --person-1 shows" in capsys.readouterr().out
    encoded = asked["references"]
    kept = [FaceReference.load(path) for path in (ben, anna)]  # they were swapped
    assert [person.name for person in kept] == ["ben", "anna"]
    for person, same in zip(kept, encoded, strict=True):
        assert torch.equal(person.identity, same.identity)
        assert torch.equal(person.clip_hidden, same.clip_hidden)
    run({**arguments, "--person-1": [ben], "--person-2": [anna]})
    assert [person.name for person in asked["references"]] == ["ben", "anna"]


def test_swapping_is_giving_the_photos_the_other_way_round(arguments, photos, tmp_path):
    run({**arguments, "--swap": []})
    swapped = pixels(tmp_path / "portrait.png")
    run({**arguments, "--person-1": [photos / "b.png"], "--person-2": [photos / "a.png"]})
    assert np.array_equal(pixels(tmp_path / "portrait.png"), swapped)
    run(arguments)
    assert not np.array_equal(pixels(tmp_path / "portrait.png"), swapped)


def test_several_photos_of_a_person_and_light_normalisation(arguments, photos, tmp_path, capsys):
    run(arguments)
    one = pixels(tmp_path / "portrait.png")
    assert run({**arguments, "--person-1": [photos / "a.png", photos / "c.png"], "--normalise-light": []}) == 0
    assert not np.array_equal(pixels(tmp_path / "portrait.png"), one)
    assert "its face is unlike the other photos" in capsys.readouterr().out


def test_a_saved_reference_stands_for_photos(arguments, photos, tmp_path, monkeypatch):
    run(arguments)
    expected = pixels(tmp_path / "portrait.png")
    for name in "ab":
        reference, _ = encode_reference(photos / f"{name}.png", tiny.tiny_vision(), tiny.tiny_faces())
        reference.save(tmp_path / f"{name}.safetensors")
    run({**arguments, "--person-1": [tmp_path / "a.safetensors"]})
    assert np.array_equal(pixels(tmp_path / "portrait.png"), expected)
    monkeypatch.setattr(tiny, "tiny_vision", None)  # with two saved references nothing is encoded
    run({**arguments, "--person-1": [tmp_path / "a.safetensors"], "--person-2": [tmp_path / "b.safetensors"]})
    assert np.array_equal(pixels(tmp_path / "portrait.png"), expected)


def test_an_adapter_from_a_file_is_used(arguments, tmp_path):
    tiny.tiny_adapter(seed=3).save_pretrained(tmp_path / "pair.safetensors")
    run(arguments)
    usual = pixels(tmp_path / "portrait.png")
    assert run({**arguments, "--adapter": [tmp_path / "pair.safetensors"]}) == 0
    assert not np.array_equal(pixels(tmp_path / "portrait.png"), usual)
    assert json.loads(Image.open(tmp_path / "portrait.png").text["dhumandiff"])["adapter"] == "pair.safetensors"


def test_an_adapter_without_subject_path_works_with_a_note(arguments, tmp_path, capsys):
    from support.layouts import small_adapter

    small_adapter(names=("",), context_width=192, clip_width=64).save_pretrained(tmp_path / "face.safetensors")
    assert run({**arguments, "--adapter": [tmp_path / "face.safetensors"]}) == 0
    out = capsys.readouterr().out
    assert "no subject path" in out
    assert "token 2" not in out


def test_the_focus_mask_is_written_at_the_picture_s_size(arguments, tmp_path):
    assert run({**arguments, "--focus-out": [tmp_path / "focus.png"], "--focus-share": [0.25]}) == 0
    mask = Image.open(tmp_path / "focus.png")
    assert (mask.mode, mask.size) == ("L", (64, 96))
    values = np.asarray(mask)
    assert set(np.unique(values)) == {0, 255}
    assert (values == 255).mean() == pytest.approx(0.25)


def test_one_person_alone(arguments, capsys):
    del arguments["--person-2"]
    assert run({**arguments, "--prompt": ["a man@1 in a garden"]}) == 0
    assert "Person 2" not in capsys.readouterr().out


def test_all_mentions_can_be_mapped(arguments, capsys):
    marked = {"--prompt": ["a man@1 and a woman@2, the groom@1 smiles"]}
    assert run({**arguments, **marked, "--mentions": ["all"]}) == 0
    assert "'groom'" in capsys.readouterr().out
    assert run({**arguments, **marked}) == 0
    assert "'groom'" not in capsys.readouterr().out


def test_one_person_given_twice_is_warned_of(arguments, photos, capsys):
    assert run({**arguments, "--person-2": [photos / "a.png"]}) == 0
    assert "warning: Person 1 and person 2 look like the same person" in capsys.readouterr().out


def test_a_person_whom_no_word_names_is_noted(arguments, capsys):
    assert run({**arguments, "--prompt": ["a man@1 and somebody"]}) == 0
    assert "note: No word names person 2" in capsys.readouterr().out


@pytest.mark.faces
def test_a_pack_other_than_the_adapters_is_told(arguments, tmp_path, capsys):
    for said, answer in (("dhumandiff.tiny", 0), ("buffalo_l", 0), ("tiny (sha256 0123456789abcdef)", 1)):
        other = tiny.tiny_adapter()
        other.info = replace(other.info, recognizer=said)
        other.save_pretrained(tmp_path / "other.safetensors")
        assert run({**arguments, "--adapter": [tmp_path / "other.safetensors"]}) == answer
        told = capsys.readouterr()
        assert ("unless the two are one under two names" in told.out) == (said == "buffalo_l")
        assert ("whose numbers mean nothing to it" in told.out + told.err) == (answer == 1)


def test_real_faces_are_found_with_a_real_pack(arguments, faces_root, face_photos, capsys):
    pytest.importorskip("insightface", reason="install it with: pip install insightface onnxruntime")
    arguments |= {
        "--person-1": [face_photos / "obama.jpg", face_photos / "obama2.jpg"],
        "--person-2": [face_photos / "biden.jpg"],
        "--face-pack": ["mini"],
        "--face-root": [faces_root],
        "--provider": ["CPU"],
    }
    assert run(arguments) == 0
    assert "same person" not in capsys.readouterr().out


@pytest.mark.slow
def test_it_runs_as_a_command_and_asking_for_help_loads_nothing(arguments, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    look = "import sys, dhumandiff.__main__ as m\ntry: m.main(['generate', '--help'])\nexcept SystemExit: pass\n"
    look += "assert not {'torch', 'diffusers', 'numpy', 'PIL'} & set(sys.modules), 'heavy'"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "--person-1" in done.stdout

    line = [sys.executable, "-m", "dhumandiff", "generate"]
    for option, values in arguments.items():
        line += [option, *map(str, values)]
    done = subprocess.run(line, capture_output=True, text=True, env=environment, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "portrait.png: 64 x 96 px, seed 0" in done.stdout
