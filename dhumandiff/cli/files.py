"""Files that commands write: refused before anything is computed, then written at once or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from ..errors import FaceReferenceError, ImageError

__all__ = ["check_writable", "write_png"]


def check_writable(path: Path, what: str, ending: str) -> None:
    """Refuse a path that a picture (.png) or reference (.safetensors) cannot be written to. ImageError, FaceReferenceError."""
    refusal = ImageError if ending == ".png" else FaceReferenceError
    head = f"The {what} cannot be written to {path}"
    if (path.suffix.lower() if ending == ".png" else path.suffix) != ending:  # saved references are known by it
        raise refusal(f"{head}: choose a name that ends in {ending}.")
    if path.is_dir():
        raise refusal(f"{head}: it is a folder. Give a file name.")
    if not path.parent.is_dir():
        raise refusal(f"{head}: the folder {path.parent} does not exist. Make it.")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise refusal(f"{head}: {error.strerror or error}. Choose a folder you may write to.") from error


def write_png(image: Any, path: Path, record: dict[str, str]) -> None:
    """Write a picture of Pillow's as a PNG with these text chunks. ImageError when the disk says no."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for name, text in record.items():
        info.add_text(name, text)  # Pillow chooses the chunk that can hold the text's letters
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        image.save(part, format="PNG", pnginfo=info)
        os.replace(part, path)
    except OSError as error:
        raise ImageError(
            f"The picture cannot be written to {path}: {error.strerror or error}. Make room, or choose another folder."
        ) from error
    finally:
        part.unlink(missing_ok=True)
