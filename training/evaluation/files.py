"""The folder that results go to."""

from __future__ import annotations

import hashlib
from pathlib import Path

from dhumandiff.errors import short_error
from dhumandiff.io import atomic_write, expand_user

from .. import TrainingError

__all__ = ["contents_of", "make_folder", "write_text"]


def make_folder(path: str) -> Path:
    """Make a folder, if it is not there.

    Raises:
        TrainingError: it cannot be made.
    """
    out = expand_user(path)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(
            f"The folder {out} cannot be made ({short_error(error)}). Choose another (--out).", code="folder-not-made"
        ) from error
    return out


def write_text(path: Path, text: str) -> Path:
    """Write a text file at once or not at all; gives its path back.

    Raises:
        TrainingError: the disk says no.
    """
    try:
        with atomic_write(path) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise TrainingError(
            f"{path} cannot be written ({short_error(error)}). Choose another folder (--out).", code="cannot-write"
        ) from error
    return path


def contents_of(path: Path) -> str:
    """A file by what is in it, since two people may have photos of one name. Empty where it cannot be read, which others tell."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return ""
