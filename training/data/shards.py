"""Shards on the disk: written so that whatever is under its final name is whole, at any moment.

    out/plan.json             what is being made: settings, pictures, number of shards; all slices have to agree in it
    out/common.safetensors    what all samples share
    out/000012.tar            a shard: the usable ones of the pictures 12 * shard_size and following
    out/journal/000012.json   written after its shard: samples, checksum, what was set aside, measurements
    out/dataset.json          written last: what training opens

Shard k depends on its own pictures and the settings alone. That is why killed runs, slices and any number of workers
give the same bytes.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import Image
from safetensors.torch import save

from dhumandiff.errors import short_error
from dhumandiff.io import atomic_write

from .. import TrainingError
from .balance import count_couples
from .contract import FORMAT, FORMAT_VERSION
from .store import StoreError, is_url, on_store, read_path, size_of

if TYPE_CHECKING:
    from .encode import EncodedSample

__all__ = ["Manifest", "ShardWriter", "earlier_share", "merge", "read_entries", "read_plan", "to_json", "write_file"]

_LONGEST_HEADER = 1 << 26  # bytes; a damaged file may say anything

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _HashedFile:
    """A file being written, with its checksum and size."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha256, self.size = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.file.write(data)
        self.sha256.update(data)
        self.size += len(data)
        return len(data)

    def tell(self) -> int:
        return self.size


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Trouble with the disk, in words."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise TrainingError(
                f"No space is left for {path}. Nothing is lost: finished shards are whole, the unfinished one was "
                "removed. Free space, or move the folder to a larger disk and give it as --out, and run the same "
                "command again.",
                code="no-space-left",
            ) from error
        raise TrainingError(
            f"{path} cannot be written: {short_error(error)}. Choose another --out.", code="cannot-write"
        ) from error


@contextmanager
def _writing(path: Path) -> Iterator[_HashedFile]:
    """A file that appears under its name when it is whole; of one that is not, nothing is left behind."""
    if is_url(str(path)):
        with tempfile.TemporaryFile() as file:  # a store takes whole files only
            yield _HashedFile(file)
            on_store(str(path), lambda: _send(file, path))
        return
    with _disk_errors(path), atomic_write(path, sync=True) as part, part.open("wb") as file:
        yield _HashedFile(file)


def _send(file: BinaryIO, path: Path) -> None:
    file.seek(0)
    with path.open("wb") as there:
        shutil.copyfileobj(file, there, 1 << 22)


def write_file(path: Path, content: bytes | str) -> None:
    """Write a whole file or nothing.

    Raises:
        TrainingError: the disk says no.
    """
    with _writing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def to_json(value: Any) -> str:
    """JSON, the same bytes for the same content."""
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


class ShardWriter:
    """One shard being written: `add` samples in order inside `with`; without any sample there is no file.

    Args:
        out: the folder.
        number: of the shard, from 0.
        pictures: whether to keep a JPEG of each sample.

    Attributes:
        samples: how many were added.
        sha256, size: of the file when it is whole.
    """

    def __init__(self, out: Path, number: int, pictures: bool) -> None:
        self.path = out / f"{number:06d}.tar"
        self.pictures = pictures
        self.samples = 0
        self.sha256 = ""
        self.size = 0

    @contextmanager
    def open(self) -> Iterator[ShardWriter]:
        """The shard appears under its name when the block ends well."""
        for left in (self.path, *_parts(self.path.parent, f"*{self.path.name}.*.part")):  # of a run that was killed
            left.unlink(missing_ok=True)
        with ExitStack() as self._stack:
            yield self
        if self.samples:
            self.sha256, self.size = self._file.sha256.hexdigest(), self._file.size

    def add(self, sample: EncodedSample) -> None:
        """Append one sample; the first one begins the file."""
        if self.samples == 0:
            self._file = self._stack.enter_context(_writing(self.path))
            tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 (the stack closes it)
            self._tar = self._stack.enter_context(tar)
        metadata = json.dumps(sample.metadata, sort_keys=True, ensure_ascii=False)
        self._put(f"{sample.key}.json", metadata.encode())
        self._put(f"{sample.key}.safetensors", save({name: sample.tensors[name] for name in sorted(sample.tensors)}))
        if self.pictures:
            stream = io.BytesIO()
            Image.fromarray(sample.pixels).save(stream, "JPEG", quality=90)
            self._put(f"{sample.key}.jpg", stream.getvalue())
        self.samples += 1

    def _put(self, name: str, content: bytes) -> None:
        entry = tarfile.TarInfo(name)  # time, owner and rights stay at fixed values
        entry.size = len(content)
        self._tar.addfile(entry, io.BytesIO(content))


