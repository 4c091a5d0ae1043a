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
import os
import tarfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image
from safetensors import safe_open
from safetensors.torch import save

from training import TrainingError

from .contract import FORMAT, FORMAT_VERSION
from .encode import Encoded

__all__ = [
    "Journal",
    "NoSpace",
    "ShardWriter",
    "merge",
    "read_plan",
    "to_json",
    "write_file",
]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class NoSpace(TrainingError):
    """The disk is full."""


class _File:
    """A file being written, with its checksum and size."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file, self.sha256, self.size = path, file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        with _told(self.path):
            self.file.write(data)
        self.sha256.update(data)
        self.size += len(data)
        return len(data)

    def tell(self) -> int:
        return self.size


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Trouble with the disk, in words."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise NoSpace(
                f"No space is left for {path}. Nothing is lost: finished shards are whole, the unfinished one was "
                "removed. Free space, or move the folder to a larger disk and give it as --out, and run the same "
                "command again."
            ) from error
        raise TrainingError(f"{path} cannot be written: {error.strerror or error}. Choose another --out.") from error


@contextmanager
def _writing(path: Path) -> Iterator[_File]:
    """A file that appears under its name when it is whole; of one that is not, nothing is left behind."""
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")  # slices may write into one folder at once
    with _told(path):
        file = open(part, "wb")  # noqa: SIM115 (closed before it is renamed)
    try:
        yield _File(path, file)
        with _told(path):
            file.flush()
            os.fsync(file.fileno())
            file.close()
            os.replace(part, path)
    finally:
        with suppress(OSError):
            file.close()
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_file(path: Path, content: bytes | str) -> None:
    """Write a whole file or nothing."""
    with _writing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def to_json(value: Any) -> str:
    """JSON, the same bytes for the same content."""
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


class ShardWriter:
    """One shard being written: `add` samples in order inside `with`; without any sample there is no file."""

    def __init__(self, out: Path, number: int, pictures: bool) -> None:
        self.path = out / f"{number:06d}.tar"
        self.pictures = pictures
        self.samples = 0
        self.sha256 = ""
        self.size = 0

    @contextmanager
    def open(self) -> Iterator[ShardWriter]:
        """The shard appears under its name when the block ends well."""
        for left in (self.path, *self.path.parent.glob(f"{self.path.name}.*.part")):  # of a run that was killed
            left.unlink(missing_ok=True)
        try:
            with _writing(self.path) as file:
                with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as self._tar:
                    yield self
                if self.samples == 0:
                    raise _Empty
                self.sha256, self.size = file.sha256.hexdigest(), file.size
        except _Empty:
            pass

    def add(self, sample: Encoded) -> None:
        """Append one sample."""
        described = json.dumps(sample.described, sort_keys=True, ensure_ascii=False)
        self._put(f"{sample.key}.json", described.encode())
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


class _Empty(Exception):
    """Ends the writing of a shard without samples."""


class Journal:
    """What is finished: one file a shard, written after the shard."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out / "journal"

    def finished(self, number: int) -> bool:
        """Whether shard `number` is done: it says so, and the file is there in full size."""
        entry = self.read(number)
        return entry is not None and _whole(self.out, entry)

    def read(self, number: int) -> dict[str, Any] | None:
        """The entry of a shard, or None."""
        try:
            return json.loads((self.folder / f"{number:06d}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def write(self, writer: ShardWriter, number: int, aside: list[dict], facts: list[dict]) -> None:
        """Say that a shard is finished."""
        entry = {
            "shard": writer.path.name,
            "samples": writer.samples,
            "sha256": writer.sha256,
            "bytes": writer.size,
            "set_aside": aside,
            "facts": facts,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        write_file(self.folder / f"{number:06d}.json", to_json(entry))


def _whole(out: Path, entry: dict[str, Any]) -> bool:
    if entry["samples"] == 0:
        return True
    path = out / entry["shard"]
    return path.is_file() and path.stat().st_size == entry["bytes"]


def read_plan(out: Path) -> dict[str, Any] | None:
    """plan.json, or None when there is none. TrainingError when the folder holds something else."""
    path = out / "plan.json"
    if not path.is_file():
        return None
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        if plan["format"] != FORMAT or plan["format_version"] != FORMAT_VERSION:
            raise TrainingError(f"{path} is of another version of this program. Choose an empty folder for --out.")
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, TrainingError):
            raise
        raise TrainingError(f"{path} cannot be read ({error!r}). Choose an empty folder for --out.") from error
    return plan


def merge(out: Path) -> list[dict[str, Any]]:
    """Write dataset.json from the journals of all shards; the same bytes, whoever made which slice.

    Returns the journal's entries. TrainingError names the shards that are not there yet.
    """
    plan = read_plan(out)
    if plan is None:
        raise TrainingError(f"{out} is no folder of shards: plan.json is not there. Give the --out of `prepare`.")
    journal = Journal(out)
    entries = [journal.read(number) for number in range(plan["shards"])]
    missing = [number for number, entry in enumerate(entries) if entry is None or not _whole(out, entry)]
    if missing:
        raise TrainingError(
            f"{len(missing)} of {plan['shards']} shards are not there yet: {_ranges(missing)}. Let their slices finish "
            "(or bring their .tar and journal/*.json here), then merge again."
        )
    try:
        with safe_open(out / "common.safetensors", framework="pt") as file:
            header = json.loads(file.metadata()["header"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{out / 'common.safetensors'} cannot be read ({error}). Bring it from a slice.") from error
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
        "counts": {
            "pictures": plan["pictures"],
            "samples": len(facts),
            "set_aside": sum(len(entry["set_aside"]) for entry in entries),
        },
    }
    for left in (*out.glob("*.part"), *journal.folder.glob("*.part")):  # of runs that were killed; nobody writes now
        left.unlink(missing_ok=True)
    write_file(out / "dataset.json", to_json(dataset))
    return entries


def _ranges(numbers: list[int]) -> str:
    """ "0 to 3, 7" of [0, 1, 2, 3, 7]."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    told = [f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return ", ".join(told[:8]) + (f" and {len(told) - 8} more" if len(told) > 8 else "")
