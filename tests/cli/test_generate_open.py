"""`generate --face-pack open`: people found by YuNet and told apart by AuraFace, with no InsightFace."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

for package in ("diffusers", "onnx", "onnxruntime", "cv2"):
    pytest.importorskip(package, reason=f"install it with: pip install {package}")

from support.by_formula import adapter_for
from support.generate_command import command_line, run
from support.open_files import draw_face, save_recognizer, save_yunet

from dhumandiff import FaceReference
from dhumandiff import testing as tiny


@pytest.fixture
def line(tmp_path, monkeypatch):
    """A command line with two photos of planted faces and weights without a subject path."""
    for package in ("insightface", "insightface.app"):
        monkeypatch.setitem(sys.modules, package, None)
    folder = tmp_path / "models" / "open"
    save_yunet(folder / "face_detection_yunet_2026may.onnx", None)
    save_recognizer(folder / "glintr100.onnx", 512)
    save_recognizer(folder / "face_recognition_sface_2021dec.onnx", 128, normalizes=True, given="data")
    for name, x in (("a", 204), ("b", 260)):
        picture = np.random.default_rng(x).integers(60, 120, (400, 500, 3), dtype=np.uint8)
        draw_face(picture, x, 180, 110)
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    adapter_for(tiny.tiny_adapter(), None).save_pretrained(tmp_path / "plus.safetensors")
    return command_line(tmp_path, tmp_path) | {
        "--adapter": [tmp_path / "plus.safetensors"],
        "--face-pack": ["open"],
        "--face-root": [tmp_path],
        "--provider": ["CPU"],
    }


def test_a_portrait_needs_no_insightface(line, tmp_path, capsys):
    assert run({**line, "--save-reference-1": [tmp_path / "anna.safetensors"]}) == 0
    assert "not the file that was published as auraface" in capsys.readouterr().out
    anna = FaceReference.load(tmp_path / "anna.safetensors")
    assert anna.recognizer == "auraface/glintr100"
    assert anna.identity.shape == (1, 512)


def test_a_judge_draws_nobody(line, capsys):
    assert run({**line, "--face-pack": ["sface"]}) == 1
    assert "sface is a judge" in capsys.readouterr().err


def test_weights_of_another_recognizer_are_refused(line, tmp_path, capsys):
    adapter = tiny.tiny_adapter()
    adapter.info = replace(adapter.info, recognizer="buffalo_l")
    adapter.save_pretrained(tmp_path / "pair.safetensors")
    assert run({**line, "--adapter": [tmp_path / "pair.safetensors"]}) == 1
    told = capsys.readouterr().err
    assert "trained with the face recognizer buffalo_l" in told
    assert "--face-pack" in told