class Manifest:
    """What is finished: one file a shard in journal/, written after the shard."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out / "journal"

    def is_finished(self, number: int) -> bool:
        """Whether shard `number` is done: it says so, and the file is there, byte for byte."""
        entry = self.read(number)
        return entry is not None and _whole(self.out, entry) and _unchanged(self.out, entry)

    def read(self, number: int) -> dict[str, Any] | None:
        """The entry of a shard, or None where there is none that is whole."""
        try:
            entry = json.loads(read_path(self.folder / f"{number:06d}.json"))
            kinds = (
                ("shard", str),
                ("samples", int),
                ("sha256", str),
                ("bytes", int),
                ("set_aside", list),
                ("facts", list),
            )
            whole = (
                all(isinstance(entry[name], kind) for name, kind in kinds) and len(entry["facts"]) == entry["samples"]
            )
            whole = whole and all({"source", "bucket"} <= {*fact} for fact in entry["facts"])
        except StoreError:
            raise
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return entry if whole else None

    def write(self, writer: ShardWriter, number: int, skipped: list[dict], facts: list[dict]) -> None:
        """Say that a shard is finished.

        Args:
            writer: closed.
            number: of the shard.
            skipped: the pictures that were set aside, as plain values.
            facts: what the report wants to know of each sample.
        """
        entry = {
            "shard": writer.path.name,
            "samples": writer.samples,
            "sha256": writer.sha256,
            "bytes": writer.size,
            "set_aside": skipped,
            "facts": facts,
        }
        if not is_url(str(self.folder)):  # a store makes folders by itself
            self.folder.mkdir(parents=True, exist_ok=True)
        write_file(self.folder / f"{number:06d}.json", to_json(entry))


def _parts(folder: Path, pattern: str) -> Iterator[Path]:
    """Half-written files; a store has none."""
    return iter(()) if is_url(str(folder)) else folder.glob(pattern)


def _whole(out: Path, entry: dict[str, Any]) -> bool:
    if entry["samples"] == 0:
        return True
    return size_of(out / entry["shard"]) == entry["bytes"]


def _unchanged(out: Path, entry: dict[str, Any]) -> bool:
    if entry["samples"] == 0:
        return True
    path = out / entry["shard"]
    if is_url(str(out)):  # a store keeps checksums of its own; reading all of it back would take as long as making it
        return True
    return _sha256(path, path.stat().st_mtime_ns) == entry["sha256"]


@cache
def _sha256(path: Path, _changed: int) -> str:
    """Of a file as it was at that time; read once, however often it is asked for."""
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha256.update(block)
    return sha256.hexdigest()


def read_plan(out: Path) -> dict[str, Any] | None:
    """plan.json, or None when there is none.

    Raises:
        TrainingError: the folder holds something else.
    """
    path = out / "plan.json"
    if size_of(path) < 0:
        return None
    try:
        plan = json.loads(read_path(path))
        if plan["format"] != FORMAT or plan["format_version"] != FORMAT_VERSION:
            raise TrainingError(
                f"{path} is of another version of this program. Choose an empty folder for --out.",
                code="plan-of-another-version",
            )
    except TrainingError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path} cannot be read ({error!r}). Choose an empty folder for --out.", code="unreadable-plan"
        ) from error
    return plan


def earlier_share(out: Path) -> float:
    """The share that dataset.json holds out; 0 where there is none yet."""
    try:
        return float(json.loads((out / "dataset.json").read_text(encoding="utf-8"))["validation"]["share"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def read_entries(out: Path) -> list[dict[str, Any]]:
    """The manifest's entries of all shards.

    Raises:
        TrainingError: no such folder, or shards that are not there yet; the message names them.
    """
    plan = read_plan(out)
    if plan is None:
        raise TrainingError(
            f"{out} is no folder of shards: plan.json is not there. Give the --out of `prepare`.",
            code="no-shards-folder",
        )
    manifest = Manifest(out)
    entries = [manifest.read(number) for number in range(plan["shards"])]
    missing = [number for number, entry in enumerate(entries) if entry is None or not _whole(out, entry)]
    if missing:
        raise TrainingError(
            f"{len(missing)} of {plan['shards']} shards are not there yet: {_ranges(missing)}. Let their slices finish "
            "(or bring their .tar and journal/*.json here), then merge again.",
            code="shards-missing",
        )
    return entries


def merge(out: Path, entries: Sequence[dict[str, Any]], held: Mapping[str, Sequence[str]], share: float) -> None:
    """Write dataset.json from the manifest of all shards; the same bytes, whoever made which slice.

    Args:
        out: the folder.
        entries: of all shards.
        held: name of a shard -> the keys of its samples that are held out.
        share: of the samples that was asked for; 0: nothing is held out.

    Raises:
        TrainingError: common.safetensors is not there, or the disk says no.
    """
    plan, manifest = read_plan(out), Manifest(out)
    try:
        with (out / "common.safetensors").open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(json.loads(file.read(min(length, _LONGEST_HEADER)))["__metadata__"]["header"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(
            f"{out / 'common.safetensors'} cannot be read ({short_error(error)}). Bring it from a slice.",
            code="unreadable-common",
        ) from error
    facts = [fact for entry in entries for fact in entry["facts"]]
    counted = {name: sum(fact["source"] == name for fact in facts) for name in plan["sources"]}
    dataset = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **header,
        "buckets": sorted({tuple(fact["bucket"]) for fact in facts}),
        "sources": [
            {"name": name, "weight": weight, "samples": counted[name]} for name, weight in plan["sources"].items()
        ],
        "shards": [
            {"name": entry["shard"], "samples": entry["samples"], "sha256": entry["sha256"], "bytes": entry["bytes"]}
            for entry in entries
            if entry["samples"]
        ],
        "couples": count_couples([fact["people"] for fact in facts]),
        "counts": {
            "pictures": plan["pictures"],
            "samples": len(facts),
            "set_aside": sum(len(entry["set_aside"]) for entry in entries),
            "paired_people": sum(person.get("paired", 0) > 0 for fact in facts for person in fact["people"]),
        },
    }
    if share:
        dataset["validation"] = {"share": share, "samples": {name: list(keys) for name, keys in sorted(held.items())}}
    for left in (
        *_parts(out, "*.part"),
        *_parts(manifest.folder, "*.part"),
    ):  # of runs that were killed; nobody writes now
        left.unlink(missing_ok=True)
    write_file(out / "dataset.json", to_json(dataset))


def _ranges(numbers: list[int]) -> str:
    """ "0 to 3, 7" of [0, 1, 2, 3, 7]."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    lines = [f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return ", ".join(lines[:8]) + (f" and {len(lines) - 8} more" if len(lines) > 8 else "")
