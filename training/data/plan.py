"""What `prepare` is going to make: the file list of all sources, plan.json, and which shards belong to a slice."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dhumandiff.errors import FaceError, HostError
from dhumandiff.faces.onnx_packs import JUDGE, OPEN
from dhumandiff.faces.packs import find_pack
from dhumandiff.hosts.diffusers.loading import check_base
from dhumandiff.io import expand_user

from .. import TrainingError
from ..parsing import differences
from ..plugins import is_plugin
from ..wording import counted, note_lines
from .captions import open_table, picture_key
from .contract import FORMAT, FORMAT_VERSION
from .identities import Identities
from .part import Picture
from .settings import PrepareSettings
from .shards import Manifest, read_plan
from .sources import list_pictures, source_name
from .store import as_path, is_url

__all__ = ["FileList", "check_plan", "describe", "list_files", "make_plan", "shards_of_slice", "untied_note"]


@dataclass(frozen=True)
class FileList:
    """All pictures of all sources, in the order of their shards.

    Attributes:
        pictures: of all sources.
        weights: name of a source -> how often training draws from it.
        notes: what could not be listed.
    """

    pictures: tuple[Picture, ...]
    weights: dict[str, float]
    notes: tuple[str, ...]

    def digest(self) -> str:
        """Changes when a picture comes, goes, or changes its size."""
        lines = [f"{one.source}\n{one.name}\n{_length(one)}\n{one.caption}\n{_told(one)}" for one in self.pictures]
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


def _told(picture: Picture) -> str:
    """What tables say of a picture besides; "" as it was before they were read."""
    return "\t".join(picture.identities) + "\n" if any(picture.identities) else ""


def _length(picture: Picture) -> int:
    part = picture.image
    if is_url(part.path) and part.size < 0 and part.row < 0:
        return -1
    if part.size >= 0 or part.row >= 0:
        return part.size if part.size >= 0 else part.row
    try:
        return Path(part.path).stat().st_size
    except OSError:  # a link that leads nowhere, or gone since it was listed: set aside when it is read
        return -1


def list_files(settings: PrepareSettings) -> FileList:
    """List the pictures of all sources.

    Raises:
        TrainingError: sources of one name, of no weight, or that cannot be listed.
    """
    pictures, weights, notes = [], {}, []
    for source in settings.all_sources():
        name = source_name(source)
        if name in weights:
            raise TrainingError(
                f"Two sources are called {name!r}. Give one of them another `name`.", code="sources-of-one-name"
            )
        found, problems = list_pictures(source)
        pictures += found
        weights[name] = source.weight
        notes += problems
    if not any(weights.values()):
        raise TrainingError(
            "Every source has the weight 0, so training could draw from none. Raise one of them.",
            code="sources-without-weight",
        )
    if settings.identities:
        pictures = _with_identities(settings.identities, pictures, notes)
    return FileList(tuple(pictures), weights, tuple(notes))


def _with_identities(table: str, pictures: Sequence[Picture], notes: list[str]) -> list[Picture]:
    """The pictures, with the identities that a table says.

    Raises:
        TrainingError: the table cannot be read.
    """
    rows = {(str(row.columns.get("source", "")), picture_key(row.name)): row for row in open_table(table, notes)}
    told = []
    for picture in pictures:
        key = picture_key(picture.name)
        row = rows.pop((picture.source, key), None) or rows.pop(("", key), None)
        told.append(picture if row is None else replace(picture, identities=row.identities))
    if rows:
        first = next(iter(rows.values()))
        notes.append(f"{len(rows)} rows of {table} name no picture of the data, such as {first.name} ({first.where})")
    return told


def make_plan(settings: PrepareSettings, files: FileList) -> dict[str, Any]:
    """The contents of plan.json, in which all slices have to agree."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "settings": settings.fingerprint(),
        "sources": files.weights,
        "pictures": len(files.pictures),
        "listing": files.digest(),
        "shards": -(-len(files.pictures) // settings.shard_size),
        "notes": list(files.notes),
    }


def check_plan(out: Path, plan: dict[str, Any]) -> None:
    """Refuse to resume in a folder that was begun with something else.

    Raises:
        TrainingError: `out` is a file, holds something else, or was begun with other settings or pictures.
    """
    on_disk = not is_url(str(out))
    if on_disk and out.exists() and not out.is_dir():
        raise TrainingError(f"--out {out} is a file. Give a folder.", code="out-is-a-file")
    earlier = read_plan(out)
    if earlier is None:
        if on_disk and out.is_dir() and any(out.glob("*.tar")):
            raise TrainingError(
                f"--out {out} holds other tars already. Choose an empty folder.", code="out-holds-other-tars"
            )
        return
    other = differences(earlier["settings"], plan["settings"])
    if earlier["listing"] != plan["listing"]:
        other.append(f"the pictures are not the same ({earlier['pictures']} then, {plan['pictures']} now)")
    if earlier["sources"] != plan["sources"]:
        other += differences(earlier["sources"], plan["sources"], "weights.")
    if other:
        raise TrainingError(
            f"{out} was begun with other settings: {'; '.join(other)}. Use the same ones to go on, or another --out.",
            code="begun-with-other-settings",
        )


