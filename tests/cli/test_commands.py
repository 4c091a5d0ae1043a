"""The file commands, as people type them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import huggingface_hub.errors
import pytest
import torch
from support import layouts

import dhumandiff
from dhumandiff import Adapter
from dhumandiff.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
FILES = list(layouts.FILES.values())


def error_of(capsys, *argv):
    """Run a command that fails; return its one line on stderr."""
    assert main([str(x) for x in argv]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"error: .+\n", err)
    return err


def test_convert_goes_there_and_back(tmp_path, capsys):
    folder = layouts.released_folder(tmp_path / "a", dtype=torch.float16)
    assert main(["convert", str(folder), str(tmp_path / "b.safetensors")]) == 0
    assert main(["convert", str(tmp_path / "b.safetensors"), str(tmp_path / "c")]) == 0
    assert "(17 layers)" in capsys.readouterr().out
    for name in FILES:
        one, other = torch.load(folder / name), torch.load(tmp_path / "c" / name)
        assert all(torch.equal(one[key], other[key]) for key in one.keys() | other.keys())


def test_convert_keeps_what_is_there_unless_forced(tmp_path, capsys):
    folder = layouts.released_folder(tmp_path / "a")
    native = tmp_path / "b.safetensors"
    native.write_text("precious")
    assert "is there already" in error_of(capsys, "convert", folder, native)
    assert native.read_text() == "precious"
    assert main(["convert", str(folder), str(native), "--force"]) == 0
    capsys.readouterr()
    other = layouts.released_folder(tmp_path / "c", seed=1)
    before = (other / "mapping.pt").read_bytes()
    assert "is there already" in error_of(capsys, "convert", native, other)
    assert (other / "mapping.pt").read_bytes() == before
    assert main(["convert", str(native), str(other), "--force"]) == 0
    assert (other / "mapping.pt").read_bytes() != before


def test_convert_refuses_other_endings_and_what_cannot_be_held(tmp_path, capsys):
    plus = layouts.ip_adapter_file(tmp_path / "plus.bin")
    assert "choose a name ending in .safetensors" in error_of(capsys, "convert", plus, tmp_path / "b.pt")
    assert "they come from an IP-Adapter" in error_of(capsys, "convert", plus, tmp_path / "folder")
    assert main(["convert", str(plus), str(tmp_path / "b.safetensors")]) == 0
    assert Adapter.from_pretrained(tmp_path / "b.safetensors").info.shared


def test_convert_never_overwrites_its_source_or_a_note(tmp_path, capsys):
    plus = layouts.ip_adapter_file(tmp_path / "plus.safetensors")
    folder = layouts.released_folder(tmp_path / "a" / "inside")
    before = plus.read_bytes()
    (tmp_path / "link.safetensors").symlink_to(plus)
    for source, destination in (
        (plus, plus),
        (plus, tmp_path / "a" / ".." / "plus.safetensors"),
        (plus, tmp_path / "link.safetensors"),
        (folder, folder),
        (folder.parent, folder),
    ):
        assert "the source would be overwritten" in error_of(capsys, "convert", source, destination, "--force")
    assert plus.read_bytes() == before
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "adapter.json").write_text("another program's")
    assert "adapter.json is there already" in error_of(capsys, "convert", folder, tmp_path / "b")
    assert (tmp_path / "b" / "adapter.json").read_text() == "another program's"


def test_convert_takes_a_folder_with_a_point_in_its_name(tmp_path):
    folder = layouts.released_folder(tmp_path / "a")
    assert main(["convert", str(folder), str(tmp_path / "v1.0")]) == 0
    assert (tmp_path / "v1.0" / "mapping.pt").is_file()


def test_convert_of_something_else_writes_nothing(tmp_path, capsys):
    (tmp_path / "a.safetensors").write_text("<html>")
    assert "a web page" in error_of(capsys, "convert", tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_said(tmp_path, capsys, number):
    folder = layouts.released_folder(tmp_path / "a")
    mapping = torch.load(folder / "mapping.pt")
    mapping["fc1.weight"][0, 0] = number
    torch.save(mapping, folder / "mapping.pt")
    assert main(["inspect", str(folder)]) == 0
    assert "NaN or infinite values in mapping.fc1.weight" in capsys.readouterr().out
    assert main(["inspect", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["not_finite"] == ["mapping.fc1.weight"]
    assert "mapping.fc1.weight holds NaN" in error_of(capsys, "convert", folder, tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


def test_inspect_tells_people(tmp_path, capsys):
    folder = layouts.released_folder(tmp_path / "a", dtype=torch.float16)
    assert main(["inspect", str(folder)]) == 0
    out = capsys.readouterr().out
    for words in (
        "the four released files",
        "sdxl, 17 cross-attention layers (5 of width 64, 12 of width 128)",
        "16 x 96 a face, keys and values: 2 persons",
        "identity 512 -> token 64; words 32 wide",
        "insightface buffalo_l, channels rgb-swapped",
        "float16",
        "none stated by the authors",
    ):
        assert words in out


def test_inspect_tells_programs(tmp_path, capsys):
    plus = layouts.ip_adapter_file(tmp_path / "plus.safetensors")
    assert main(["inspect", str(plus), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    parts = layouts.tensors(names=("",))
    counts = {part: sum(t.numel() for t in parts[part].values()) for part in ("face_projection", "attention")}
    assert found["format"] == "ip-adapter-plus"
    assert found["parameters"] == counts
    assert found["bytes"] == 4 * sum(counts.values())
    assert (found["layers"], found["shared"], found["subject_path"], found["dtypes"]) == (17, True, False, ["float32"])
    assert found["licence"] == "Apache-2.0"


def test_inspect_of_something_else_says_what_it_looks_like(tmp_path, capsys):
    torch.save({"lora_unet_x.lora_up.weight": torch.zeros(2)}, tmp_path / "a.pt")
    assert "this looks like a LoRA" in error_of(capsys, "inspect", tmp_path / "a.pt")


def python(*argv, **environment):
    return subprocess.run(
        [sys.executable, "-m", "dhumandiff", *map(str, argv)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_names_the_commands_and_does_not_wait_for_torch():
    done = python("--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("download", "inspect", "convert"))
    code = "import sys, dhumandiff.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_an_unknown_command_is_a_wrong_command_line():
    done = python("paint")
    assert done.returncode == 2
    assert "invalid choice" in done.stderr


def test_the_version_is_that_of_the_package():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'\nversion = "{dhumandiff.__version__}"\n' in project
    assert {"Adapter", "FaceReference"} <= set(dir(dhumandiff))
    with pytest.raises(AttributeError, match="has no attribute 'Adaptor'"):
        dhumandiff.Adaptor  # noqa: B018 (looking it up is the test)


# Download


class Hub:
    """The hub as the download sees it: a listing with sizes, and files that are copied from a folder."""

    def __init__(self, folder, prefix="", cut=0):
        self.folder, self.prefix, self.cut = folder, prefix, cut
        self.asked = []

    def model_info(self, repository, *, files_metadata, timeout):
        assert (repository, files_metadata) == ("Pan1111/DHumanDiff", True)
        names = sorted(path.name for path in self.folder.iterdir())
        sizes = [(self.folder / name).stat().st_size for name in names]
        siblings = [SimpleNamespace(rfilename=self.prefix + n, size=s) for n, s in zip(names, sizes, strict=True)]
        return SimpleNamespace(siblings=[*siblings, SimpleNamespace(rfilename="README.md", size=3)], sha="5e1f")

    def hf_hub_download(self, repository, filename, *, revision, local_dir):
        assert revision == "5e1f"  # that of the listing, whatever is published meanwhile
        self.asked.append(filename)
        path = Path(local_dir) / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        content = (self.folder / Path(filename).name).read_bytes()
        path.write_bytes(content[: len(content) - self.cut])
        return str(path)

    def install(self, monkeypatch):
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: self)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", self.hf_hub_download)
        return self


@pytest.fixture
def published(tmp_path):
    return layouts.released_folder(tmp_path / "published")


@pytest.mark.parametrize("prefix", ["", "weights/"])
def test_download_fetches_the_four_files_and_says_what_came(tmp_path, published, monkeypatch, capsys, prefix):
    hub = Hub(published, prefix).install(monkeypatch)
    assert main(["download", "--to", str(tmp_path / "models")]) == 0
    assert hub.asked == [prefix + name for name in FILES]
    out = capsys.readouterr().out
    assert "17 cross-attention layers" in out
    assert "no license" in out
    assert Adapter.from_pretrained(tmp_path / "models" / "DHumanDiff").info.layers == 17


def test_download_checks_sizes(tmp_path, published, monkeypatch, capsys):
    Hub(published, cut=7).install(monkeypatch)
    size = (published / FILES[0]).stat().st_size
    message = error_of(capsys, "download", "--to", tmp_path / "models")
    assert f"face_projection.pt: the file has {size - 7:,} bytes, Hugging Face says {size:,}. Remove it" in message


def test_download_notices_files_that_are_gone(tmp_path, published, monkeypatch, capsys):
    (published / "mapping.pt").unlink()
    Hub(published).install(monkeypatch)
    assert "no longer holds mapping.pt" in error_of(capsys, "download", "--to", tmp_path / "models")


def offline_message(message, folder):
    return (
        all(name in message for name in FILES)
        and "huggingface.co/Pan1111/DHumanDiff" in message
        and str(folder) in message
    )


def test_download_offline_says_at_once_what_to_put_where(tmp_path):
    done = python("download", "--to", tmp_path / "models", HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(r"error: .*offline mode is on.*\n", done.stderr)
    assert offline_message(done.stderr, tmp_path / "models" / "DHumanDiff")
    assert not (tmp_path / "models").exists()


def test_download_without_a_network_says_what_to_put_where(tmp_path):
    done = python("download", "--to", tmp_path / "models", HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="0")
    assert done.returncode == 1
    assert re.fullmatch(r"error: .*cannot be fetched.*\n", done.stderr)
    assert offline_message(done.stderr, tmp_path / "models" / "DHumanDiff")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (huggingface_hub.errors.LocalEntryNotFoundError("no connection"), "no connection"),
        (ConnectionError("reset by peer"), "reset by peer"),
        (TimeoutError(), "TimeoutError"),
        (OSError(28, "No space left on device"), "no space left on the disk"),
    ],
)
def test_download_that_breaks_off_says_why(tmp_path, published, monkeypatch, capsys, error, words):
    hub = Hub(published).install(monkeypatch)

    def broken(*args, **kwargs):
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", broken)
    message = error_of(capsys, "download", "--to", tmp_path / "models")
    assert words in message
    assert offline_message(message, tmp_path / "models" / "DHumanDiff")
    assert hub.asked == []


def test_a_slip_of_ours_is_not_hidden_as_a_network_failure(tmp_path, published, monkeypatch):
    Hub(published).install(monkeypatch)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["download", "--to", str(tmp_path / "models")])


def test_download_without_huggingface_hub_says_how_to_install_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install huggingface_hub" in error_of(capsys, "download", "--to", tmp_path / "models")


def test_the_default_place_is_the_model_folder(published, tmp_path, monkeypatch, capsys):
    Hub(published).install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert main(["download"]) == 0
    assert (tmp_path / "models" / "dhumandiff" / "DHumanDiff" / "mapping.pt").is_file()
    shutil.rmtree(tmp_path / "models")
