"""The doctor on small model folders: what it finds, what it says of the rest, and the command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.comfyui import REPOSITORY
from support.model_folders import doctor, face_pack, wrong

from dhumandiff.catalogue import BASE, FACE_PACKS
from dhumandiff.doctor import Folders, base_models, comfyui_beside, examine, face_packs
from dhumandiff.doctor.findings import DAMAGED, MISSING, NOTE, OK, Finding, Report, Section, without_names


def test_nothing_stands_in_the_way_when_all_is_there(folder, capsys):
    code, text = doctor(capsys, folder)
    assert text.splitlines()[-1] == "Nothing stands in the way of a first portrait."
    assert code == 0
    assert wrong(text) == []
    for words in (
        "ComfyUI 0.33.0",
        "DHumanDiff: the four released files (sdxl, 17 cross-attention layers, 2 persons, with subject path)",
        "none stated by the authors",
        "det_10g.onnx, w600k_r50.onnx",
        "non-commercial research only",
        "tower.safetensors: an image encoder of width 80, which the adapter wants",
        "1 checkpoint in",
    ):
        assert words in text


def test_in_an_empty_comfyui_each_missing_thing_has_a_place_a_way_to_get_it_and_a_license(tmp_path, capsys):
    (tmp_path / "models" / "checkpoints").mkdir(parents=True)
    code, text = doctor(capsys, tmp_path / "models")
    assert code == 1
    assert text.splitlines()[-1] == (
        "4 things are missing: the adapter, the face pack buffalo_l, the image encoder, an SDXL checkpoint."
    )
    adapter, faces, tower, base = wrong(text)
    assert all("To do: " in line and "icense" in line for line in (adapter, faces, tower, base))
    for line, *words in (
        (adapter, "dhumandiff/DHumanDiff", "-m dhumandiff download --to", "ip_adapter_ca.pt", "Pan1111/DHumanDiff"),
        (faces, "insightface/models/buffalo_l", "switch `download` on", FACE_PACKS[0].license),
        (tower, "clip_vision", "models/image_encoder/model.safetensors", "h94/IP-Adapter", "Apache-2.0"),
        (base, "checkpoints", "stable-diffusion-xl-base-1.0", BASE.license),
    ):
        assert all(word in line.replace(os.sep, "/") for word in words)


def test_without_comfyui_the_base_and_the_encoder_may_lie_elsewhere(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(base_models, "_is_cached", lambda repository, file: False)
    face_pack(tmp_path / "faces" / "models" / "buffalo_l")
    (folder / "checkpoints" / "sdxl.safetensors").unlink()
    (folder / "checkpoints").rmdir()
    tower = folder / "clip_vision" / "tower.safetensors"
    assert f"{tower.name}: an image encoder that the adapter wants" in doctor(capsys, folder)[1]
    tower.unlink()
    code, text = doctor(capsys, folder, "--face-root", tmp_path / "faces")
    assert code == 0
    assert "portraits without ComfyUI" in text
    assert "the first portrait fetches it" in text
    assert "--base says where one is" in text
    monkeypatch.setattr(base_models, "_is_cached", lambda repository, file: True)
    assert "is in Hugging Face's cache" in doctor(capsys, folder, "--face-root", tmp_path / "faces")[1]


def test_a_folder_that_is_not_there_is_empty(tmp_path, capsys):
    code, text = doctor(capsys, tmp_path / "nowhere")
    assert code == 1
    assert text.splitlines()[-1] == "2 things are missing: the adapter, the face pack buffalo_l."
    assert "allow_download=True" in text
    assert text.splitlines()[0] == f"--models {tmp_path / 'nowhere'} does not exist: nothing is found in it."
    (tmp_path / "file").touch()
    assert "file is a file, no folder" in doctor(capsys, tmp_path / "file")[1].splitlines()[0]


def test_the_version_of_comfyui_is_told_also_when_it_is_not_known(folder):
    assert comfyui_beside(folder) == "0.33.0"
    (folder.parent / "comfyui_version.py").unlink()
    assert comfyui_beside(folder) == "of unknown version"
    assert comfyui_beside(folder / "dhumandiff") is None


def test_what_is_not_ok_says_what_to_do(folder):
    broken = folder / "dhumandiff" / "DHumanDiff" / "mapping.pt"
    broken.write_bytes(b"")
    (folder / "checkpoints" / "sdxl.safetensors").unlink()
    for comfyui in ("0.3.1", None):
        report = examine(Folders.below(folder), comfyui)
        assert report.in_the_way
        assert all(f.todo for section in report.sections for f in section.findings if f.state != OK)


def test_a_part_that_goes_wrong_does_not_take_the_report_with_it(folder, capsys, monkeypatch):
    monkeypatch.setattr(face_packs, "face_packs", lambda *_: 1 / 0)
    code, text = doctor(capsys, folder)
    assert code == 1
    assert "This could not be looked at (ZeroDivisionError: division by zero)" in text
    assert "a look at the face packs" in text.splitlines()[-1]
    assert "1 checkpoint in" in text


# --- names ------------------------------------------------------------------------------------------------------------


def path(*parts, start="/", between="/"):
    return start + between.join(parts)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (path("home", "anna", "ComfyUI"), "~/ComfyUI"),
        (path("Users", "anna", "x y"), "~/x y"),
        (path("Users", "anna", "models", start="C:\\", between="\\"), "~\\models"),
        (f"in '{path('home', 'anna')}': no", "in '~': no"),
        (path("data", "home", "anna"), path("data", "home", "anna")),
        ("https://huggingface.co/h94/IP-Adapter", "https://huggingface.co/h94/IP-Adapter"),
    ],
)
def test_home_folders_are_shown_without_a_name(given, shown):
    assert without_names(given) == shown


def test_the_own_home_is_a_tilde_wherever_it_lies(tmp_path):
    home = Path.home()
    assert without_names(f"{home / 'models'}, {home}.") == f"~{os.sep}models, ~."
    assert without_names(f"{home}s") == f"{home}s"


def test_a_home_of_everything_changes_nothing(monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/"))
    assert without_names("/tmp/x and/or y") == "/tmp/x and/or y"


def test_the_summary_counts():
    def summary(*states):
        return Report([Section("x", [Finding(state, f"thing {i}", "") for i, state in enumerate(states)])]).summary

    assert summary(OK, NOTE) == "Nothing stands in the way of a first portrait."
    assert summary(OK, DAMAGED) == "1 thing is damaged: thing 1."
    assert summary(MISSING, DAMAGED) == "2 things are missing or damaged: thing 0, thing 1."


# --- in a process of its own ------------------------------------------------------------------------------------------


def test_importing_the_doctor_waits_for_nothing_heavy():
    heavy = ["torch", "numpy", "onnxruntime", "insightface", "diffusers"]
    code = f"import json, sys, dhumandiff.doctor; print(json.dumps([n for n in {heavy} if n in sys.modules]))"
    out = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert json.loads(out.stdout) == []


def test_with_nothing_but_python_there_is_still_a_report(folder):
    blocked = (
        "torch",
        "numpy",
        "safetensors",
        "onnxruntime",
        "insightface",
        "huggingface_hub",
        "einops",
        "PIL",
        "scipy",
    )
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked})); from dhumandiff.__main__ import main; "
    code += "sys.exit(main(sys.argv[1:]))"
    out = subprocess.run(
        [sys.executable, "-c", code, "doctor", "--models", str(folder)],
        cwd=REPOSITORY, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert out.returncode == 1
    assert out.stderr == ""
    assert "https://pytorch.org/get-started/locally/" in out.stdout
    assert all(name in out.stdout.splitlines()[-1] for name in ("torch", "numpy", "onnxruntime", "pillow"))


def test_one_file_that_nobody_can_read_leaves_the_report(folder, capsys, monkeypatch):
    """Whatever a damaged file raises, the rest is still told, and so is the file."""
    from dhumandiff.formats import ip_adapter, reading, released

    def breaks(*_):
        raise MemoryError("an unheard-of kind of damage")

    (folder / "ipadapter").mkdir(exist_ok=True)
    (folder / "ipadapter" / "other.safetensors").write_bytes(b"x")
    monkeypatch.setattr(ip_adapter, "fits", breaks)
    for module in (reading, released):
        monkeypatch.setattr(module, "read_tensor_file", breaks)
    text = doctor(capsys, folder)[1]
    assert "an unheard-of kind of damage" in text
    assert "DHumanDiff cannot be read" in text
    assert "other.safetensors" not in text