def shards_of_slice(settings: PrepareSettings, count: int) -> range:
    """The numbers of the slice's shards, of `count`: neighbors, so that a machine reads neighboring pictures."""
    part, parts = settings.slice_of()
    return range(count * (part - 1) // parts, count * part // parts)


def describe(settings: PrepareSettings) -> str:
    """What `prepare` would do, without any model.

    Raises:
        TrainingError: settings or sources with which it could not begin.
    """
    files = list_files(settings)
    out, total = as_path(settings.out), len(files.pictures)
    plan = make_plan(settings, files)
    check_plan(out, plan)
    shards = shards_of_slice(settings, plan["shards"])
    manifest = Manifest(out)
    finished = sum(manifest.is_finished(number) for number in shards)
    lines = [f"{counted(total, 'picture')}:"]
    for name, weight in files.weights.items():
        own = [picture for picture in files.pictures if picture.source == name]
        annotated = sum(picture.annotation is not None for picture in own)
        captioned = sum(bool(picture.caption) for picture in own)
        unreadable = sum(bool(picture.problem) for picture in own)
        lines.append(
            f"  {name}: {counted(len(own), 'picture')}, {annotated} with an annotation, {captioned} with a caption of their own, "
            f"weight {weight:g}"
            + (f"; {counted(unreadable, 'caption')} cannot be read: save as UTF-8" if unreadable else "")
        )
    lines += note_lines(files.notes, "  note: ", "all will stand in report.json")
    rows = 1 + settings.references.augmented
    if settings.references.paired:
        identities = Identities(settings.all_sources(), files.pictures, settings.references.couple_folders)
        people = len(identities)
        lines += [f"  note: {untied_note(identities)}"] if identities.untied else []
        lines.append(
            f"  {counted(people, 'person', 'people')} with photos beside the picture, up to {settings.references.paired} for each"
        )
        rows += settings.references.paired * (1 + settings.references.augmented_paired) if people else 0
    gigabytes = total * _bytes_a_sample(settings, rows) / 1e9
    lines.append(
        f"{counted(plan['shards'], 'shard')} of {counted(settings.shard_size, 'picture')} in {out}, about {gigabytes:.3g} GB if none is set "
        f"aside (an estimate for SDXL and CLIP ViT-H){_room(out)}."
    )
    lines.append(f"Slice {settings.slice}: {counted(len(shards), 'shard')}, {finished} of them finished.")
    lines.append(f"Encoders: base {settings.base}, vision {settings.vision}, faces {settings.faces.pack}.")
    lines += [f"  not there yet: {one}" for one in _lacking(settings)]
    lines.append("Nothing was done. Without --dry_run it begins.")
    return "\n".join(lines)


def _lacking(settings: PrepareSettings) -> list[str]:
    """Which of the models are not where they are looked for; those that would be downloaded are not asked for."""
    lacking = []
    try:
        check_base(settings.base)
    except HostError as error:
        lacking.append(str(error))
    faces = settings.faces
    if faces.pack not in (OPEN, JUDGE, "mini", "tiny") and not is_plugin(faces.pack):
        try:
            find_pack(faces.pack, expand_user(faces.root or "~/.insightface"))
        except FaceError as error:
            lacking.append(str(error).partition(" Unpack ")[0])
    return lacking


def untied_note(identities: Identities) -> str:
    """Who has photos, and is on no picture."""
    names = identities.untied
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (
        f"photos of {', '.join(names[:5])}{more} in references/ are not used: no picture has these identities. Say who is on which: "
        "identity_1 and identity_2 in a metadata.csv"
    )


def _room(out: Path) -> str:
    if is_url(str(out)):
        return ""
    folder = next(parent for parent in (out, *out.absolute().parents) if parent.exists())
    return f"; {shutil.disk_usage(folder).free / 1e9:.3g} GB are free there"


def _bytes_a_sample(settings: PrepareSettings, references: int) -> float:
    latents = 2 * 4 * (settings.resolution / 8) ** 2 * 2
    masks = 4 * (settings.resolution / 8) ** 2
    photos = 2 * references * (257 * 1280 * 2 + 2 * 512 * 4)
    text = 2 * 77 * 2048 * 2
    return latents + masks + photos + text + (0.15 * settings.resolution**2 if settings.pictures else 0)
