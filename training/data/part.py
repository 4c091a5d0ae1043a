"""A picture, and a stretch of a file that holds one or belongs to it; cheap to hand to another process."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from dhumandiff.errors import ImageError, short_error
from dhumandiff.faces import PhotoPixels, as_photo, load_photo
from dhumandiff.faces.photos import check_pixels
from dhumandiff.io import decode_text

from .. import TrainingError
from .parquet import read_cell
from .store import StoreError, is_url, read_url

__all__ = ["PICTURES", "Part", "Picture"]

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""Endings of pictures that are read."""


@dataclass(frozen=True)
class Part:
    """A file, a stretch of one (a member of a tar), or a cell of a parquet file; cheap to hand to another process.

    Attributes:
        path: of the file, or its URL.
        offset: of the stretch, bytes.
        size: of the stretch, bytes; -1: the whole file.
        row: of the parquet file; -1: it is none.
        column: of the parquet file.
    """

    path: str
    offset: int = 0
    size: int = -1
    row: int = -1
    column: str = ""

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            ImageError: it cannot be read.
            StoreError: it is on a store that does not answer.
        """
        try:
            if self.row >= 0:
                return read_cell(self.path, self.column, self.row)
            if is_url(self.path):
                return self._checked(read_url(self.path, self.offset, self.size))
            if not os.path.isfile(self.path):  # a pipe would be waited for
                raise OSError("it is no file: a folder, a pipe, or a link that leads nowhere")
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise ImageError(f"{self.path} cannot be read: {short_error(error)}.", code="unreadable-file") from error
        return self._checked(data)

    def _checked(self, data: bytes) -> bytes:
        if 0 <= self.size != len(data):
            raise ImageError(
                f"{self.path} is cut off: {len(data)} of {self.size} bytes are there.", code="file-cut-off"
            )
        return data

    def photo(self) -> PhotoPixels:
        """It as a picture, upright RGB.

        Raises:
            ImageError: it is none, or damaged.
            StoreError: it is on a store that does not answer.
        """
        name = Path(self.path).name
        if self.row < 0 and self.size < 0 and not is_url(self.path):
            return load_photo(self.path)
        try:
            with Image.open(io.BytesIO(self.read())) as image:
                check_pixels(image)
                image.load()
                upright = ImageOps.exif_transpose(image)
                clear = "A" in upright.mode or "transparency" in upright.info
                return as_photo(np.array(upright.convert("RGBA" if clear else "RGB")), name)
        except (
            OSError,
            SyntaxError,
            ValueError,
            EOFError,
            IndexError,
            KeyError,
            Image.DecompressionBombError,
        ) as error:
            if isinstance(error, (ImageError, StoreError)):
                raise
            raise ImageError(
                f"a picture in {name} is damaged or no picture: {error}.", code="damaged-picture"
            ) from error


@dataclass(frozen=True)
class Picture:
    """One picture of two people, and what there is about it.

    Attributes:
        source: the name of its source.
        name: what reports call it; unique in its source.
        image: where the picture is.
        caption: "" if it has none of its own.
        problem: why it has none, where there is one that cannot be read.
        annotation: where its JSON is, or the JSON itself.
        masks: of the first and the second annotated person.
        identities: of whom the caption names first and second; both "" where nothing says.
        columns: what else the data say of it, kept with the sample.
    """

    source: str
    name: str
    image: Part
    caption: str = ""
    annotation: Part | Mapping | None = None
    masks: tuple[Part, ...] = ()
    problem: str = ""
    identities: tuple[str, str] = ("", "")
    columns: Mapping[str, Any] = field(default_factory=dict)

    def read_annotation(self) -> Any:
        """The parsed JSON, or None.

        Raises:
            TrainingError: it is no JSON.
        """
        if not isinstance(self.annotation, Part):
            return self.annotation
        try:
            return json.loads(decode_text(self.annotation.read(), self.annotation.path))
        except StoreError:
            raise
        except (ValueError, ImageError, RecursionError) as error:
            raise TrainingError(f"the annotation cannot be read: {error}", code="unreadable-annotation") from error
