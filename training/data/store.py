"""Files on a disk or on a store: s3://, gs://, https:// and whatever else fsspec knows, by the names that it gives them.

A store may be away for a while. What was asked of it is asked again a few times; then the command ends with the store's name,
instead of setting aside all pictures that come next.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, cast

from dhumandiff.errors import DHumanDiffError, short_error
from dhumandiff.io import expand_user

from .. import TrainingError

__all__ = [
    "StoreError",
    "Tree",
    "as_path",
    "glob_url",
    "is_url",
    "list_tree",
    "on_store",
    "open_url",
    "read_many",
    "read_path",
    "read_url",
    "size_of",
]

WAITS = (1.0, 5.0, 15.0)
"""Seconds before a store is asked once more."""

_FOR_GOOD = (PermissionError, ImportError, ValueError, TypeError)  # asking again would change nothing
_AT_ONCE = 500  # files asked for in one call

Given = TypeVar("Given")


class StoreError(TrainingError):
    """A store does not answer; nothing is wrong with any one picture."""


@dataclass(frozen=True)
class Tree:
    """What lies in a folder, listed once.

    Attributes:
        root: the folder, as a path or as a URL.
        names: of everything in it, from the root on, in order.
        sizes: of files on a store, bytes; -1: not told. Of a disk nothing is asked before it is needed.
    """

    root: str
    names: tuple[PurePosixPath, ...]
    sizes: dict[PurePosixPath, int]

    def __contains__(self, name: PurePosixPath) -> bool:
        return name in self.sizes

    def path(self, name: PurePosixPath) -> str:
        """Where one of the names is."""
        return f"{self.root.rstrip('/')}/{name}" if is_url(self.root) else str(Path(self.root) / name)


def is_url(path: str) -> bool:
    """Whether a path is of a store (or of a command, pipe:...), not of a disk."""
    return "://" in path or path.startswith("pipe:")


def list_tree(root: str) -> Tree:
    """List a folder and all that is in it.

    Raises:
        StoreError: the store does not answer, or what is needed to ask it is missing.
    """
    if not is_url(root):
        folder = expand_user(root)
        names = sorted(PurePosixPath(path.relative_to(folder).as_posix()) for path in folder.rglob("*"))
        return Tree(str(folder), tuple(names), dict.fromkeys(names, -1))
    system, inside = _filesystem(root)
    try:
        found = on_store(root, lambda: system.find(inside, detail=True))
    except FileNotFoundError:
        found = {}
    start = len(inside.rstrip("/")) + 1
    sizes = {PurePosixPath(path[start:]): int(info.get("size") or -1) for path, info in found.items() if path[start:]}
    return Tree(root, tuple(sorted(sizes)), sizes)


def as_path(path: str) -> Path:
    """A path on a disk, or one on a store that is used alike.

    Raises:
        StoreError: a package that is needed to ask the store is missing.
    """
    if not is_url(path):
        return expand_user(path)
    _filesystem(path)
    try:
        return cast(Path, import_module("upath").UPath(path))  # its methods are pathlib's
    except ImportError as error:
        raise StoreError(
            f"Writing to {path} needs universal_pathlib. Install it with: pip install universal_pathlib",
            code="no-universal-pathlib",
        ) from error


def open_url(url: str) -> Any:
    """A file on a store, open for reading; it can be read at any place.

    Raises:
        FileNotFoundError: it is not there.
        StoreError: the store does not answer.
    """
    system, inside = _filesystem(url)
    return on_store(url, lambda: system.open(inside, "rb"))


def read_url(url: str, offset: int = 0, size: int = -1) -> bytes:
    """A stretch of a file on a store; size -1: to its end.

    Raises:
        FileNotFoundError: it is not there.
        StoreError: the store does not answer.
    """
    system, inside = _filesystem(url)
    if offset == 0 and size < 0:
        return on_store(url, lambda: system.cat_file(inside))
    return on_store(url, lambda: system.cat_file(inside, start=offset, end=None if size < 0 else offset + size))


def glob_url(pattern: str) -> list[str]:
    """The URLs that a pattern with * stands for.

    Raises:
        StoreError: the store does not answer.
    """
    system, inside = _filesystem(pattern)
    found = on_store(pattern, lambda: system.glob(inside))
    return sorted(path if is_url(path) else system.unstrip_protocol(path) for path in found)


def read_many(urls: Sequence[str]) -> dict[str, bytes]:
    """Small files on one store, many at a time, as one after the other would take a store all day.

    Raises:
        StoreError: the store does not answer, or one of them is gone.
    """
    found: dict[str, bytes] = {}
    for start in range(0, len(urls), _AT_ONCE):
        some = urls[start : start + _AT_ONCE]
        system, _ = _filesystem(some[0])
        inside = [system._strip_protocol(url) for url in some]
        try:
            told = on_store(some[0], partial(system.cat, inside))
        except FileNotFoundError as error:
            raise StoreError(
                f"{error} was on the store when it was listed, and is gone. Run the same command again when nobody changes the data.",
                code="store-changed",
            ) from error
        found |= {url: told[path] for url, path in zip(some, inside, strict=True)}
    return found


def read_path(path: Path) -> bytes:
    """All of a file of `as_path`.

    Raises:
        OSError: it is not there, or the disk says no.
        StoreError: its store does not answer.
    """
    return on_store(str(path), path.read_bytes) if is_url(str(path)) else path.read_bytes()


def size_of(path: Path) -> int:
    """Bytes of a file of `as_path`; -1: it is not there.

    Raises:
        StoreError: its store does not answer.
    """
    if not is_url(str(path)):
        return path.stat().st_size if path.is_file() else -1
    return on_store(str(path), lambda: path.stat().st_size if path.is_file() else -1)


def on_store(url: str, ask: Callable[[], Given]) -> Given:
    """Ask a store, and once more after a while if it does not answer.

    Args:
        url: of what is asked for, for the message.
        ask: asks.

    Raises:
        FileNotFoundError, IsADirectoryError: the store's answer is that there is no such file.
        StoreError: it has none.
    """
    for asked, wait in enumerate((*WAITS, None), 1):
        try:
            return ask()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, DHumanDiffError):
            raise
        except Exception as error:  # each store has errors of its own
            if wait is None or isinstance(error, _FOR_GOOD):
                times = f"asked {asked} times" if asked > 1 else "asked once"
                raise StoreError(
                    f"{url} cannot be read or written, {times} ({short_error(error, kind=True)}). Nothing finished is lost: see that "
                    "the store is there and lets you in, and run the same command again.",
                    code="store-does-not-answer",
                ) from error
        time.sleep(wait)
    raise AssertionError  # the last turn returns or raises


def _filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it."""
    try:
        fsspec = import_module("fsspec.core")
    except ImportError as error:
        raise StoreError(f"{url} needs fsspec. Install it with: pip install fsspec", code="no-fsspec") from error
    try:
        return on_store(url, lambda: fsspec.url_to_fs(url))
    except StoreError as error:
        cause = error.__cause__
        if isinstance(cause, (ImportError, ValueError)):  # "Install s3fs to access S3"; "Protocol not known: x"
            raise StoreError(f"{url} cannot be opened: {short_error(cause)}.", code="store-not-known") from cause
        raise
