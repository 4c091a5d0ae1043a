"""The doctor on small model folders: what it finds, what it says of the rest, and the command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support import layouts
from support.comfyui import REPOSITORY

from dhumandiff.__main__ import main
from dhumandiff.catalogue import BASE, FACE_PACKS
from dhumandiff.doctor import Folders, comfyui_beside, examine, models
from dhumandiff.doctor.findings import DAMAGED, MISSING, NOTE, OK, Finding, Report, Section, without_names
from dhumandiff.doctor.onnx_bytes import tiny_model, why_damaged

PATCHES = "vision_model.embeddings.patch_embedding.weight"


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    """Nobody's own face packs and caches."""
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))


@pytest.fixture
def folder(tmp_path):
    """A ComfyUI's models folder in which all is there."""
    base = tmp_path / "ComfyUI" / "models"
    layouts.released_folder(base / "dhumandiff" / "DHumanDiff", dtype=torch.float16)
    face_pack(base / "insightface" / "models" / "buffalo_l")
    for kind in ("clip_vision", "checkpoints"):
        (base / kind).mkdir()
    save_file({PATCHES: torch.zeros(80, 3, 2, 2)}, base / "clip_vision" / "tower.safetensors")
    (base / "checkpoints" / "sdxl.safetensors").write_bytes(b"any")
    (base.parent / "comfyui_version.py").write_text('__version__ = "0.33.0"\n')
    return base


def face_pack(place):
    place.mkdir(parents=True)
    for name in ("det_10g.onnx", "w600k_r50.onnx"):
        (place / name).write_bytes(tiny_model())
    return place


def doctor(capsys, folder, *options):
    """(exit code, text) of the command."""
    code = main(["doctor", "--models", str(folder), *map(str, options)])
    return code, capsys.readouterr().out


def wrong(text):
    """Lines of what stands in the way, each with the line of what to do."""
    lines = text.splitlines()
    return [" ".join(lines[i : i + 2]) for i, line in enumerate(lines) if line[2:].startswith((MISSING, DAMAGED))]


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


def test_in_an_empty_comfyui_each_missing_thing_has_a_place_a_way_to_get_it_and_a_licence(tmp_path, capsys):
    (tmp_path / "models" / "checkpoints").mkdir(parents=True)
    code, text = doctor(capsys, tmp_path / "models")
    assert code == 1
    assert text.splitlines()[-1] == (
        "4 things are missing: the adapter, the face pack buffalo_l, the image encoder, an SDXL checkpoint."
    )
    adapter, faces, tower, base = wrong(text)
    assert all("To do: " in line and "icence" in line for line in (adapter, faces, tower, base))
    for line, *words in (
        (adapter, "dhumandiff/DHumanDiff", "-m dhumandiff download --to", "ip_adapter_ca.pt", "Pan1111/DHumanDiff"),
        (faces, "insightface/models/buffalo_l", "switch `download` on", FACE_PACKS[0].license),
        (tower, "clip_vision", "models/image_encoder/model.safetensors", "h94/IP-Adapter", "Apache-2.0"),
        (base, "checkpoints", "stable-diffusion-xl-base-1.0", BASE.license),
    ):
        assert all(word in line.replace(os.sep, "/") for word in words)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:500]), "cut off"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_text("<!DOCTYPE html>"), "a web page saved under this name"),
        (lambda path: path.unlink(), "mapping.pt is not there"),
    ],
)
def test_a_damaged_adapter_is_named_with_the_reason(folder, capsys, damage, words):
    damage(folder / "dhumandiff" / "DHumanDiff" / "mapping.pt")
    save_file({PATCHES: torch.zeros(1280, 3, 2, 2)}, folder / "clip_vision" / "vit_h.safetensors")
    code, text = doctor(capsys, folder)
    assert code == 1
    assert text.splitlines()[-1] == "1 thing is damaged: the adapter DHumanDiff."
    (line,) = wrong(text)
    assert "DHumanDiff" in line
    assert words in line
    assert "-m dhumandiff download" in line


