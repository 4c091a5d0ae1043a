"""Pictures in folders: captions beside them or in tables, annotations, masks, and who the people are."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath

from dhumandiff.io import decode_text, expand_user, printable

from .. import TrainingError
from .captions import captions_beside, picture_key, read_captions
from .metadata import Row
from .part import PICTURES, Part, Picture
from .settings import Source
from .store import Tree, is_url, list_tree

__all__ = ["list_folder"]

OTHER_PICTURES = (".heic", ".heif", ".avif", ".gif", ".jfif", ".jxl")
"""Endings of pictures that are not read, of which a report says how many there are."""
_SUBFOLDERS = ("annotations", "masks", "references")  # folders inside a source that hold no pictures of two people
_NAMED = 10  # rows without a picture that a note names


def list_folder(source: Source, name: str, tree: Tree, notes: list[str]) -> list[Picture]:
    """The pictures of a folder.

    Args:
        source: the folder, and where else things of it lie.
        name: of the source.
        tree: what lies in the folder.
        notes: gets what is odd and can be passed over.

    Raises:
        TrainingError: files beside the pictures cannot be read.
    """
    rows = read_captions(source, tree, notes)
    annotated, masked = _annotation_lookup(source, tree), _mask_lookup(source, tree)
    inside = [one for one in tree.names if _is_picture(one)]
    beside = captions_beside(tree, [one for one in inside if not _caption(rows, one)])
    pictures = []
    for path in inside:
        row = rows.pop(picture_key(path), None) or Row(path.name, "")
        caption, problem = (row.caption, "") if row.caption else beside.get(path, ("", ""))
        pictures.append(
            Picture(
                name,
                printable(path.as_posix()),
                Part(tree.path(path), size=tree.sizes[path]),
                caption,
                row.annotation or annotated(path),
                masked(path),
                problem,
                row.identities,
                row.columns,
            )
        )
    others = [path for path in tree.names if path.suffix.lower() in OTHER_PICTURES]
    if others:
        endings = ", ".join(sorted({path.suffix.lower() for path in others}))
        notes.append(
            f"{len(others)} pictures in {tree.root} are left out by their ending ({endings}): save them as JPEG, PNG or WebP"
        )
    if rows:
        listed = ", ".join(f"{row.name} ({row.where})" for row in [*rows.values()][:_NAMED])
        more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
        notes.append(f"captions of {len(rows)} names that are no picture in {tree.root}: {listed}{more}")
    return pictures


def _is_picture(path: PurePosixPath) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    return path.suffix.lower() in PICTURES and not hidden and path.parts[0] not in _SUBFOLDERS


def _caption(rows: Mapping[str, Row], path: PurePosixPath) -> str:
    row = rows.get(picture_key(path))
    return row.caption if row is not None else ""


def _mask_lookup(source: Source, tree: Tree) -> Callable[[PurePosixPath], tuple[Part, ...]]:
    """Path inside the source -> its two masks: beside the picture's own folders, or flat, as PairHuman's annotations are."""
    place, folder = (list_tree(source.masks), PurePosixPath()) if source.masks else (tree, PurePosixPath("masks"))

    def find(path: PurePosixPath) -> tuple[Part, ...]:
        for parent in (folder / path.parent, folder):
            pair = [parent / f"{path.stem}_{number}.png" for number in (1, 2)]
            if all(mask in place for mask in pair):
                return tuple(Part(place.path(mask)) for mask in pair)
        return ()

    return find


def _annotation_lookup(source: Source, tree: Tree) -> Callable[[PurePosixPath], Part | Mapping | None]:
    """Path inside the source -> where its annotation is, or None."""
    place, folder, whole = tree, PurePosixPath("annotations"), ""
    given = source.annotations
    if given:
        if not is_url(given) and not expand_user(given).exists():
            raise TrainingError(
                f"There are no annotations at {expand_user(given)}. Correct `annotations` of {source.path}.",
                code="no-annotations",
            )
        if given.endswith(".json") if is_url(given) else expand_user(given).is_file():
            whole = given
        else:
            place, folder = list_tree(given), PurePosixPath()
    if not whole and PurePosixPath("annotations.json") in tree:
        whole = tree.path(PurePosixPath("annotations.json"))
    every = {picture_key(name): one for name, one in _one_file(whole).items()} if whole else {}

    def find(path: PurePosixPath) -> Part | Mapping | None:
        for name in map(picture_key, (path, path.name, path.with_suffix(""), path.stem)):
            if name in every:
                return every[name]
        beside = path.with_suffix(".json")
        for files, file in ((tree, beside), (place, folder / beside), (place, folder / beside.name)):
            if file in files:
                return Part(files.path(file))
        return None

    return find


def _one_file(path: str) -> dict[str, Mapping]:
    """One JSON for all pictures: {name: annotation}, or a list of annotations that carry their picture's name."""
    try:
        data = json.loads(decode_text(Part(path if is_url(path) else str(expand_user(path))).read(), path))
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
