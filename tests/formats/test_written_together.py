"""The four released files are one adapter: whenever writing is killed, what is left is the old one, the new one, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from support import layouts
from support.refused import refused

from dhumandiff import Adapter, io
from dhumandiff.errors import AdapterError
from dhumandiff.formats.released import FILES


class Killed(BaseException):
    """The process ends here: nothing behind it runs."""


def no_links(*_):
    raise OSError("this disk has none")


def as_published(folder: Path) -> None:
    layouts.released_folder(folder)


def as_before_0_2(folder: Path) -> None:
    layouts.small_adapter().save_released(folder)
    note = folder / "adapter.json"
    told = json.loads(note.read_text())
    del told["files"]
    note.write_text(json.dumps(told))


def as_now(folder: Path) -> None:
    layouts.small_adapter().save_released(folder)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in Adapter.from_pretrained(folder).state_dict().items()}


def loaded(folder: Path) -> dict[str, torch.Tensor] | str:
    """The weights, or the code of what is said of them."""
    try:
        return weights(folder)
    except AdapterError as error:
        return error.code


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def killed_after(moment: int, monkeypatch: pytest.MonkeyPatch, adapter: Adapter, folder: Path) -> bool:
    """Save with the process ending at the `moment`-th change of a name; whether it came to that."""
    real, unlink, count = io.os.replace, io.Path.unlink, 0

    def replace(source, target):
        nonlocal count
        if count == moment:
            raise Killed
        count += 1
        real(source, target)

    def remove(path, **options):
        if count == moment:  # a process that ended cleans nothing up
            raise Killed
        unlink(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(io.os, "replace", replace)
        patch.setattr(io.Path, "unlink", remove)
        try:
            adapter.save_released(folder)
        except Killed:
            return True
    return False


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("before", [as_published, as_before_0_2, as_now])
def test_writing_that_was_killed_never_leaves_a_mixture(tmp_path: Path, monkeypatch, before, links):
    if not links:
        monkeypatch.setattr(io.os, "link", no_links)
    new, moment, outcomes = layouts.small_adapter(seed=7), 0, set()
    before(tmp_path / "old")
    old = weights(tmp_path / "old")
    while True:
        folder = tmp_path / str(moment)
        shutil.copytree(tmp_path / "old", folder)
        killed = killed_after(moment, monkeypatch, new, folder)
        found = loaded(folder)
        if isinstance(found, str):
            outcomes.add(found)
        else:
            written = not list(folder.glob(".*.part"))
            assert same(found, dict(new.state_dict()) if written else old), moment
            outcomes.add("new" if written else "old")
        if not killed:
            break
        moment += 1
    assert moment >= 5
    assert not list(folder.glob(".*"))
    lacking = set() if links else {"released-file-missing"}
    assert outcomes == {"old", "new", "files-of-two-adapters"} | lacking


def test_a_file_out_of_another_folder_is_named(tmp_path: Path):
    for number in (1, 2):
        layouts.small_adapter(seed=number).save_released(tmp_path / str(number))
    shutil.copy(tmp_path / "2" / "mapping.pt", tmp_path / "1" / "mapping.pt")
    with refused("files-of-two-adapters", "mapping.pt and adapter.json", '"files"', error=AdapterError):
        Adapter.from_pretrained(tmp_path / "1")
    note = tmp_path / "1" / "adapter.json"
    told = json.loads(note.read_text())
    assert list(told["files"]) == list(FILES.values())
    del told["files"]  # as the sentence says
    note.write_text(json.dumps(told))
    Adapter.from_pretrained(tmp_path / "1")


@pytest.mark.parametrize("files", [[], 7, {"mapping.pt": None}, {"other.pt": "x"}])
def test_checksums_of_any_kind_stop_nothing_raw(tmp_path: Path, files):
    layouts.small_adapter().save_released(tmp_path / "a")
    note = tmp_path / "a" / "adapter.json"
    note.write_text(json.dumps({**json.loads(note.read_text()), "files": files}))
    found = loaded(tmp_path / "a")
    assert found in ("note-damaged", "files-of-two-adapters") or files == {"other.pt": "x"}
