"""Turn pictures of two people into shards that training streams.

    python -m training prepare --data photos --out shards --dry_run       what would be done; needs no models
    python -m training prepare --config training/configs/prepare.yaml --data photos --out shards
    python -m training prepare ... --slice 3/16                           one of sixteen machines
    python -m training prepare --merge shards                             when all slices are there

Kill it whenever you like: the same command goes on, and the shards are the same bytes as without the interruption.
Pictures that cannot be used are set aside with the reason, in report.md.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training import TrainingError

from .data.settings import PrepareSettings
from .parsing import differences, parse

if TYPE_CHECKING:
    from dhumandiff.faces import FaceAnalyzer

    from .data.encode import Encoders
    from .data.people import Aside, Looked, Task
    from .data.sources import Picture

__all__ = ["main", "merge_slices", "prepare"]


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    settings, given = parse(
        PrepareSettings, "prepare", argv, {"dry_run": "say what would be done; needs no models and does nothing"}
    )
    if settings.merge:
        print(merge_slices(Path(settings.merge)))
        return
    settings.check()
    print(dry(settings) if given["dry_run"] else prepare(settings))


@dataclass(frozen=True)
class _Listing:
    """All pictures of all sources, in the order of their shards."""

    pictures: tuple[Picture, ...]
    weights: dict[str, float]
    notes: tuple[str, ...]

    def digest(self) -> str:
        """Changes when a picture comes, goes, or changes its size."""
        lines = [f"{one.source}\n{one.name}\n{_length(one)}\n{one.caption}\n" for one in self.pictures]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def prepare(settings: PrepareSettings, encoders: Encoders | None = None, faces: FaceAnalyzer | None = None) -> str:
    """Make the shards of the settings' slice, and dataset.json with its reports if all slices are there.

    Args:
        settings: checked.
        encoders, faces: loaded already; by default the ones that the settings name.

    Returns:
        What was made and what to run next.
    """
    out = Path(settings.out)
    listing = _list(settings)
    plan = _plan(settings, listing)
    _check_plan(out, plan)
    shards = _shards(settings, plan["shards"])

    from .data.shards import Journal, to_json, write_file

    journal = Journal(out)
    todo = [number for number in shards if not journal.finished(number)]
    if todo:
        from .data.encode import Encoders, load_faces

        faces = faces or load_faces(settings.faces)  # a wrong name shall not come out after the base has loaded
        encoders = encoders or Encoders.load(settings)
        _make_folder(out)
        if not (out / "common.safetensors").is_file():
            write_file(out / "common.safetensors", _common(encoders, faces))
        if not (out / "plan.json").is_file():
            write_file(out / "plan.json", to_json(plan))
        _make(settings, listing, shards, todo, journal, encoders, faces)
    return _finish(out, settings)


def _make(
    settings: PrepareSettings,
    listing: _Listing,
    shards: Sequence[int],
    todo: Sequence[int],
    journal: Any,
    encoders: Encoders,
    faces: FaceAnalyzer,
) -> None:
    """Make the shards `todo` of `shards`, one after the other, while the workers look ahead."""
    from tqdm import tqdm

    from .data.people import Aside
    from .data.report import facts
    from .data.shards import ShardWriter
    from .data.workers import looking

    size, total = settings.shard_size, len(listing.pictures)
    tasks = _tasks(settings, listing, todo)
    counts = {number: min(size, total - number * size) for number in shards}
    every, left = sum(counts.values()), sum(counts[number] for number in todo)
    with (
        looking(tasks, settings, faces, encoders.latent_factor, encoders.vision_size) as seen,
        tqdm(total=every, initial=every - left, unit="picture", desc="prepare") as bar,
    ):
        for number in todo:
            aside: list[Aside] = []
            told: list[dict[str, Any]] = []
            writer = ShardWriter(journal.out, number, settings.pictures)
            with writer.open():
                for batch in _batches(seen, counts[number], settings.batch_size, aside, bar):
                    notes = {looked.key: looked.notes for looked in batch}
                    for sample in encoders.encode(batch):
                        if isinstance(sample, Aside):
                            aside.append(sample)
                        else:
                            writer.add(sample)
                            told.append(facts(sample, notes[sample.key]))
            aside.sort(key=lambda one: one.key)
            journal.write(writer, number, [vars(one) for one in aside], told)


def _batches(
    seen: Iterator[Looked | Aside], count: int, size: int, aside: list[Aside], bar: Any
) -> Iterator[list[Looked]]:
    """The usable ones of the next `count` pictures, `size` at a time; the others go to `aside`."""
    from .data.people import Aside

    batch: list[Looked] = []
    for one in islice(seen, count):
        bar.update()
        if isinstance(one, Aside):
            aside.append(one)
        else:
            batch.append(one)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _tasks(settings: PrepareSettings, listing: _Listing, todo: Sequence[int]) -> Iterator[Task]:
    from .data.identities import Identities
    from .data.people import Task

    paired = settings.references.paired
    identities = Identities(settings.all_sources() if paired else [], listing.pictures if paired else [])
    for number in todo:
        first = number * settings.shard_size
        for index in range(first, min(first + settings.shard_size, len(listing.pictures))):
            picture = listing.pictures[index]
            chosen = identities.choose(picture, paired, f"{settings.seed}/{index}")
            yield Task(f"{index:08d}", picture, chosen)


def merge_slices(out: Path) -> str:
    """Write dataset.json and the reports of a folder whose slices are all there; gives the words for the person."""
    from .data.report import write_report
    from .data.shards import merge

    return write_report(out, merge(out))


def _finish(out: Path, settings: PrepareSettings) -> str:
    from .data.shards import Journal, read_plan

    journal, plan = Journal(out), read_plan(out)
    missing = [number for number in range(plan["shards"]) if not journal.finished(number)]
    if missing:
        return (
            f"The slice {settings.slice} of {out} is finished; {len(missing)} of {plan['shards']} shards belong to "
            f"slices that are not. When all are there: python -m training prepare --merge {out}"
        )
    return merge_slices(out)


def dry(settings: PrepareSettings) -> str:
    """What `prepare` would do, without any model."""
    from .data.identities import Identities
    from .data.shards import Journal

    listing = _list(settings)
    out, total = Path(settings.out), len(listing.pictures)
    plan = _plan(settings, listing)
    _check_plan(out, plan)
    shards = _shards(settings, plan["shards"])
    finished = sum(Journal(out).finished(number) for number in shards)
    lines = [f"{total} pictures:"]
    for name, weight in listing.weights.items():
        mine = [picture for picture in listing.pictures if picture.source == name]
        annotated = sum(picture.annotation is not None for picture in mine)
        captioned = sum(bool(picture.caption) for picture in mine)
        lines.append(
            f"  {name}: {len(mine)} pictures, {annotated} with an annotation, {captioned} with a caption of their own, "
            f"weight {weight:g}"
        )
    lines += [f"  note: {note}" for note in listing.notes]
    rows = 1 + settings.references.augmented
    if settings.references.paired:
        people = len(Identities(settings.all_sources(), listing.pictures))
        lines.append(f"  {people} people with photos beside the picture, up to {settings.references.paired} for each")
        rows += settings.references.paired if people else 0
    gigabytes = total * _bytes_a_sample(settings, rows) / 1e9
    free = shutil.disk_usage(next(parent for parent in (out, *out.absolute().parents) if parent.exists())).free / 1e9
    lines.append(
        f"{plan['shards']} shards of {settings.shard_size} pictures in {out}, about {gigabytes:.3g} GB if none is set "
        f"aside (an estimate for SDXL and CLIP ViT-H); {free:.3g} GB are free there."
    )
    lines.append(f"Slice {settings.slice}: {len(shards)} shards, {finished} of them finished.")
    lines.append(f"Encoders: base {settings.base}, vision {settings.vision}, faces {settings.faces.pack}.")
    lines.append("Nothing was done. Without --dry_run it begins.")
    return "\n".join(lines)


def _bytes_a_sample(settings: PrepareSettings, rows: int) -> float:
    latents = 2 * 4 * (settings.resolution / 8) ** 2 * 2
    masks = 4 * (settings.resolution / 8) ** 2
    references = 2 * rows * (257 * 1280 * 2 + 2 * 512 * 4)
    text = 2 * 77 * 2048 * 2
    return latents + masks + references + text + (0.15 * settings.resolution**2 if settings.pictures else 0)


def _list(settings: PrepareSettings) -> _Listing:
    from .data.sources import list_pictures, source_name

    pictures, weights, notes = [], {}, []
    for source in settings.all_sources():
        name = source_name(source)
        if name in weights:
            raise TrainingError(f"Two sources are called {name!r}. Give one of them another `name`.")
        found, told = list_pictures(source)
        pictures += found
        weights[name] = source.weight
        notes += told
    if not any(weights.values()):
        raise TrainingError("Every source has the weight 0, so training could draw from none. Raise one of them.")
    return _Listing(tuple(pictures), weights, tuple(notes))


def _length(picture: Picture) -> int:
    part = picture.image
    return part.size if part.size >= 0 else part.row if part.row >= 0 else Path(part.path).stat().st_size


def _plan(settings: PrepareSettings, listing: _Listing) -> dict[str, Any]:
    from .data.contract import FORMAT, FORMAT_VERSION

    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "settings": settings.fingerprint(),
        "sources": listing.weights,
        "pictures": len(listing.pictures),
        "listing": listing.digest(),
        "shards": -(-len(listing.pictures) // settings.shard_size),
        "notes": list(listing.notes),
    }


def _check_plan(out: Path, plan: dict[str, Any]) -> None:
    """Refuse to go on in a folder that was begun with something else."""
    from .data.shards import read_plan

    if out.exists() and not out.is_dir():
        raise TrainingError(f"--out {out} is a file. Give a folder.")
    earlier = read_plan(out)
    if earlier is None:
        if out.is_dir() and any(out.glob("*.tar")):
            raise TrainingError(f"--out {out} holds other tars already. Choose an empty folder.")
        return
    other = differences(earlier["settings"], plan["settings"])
    if earlier["listing"] != plan["listing"]:
        other.append(f"the pictures are not the same ({earlier['pictures']} then, {plan['pictures']} now)")
    if earlier["sources"] != plan["sources"]:
        other += differences(earlier["sources"], plan["sources"], "weights.")
    if other:
        raise TrainingError(
            f"{out} was begun with other settings: {'; '.join(other)}. Use the same ones to go on, or another --out."
        )


def _shards(settings: PrepareSettings, count: int) -> range:
    """The numbers of the slice's shards: neighbours, so that a machine reads neighbouring pictures."""
    part, parts = settings.slice_of()
    return range(count * (part - 1) // parts, count * part // parts)


def _common(encoders: Encoders, faces: FaceAnalyzer) -> bytes:
    import numpy as np
    import torch
    from safetensors.torch import save

    from dhumandiff.faces import ARCFACE_TEMPLATE, Face

    from .recognizers import probe_picture

    tensors, header = encoders.common()
    probe = faces.identity(probe_picture(), Face(np.float32([0, 0, 112, 112]), ARCFACE_TEMPLATE))
    tensors["recogniser_probe"] = torch.from_numpy(np.asarray(probe, dtype=np.float32))
    header["recogniser"] = {"name": faces.name, "width": len(probe)}
    return save(tensors, metadata={"header": json.dumps(header, sort_keys=True)})


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"--out {out} cannot be made: {error.strerror or error}. Choose another folder.") from error
