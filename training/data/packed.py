"""Pictures in parquet files and in WebDataset's tars, listed without being opened."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from importlib import import_module
from pathlib import PurePosixPath
from typing import Any

from dhumandiff.io import decode_text, printable

from .. import TrainingError
from .captions import caption_text
from .metadata import ANNOTATION_FIELDS, CAPTION_FIELDS, check_columns, row_of
from .parquet import open_parquet, read_columns
from .part import PICTURES, Part, Picture
from .store import is_url, open_url

__all__ = ["list_parquet", "list_tar"]


def list_parquet(source: str, path: str, notes: list[str]) -> Iterator[Picture]:
    """The pictures of a parquet file, a row each.

    Args:
        source: the name of their source.
        path: of the file, or its URL.
        notes: gets what cannot be read and can be passed over.

    Raises:
        TrainingError: it is no parquet, or has no column of pictures.
    """
    file = open_parquet(path)
    columns = {field.name: field.type for field in file.schema_arrow}
    check_columns(file.schema_arrow.names, path)
    types = import_module("pyarrow.types")
    image = next((name for name, kind in columns.items() if types.is_struct(kind) or types.is_binary(kind)), None)
    image = next((name for name in ("image", "img", "picture", "jpg", "png") if name in columns), image)
    if image is None:
        raise TrainingError(
            f"{path} has no column of pictures (it has {', '.join(columns)}). Name it `image`.",
            code="no-picture-column",
        )
    meant = {*CAPTION_FIELDS, *ANNOTATION_FIELDS}
    kept = [
        name
        for name, kind in columns.items()
        if name != image and (name in meant or not (types.is_struct(kind) or types.is_binary(kind)))
    ]
    caption_column = next((name for name in CAPTION_FIELDS if name in kept), "")
    annotation_column = next((name for name in ANNOTATION_FIELDS if name in kept), "")
    for number, values in enumerate(read_columns(file, kept)):
        where = f"{path}, row {number}"
        caption, problem = values.pop(caption_column, None) or "", ""
        if isinstance(caption, bytes):
            caption, problem = caption_text(lambda data=caption: data, f"the caption of {where},")
        annotation = _annotation(values.pop(annotation_column, None), where, notes)
        row = row_of(values, where, [*meant, "file_name"])
        yield Picture(
            source,
            printable(f"{name_of(path)}:{number:08d}"),
            Part(path, row=number, column=image),
            str(caption),
            annotation,
            problem=problem,
            identities=row.identities,
            columns=row.columns,
        )


def _annotation(found: Any, where: str, notes: list[str]) -> Mapping | None:
    if isinstance(found, (str, bytes)):
        try:
            found = json.loads(decode_text(found, "it") if isinstance(found, bytes) else found)
        except ValueError:
            notes.append(f"{where}: the annotation is no JSON and is left out")
    return found if isinstance(found, Mapping) else None


def list_tar(source: str, path: str, notes: list[str]) -> Iterator[Picture]:
    """The pictures of a tar, as WebDataset names what belongs together.

    Args:
        source: the name of their source.
        path: of the file, or its URL.
        notes: gets what is cut off.

    Raises:
        TrainingError: it is no tar.
    """
    samples: dict[str, dict[str, Part]] = {}
    try:
        with closing(open_url(path) if is_url(path) else open(path, "rb")) as file, tarfile.open(fileobj=file) as tar:
            for member in tar:
                if member.isfile():
                    folder, _, base = member.name.rpartition("/")
                    key, _, ending = base.partition(".")
                    part = Part(path, member.offset_data, member.size)
                    samples.setdefault(f"{folder}/{key}" if folder else key, {})[ending.lower()] = part
    except (tarfile.TarError, OSError) as error:
        if not samples:
            raise TrainingError(
                f"{path} cannot be read as a tar: {error}. Download it again.", code="unreadable-tar"
            ) from error
        notes.append(f"{path} is cut off ({error}): only the pictures before the damage are used. Download it again.")
    for key, parts in samples.items():
        image = next((parts[ending[1:]] for ending in PICTURES if ending[1:] in parts), None)
        if image is None:
            continue
        text = next((parts[ending] for ending in ("txt", "caption", "text") if ending in parts), None)
        caption, problem = caption_text(text.read, f"the caption of {key} in {path}") if text else ("", "")
        masks = tuple(parts[name] for name in ("mask_1.png", "mask_2.png") if name in parts)
        name = printable(f"{name_of(path)}:{key}")
        yield Picture(source, name, image, caption, parts.get("json"), masks if len(masks) == 2 else (), problem)


def name_of(path: str) -> str:
    """The last part of a path or a URL."""
    return PurePosixPath(path.replace("\\", "/")).name
