"""The doctor on WithAnyone: what a first picture with FLUX.1 lacks, and nothing of it for those who draw with SDXL."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from safetensors.torch import save_file
from support.model_folders import doctor, face_pack, wrong
from support.siglip import SMALL
from support.withanyone_files import withanyone_file

from dhumandiff.formats import siglip

NOTHING = "Nothing stands in the way of a first portrait."


@pytest.fixture(autouse=True)
def _small_siglip(monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setitem(siglip.CONFIG, name, value)


def siglip_file(path, **changed):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: torch.zeros(shape) for name, shape in siglip._shapes().items()} | changed, path)


def flux_folder(base):
    """All that WithAnyone needs, in a ComfyUI that has nothing else."""
    for name in ("withanyone", "diffusion_models", "checkpoints"):
        (base / name).mkdir(parents=True, exist_ok=True)
    withanyone_file(base / "withanyone" / "withanyone.safetensors", dtype=torch.bfloat16)
    siglip_file(base / "clip_vision" / "siglip.safetensors")
    face_pack(base / "insightface" / "models" / "antelopev2")
    (base / "diffusion_models" / "flux1-dev-Q4_K_S.gguf").write_bytes(b"any")
    (base.parent / "comfyui_version.py").write_text('__version__ = "0.33.0"\n')
    return base


def section(text):
    return text.partition("WithAnyone (FLUX.1)\n")[2]


def test_whoever_draws_with_sdxl_reads_one_line(folder, capsys):
    code, text = doctor(capsys, folder)
    assert (code, text.splitlines()[-1]) == (0, NOTHING)
    assert len(section(text).strip().splitlines()) == 4  # the note, what to do, the line between, the summary
    assert "Portraits with SDXL need nothing of it" in text
    assert "--method withanyone --to" in text


def test_whoever_draws_with_flux_needs_nothing_of_sdxl(tmp_path, capsys):
    code, text = doctor(capsys, flux_folder(tmp_path / "ComfyUI" / "models"))
    assert (code, text.splitlines()[-1], wrong(text)) == (0, NOTHING, [])
    for words in (
        "WithAnyone, both branches (FLUX of width 32, 5 blocks)",
        "SigLIP",
        "antelopev2",
        "flux1-dev-Q4_K_S.gguf",
    ):
        assert words in section(text)
    assert "DHumanDiff's released weights (four files) are not there" in text
    assert "siglip.safetensors: SigLIP base-patch16-256-i18n, which WithAnyone reads" in text


LACKING = {
    "siglip": ("clip_vision", "SigLIP base-patch16-256-i18n", ("clip_vision", "google/siglip", "Apache-2.0")),
    "faces": ("insightface", "the face pack antelopev2", ("antelopev2.zip", "non-commercial")),
    "flux": ("diffusion_models", "a FLUX.1 model", ("black-forest-labs/FLUX.1-dev", "Non-Commercial")),
}


@pytest.mark.parametrize("lost", LACKING)
def test_what_is_missing_has_a_place_a_source_and_a_license(folder, capsys, lost):
    place, name, words = LACKING[lost]
    flux_folder(folder)
    if lost == "siglip":
        (folder / place / "siglip.safetensors").unlink()
    elif lost == "faces":
        shutil.rmtree(folder / place / "models" / "antelopev2")
    else:
        shutil.rmtree(folder / place)
    code, text = doctor(capsys, folder)
    assert code == 1
    assert text.splitlines()[-1] == f"1 thing is missing: {name}."
    (line,) = wrong(text)
    assert all(word in line for word in words)


def test_a_file_in_another_folder_is_to_be_moved(folder, capsys):
    flux_folder(folder)
    for kind in ("diffusion_models", "dhumandiff"):
        shutil.move(folder / "withanyone" / "withanyone.safetensors", folder / kind / "withanyone.safetensors")
        code, text = doctor(capsys, folder)
        assert code == 1
        (line,) = wrong(text)
        assert f"{kind}/withanyone.safetensors to" in line.replace(os.sep, "/").partition("Move ")[2]
        shutil.move(folder / kind / "withanyone.safetensors", folder / "withanyone" / "withanyone.safetensors")


def test_a_damaged_or_wrong_file_is_named(folder, capsys):
    flux_folder(folder)
    file = folder / "withanyone" / "withanyone.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    assert "withanyone.safetensors: the file is cut off" in wrong(doctor(capsys, folder)[1])[0]
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.zeros(3, 1)}, file)
    assert "a FLUX model without WithAnyone's weights" in wrong(doctor(capsys, folder)[1])[0]
    (folder / "withanyone" / "good.safetensors").write_bytes(whole)
    code, text = doctor(capsys, folder)
    assert code == 0
    assert "a FLUX model without WithAnyone's weights" in text


def test_another_siglip_is_told_and_not_taken_for_it(folder, capsys):
    flux_folder(folder)
    words = {"text_model.embeddings.token_embedding.weight": torch.zeros(256_000, 1)}
    siglip_file(folder / "clip_vision" / "siglip.safetensors", **words)
    text = doctor(capsys, folder)[1]
    assert [line.split()[1] for line in wrong(text)] == ["SigLIP"]
    assert "this is SigLIP 2" in text
