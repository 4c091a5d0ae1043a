"""Files that commands write, refused before anything is computed."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ..errors import FaceReferenceError, ImageError

__all__ = ["check_writable"]


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
    if path.is_dir():
        raise refusal(f"{head}: it is a folder. Give a file name.", code="file-name-needed")
    if not path.parent.is_dir():
        raise refusal(f"{head}: the folder {path.parent} does not exist. Make it.", code="folder-missing")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise refusal(
            f"{head}: {error.strerror or error}. Choose a folder you may write to.", code="folder-not-writable"
        ) from error
