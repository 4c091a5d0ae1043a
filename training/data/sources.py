"""Where pictures come from: folders, parquet files, WebDataset tars. Lists them, in one order, without opening them."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from dhumandiff.errors import ImageError, short_error
from dhumandiff.faces import PhotoPixels, as_photo, load_photo
from dhumandiff.faces.photos import check_pixels
from dhumandiff.io import decode_text, expand_user, printable, read_text

from .. import TrainingError
from .captions import CAPTION_FIELDS, caption_beside, caption_text, picture_key, read_captions
from .parquet import open_parquet, read_cell, read_column
from .settings import Source

__all__ = ["Part", "Picture", "list_pictures", "reference_photos", "source_name"]

OTHER_PICTURES = (".heic", ".heif", ".avif", ".gif", ".jfif", ".jxl")
"""Endings of pictures that are not read, of which a report says how many there are."""
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_ANNOTATIONS = ("annotation", "annotations", "json")
_SUBFOLDERS = ("annotations", "masks", "references")  # folders inside a source that hold no pictures of two people


@dataclass(frozen=True)
class Part:
    """A file, a stretch of one (a member of a tar), or a cell of a parquet file; cheap to hand to another process.

    Attributes:
        path: of the file.
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
        """
        try:
            if self.row >= 0:
                return read_cell(self.path, self.column, self.row)
            if not os.path.isfile(self.path):  # a pipe would be waited for
                raise OSError("it is no file: a folder, a pipe, or a link that leads nowhere")
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise ImageError(f"{self.path} cannot be read: {short_error(error)}.", code="unreadable-file") from error
        if 0 <= self.size != len(data):
            raise ImageError(
                f"{self.path} is cut off: {len(data)} of {self.size} bytes are there.", code="file-cut-off"
            )
        return data

    def photo(self) -> PhotoPixels:
        """It as a picture, upright RGB.

        Raises:
            ImageError: it is none, or damaged.
        """
        name = Path(self.path).name
        if self.row < 0 and self.size < 0:
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
            if isinstance(error, ImageError):
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
    """

    source: str
    name: str
    image: Part
    caption: str = ""
    annotation: Part | Mapping | None = None
    masks: tuple[Part, ...] = ()
    problem: str = ""

    def read_annotation(self) -> Any:
        """The parsed JSON, or None.

        Raises:
            TrainingError: it is no JSON.
        """
        if not isinstance(self.annotation, Part):
            return self.annotation
        try:
            return json.loads(decode_text(self.annotation.read(), self.annotation.path))
        except (ValueError, ImageError, RecursionError) as error:
            raise TrainingError(f"the annotation cannot be read: {error}", code="unreadable-annotation") from error


def list_pictures(source: Source) -> tuple[list[Picture], list[str]]:
    """All pictures of a source, ordered by name, and notes on what could not be listed.

    Raises:
        TrainingError: there are none, or files beside them are wrong.
    """
    notes: list[str] = []
    paths = _expand(source.path)
    kind = source.kind if source.kind != "auto" else _guess(paths)
    if kind == "folder":
        pictures = _folder(source, paths[0], notes)
    else:
        files = _files(paths, ".parquet" if kind == "parquet" else ".tar")
        lister = _parquet if kind == "parquet" else _tar
        pictures = list(itertools.chain.from_iterable(lister(source_name(source), file, notes) for file in files))
    if not pictures:
        raise TrainingError(
            f"The source {source.path} has no pictures ({', '.join(PICTURES)}) in it. Correct its path.",
            code="source-without-pictures",
        )
    return sorted(pictures, key=lambda picture: picture.name), [*map(printable, notes)]


def source_name(source: Source) -> str:
    """What samples and reports call a source."""
    path = Path(printable(source.path))
    return source.name or re.sub(r"[*{].*", "", path.stem) or path.parent.name or "data"


def reference_photos(source: Source) -> dict[str, list[Part]]:
    """Further photos of people, by identity: references/<identity>/*.jpg."""
    root = expand_user(source.references or Path(source.path) / "references")
    if not root.is_dir():
        if source.references:
            raise TrainingError(
                f"The source {source.path} has no folder of references at {root}. Correct `references`.",
                code="no-references-folder",
            )
        return {}
    return {
        printable(person.name): [
            Part(str(file)) for file in sorted(person.iterdir()) if file.suffix.lower() in PICTURES
        ]
        for person in sorted(root.iterdir())
        if person.is_dir()
    }


def _expand(pattern: str) -> list[Path]:
    """The paths that a path or a pattern stands for."""
    paths = [expand_user(pattern)]
    if not paths[0].exists():
        names = import_module("webdataset.shardlists").expand_urls(str(paths[0]))
        paths = [
            path
            for name in names
            for path in (sorted(Path(name).parent.glob(Path(name).name)) if "*" in name else [Path(name)])
        ]
    missing = [path for path in paths if not path.exists()]
    if missing or not paths:
        raise TrainingError(
            f"The source {pattern} does not exist. Give a folder, .parquet or .tar files, or a pattern.",
            code="no-such-source",
        )
    return paths


def _guess(paths: list[Path]) -> str:
    if paths[0].is_file():
        kinds = {".parquet": "parquet", ".tar": "webdataset"}
        if paths[0].suffix not in kinds:
            raise TrainingError(
                f"The source {paths[0]} is one file, but no .parquet or .tar. Give the folder it is in.",
                code="source-is-a-file",
            )
        return kinds[paths[0].suffix]
    found = {path.suffix for path in paths[0].rglob("*") if path.suffix in (".parquet", ".tar")}
    if found and not any(path.suffix.lower() in PICTURES for path in paths[0].rglob("*")):
        return "parquet" if ".parquet" in found else "webdataset"
    return "folder"


