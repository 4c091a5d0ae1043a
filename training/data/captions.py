"""Captions that people wrote: in a text beside a picture, or for many pictures in a .jsonl or a .csv."""

from __future__ import annotations

import csv
import io
import json
import os
import unicodedata
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path, PurePath

from dhumandiff.errors import DHumanDiffError, short_error
from dhumandiff.io import decode_text, expand_user, printable, read_text

from .. import TrainingError
from .settings import Source

__all__ = ["CAPTION_FIELDS", "caption_beside", "caption_text", "picture_key", "read_captions"]

CAPTION_FIELDS = ("text", "caption", "prompt", "description")
_FILES = ("captions.csv", "metadata.csv", "captions.jsonl", "metadata.jsonl")  # the last ones win


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


def caption_beside(picture: Path) -> tuple[str, str]:
    """The caption in the text of a picture's name, and "" or why it cannot be read; two empty texts where there is none."""
    file = next((path for ending in (".txt", ".TXT") if os.path.lexists(path := picture.with_suffix(ending))), None)
    if file is None:
        return "", ""
    if not file.is_file():
        return "", printable(f"{file} is no file that can be read: a folder, a pipe, or a link that leads nowhere.")
    return caption_text(file.read_bytes, str(file))


def picture_key(name: str | PathLike) -> str:
    """The name of a picture, one for what Windows (backslashes) and macOS (accents of their own) make of it."""
    return unicodedata.normalize("NFC", PurePath(str(name).replace("\\", "/")).as_posix())


def read_captions(source: Source, root: Path, notes: list[str]) -> dict[str, str]:
    """Picture's key -> caption, out of the source's .jsonl and .csv files.

    Raises:
        TrainingError: a file that cannot be read, or a line of it; the message names both.
    """
    if source.captions:
        wanted = [expand_user(source.captions)]
        if not wanted[0].is_file():
            raise TrainingError(
                f"There is no file of captions {wanted[0]}. Correct `captions` of {source.path}.", code="no-captions"
            )
    else:
        every = sorted(path for path in root.rglob("*") if path.name in _FILES)  # links that lead nowhere, too
        wanted = [path for name in _FILES for path in every if path.name == name]
    found: dict[str, str] = {}
    for path in wanted:
        inside = path.parent.relative_to(root) if path.is_relative_to(root) else Path()
        try:
            text = read_text(path)
        except (OSError, DHumanDiffError) as error:
            raise TrainingError(
                f"The captions {path} cannot be read: {short_error(error, limit=400)}.", code="captions-not-readable"
            ) from error
        rows = _table(path, text, notes) if path.suffix.lower() in (".csv", ".tsv") else _lines(path, text)
        found.update((picture_key(inside / name.replace("\\", "/")), caption) for name, caption in rows)
    return found


def _lines(path: Path, text: str) -> Iterator[tuple[str, str]]:
    """File name and caption of every line of a .jsonl. A line ends at a line feed: texts may hold Unicode's other line ends."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, text = row["file_name"], next((row[key] for key in CAPTION_FIELDS if row.get(key)), "")
            if not isinstance(name, str) or not isinstance(text, str):
                raise TypeError(f"a {type(name).__name__} and a {type(text).__name__} in the place of texts")
            yield name, text
        except (RecursionError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise TrainingError(
                f"{path}, line {number} is not a JSON object with file_name and text ({error!r}). Correct the line.",
                code="unreadable-captions",
            ) from error


def _table(path: Path, text: str, notes: list[str]) -> Iterator[tuple[str, str]]:
    """File name and caption of every row of a .csv; spreadsheets part columns with a comma, a semicolon or a tab."""
    head = text.partition("\n")[0]
    parted = next((sign for sign in ",;\t" if "file_name" in next(csv.reader([head], delimiter=sign), [])), None)
    fields = next(csv.reader([head], delimiter=parted), []) if parted else []
    field = next((name for name in CAPTION_FIELDS if name in fields), None)
    if parted is None or field is None:
        notes.append(f"{path} has no columns file_name and {CAPTION_FIELDS[0]}, and is left out")
        return
    rows = csv.DictReader(io.StringIO(text), delimiter=parted)
    try:
        for row in rows:
            if any(row.get(None) or ()):
                raise csv.Error("it has more columns than the first line: put quotation marks around its text")
            if row["file_name"]:
                yield row["file_name"], row[field] or ""
    except csv.Error as error:
        raise TrainingError(
            f"{path}, line {rows.line_num} is no row of a table ({error}). Correct the line.",
            code="unreadable-captions",
        ) from error
