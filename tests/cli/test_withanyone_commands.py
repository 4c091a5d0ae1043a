"""WithAnyone's file in the commands that know weights: inspect, download, convert."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from support.withanyone_files import branch_file, withanyone_file

from dhumandiff import formats
from dhumandiff.__main__ import main
from dhumandiff.catalogue import CATALOGUE, WITHANYONE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inspect_says_what_the_file_is(tmp_path, capsys, dtype):
    file = withanyone_file(tmp_path / "withanyone.safetensors", dtype=dtype, flux=True, unused=True)
    assert formats.detect(file) == "withanyone"
    assert main(["inspect", str(file)]) == 0
    text = capsys.readouterr().out
    for words in (
        "both branches",
        "width 32",
        "5 blocks",
        "antelopev2",
        "double_blocks",
        "Non-Commercial",
        str(dtype)[6:],
    ):
        assert words in text
    assert main(["inspect", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["kind"], found["width"], found["blocks"]) == ("withanyone", "withanyone", 32, 5)
    assert set(found["parameters"]) == {"arcface_in_arc", "arcface_in_sig", "siglip_in_sig", "ipa_arc", "ipa_sig"}
    assert len(found["ignored"]) == 2


def test_inspect_tells_branches_and_nan(tmp_path, capsys):
    assert main(["inspect", str(branch_file(tmp_path / "arc.safetensors", "arc"))]) == 0
    assert "ArcFace branch" in capsys.readouterr().out
    nan = {"ipa_sig.1.to_q.weight": torch.full((128, 32), float("nan"))}
    assert main(["inspect", str(withanyone_file(tmp_path / "nan.safetensors", changed=nan))]) == 0
    assert "NaN or infinite values in ipa_sig.1.to_q.weight" in capsys.readouterr().out


def test_convert_says_that_it_is_another_method_s(tmp_path, capsys):
    file = withanyone_file(tmp_path / "withanyone.safetensors")
    assert main(["convert", str(file), str(tmp_path / "pair.safetensors")]) == 1
    assert "Load WithAnyone Adapter" in capsys.readouterr().err


def test_download_fetches_the_one_file(tmp_path, monkeypatch, capsys):
    file = withanyone_file(tmp_path / "published.safetensors")
    asked = []

    def model_info(repository, *, files_metadata, timeout):
        assert repository == WITHANYONE.repository
        names = [SimpleNamespace(rfilename="withanyone.safetensors", size=file.stat().st_size)]
        return SimpleNamespace(siblings=[*names, SimpleNamespace(rfilename="README.md", size=3)], sha="1")

    def download(repository, filename, *, revision, local_dir):
        asked.append((repository, filename, revision))
        Path(local_dir).mkdir(parents=True, exist_ok=True)
        return str(Path(local_dir, filename).write_bytes(file.read_bytes()) and Path(local_dir, filename))

    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: SimpleNamespace(model_info=model_info))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.chdir(tmp_path)
    assert main(["download", "--method", "withanyone"]) == 0
    assert asked == [("WithAnyone/WithAnyone", "withanyone.safetensors", "1")]
    assert (tmp_path / "models" / "withanyone" / "withanyone.safetensors").is_file()
    assert f"License: {WITHANYONE.license}" in capsys.readouterr().out


def test_the_list_of_downloads_names_everything_with_its_license(capsys):
    assert main(["download", "--list"]) == 0
    text = capsys.readouterr().out
    for known in CATALOGUE:
        for words in (known.title, known.url, f"models/{known.folder}/", known.license):
            assert words in text
