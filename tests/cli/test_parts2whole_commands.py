"""Parts2Whole's folder in the commands that know weights: inspect, download, doctor."""

import json
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.model_folders import doctor, whole_folder, wrong
from support.small_parts import parts_folder

from dhumandiff.__main__ import main
from dhumandiff.methods.parts2whole import Parts2Whole


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))


def test_inspect_says_what_the_folder_is(tmp_path, capsys):
    folder = parts_folder(tmp_path / "Parts2Whole")
    assert main(["inspect", str(folder)]) == 0
    text = capsys.readouterr().out
    for words in ("Parts2Whole", "16 layers", "sigma_max 25.15", "24 tensors", "MIT", "without unet"):
        assert words in text
    assert main(["inspect", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["layers"], found["absent"]) == ("parts2whole", 16, 24)
    assert set(found["parameters"]) == {"reference_unet", "pose_guider", "decoupled_attn"}


def test_inspect_tells_nan(tmp_path, capsys):
    folder = parts_folder(tmp_path / "Parts2Whole")
    path = folder / "decoupled_attn.pth"
    tensors = load_file(path)
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, path)
    assert main(["inspect", str(folder)]) == 0
    assert "NaN or infinite values in decoupled_attn/" in capsys.readouterr().out


def hub(folder, monkeypatch, *more):
    """The hub with that folder's files and `more` names; gives the names that were asked for."""
    asked = []
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}

    def model_info(repository, *, files_metadata, timeout):
        assert (repository, files_metadata) == ("huanngzh/Parts2Whole", True)
        siblings = [SimpleNamespace(rfilename=name, size=path.stat().st_size) for name, path in files.items()]
        return SimpleNamespace(siblings=[*siblings, *(SimpleNamespace(rfilename=n, size=1) for n in more)], sha="1")

    def download(_, filename, *, revision, local_dir):
        asked.append(filename)
        path = Path(local_dir) / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[filename].read_bytes())
        return str(path)

    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: SimpleNamespace(model_info=model_info))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def test_download_fetches_the_folder(tmp_path, monkeypatch, capsys):
    more = ("README.md", "assets/picture.png", "pose_guider/diffusion_pytorch_model.bin")
    asked = hub(parts_folder(tmp_path / "published"), monkeypatch, *more)
    assert main(["download", "--method", "parts2whole", "--to", str(tmp_path / "models")]) == 0
    assert "decoupled_attn.pth" in asked
    assert not set(asked) & set(more)
    out = capsys.readouterr().out
    assert "16 layers" in out
    assert "MIT" in out
    assert Parts2Whole.from_pretrained(tmp_path / "models" / "Parts2Whole").info.absent == 24


def test_download_names_a_folder_that_is_gone(tmp_path, monkeypatch, capsys):
    published = parts_folder(tmp_path / "published")
    for path in (published / "pose_guider").iterdir():
        path.unlink()
    hub(published, monkeypatch)
    assert main(["download", "--method", "parts2whole", "--to", str(tmp_path / "models")]) == 1
    message = capsys.readouterr().err
    assert "no longer holds pose_guider/" in message
    assert "reference_unet/" in message


def test_the_doctor_knows_the_folder_and_asks_nobody_for_it(tmp_path, capsys):
    folder = whole_folder(tmp_path / "ComfyUI" / "models")
    assert "Parts2Whole" not in doctor(capsys, folder)[1]
    parts_folder(folder / "dhumandiff" / "Parts2Whole", dtype=torch.float16)
    code, text = doctor(capsys, folder)
    assert code == 0
    assert "Parts2Whole (Stable Diffusion 1.5, 16 layers" in text
    assert wrong(text) == []


def test_the_doctor_says_what_is_wrong_with_the_folder_and_stops_nobody(tmp_path, capsys):
    folder = whole_folder(tmp_path / "ComfyUI" / "models")
    place = parts_folder(folder / "dhumandiff" / "Parts2Whole")
    (place / "decoupled_attn.pth").unlink()
    code, text = doctor(capsys, folder)
    assert code == 0
    assert "decoupled_attn.pth is not there" in text
    assert "download --method parts2whole --to" in text
