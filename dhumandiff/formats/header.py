"""The head of a tensor file: what is in it, by names, kinds and shapes, without reading the numbers.

    entries, metadata = read_header(path)
    entries["conv_in.weight"].shape

A file of 7 GB is looked at in milliseconds, and one that is cut off is noticed.
"""

from __future__ import annotations

import errno
import json
import re
from dataclasses import dataclass
from operator import index
from pathlib import Path

from ..errors import AdapterError, short_error

__all__ = ["Entry", "guess", "is_safetensors", "open_head", "os_reason", "read_header"]


@dataclass(frozen=True)
class Entry:
    """What the head says of one tensor."""

    dtype: str
    """In safetensors' words: F32, F16, BF16, F8_E4M3, ..."""
    shape: tuple[int, ...]


def open_head(path: Path) -> tuple[int, bytes]:
    """Size and first bytes of a file that can be a tensor file.

    Raises:
        AdapterError: it is empty, no ordinary file, cannot be opened, or stands for a file that was not fetched.
    """
    try:
        if not path.is_file():  # a pipe would be waited for without end
            raise AdapterError(f"{path}: this is no ordinary file. Choose the adapter's own.", code="no-ordinary-file")
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise AdapterError(
            f"{path}: the file cannot be opened ({os_reason(error)}).", code="file-not-readable"
        ) from error
    if not size:
        raise AdapterError(f"{path}: the file is empty (0 bytes). Get it again.", code="file-empty")
    if head.startswith(b"version https://git-lfs"):
        raise AdapterError(
            f"{path}: this is a Git LFS pointer, a text that stands for the file ({size} bytes). "
            "Fetch the file itself, with `git lfs pull` or from the download page.",
            code="git-lfs-pointer",
        )
    return size, head


def is_safetensors(head: bytes) -> bool:
    """Whether a file begins as safetensors do: eight bytes of length, then JSON."""
    return head[6:9] == b"\x00\x00{"


def read_header(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """Name -> entry of all tensors of a .safetensors, and its metadata.

    Raises:
        AdapterError: it is none, damaged, or cut off.
    """
    size, head = open_head(path)
    if not is_safetensors(head):
        raise AdapterError(
            f"{path}: this is no tensor file, it looks like {guess(head)}. Get the file again.", code="no-tensor-file"
        )
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length < size else None
        found = dict(header or {})
        metadata = found.pop("__metadata__", None)
        ends = [entry["data_offsets"][1] for entry in found.values()]
        wanted = 8 + length + max(map(index, ends), default=0)  # whole numbers only
        entries = {
            str(name): Entry(str(entry["dtype"]), tuple(map(index, entry["shape"]))) for name, entry in found.items()
        }
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise AdapterError(
            f"{path}: the header of this safetensors file is damaged ({short_error(error)}). Get it again.",
            code="file-damaged",
        ) from error
    if header is None or size < wanted:
        raise AdapterError(
            f"{path}: the file is cut off: {size:,} bytes are there, {wanted:,} are needed. Get it again.",
            code="file-cut-off",
        )
    return entries, metadata if isinstance(metadata, dict) else {}


def guess(head: bytes) -> str:
    """In words what a file is that begins so and is no tensor file."""
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page saved under this name (a login or error page, most likely)"
    if not re.search(rb"[\x00-\x08\x0e-\x1f]", head):
        return f"text, beginning with {head[:40].decode(errors='replace').splitlines()[0]!r}"
    return "something else, or its beginning is damaged"


def os_reason(error: OSError) -> str:
    """Why the system would not open or read a file."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return "permission denied: allow reading it, or copy it elsewhere"
    return short_error(error)
