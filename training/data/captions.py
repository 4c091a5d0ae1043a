"""Captions that people wrote: in a text beside a picture, or for many pictures in a table (metadata.py)."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Mapping
from functools import partial
from os import PathLike
from pathlib import Path, PurePath, PurePosixPath

from dhumandiff.errors import DHumanDiffError, short_error
from dhumandiff.io import decode_text, expand_user, printable

from .. import TrainingError
from .metadata import Row, read_table
from .settings import Source
from .store import Tree, is_url, read_many, read_url

__all__ = ["caption_text", "captions_beside", "open_table", "picture_key", "read_captions"]

_FILES = tuple(f"{name}.{ending}" for ending in ("csv", "parquet", "jsonl") for name in ("captions", "metadata"))
"""Tables that are looked for; the last ones win."""

_TEXTS = (".txt", ".TXT")


MAX_CAPTION = 1 << 16
"""Bytes: some 150 pieces of what CLIP reads at once. What is longer is no caption."""


def caption_text(read: Callable[[], bytes], name: str) -> tuple[str, str]:
    """A caption, and "" or why it cannot be read."""
    try:
        data = read()
        if len(data) > MAX_CAPTION:
            return "", printable(f"{name} has {len(data):,} bytes, which is no caption.")
        return decode_text(data, name).strip(), ""
    except DHumanDiffError as error:
        return "", printable(str(error))
    except OSError as error:
        return "", printable(f"{name} cannot be read: {short_error(error)}.")


def captions_beside(tree: Tree, pictures: list[PurePosixPath]) -> Mapping[PurePosixPath, tuple[str, str]]:
    """For each picture with a text of its name: the caption in it, and "" or why it cannot be read."""
    beside = {
        picture: text
        for picture in pictures
        if (text := next((one for ending in _TEXTS if (one := picture.with_suffix(ending)) in tree), None)) is not None
    }
    if not is_url(tree.root):
        return {picture: _caption_of(Path(tree.path(text))) for picture, text in beside.items()}
    urls = {picture: tree.path(text) for picture, text in beside.items()}
    found = read_many([*urls.values()])
    return {picture: caption_text(partial(found.__getitem__, url), url) for picture, url in urls.items()}


def _caption_of(file: Path) -> tuple[str, str]:
    if not file.is_file():
        return "", printable(f"{file} is no file that can be read: a folder, a pipe, or a link that leads nowhere.")
    return caption_text(file.read_bytes, str(file))


def picture_key(name: str | PathLike) -> str:
    """The name of a picture, one for what Windows (backslashes) and macOS (accents of their own) make of it."""
    return unicodedata.normalize("NFC", PurePath(str(name).replace("\\", "/")).as_posix())


def read_captions(source: Source, tree: Tree | None, notes: list[str]) -> dict[str, Row]:
    """Picture's key -> what the source's tables say of it.

    Args:
        source: may name one table.
        tree: of its folder; None: it has none, as parquet files and tars.
        notes: gets what is odd and can be passed over.

    Raises:
        TrainingError: a table that cannot be read, or a row of it; the message names both.
    """
    wanted: list[tuple[str, PurePosixPath]] = []  # each table, and the folder that its names count from
    if source.captions:
        path = source.captions if is_url(source.captions) else str(expand_user(source.captions))
        if not is_url(path) and not os.path.isfile(path):
            raise TrainingError(
                f"There is no file of captions {path}. Correct `captions` of {source.path}.", code="no-captions"
            )
        wanted.append((path, _within(path, tree)))
    elif tree is not None:
        wanted += [(tree.path(one), one.parent) for name in _FILES for one in tree.names if one.name == name]
    found: dict[str, Row] = {}
    for path, inside in wanted:
        seen: dict[str, Row] = {}
        for row in read_table(_content(path), path, notes):
            key = picture_key(inside / row.name.replace("\\", "/"))
            if key in seen:
                notes.append(f"{row.where} names {row.name} once more, after {seen[key].where}: the later one counts")
            seen[key] = row
        found |= {key: row.over(found.get(key)) for key, row in seen.items()}
    return found


def open_table(table: str, notes: list[str]) -> list[Row]:
    """The rows of one table by its path or URL.

    Raises:
        TrainingError: it is not there, or cannot be read.
    """
    path = table if is_url(table) else str(expand_user(table))
    return [*read_table(_content(path), path, notes)]


def _content(path: str) -> bytes:
    try:
        return read_url(path) if is_url(path) else Path(path).read_bytes()
    except OSError as error:
        raise TrainingError(
            f"The captions {path} cannot be read: {short_error(error, limit=400)}.", code="captions-not-readable"
        ) from error


def _within(path: str, tree: Tree | None) -> PurePosixPath:
    """The folder of a table, from the source's on; that itself for a table from elsewhere."""
    if tree is None:
        return PurePosixPath()
    if is_url(path):
        root = tree.root.rstrip("/") + "/"
        return PurePosixPath(path.removeprefix(root)).parent if path.startswith(root) else PurePosixPath()
    folder, root = Path(path).parent, Path(tree.root)
    return PurePosixPath(folder.relative_to(root).as_posix()) if folder.is_relative_to(root) else PurePosixPath()
