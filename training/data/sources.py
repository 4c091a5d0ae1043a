"""Where pictures come from: folders, parquet files, WebDataset tars, on a disk or a store. Lists them, in one order, without
opening them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path, PurePosixPath

from dhumandiff.io import expand_user, printable

from .. import TrainingError
from .captions import picture_key, read_captions
from .folders import list_folder
from .packed import list_parquet, list_tar
from .part import PICTURES, Part, Picture
from .settings import Source
from .store import Tree, glob_url, is_url, list_tree

__all__ = ["PICTURES", "Part", "Picture", "list_pictures", "reference_photos", "source_name"]


def list_pictures(source: Source) -> tuple[list[Picture], list[str]]:
    """All pictures of a source, ordered by name, and notes on what could not be listed.

    Raises:
        TrainingError: there are none, or files beside them are wrong.
    """
    notes: list[str] = []
    name, paths = source_name(source), _expand(source.path)
    tree = list_tree(paths[0]) if _is_folder(paths[0]) else None
    kind = source.kind if source.kind != "auto" else _guess(paths[0], tree)
    if kind == "folder":
        pictures = list_folder(source, name, tree or list_tree(paths[0]), notes)
    else:
        files = _files(paths, ".parquet" if kind == "parquet" else ".tar")
        lister = list_parquet if kind == "parquet" else list_tar
        pictures = list(itertools.chain.from_iterable(lister(name, file, notes) for file in files))
        pictures = _with_captions(source, pictures, notes)
    if not pictures:
        raise TrainingError(
            f"The source {source.path} has no pictures ({', '.join(PICTURES)}) in it. Correct its path.",
            code="source-without-pictures",
        )
    return sorted(pictures, key=lambda picture: picture.name), [*map(printable, notes)]


def _with_captions(source: Source, pictures: Sequence[Picture], notes: list[str]) -> list[Picture]:
    """Pictures of packed files, with what a table says that the source names."""
    rows, told = read_captions(source, None, notes), []
    for picture in pictures:
        row = rows.get(picture_key(picture.name))
        if row is not None:
            picture = replace(
                picture,
                caption=row.caption or picture.caption,
                identities=row.identities if any(row.identities) else picture.identities,
                columns={**picture.columns, **row.columns},
            )
        told.append(picture)
    return told


def source_name(source: Source) -> str:
    """What samples and reports call a source."""
    path = Path(printable(source.path.rstrip("/") if is_url(source.path) else source.path))
    return source.name or re.sub(r"[*{].*", "", path.stem) or path.parent.name or "data"


def reference_photos(source: Source) -> dict[str, list[Part]]:
    """Further photos of people, by identity: references/<identity>/*.jpg.

    Raises:
        TrainingError: the folder that the source names is not there.
    """
    if is_url(source.path):
        root = source.references or f"{source.path.rstrip('/')}/references"
    else:
        root = source.references or str(expand_user(source.path) / "references")
    there = _is_folder(root) if is_url(root) else expand_user(root).is_dir()
    tree = list_tree(root) if there else Tree(root, (), {})
    if source.references and not (tree.names if is_url(root) else there):
        raise TrainingError(
            f"The source {source.path} has no folder of references at {root}. Correct `references`.",
            code="no-references-folder",
        )
    found: dict[str, list[Part]] = {}
    for name in tree.names:
        if len(name.parts) == 2 and name.suffix.lower() in PICTURES:
            found.setdefault(printable(name.parts[0]), []).append(Part(tree.path(name)))
    return found


def _expand(pattern: str) -> list[str]:
    """The paths or URLs that a path or a pattern stands for."""
    if is_url(pattern):
        names = import_module("webdataset.shardlists").expand_urls(pattern) if "{" in pattern else [pattern]
        found = [url for name in names for url in (glob_url(name) if "*" in name else [name])]
    else:
        found = [str(path) for path in _expand_local(pattern)]
    if not found:
        raise _no_source(pattern)
    return found


def _expand_local(pattern: str) -> list[Path]:
    paths = [expand_user(pattern)]
    if not paths[0].exists():
        names = import_module("webdataset.shardlists").expand_urls(str(paths[0]))
        paths = [
            path
            for name in names
            for path in (sorted(Path(name).parent.glob(Path(name).name)) if "*" in name else [Path(name)])
        ]
    if any(not path.exists() for path in paths):
        raise _no_source(pattern)
    return paths


def _no_source(pattern: str) -> TrainingError:
    return TrainingError(
        f"The source {pattern} does not exist. Give a folder, .parquet or .tar files, or a pattern.",
        code="no-such-source",
    )


def _is_folder(path: str) -> bool:
    return PurePosixPath(path).suffix not in (".parquet", ".tar") if is_url(path) else Path(path).is_dir()


def _guess(path: str, tree: Tree | None) -> str:
    if tree is None:
        kinds = {".parquet": "parquet", ".tar": "webdataset"}
        if PurePosixPath(path).suffix not in kinds:
            raise TrainingError(
                f"The source {path} is one file, but no .parquet or .tar. Give the folder it is in.",
                code="source-is-a-file",
            )
        return kinds[PurePosixPath(path).suffix]
    found = {name.suffix for name in tree.names if name.suffix in (".parquet", ".tar")}
    if found and not any(name.suffix.lower() in PICTURES for name in tree.names):
        return "parquet" if ".parquet" in found else "webdataset"
    return "folder"


def _files(paths: Sequence[str], ending: str) -> list[str]:
    files: list[str] = []
    for path in paths:
        tree = list_tree(path) if _is_folder(path) else None
        files += [path] if tree is None else [tree.path(name) for name in tree.names if name.suffix == ending]
    if not files:
        raise TrainingError(
            f"The source {paths[0]} has no {ending} file in it. Correct its path or kind.", code="source-without-files"
        )
    return files
