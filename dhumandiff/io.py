"""Files are written at once or not at all: a half-written file never stands under its final name. Texts are read as what they
say they are, or not at all.

with atomic_write(path) as part:
    part.write_text(text)
text = read_text(path)
"""

from __future__ import annotations

import codecs
import errno
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import DHumanDiffError, ImageError, short_error

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "atomic_write",
    "atomic_write_all",
    "decode_text",
    "expand_user",
    "print_any_letter",
    "printable",
    "read_text",
    "why_not_written",
    "write_png",
]

_MARKS = (  # of byte order; UTF-32's begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (b"\x84\x31\x95\x33", "gb18030"),
)

LONGEST_NAME = 240
"""Bytes of a file's name that every file system takes, with what `atomic_write` puts around it while it writes."""


@contextmanager
def atomic_write(path: str | os.PathLike, *, needed: int = 0, sync: bool = False) -> Iterator[Path]:
    """Give a temporary path in the same folder, which takes the name `path` when the block ends without an error.

    Whatever goes wrong, the temporary file is removed and what stood under `path` stays as it was.

    Args:
        path: the final name; its folder exists.
        needed: how many bytes will be written. A disk with less room is refused before anything is.
        sync: wait until the bytes are on the disk before they get their name, so that not even a power cut leaves half a file.

    Raises:
        OSError: the folder cannot be written, or the disk is full; `why_not_written` says it in words.
    """
    with atomic_write_all([path], needed=needed, sync=sync) as parts:
        yield parts[0]


@contextmanager
def atomic_write_all(
    paths: Sequence[str | os.PathLike], *, needed: int = 0, sync: bool = False
) -> Iterator[list[Path]]:
    """The same for files of one folder that belong together: all of them get their names, or none does.

    Args:
        paths: the final names.
        needed: how many bytes will be written in all.
        sync: as for `atomic_write`.

    Raises:
        OSError: as for `atomic_write`.
    """
    finals = [Path(path) for path in paths]
    if needed and shutil.disk_usage(finals[0].parent).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    parts: list[Path] = []
    try:
        parts.extend(_temporary(path, "part") for path in finals)
        yield parts
        for part in parts:
            part.chmod(0o666 & ~_umask())  # mkstemp makes a file that only its owner may read
            if sync:
                with part.open("rb") as file:
                    os.fsync(file.fileno())
        replace_all(parts, finals)
    finally:
        for part in parts:
            with suppress(OSError):  # the reason why it cannot be removed would hide why it could not be written
                part.unlink(missing_ok=True)


def _temporary(path: Path, ending: str) -> Path:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=f".{ending}", dir=path.parent)
    os.close(handle)
    return Path(name)


def replace_all(parts: Sequence[Path], finals: Sequence[Path]) -> None:
    """Give every part its final name; when one cannot have it, those before it give theirs back."""
    if len(parts) == 1:
        os.replace(parts[0], finals[0])
        return
    kept: dict[Path, Path | None] = {}
    try:
        for part, final in zip(parts, finals, strict=True):
            kept[final] = _second_name(final) if final.is_file() else None
            os.replace(part, final)
    except BaseException:
        for final, old in kept.items():
            with suppress(OSError):
                os.replace(old, final) if old is not None else final.unlink(missing_ok=True)
            if old is not None:
                with suppress(OSError):
                    old.unlink(missing_ok=True)  # two names of one file are left as they are
        raise
    for old in kept.values():
        if old is not None:
            with suppress(OSError):
                old.unlink(missing_ok=True)


def _second_name(path: Path) -> Path:
    """Another name for a file, under which it stays when its own is taken; no moment goes by in which it has none."""
    name = _temporary(path, "old")
    name.unlink()
    try:
        os.link(path, name)
    except OSError:  # a disk without hard links
        os.replace(path, name)
    return name


def read_text(path: str | os.PathLike) -> str:
    """A text that people or other programs wrote; see `decode_text`.

    Raises:
        OSError: the file cannot be read.
        DHumanDiffError: nothing says in which encoding it is; the message names the file.
    """
    return decode_text(Path(path).read_bytes(), str(path))


def expand_user(path: str | os.PathLike) -> Path:
    """A path with ~ read as the home folder, and as itself where there is no such user."""
    return Path(os.path.expanduser(path))


def decode_text(data: bytes, name: str) -> str:
    """Bytes as text, with "\\n" for the line ends of every system and without a byte order mark.

    Only what is certain is read: what its byte order mark says, UTF-8, and UTF-16 or UTF-32 that begin with an ASCII letter.
    Other encodings (Windows-1252, GBK, Big5, Shift-JIS, EUC-KR ...) cannot be told from one another.

    Args:
        data: all of the file.
        name: what a message calls it.

    Raises:
        DHumanDiffError: nothing says in which encoding it is.
    """
    mark, encoding = next((each for each in _MARKS if data.startswith(each[0])), (b"", ""))
    encoding = encoding or (json.detect_encoding(data) if b"\0" in data[:4] else "utf-8")
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        what = f"byte 0x{data[len(mark) + error.start]:02x} at position {len(mark) + error.start}"
    else:
        found = re.search(r"\0|\x1b[$(]", text)  # two bytes a letter, or ISO-2022, whose letters are escaped
        if found is None:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
            return re.sub("^\ufeff+", "", text, flags=re.MULTILINE)  # more of them where files were joined
        what = f"character {found.start() + 1} is a control sign"
    raise DHumanDiffError(
        f"{name} is not UTF-8 ({what}), and nothing says what else it is. Save it as UTF-8.",
        code="text-of-unknown-encoding",
    )


def printable(name: str) -> str:
    """The name of a file in letters: bytes that are not UTF-8, which other systems write names in, as escapes."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def print_any_letter() -> None:
    """Let the program print letters that its terminal, or the file that its output goes to, has none for: as escapes.

    A Windows console knows some hundred letters, and a name in another encoding is none anywhere.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def why_not_written(error: Exception) -> str:
    """What kept a file from being written and what to do about it, as the end of a sentence."""
    code = getattr(error, "errno", None)
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or re.search("No space left|File too large", str(error)):
        return "no space left on the disk: make room, or choose another place"
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "permission denied: choose a folder that you may write to"
    if code == errno.ENOENT:
        return "the folder does not exist: make it, or choose another"
    if code in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST):
        return "there is a folder of this name, or a file in the place of a folder: choose another name"
    if code == errno.ENAMETOOLONG:
        return "the name is too long: choose a shorter one"
    if isinstance(error, RuntimeError):  # torch's writer says which assertion failed, not why
        return "writing broke off, most likely because the disk is full: make room, or choose another place"
    return short_error(error)


def write_png(image: Image, path: Path, record: Mapping[str, str]) -> None:
    """Write a picture as a PNG with these text chunks.

    Raises:
        ImageError: the disk says no ("picture-not-written").
    """
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for name, text in record.items():
        info.add_text(name, text)  # Pillow chooses the chunk that can hold the text's letters
    try:
        with atomic_write(path) as part:
            image.save(part, format="PNG", pnginfo=info)
    except OSError as error:
        raise ImageError(
            f"The picture cannot be written to {path}: {error.strerror or error}. Make room, or choose another folder.",
            code="picture-not-written",
        ) from error


def _umask() -> int:
    mask = os.umask(0)  # there is no way to read it without setting it
    os.umask(mask)
    return mask