def test_one_damaged_adapter_is_told_but_another_one_is_enough(folder, capsys):
    (folder / "dhumandiff" / "old.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    code, text = doctor(capsys, folder)
    assert code == 0
    assert "old.safetensors: this is a Git LFS pointer" in text
    assert "To do: Get it again from where you had it, or remove it." in text


def test_a_download_that_has_just_begun_is_no_adapter(folder, capsys):
    for path in (folder / "dhumandiff" / "DHumanDiff").iterdir():
        path.unlink()
    code, text = doctor(capsys, folder)
    assert code == 1
    assert "It is empty." in wrong(text)[0]


def test_an_ip_adapter_is_enough_and_those_of_other_packs_are_left_alone(folder, capsys):
    for path in (folder / "dhumandiff" / "DHumanDiff").iterdir():
        path.unlink()
    (folder / "dhumandiff" / "DHumanDiff").rmdir()
    layouts.ip_adapter_file(folder / "ipadapter" / "ip-adapter-plus-face_sdxl_vit-h.bin")
    save_file({"image_proj.proj.weight": torch.zeros(2)}, folder / "ipadapter" / "ip-adapter_sd15.safetensors")
    save_file({"image_proj.proj.weight": torch.zeros(2)}, folder / "ipadapter" / "faceid-plusv2_sdxl.safetensors")
    code, text = doctor(capsys, folder)
    assert code == 0
    assert "an IP-Adapter Plus for SDXL (sdxl, 17 cross-attention layers, one set of weights for everybody" in text
    assert "ip-adapter_sd15" not in text
    assert "To do: Nothing, if another pack uses it." in text
    assert f"  {NOTE:<8} DHumanDiff's released weights (four files) are not there." in text


def test_saved_people_are_not_listed(folder, capsys):
    (folder / "dhumandiff" / "references").mkdir()
    save_file({"clip_hidden": torch.zeros(2)}, folder / "dhumandiff" / "references" / "anna.safetensors")
    assert "anna" not in doctor(capsys, folder)[1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (tiny_model()[:-1], "it is cut off"),
        (tiny_model()[:40], "it is cut off"),
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        (b"<html>not found</html>", "a web page"),
        (b"\xff" * 100, "no ONNX model"),
        (b"\x08\x08", "there is no graph"),
    ],
)
def test_a_damaged_face_pack_is_named_with_the_reason(folder, capsys, content, words):
    (folder / "insightface" / "models" / "buffalo_l" / "w600k_r50.onnx").write_bytes(content)
    code, text = doctor(capsys, folder)
    assert code == 1
    (line,) = wrong(text)
    assert "w600k_r50.onnx is damaged" in line
    assert words in line
    assert "Remove the folder" in line


def test_real_face_models_are_whole(faces_root, tmp_path):
    for model in (faces_root / "models" / "mini").glob("*.onnx"):
        assert why_damaged(model) is None
        (tmp_path / "cut.onnx").write_bytes(model.read_bytes()[:-10])
        assert "cut off" in why_damaged(tmp_path / "cut.onnx")


def test_a_face_pack_without_a_recogniser_or_without_files_is_not_enough(folder, capsys):
    pack = folder / "insightface" / "models" / "buffalo_l"
    (pack / "w600k_r50.onnx").unlink()
    assert "holds only det_10g.onnx" in wrong(doctor(capsys, folder)[1])[0]
    (pack / "det_10g.onnx").unlink()
    assert "no .onnx file in it" in wrong(doctor(capsys, folder)[1])[0]


def test_a_face_pack_in_the_place_of_the_other_host_is_to_be_copied(folder, tmp_path, capsys):
    pack = folder / "insightface" / "models" / "buffalo_l"
    place = tmp_path / "home" / ".insightface" / "models"
    place.mkdir(parents=True)
    pack.rename(place / "buffalo_l")
    (line,) = wrong(doctor(capsys, folder)[1])
    assert "lies in ~" in line
    assert "Copy the folder ~" in line
    assert doctor(capsys, folder, "--face-root", place.parent)[0] == 0


def test_a_face_pack_beside_models_is_found_as_the_node_finds_it(folder, capsys):
    root = folder / "insightface"
    (root / "models" / "buffalo_l").rename(root / "buffalo_l")
    assert doctor(capsys, folder)[0] == 0
    (root / "buffalo_l" / "w600k_r50.onnx").write_bytes(b"")
    (line,) = wrong(doctor(capsys, folder)[1])
    assert f"Remove the folder {root / 'buffalo_l'}." in line


