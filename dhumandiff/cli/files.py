"""Files that commands write, refused before anything is computed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import FaceReferenceError, HostError, ImageError
from ..io import LONGEST_NAME

__all__ = ["check_outputs", "check_writable", "same_file"]

PNG = b"\x89PNG\r\n\x1a\n"


def check_writable(path: Path, what: str, ending: str) -> None:
    """Refuse a path that a picture (.png) or reference (.safetensors) cannot be written to.

    Raises:
        ImageError: for a picture.
        FaceReferenceError: for a reference.
    """
    refusal = ImageError if ending == ".png" else FaceReferenceError
    head = f"The {what} cannot be written to {path}"
    if (path.suffix.lower() if ending == ".png" else path.suffix) != ending:  # saved references are known by it
        raise refusal(f"{head}: choose a name that ends in {ending}.", code="wrong-file-ending")
    if len(path.name.encode(errors="surrogateescape")) > LONGEST_NAME:
        raise refusal(f"{head}: the name is too long for a file. Choose a shorter one.", code="file-name-too-long")
    if os.path.isdir(path):
        raise refusal(f"{head}: it is a folder. Give a file name.", code="file-name-needed")
    if not os.path.isdir(path.parent):
        raise refusal(f"{head}: the folder {path.parent} does not exist. Make it.", code="folder-missing")
    if ending == ".png" and _holds_something_else(path):
        raise ImageError(f"{head}: it holds something else. Choose another name.", code="no-picture-to-overwrite")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise refusal(
            f"{head}: {error.strerror or error}. Choose a folder you may write to.", code="folder-not-writable"
        ) from error


def check_outputs(outputs: Mapping[str, Path | None], inputs: Sequence[str | Path | None]) -> None:
    """Refuse to write over what the command reads, and two files under one name, however the names are written.

    Args:
        outputs: option -> its file; None where it was not given.
        inputs: files and folders that are read.

    Raises:
        HostError: naming the option and the file.
    """
    written = {option: path for option, path in outputs.items() if path is not None}
    for option, path in written.items():
        for source in inputs:
            if source is not None and same_file(path, Path(source)):
                raise HostError(
                    f"{option} {path} would overwrite {source}, which this command reads. Choose another name.",
                    code="output-is-an-input",
                )
    options = list(written)
    for number, option in enumerate(options):
        for other in options[:number]:
            if same_file(written[option], written[other]):
                raise HostError(
                    f"{other} and {option} are both {written[option]}: choose another name for one of them.",
                    code="one-name-for-two-files",
                )


def same_file(first: Path, second: Path) -> bool:
    """Whether two paths are one file, by whatever way: `..`, links, another case of the letters."""
    try:
        return first.resolve() == second.resolve() or (first.exists() and second.exists() and first.samefile(second))
    except (OSError, RuntimeError, ValueError):  # a name that cannot be one is refused where it is read or written
        return False


def _holds_something_else(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(len(PNG))
    except OSError:
        return False  # nothing is there, or it says so when it is written
    return bool(head) and head != PNG
