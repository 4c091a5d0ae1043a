"""The settings and the command of prepare: what is refused, and in which words."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="install it with: pip install '.[train]'")
for package in ("jsonargparse", "matplotlib", "scipy", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from support.drawn import encoders, settings_for, world
from support.refused import refused

from dhumandiff.faces import ARCFACE_TEMPLATE, Face
from dhumandiff.faces.same_recognizer import file_hash
from training import TrainingError
from training.__main__ import main
from training.data.encode import load_faces
from training.data.pipeline import _common
from training.data.settings import FaceSettings, PrepareSettings, Source
from training.parsing import parse
from training.recognizers import load_recognizer, probe_picture

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return world(tmp_path_factory.mktemp("world") / "world")


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        ({"out": ""}, "no-out", "--out"),
        ({"data": ""}, "no-source", "--data"),
        ({"shard_size": 0}, "setting-out-of-range", "shard_size is 0; it has to be 1 or more"),
        ({"workers": -1}, "setting-out-of-range", "workers is -1; it has to be 0 or more"),
        ({"max_aspect": float("nan")}, "setting-out-of-range", "max_aspect is nan"),
        ({"bucket_step": 20}, "setting-out-of-range", "bucket_step is 20; it has to be a multiple of 8"),
        ({"resolution": 32, "bucket_step": 64}, "setting-out-of-range", "resolution is 32, less than bucket_step"),
        ({"faces": FaceSettings(min_size=-3)}, "setting-out-of-range", "faces.min_size is -3"),
        (
            {"sources": [Source("x", weight=-1)]},
            "setting-out-of-range",
            "weight of the source x is -1; it has to be 0 or more",
        ),
        ({"sources": [Source("")]}, "source-without-path", "path"),
        ({"slice": "4/3"}, "bad-slice", "slice is '4/3'"),
        ({"slice": "third"}, "bad-slice", "slice is 'third'"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(change, code, named):
    with refused(code, named, error=TrainingError):
        PrepareSettings(**{"data": "x", "out": "y", **change}).check()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shard_sise", "3"], "shard_sise"),
        (["--references.augmented", "many"], "references.augmented"),
        (["--data", "x", "--out", "y", "--references.flip", "1.5"], "references.flip is 1.5; it has to be from 0 to 1"),
        (["--data", "/no/such/folder", "--out", "y"], "The source /no/such/folder does not exist"),
    ],
)
def test_the_command_refuses_with_one_line(words, message, capsys):
    assert main(["prepare", *words]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert message in told


def test_an_unknown_field_in_the_yaml_file_is_named(tmp_path, capsys):
    (tmp_path / "my.yaml").write_text("base: tiny\nreferences:\n  augmentd: 2\n")
    assert main(["prepare", "--config", str(tmp_path / "my.yaml"), "--data", "x", "--out", "y"]) == 1
    assert "augmentd" in capsys.readouterr().err


def test_the_shipped_settings_are_read_and_can_be_overridden(data, tmp_path, capsys):
    shipped = REPOSITORY / "training" / "configs" / "prepare.yaml"
    words = ["--config", shipped, "--data", data, "--out", tmp_path / "out", "--shard_size", "5", "--dry_run"]
    assert main(["prepare", *map(str, words)]) == 0
    told = capsys.readouterr().out
    assert "20 pictures:" in told
    assert "world: 20 pictures, 13 with an annotation" in told
    assert "4 shards of 5 pictures" in told
    assert "base sdxl-base-1.0, vision h94/IP-Adapter/models/image_encoder, faces buffalo_l" in told
    assert "Nothing was done." in told
    assert not (tmp_path / "out").exists()


def test_help_explains_every_setting():
    told = subprocess.run(
        [sys.executable, "-m", "training", "prepare", "--help"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert told.returncode == 0
    for field in ("--references.paired", "--faces.min_size", "--unknown_gender", "--slice"):
        assert field in told.stdout
    assert "Smallest face, px" in told.stdout
    assert "Kill a run whenever you like" in " ".join(told.stdout.split())


def test_without_a_command_the_commands_are_listed(capsys):
    assert main([]) == 0
    assert "prepare" in capsys.readouterr().out
    assert main(["prepair"]) == 2
    assert "there is no command 'prepair'" in capsys.readouterr().err


def test_missing_face_models_write_nothing(data, tmp_path):
    """Face models that cannot be had stop before anything is written."""
    from training.data.pipeline import prepare

    with refused("no-such-plugin", "faces.pack", "nowhere:analyzer", error=TrainingError):
        prepare(settings_for(data, tmp_path / "out", faces__pack="nowhere:analyzer"))
    with refused("plugin-failed", "support.drawn:broken", "RuntimeError: no such detector", error=TrainingError):
        prepare(settings_for(data, tmp_path / "out", faces__pack="support.drawn:broken"))
    assert not (tmp_path / "out").exists()


def test_old_names_are_read(tmp_path, capsys):
    """The names of 0.1: they mean the same, one line says what replaced them, and a folder begun with them goes on."""
    data = world(tmp_path / "data", good=2, refused=False)
    words = [
        "prepare",
        "--data",
        str(data),
        "--out",
        str(tmp_path / "out"),
        "--base",
        "tiny",
        "--vision",
        "tiny",
        "--dry_run",
    ]
    assert main([*words, "--faces.third", "0.4", "--references.colour", "0.1"]) == 0
    said = capsys.readouterr()
    assert "faces.third is now faces.third_face_ratio" in said.err
    assert "references.colour is now references.color" in said.err
    assert said.err.count("notice:") == 1
    kept = PrepareSettings(faces=FaceSettings(third_face_ratio=0.4)).fingerprint()
    assert (kept["faces"]["third"], kept["references"]["colour"]) == (0.4, 0.15)
    assert {"third_face_ratio", "color"}.isdisjoint({*kept["faces"], *kept["references"]})


def test_the_open_configuration_only_changes_the_face_models():
    configs = REPOSITORY / "training" / "configs"
    words = ["--config", str(configs / "prepare.yaml"), "--data", "x", "--out", "y"]
    plain, _ = parse(PrepareSettings, "prepare", words)
    free, _ = parse(PrepareSettings, "prepare", [*words, "--config", str(configs / "prepare_open.yaml")])
    free.check()
    assert (plain.faces.pack, free.faces.pack) == ("buffalo_l", "open")
    assert replace(free, faces=replace(free.faces, pack="buffalo_l")) == plain


@pytest.mark.faces
def test_a_model_of_gender_is_not_left_out_without_a_word(faces_root, tmp_path, monkeypatch):
    """Captions are matched by it, and InsightFace runs it."""
    for file in (faces_root / "models" / "mini").glob("*.onnx"):
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.setitem(sys.modules, "insightface.app", None)
    assert load_faces(FaceSettings(pack=str(tmp_path))).name == tmp_path.name
    (tmp_path / "genderage.onnx").write_bytes(b"any")
    with refused("gender-without-insightface", "genderage.onnx", "pip install insightface", "open"):
        load_faces(FaceSettings(pack=str(tmp_path)))


def test_the_open_pack_is_named_with_its_recognizer(tmp_path):
    pytest.importorskip("onnx", reason="install it with: pip install onnx")
    pytest.importorskip("onnxruntime", reason="install it with: pip install onnxruntime")
    from support.open_files import save_recognizer, save_yunet

    folder = tmp_path / "models" / "open"
    save_yunet(folder / "face_detection_yunet_2026may.onnx", None)
    auraface = save_recognizer(folder / "glintr100.onnx", 512)
    faces = load_faces(FaceSettings(pack="open", root=str(tmp_path)))
    header = json.loads(load_metadata(_common(encoders(), faces)))["recogniser"]
    assert header == {"name": "auraface", "width": 512, "sha256": file_hash(auraface)}
    # The identity losses look through the same file.
    recognizer = load_recognizer(str(auraface))
    seen = recognizer(torch.from_numpy(probe_picture().copy()).permute(2, 0, 1)[None].float() / 127.5 - 1)[0]
    face = Face(np.float32([0, 0, 112, 112]), ARCFACE_TEMPLATE)
    assert float(seen @ torch.from_numpy(faces.identity(probe_picture(), face))) > 0.999


def load_metadata(content):
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length])["__metadata__"]["header"]
