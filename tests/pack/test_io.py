"""Files are written at once or not at all."""

from __future__ import annotations

import errno
import io
import os
import sys
from pathlib import Path

import pytest
from PIL import Image
from support.refused import refused

from dhumandiff.errors import short_error
from dhumandiff.io import atomic_write, atomic_write_all, print_any_letter, why_not_written, write_png


def test_a_file_gets_its_name_when_it_is_whole(tmp_path: Path):
    path = tmp_path / "a.txt"
    with atomic_write(path, needed=3, sync=True) as part:
        part.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_broken_off_write_leaves_what_was_there(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as part:  # noqa: PT012  # what the block does before it fails is the test
        part.write_text("ne")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("stuck", [0, 1, 2])
def test_files_that_belong_together_change_together(tmp_path: Path, stuck: int):
    """Whichever of them cannot have its name."""
    paths = [tmp_path / name for name in "abc"]
    for path in paths[:2]:
        path.write_text("old")
    paths[stuck].unlink(missing_ok=True)
    paths[stuck].mkdir()
    before = {path: path.is_dir() or (path.is_file() and path.read_text()) for path in paths}
    with pytest.raises(OSError, match="directory"), atomic_write_all(paths) as parts:  # noqa: PT012  # what the block does before it fails is the test
        for part in parts:
            part.write_text("new")
    assert {path: path.is_dir() or (path.is_file() and path.read_text()) for path in paths} == before
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    paths[stuck].rmdir()
    with atomic_write_all(paths) as parts:
        for part in parts:
            part.write_text("new")
    assert [path.read_text() for path in paths] == ["new"] * 3
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]


def test_a_disk_with_less_room_is_refused_at_once(tmp_path: Path):
    with pytest.raises(OSError, match="No space") as caught, atomic_write(tmp_path / "a", needed=10**18):
        pytest.fail("the block is not reached")
    assert caught.value.errno == errno.ENOSPC
    assert "make room" in why_not_written(caught.value)
    assert not os.listdir(tmp_path)


def test_a_picture_that_cannot_be_written_is_named(tmp_path: Path):
    path = tmp_path / "nowhere" / "a.png"
    with refused("picture-not-written", str(path)):
        write_png(Image.new("RGB", (2, 2)), path, {})


def test_a_pictures_text_chunks_are_kept(tmp_path: Path):
    write_png(Image.new("RGB", (2, 2)), tmp_path / "a.png", {"dhumandiff": "{}", "words": "ä 漢"})
    assert Image.open(tmp_path / "a.png").text == {"dhumandiff": "{}", "words": "ä 漢"}


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.EACCES, "Permission denied", "/secret"), "Permission denied"),
        (RuntimeError("first.\nsecond"), "first"),
        (ValueError(), "ValueError"),
        (ValueError("x" * 500), "x" * 200),
    ],
)
def test_the_short_form_of_an_error(error: Exception, line: str):
    assert short_error(error) == line
    assert short_error(error, kind=True).startswith(type(error).__name__)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_letters_that_a_terminal_lacks_are_printed_as_escapes(monkeypatch):
    """A Windows console, or a file that its output goes to, and a name in no encoding."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", stream)
    print_any_letter()
    print("caf\u00e9 \u7537 \udcff", end="", flush=True)
    assert stream.buffer.getvalue() == b"caf\xe9 \\u7537 \\udcff"
