"""`python -m dhumandiff generate` for one to four people, and what it refuses of them."""

import json
import sys

import pytest
import torch
from PIL import Image
from support.by_formula import adapter_for
from support.generate_command import command_line, half_mask, make_photos, run

pytest.importorskip("diffusers", reason="install it with: pip install diffusers transformers accelerate")
pytest.importorskip("cv2", reason="photo quality is measured with OpenCV: pip install opencv-python-headless")

from test_generate_refusals import nothing_heavy, refused  # noqa: F401 (a fixture)

from dhumandiff import testing as tiny
from dhumandiff.hosts.diffusers import pipeline as diffusers_pipeline

SENTENCE = "A man@1, a woman@2, a boy@3 and a girl@4 in a garden"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def four(photos, tmp_path):
    """A command line for four people and weights of one projection for everybody."""
    adapter_for(tiny.tiny_adapter(), None).save_pretrained(tmp_path / "shared.safetensors")
    people = {f"--person-{n}": [photos / f"{name}.png"] for n, name in enumerate("abcd", 1)}
    people |= {"--prompt": [SENTENCE], "--adapter": [tmp_path / "shared.safetensors"]}
    return command_line(photos, tmp_path) | people


@pytest.fixture
def attached(monkeypatch):
    """What the people were attached with, by name."""
    seen = {}
    attach = diffusers_pipeline.attach

    def listen(unet, adapter, references, strength, person_strengths, masks, guidance):
        seen.update(references=references, person_strengths=person_strengths, masks=masks)
        return attach(unet, adapter, references, strength, person_strengths, masks, guidance)

    monkeypatch.setattr(diffusers_pipeline, "attach", listen)
    return seen


def test_four_photos_and_a_sentence_become_a_picture(four, attached, tmp_path, capsys):
    mask = half_mask(tmp_path / "mask.png")
    masks = {f"--mask-{n}": [mask] for n in (1, 2, 3)}
    assert run({**four, **masks, "--strength-3": [1.5], "--save-reference-4": [tmp_path / "dora.safetensors"]}) == 0
    assert attached["person_strengths"] == (1.0, 1.0, 1.5, 1.0)
    assert attached["masks"].shape == (4, 1, 12, 8)
    assert torch.equal(attached["masks"][3], torch.ones(1, 12, 8))
    assert len(attached["references"]) == 4
    told = json.loads(Image.open(tmp_path / "portrait.png").text["dhumandiff"])
    assert told["persons"] == [["a.png"], ["b.png"], ["c.png"], ["d.png"]]
    assert told["masks"] == ["mask.png"] * 3 + [None]
    assert "where people have no mask their faces blend" in capsys.readouterr().out
    again = {**four, **masks, "--strength-3": [1.5], "--person-4": [tmp_path / "dora.safetensors"]}
    first = (tmp_path / "portrait.png").read_bytes()
    assert run({**again, "--mask-4": [mask]}) == 0
    assert "blend" not in capsys.readouterr().out
    assert (tmp_path / "portrait.png").read_bytes() != first


def test_three_people_and_any_two_alike_are_told_of(four, photos, capsys):
    del four["--person-4"]
    three = {**four, "--prompt": ["A man, a woman and a boy"], "--person-3": [photos / "b.png"]}
    assert run(three) == 0
    assert "warning: Person 2 and person 3 look like the same person" in capsys.readouterr().out


def test_weights_of_two_take_no_third_person(four, capsys):
    del four["--adapter"]
    said = refused(four, capsys)
    assert "4 references were given, but these weights hold 2 persons" in said
    assert "IP-Adapter" in said


@pytest.mark.parametrize(
    ("without", "more", "message"),
    [
        (["--person-3"], {}, "--person-4 is given, but --person-3 is not"),
        (["--person-2", "--person-3"], {}, "--person-4 is given, but --person-2 is not"),
        ([], {"--swap": []}, "--swap exchanges two people, but four are given"),
        (
            ["--person-4"],
            {"--mask-4": ["x.png"]},
            "--mask-4 needs four people, but only three are given. Add --person-4",
        ),
        (
            ["--person-3", "--person-4"],
            {"--strength-3": [0]},
            "--strength-3 needs three people, but only two are given",
        ),
        (["--person-4"], {}, "names person 4, but there are 3 people"),
    ],
)
def test_people_who_are_not_there_are_named(four, nothing_heavy, capsys, without, more, message):  # noqa: F811
    kept = {option: values for option, values in four.items() if option not in without}
    assert message in refused({**kept, **more}, capsys)


@pytest.fixture
def no_face_models(monkeypatch):
    """A machine without InsightFace and ONNX Runtime."""
    for package in ("insightface", "insightface.app", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, None)


def test_head_crops_and_masks_need_no_face_models_with_an_ip_adapter(
    photos, tmp_path, attached, no_face_models, capsys
):
    """The way that is free for everybody: CLIP alone says what people look like."""
    adapter_for(tiny.tiny_adapter(), None).save_pretrained(tmp_path / "plus.safetensors")
    line = command_line(photos, tmp_path) | {
        "--adapter": [tmp_path / "plus.safetensors"],
        "--face-pack": ["buffalo_l"],
        "--which-face": ["whole-photo"],
        "--mask-1": [half_mask(tmp_path / "mask.png")],
    }
    assert run(line) == 0
    assert [one.identity for one in attached["references"]] == [None, None]
    assert "no subject path" in capsys.readouterr().out


def test_a_head_crop_is_refused_by_weights_that_ask_who_it_is(photos, tmp_path, no_face_models, capsys):
    line = command_line(photos, tmp_path) | {"--face-pack": ["buffalo_l"], "--which-face": ["whole-photo"]}
    assert run(line) == 1
    assert "has no identity" in capsys.readouterr().err
    assert not (tmp_path / "portrait.png").exists()
