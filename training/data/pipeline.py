"""From pictures to shards: the steps of `python -m training prepare`, one shard after the other, resumable at any moment.

plan.py       which pictures, which shards
extract.py    one picture: who is who, crops, masks, face embeddings (in worker processes; workers.py)
encode.py     the frozen encoders, in batches
shards.py     the files, and the manifest of what is finished
report.py     what was made, and what was set aside and why
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from tqdm import tqdm

from dhumandiff.errors import short_error
from dhumandiff.faces import ARCFACE_TEMPLATE, Face, FaceAnalyzer
from dhumandiff.faces.analyzer import check_no_judge
from dhumandiff.faces.same_recognizer import recognizer_hash

from .. import TrainingError
from ..recognizers import probe_picture
from .encode import Encoders, load_faces
from .extract import ExtractedSample, SkippedSample, Task
from .identities import Identities
from .people import hold_out, people_csv, people_file, study
from .plan import FileList, check_plan, list_files, make_plan, shards_of_slice, untied_note
from .report import sample_facts, write_report
from .settings import PrepareSettings
from .shards import Manifest, ShardWriter, earlier_share, merge, read_entries, read_plan, to_json, write_file
from .store import as_path, is_url, size_of
from .workers import iter_extracted

__all__ = ["merge_slices", "prepare"]


def prepare(settings: PrepareSettings, encoders: Encoders | None = None, faces: FaceAnalyzer | None = None) -> str:
    """Make the shards of the settings' slice, and dataset.json with its reports if all slices are there.

    Args:
        settings: checked.
        encoders, faces: loaded already; by default the ones that the settings name.

    Returns:
        What was made and what to run next.

    Raises:
        DHumanDiffError: pictures or models that cannot be used, a folder begun with other settings, or a full disk.
    """
    out = as_path(settings.out)
    files = list_files(settings)
    plan = make_plan(settings, files)
    check_plan(out, plan)
    shards = shards_of_slice(settings, plan["shards"])
    manifest = Manifest(out)
    todo = [number for number in shards if not manifest.is_finished(number)]
    if todo:
        faces = faces or load_faces(settings.faces)  # a wrong name shall not come out after the base has loaded
        check_no_judge(faces, "training data")
        encoders = encoders or Encoders.load(settings)
        _make_folder(out)
        if size_of(out / "common.safetensors") < 0:
            write_file(out / "common.safetensors", _common(encoders, faces))
        if size_of(out / "plan.json") < 0:
            write_file(out / "plan.json", to_json(plan))
        _make_shards(settings, files, shards, todo, manifest, encoders, faces)
    return _finish(out, settings)


def merge_slices(settings: PrepareSettings) -> str:
    """Write dataset.json and the reports of a folder whose slices are all there.

    Args:
        settings: `merge` or `out` names the folder; `validation` what is held out.

    Returns:
        The words for the person at the terminal.

    Raises:
        TrainingError: shards are missing, or no such folder.
    """
    settings.check_merge()
    out = as_path(settings.merge or settings.out)
    entries = read_entries(out)
    share = settings.validation if settings.validation is not None else earlier_share(out)
    facts = [fact for entry in entries for fact in entry["facts"]]
    people = study(facts, settings.faces.alike)
    held = hold_out(people, share, settings.seed) if share and facts else []
    out_of: dict[str, list[str]] = {}
    shards = [entry["shard"] for entry in entries for _ in entry["facts"]]
    for number in held:
        out_of.setdefault(shards[number], []).append(facts[number]["key"])
    for name, content in (("people.csv", people_csv(people)), ("people.safetensors", people_file(people, held))):
        if content:
            write_file(out / name, content)
        else:
            (out / name).unlink(missing_ok=True)
    merge(out, entries, out_of, share)
    return write_report(out, entries, people, held, settings)


def _make_shards(
    settings: PrepareSettings,
    files: FileList,
    shards: Sequence[int],
    todo: Sequence[int],
    manifest: Manifest,
    encoders: Encoders,
    faces: FaceAnalyzer,
) -> None:
    """Make the shards `todo` of `shards`, one after the other, while the workers extract ahead."""
    size, total = settings.shard_size, len(files.pictures)
    tasks = _tasks(settings, files, todo)
    counts = {number: min(size, total - number * size) for number in shards}
    every, left = sum(counts.values()), sum(counts[number] for number in todo)
    with (
        iter_extracted(tasks, settings, faces, encoders.latent_factor, encoders.vision_size) as found,
        tqdm(total=every, initial=every - left, unit="picture", desc="prepare") as bar,
    ):
        for number in todo:
            skipped: list[SkippedSample] = []
            facts = []
            writer = ShardWriter(manifest.out, number, settings.pictures)
            with writer.open():
                for batch in _batches(found, counts[number], settings.batch_size, skipped, bar):
                    extracted = {one.key: one for one in batch}
                    for sample in encoders.encode(batch):
                        if isinstance(sample, SkippedSample):
                            skipped.append(sample)
                        else:
                            writer.add(sample)
                            facts.append(sample_facts(sample, extracted[sample.key]))
            skipped.sort(key=lambda one: one.key)
            manifest.write(writer, number, [vars(one) for one in skipped], facts)


def _batches(
    found: Iterator[ExtractedSample | SkippedSample], count: int, size: int, skipped: list[SkippedSample], bar: tqdm
) -> Iterator[list[ExtractedSample]]:
    """The usable ones of the next `count` pictures, `size` at a time; the others go to `skipped`."""
    batch: list[ExtractedSample] = []
    for one in islice(found, count):
        bar.update()
        if isinstance(one, SkippedSample):
            skipped.append(one)
        else:
            batch.append(one)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _tasks(settings: PrepareSettings, files: FileList, todo: Sequence[int]) -> Iterator[Task]:
    paired = settings.references.paired
    identities = Identities(
        settings.all_sources() if paired else [], files.pictures if paired else [], settings.references.couple_folders
    )
    if identities.untied:
        tqdm.write(f"Note: {untied_note(identities)}.")
    for number in todo:
        first = number * settings.shard_size
        for index in range(first, min(first + settings.shard_size, len(files.pictures))):
            picture = files.pictures[index]
            chosen, by_mention = identities.choose(picture, paired, f"{settings.seed}/{index}")
            yield Task(f"{index:08d}", picture, chosen, by_mention)


def _finish(out: Path, settings: PrepareSettings) -> str:
    manifest, plan = Manifest(out), read_plan(out)
    missing = [number for number in range(plan["shards"]) if not manifest.is_finished(number)]
    if missing:
        split = f" --validation {settings.validation:g}" if settings.validation else ""
        return (
            f"The slice {settings.slice} of {out} is finished; {len(missing)} of {plan['shards']} shards belong to "
            f"slices that are not. When all are there: python -m training prepare --merge {out}{split}"
        )
    return merge_slices(settings)


def _common(encoders: Encoders, faces: FaceAnalyzer) -> bytes:
    """common.safetensors: what all samples share, and a probe by which `train` knows the recognizer again."""
    tensors, header = encoders.common()
    probe = faces.identity(probe_picture(), Face(np.float32([0, 0, 112, 112]), ARCFACE_TEMPLATE))
    tensors["recogniser_probe"] = torch.from_numpy(np.asarray(probe, dtype=np.float32))
    digest = recognizer_hash(faces)
    header["recogniser"] = {"name": faces.name, "width": len(probe), **({"sha256": digest} if digest else {})}
    return save(tensors, metadata={"header": json.dumps(header, sort_keys=True)})


def _make_folder(out: Path) -> None:
    if is_url(str(out)):
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(
            f"--out {out} cannot be made: {short_error(error)}. Choose another folder.", code="folder-not-made"
        ) from error