def _files(paths: list[Path], ending: str) -> list[Path]:
    files = [file for path in paths for file in (sorted(path.rglob(f"*{ending}")) if path.is_dir() else [path])]
    if not files:
        raise TrainingError(
            f"The source {paths[0]} has no {ending} file in it. Correct its path or kind.", code="source-without-files"
        )
    return files


def _folder(source: Source, root: Path, notes: list[str]) -> list[Picture]:
    name = source_name(source)
    masks = expand_user(source.masks) if source.masks else root / "masks"
    captions = read_captions(source, root, notes)
    annotated = _annotation_lookup(source, root)
    pictures = []
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        hidden = any(part.startswith(".") for part in inside.parts)
        if path.suffix.lower() not in PICTURES or hidden or inside.parts[0] in _SUBFOLDERS:
            continue
        # Beside the picture's own folders, or flat, as PairHuman's annotations are.
        places = ([masks / inside.with_name(f"{path.stem}_{number}.png") for number in (1, 2)],)
        places += ([masks / f"{path.stem}_{number}.png" for number in (1, 2)],)
        given = next((pair for pair in places if all(mask.is_file() for mask in pair)), ())
        caption, problem = captions.pop(picture_key(inside), ""), ""
        if not caption:
            caption, problem = caption_beside(path)
        pictures.append(
            Picture(
                name,
                printable(inside.as_posix()),
                Part(str(path)),
                caption,
                annotated(path, inside),
                tuple(Part(str(mask)) for mask in given),
                problem,
            )
        )
    others = [path for path in root.rglob("*") if path.suffix.lower() in OTHER_PICTURES]
    if others:
        endings = ", ".join(sorted({path.suffix.lower() for path in others}))
        notes.append(
            f"{len(others)} pictures in {root} are left out by their ending ({endings}): save them as JPEG, PNG or WebP"
        )
    if captions:
        notes.append(f"captions of {len(captions)} names that are no picture in {root}, such as {next(iter(captions))}")
    return pictures


def _annotation_lookup(source: Source, root: Path) -> Any:
    """(path, path inside the source) -> where its annotation is, or None."""
    place = expand_user(source.annotations) if source.annotations else root / "annotations"
    if source.annotations and not place.exists():
        raise TrainingError(
            f"There are no annotations at {place}. Correct `annotations` of {source.path}.", code="no-annotations"
        )
    whole = place if place.is_file() else root / "annotations.json"
    every = {picture_key(name): one for name, one in _one_file(whole).items()} if whole.is_file() else {}

    def find(path: Path, inside: Path) -> Part | Mapping | None:
        for name in map(picture_key, (inside, path.name, inside.with_suffix(""), path.stem)):
            if name in every:
                return every[name]
        for file in (path.with_suffix(".json"), place / inside.with_suffix(".json"), place / f"{path.stem}.json"):
            if os.path.lexists(file):
                return Part(str(file))
        return None

    return find


def _one_file(path: Path) -> dict[str, Mapping]:
    """One JSON for all pictures: {name: annotation}, or a list of annotations that carry their picture's name."""
    try:
        data = json.loads(read_text(path))
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"The annotations {path} cannot be read: {error}. Correct the file.", code="unreadable-annotation"
        ) from error
    if isinstance(data, Mapping):
        return {str(name): one for name, one in data.items() if isinstance(one, Mapping)}
    names = ("file_name", "image", "image_name", "filename", "image_path", "image_id", "id")
    found = {}
    for one in data if isinstance(data, list) else []:
        if isinstance(one, Mapping):
            name = next((str(one[key]) for key in names if key in one), None)
            if name is not None:
                found[name] = one
    return found


def _parquet(source: str, path: Path, notes: list[str]) -> Iterator[Picture]:
    file = open_parquet(str(path))
    columns = {field.name: field.type for field in file.schema_arrow}
    types = import_module("pyarrow.types")
    image = next((name for name, kind in columns.items() if types.is_struct(kind) or types.is_binary(kind)), None)
    image = next((name for name in ("image", "img", "picture", "jpg", "png") if name in columns), image)
    if image is None:
        raise TrainingError(
            f"{path} has no column of pictures (it has {', '.join(columns)}). Name it `image`.",
            code="no-picture-column",
        )
    texts = {}
    for what, names in (("caption", CAPTION_FIELDS), ("annotation", _ANNOTATIONS)):
        column = next((name for name in names if name in columns), None)
        texts[what] = read_column(file, column) if column else None
    for row in range(file.metadata.num_rows):
        found = texts["annotation"] and texts["annotation"][row]
        if isinstance(found, (str, bytes)):
            try:
                found = json.loads(decode_text(found, "it") if isinstance(found, bytes) else found)
            except ValueError:
                notes.append(f"{path}, row {row}: the annotation is no JSON and is left out")
        caption, problem = (texts["caption"] and texts["caption"][row]) or "", ""
        if isinstance(caption, bytes):
            caption, problem = caption_text(lambda data=caption: data, f"the caption of {path}, row {row},")
        part, annotation = Part(str(path), row=row, column=image), found if isinstance(found, Mapping) else None
        yield Picture(source, printable(f"{path.name}:{row:08d}"), part, str(caption), annotation, problem=problem)


def _tar(source: str, path: Path, notes: list[str]) -> Iterator[Picture]:
    samples: dict[str, dict[str, Part]] = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.isfile():
                    folder, _, base = member.name.rpartition("/")
                    key, _, ending = base.partition(".")
                    part = Part(str(path), member.offset_data, member.size)
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
        name = printable(f"{path.name}:{key}")
        yield Picture(source, name, image, caption, parts.get("json"), masks if len(masks) == 2 else (), problem)