@pytest.mark.parametrize("place", ["models", "."])
def test_a_face_pack_that_is_still_a_zip_or_has_no_folder_is_told(folder, capsys, place):
    root = folder / "insightface"
    pack = root / "models" / "buffalo_l"
    for model in pack.iterdir():
        model.rename(root / place / model.name)
    pack.rmdir()
    (line,) = wrong(doctor(capsys, folder)[1])
    assert "a pack has a folder of its own" in line
    assert f"Move the .onnx files of one pack into {pack}." in line
    (root / place / "antelopev2.zip").write_bytes(b"PK")
    (line,) = wrong(doctor(capsys, folder)[1])
    assert f"antelopev2.zip is not unpacked. To do: Unpack it to {root / 'models' / 'antelopev2'}." in " ".join(
        line.split()
    )


@pytest.mark.parametrize("kind", ["ipadapter", "clip_vision", "checkpoints"])
def test_released_weights_in_a_folder_of_other_models_are_to_be_moved(folder, capsys, kind):
    save_file({PATCHES: torch.zeros(1280, 3, 2, 2)}, folder / "clip_vision" / "vit_h.safetensors")
    (folder / kind).mkdir(exist_ok=True)
    there = (folder / "dhumandiff" / "DHumanDiff").rename(folder / kind / "downloaded")
    (line,) = wrong(doctor(capsys, folder)[1])
    assert f"lie in {there}, but are looked for in {folder / 'dhumandiff' / 'DHumanDiff'}" in line
    assert "To do: Move the files face_projection.pt" in line


def test_the_image_encoder_in_a_folder_of_other_models_is_to_be_moved(folder, capsys):
    there = folder / "ipadapter" / "image_encoder"
    there.mkdir(parents=True)
    (folder / "clip_vision" / "tower.safetensors").rename(there / "model.safetensors")
    (there / "clip_cut.safetensors").write_bytes(b"")
    (line,) = wrong(doctor(capsys, folder)[1])
    assert f"lies in {there}, but is looked for in {folder / 'clip_vision'}" in line
    assert f"To do: Move {there / 'model.safetensors'} to {folder / 'clip_vision'}." in line


def test_another_face_pack_is_enough_but_buffalo_is_what_the_weights_know(folder, capsys):
    packs = folder / "insightface" / "models"
    (packs / "buffalo_l").rename(packs / "antelopev2")
    code, text = doctor(capsys, folder)
    assert code == 0
    assert "buffalo_l is not among them" in text


def test_only_the_tower_that_the_adapter_was_trained_with_counts(folder, capsys):
    save_file({PATCHES: torch.zeros(1664, 3, 2, 2)}, folder / "clip_vision" / "tower.safetensors")
    (folder / "clip_vision" / "cut.safetensors").write_bytes(b"")
    code, text = doctor(capsys, folder)
    assert code == 1
    assert "tower.safetensors: CLIP ViT-bigG/14; not for this pack" in text
    assert "cut.safetensors: the file is empty" in text
    assert "The image encoder CLIP ViT-H/14 is not there" in wrong(text)[0]


def test_without_comfyui_the_base_and_the_encoder_may_lie_elsewhere(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(models, "_is_cached", lambda repository, file: False)
    face_pack(tmp_path / "faces" / "models" / "buffalo_l")
    (folder / "checkpoints" / "sdxl.safetensors").unlink()
    (folder / "checkpoints").rmdir()
    code, text = doctor(capsys, folder, "--face-root", tmp_path / "faces")
    assert code == 0
    assert "portraits without ComfyUI" in text
    assert "the first portrait fetches it" in text
    assert "--base says where it is" in text
    monkeypatch.setattr(models, "_is_cached", lambda repository, file: True)
    assert "is in Hugging Face's cache" in doctor(capsys, folder, "--face-root", tmp_path / "faces")[1]


def test_a_folder_that_is_not_there_is_empty(tmp_path, capsys):
    code, text = doctor(capsys, tmp_path / "nowhere")
    assert code == 1
    assert text.splitlines()[-1] == "2 things are missing: the adapter, the face pack buffalo_l."
    assert "allow_download=True" in text


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
    monkeypatch.setattr(models, "face_packs", lambda *_: 1 / 0)
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
    assert all(name in out.stdout.splitlines()[-1] for name in ("torch", "numpy", "insightface", "pillow"))
