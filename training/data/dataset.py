"""A dataset that `prepare` made, as training reads it: what its shards are made for, and their samples, from a disk or a URL."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, Literal

from safetensors.torch import load
from torch import Tensor

from dhumandiff.errors import short_error
from dhumandiff.io import expand_user

from .. import TrainingError
from .checks import check_common, check_header
from .config import FolderConfig
from .contract import FORMAT, FORMAT_VERSION
from .store import is_url, open_url

__all__ = ["PreparedDataset", "Sample", "open_dataset", "open_datasets"]

Part = Literal["all", "train", "validation"]
"""Which samples of a folder."""

PREPARE = "Make it with `python -m training prepare`"


@dataclass
class Sample:
    """One picture of two people, not decoded yet.

    Attributes:
        location: (dataset, turn of the stream's shards, index in the shard), which is how checkpoints remember it.
        name: what messages call it.
        metadata: the sample's .json.
        raw: its .safetensors.
    """

    location: tuple[int, int, int]
    name: str
    metadata: dict[str, Any]
    raw: bytes

    @property
    def group(self) -> tuple[int, int, int]:
        """Samples of one batch agree in this: picture height and width in px, chunks of text."""
        return (*self.metadata["bucket"], self.metadata["chunks"])

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors, by the names of the contract."""
        try:
            return load(self.raw)
        except Exception as error:  # SafetensorError; AttributeError for a dtype that this torch does not know; ...
            raise TrainingError(
                f"{self.name}: its .safetensors cannot be read ({short_error(error)}). Prepare the shard again.",
                code="damaged-sample",
            ) from error


@dataclass
class PreparedDataset:
    """A prepared dataset.

    Attributes:
        path: of its folder, local or a URL.
        header: dataset.json.
        common: the tensors of common.safetensors.
        part: which samples are read: all; train, those that are not held out; validation, those that are.
    """

    path: str
    header: dict[str, Any]
    common: dict[str, Tensor]
    part: Part = "all"

    @property
    def shards(self) -> list[tuple[str, int]]:
        """(name, samples in it) of every shard that is read."""
        return [(name, count) for name, count, kept in self._counts() if kept]

    @property
    def samples(self) -> int:
        """How many are read."""
        return sum(kept for _, _, kept in self._counts())

    @property
    def held_out(self) -> dict[str, list[str]]:
        """Name of a shard -> the keys of its samples that are held out."""
        return self.header.get("validation", {}).get("samples", {})

    def of_part(self, part: Part) -> PreparedDataset:
        """The same, of which other samples are read.

        Raises:
            TrainingError: there are none.
        """
        dataset = replace(self, part=part)
        if dataset.samples == 0:
            raise TrainingError(
                f"{self.path}: no sample is {'held out' if part == 'validation' else 'left for training'}. Hold some out with `python "
                f"-m training prepare --merge {self.path} --validation 0.1`, or name another folder.",
                code="no-samples-of-this-part",
            )
        return dataset

    def _counts(self) -> list[tuple[str, int, int]]:
        """(name, samples in it, samples that are read) of every shard."""
        found = []
        for shard in self.header["shards"]:
            count, held = int(shard["samples"]), len(self.held_out.get(shard["name"], ()))
            found.append((shard["name"], count, {"all": count, "train": count - held, "validation": held}[self.part]))
        return found

    def source_weights(self) -> dict[str, float]:
        """How often a sample of each source is taken, next to one of the source taken most often (1)."""
        weights = {source["name"]: float(source.get("weight", 1.0)) for source in self.header.get("sources", [])}
        most = max(weights.values(), default=1.0)
        if most <= 0:
            raise TrainingError(
                f"{self.path}: every source has the weight 0, so nothing can be drawn. Correct dataset.json.",
                code="sources-without-weight",
            )
        return {name: weight / most for name, weight in weights.items()}

    def read(self, shard: int, start: int = 0) -> Iterator[tuple[int, str, dict[str, Any], bytes]]:
        """The samples of a shard, from index `start` on.

        Yields:
            (index, name, metadata, raw), as `Sample` wants them behind its dataset and turn.

        Raises:
            TrainingError: the shard cannot be opened, or ends before all of its samples were read.
        """
        name, expected = self.shards[shard]
        path, done = _join(self.path, name), 0
        held, read_held = {*self.held_out.get(name, ())}, {"train": (False,), "validation": (True,)}
        wanted = read_held.get(self.part, (False, True))
        with _open(path) as stream:
            try:
                for key, parts in _entries(stream):
                    lacking = [ending for ending in ("json", "safetensors") if ending not in parts]
                    if lacking:
                        raise _cut_off(path, done, expected, f"the sample {key} has no .{lacking[0]}")
                    if done >= start and (key in held) in wanted:
                        yield done, f"{path}, sample {key}", self._metadata(path, key, parts), parts["safetensors"]
                    done += 1
            except TrainingError:
                raise
            except Exception as error:  # tarfile.TarError, OSError, EOFError; stores have errors of their own
                if not (is_url(path) or isinstance(error, (tarfile.TarError, OSError, EOFError))):
                    raise
                raise _cut_off(path, done, expected, str(error)) from error
        if done != expected:
            raise _cut_off(path, done, expected, "it ends too early" if done < expected else "it is another shard")

    def head(self, shard: str, size: int) -> bytes:
        """The first `size` bytes of a shard.

        Raises:
            TrainingError: it cannot be read.
        """
        return _read(_join(self.path, shard), size)

    def file(self, name: str) -> bytes:
        """All of a small file beside the shards.

        Raises:
            TrainingError: it cannot be read.
        """
        return _read(_join(self.path, name))

    @staticmethod
    def _metadata(path: str, key: str, parts: dict[str, bytes]) -> dict[str, Any]:
        try:
            metadata = json.loads(parts["json"])
            header = json.loads(parts["safetensors"][8 : 8 + int.from_bytes(parts["safetensors"][:8], "little")])
            metadata["chunks"] = int(header["ids_l"]["shape"][0])
            metadata["bucket"] = [int(side) for side in metadata["bucket"]]
            _, _ = metadata["bucket"]
        except (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
            raise TrainingError(
                f"{path}: the sample {key} cannot be read ({error!r}). Prepare the shard again.", code="damaged-sample"
            ) from error
        return metadata


def open_dataset(path: str) -> PreparedDataset:
    """Read dataset.json and common.safetensors.

    Raises:
        TrainingError: it is no prepared folder, or another version's.
    """
    path = path if is_url(path) else str(expand_user(path))
    where = _join(path, "dataset.json")
    content = _read(where)
    try:
        header = json.loads(content)
        kind, version = header["format"], str(header["format_version"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TrainingError(
            f"{where} cannot be read ({error!r}). {PREPARE}, or merge its slices.", code="unreadable-dataset"
        ) from error
    if (kind, version) != (FORMAT, FORMAT_VERSION):
        raise TrainingError(
            f"{where}: it says {kind} {version}, this program reads {FORMAT} {FORMAT_VERSION}. Prepare the data again.",
            code="data-of-another-version",
        )
    try:
        check_header(header)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(
            f"{where} is damaged ({short_error(error, kind=True)}). Merge its slices again, or prepare the data again.",
            code="dataset-damaged",
        ) from error
    where = _join(path, "common.safetensors")
    content = _read(where)
    try:
        dataset = PreparedDataset(path, header, load(content))
        check_common(dataset.common, header)
    except Exception as error:  # SafetensorError; AttributeError for a dtype that this torch does not know; ...
        raise TrainingError(
            f"{where} cannot be read ({short_error(error)}). Prepare the data again.", code="unreadable-common"
        ) from error
    if dataset.samples == 0:
        raise TrainingError(
            f"{path}: there is no sample in it; report.md there says why. Prepare other data.", code="no-samples"
        )
    if not is_url(path):
        for shard in header["shards"]:
            _check_shard(Path(path), shard)
    return dataset


def _check_shard(folder: Path, shard: Mapping[str, Any]) -> None:
    file = folder / shard["name"]
    if not file.is_file():
        raise TrainingError(
            f"{folder}: the shard {shard['name']} is missing. Bring it back, or prepare the data again.",
            code="shard-missing",
        )
    size = file.stat().st_size
    if shard.get("bytes", size) != size:
        raise TrainingError(
            f"{folder}: the shard {shard['name']} has {size:,} bytes, dataset.json says {shard['bytes']:,}: it is another shard, or "
            "was cut off. Bring it back, or prepare the data again.",
            code="shard-of-another-size",
        )


def open_datasets(configs: Sequence[FolderConfig], part: Part = "train") -> tuple[list[PreparedDataset], list[float]]:
    """Open prepared folders.

    Args:
        configs: what and how much of it.
        part: which samples are wanted of folders that hold some out, where their configuration does not say.

    Returns:
        The datasets, and how often each is drawn from.

    Raises:
        TrainingError: they do not belong together.
    """
    opened = [(open_dataset(config.path), config.part or part) for config in configs]
    opened = [open_dataset(config.path) for config in configs]
    datasets = [
        one.of_part(config.part or (part if one.held_out else "all"))
        for one, config in zip(opened, configs, strict=True)
    ]
    for dataset in datasets[1:]:
        for part in ("base", "vision", "recogniser"):
            if _differ(dataset.header[part], datasets[0].header[part]):
                raise TrainingError(
                    f"{dataset.path} and {datasets[0].path} were prepared with different models ({part}: {dataset.header[part]} "
                    f"and {datasets[0].header[part]}). Prepare both with the same ones.",
                    code="datasets-of-different-models",
                )
    weights = [
        dataset.samples if config.weight is None else config.weight
        for dataset, config in zip(datasets, configs, strict=True)
    ]
    given = [config.weight is not None for config in configs]
    if any(given) and not all(given):
        raise TrainingError(
            "Some of data.folders have a weight and others have none: give all of them one, or none.",
            code="folders-without-weight",
        )
    return datasets, weights


def _entries(stream: BinaryIO) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, ending -> content) of every sample of a tar: files that follow each other and share the name up to a dot."""
    wds = import_module("webdataset.tariterators")
    key, parts = "", {}
    for entry in wds.tar_file_iterator(stream):
        before, _, ending = entry["fname"].partition(".")
        if parts and before != key:
            yield key, parts
            parts = {}
        key = before
        parts[ending] = entry["data"]
    if parts:
        yield key, parts


def _cut_off(path: str, done: int, expected: int, why: str) -> TrainingError:
    return TrainingError(
        f"The shard {path} is damaged ({why}): {done} of {expected} samples could be read. Copy or prepare it again; "
        "training then goes on from its last checkpoint.",
        code="damaged-shard",
    )


def _join(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}"


@contextmanager
def _open(path: str) -> Iterator[BinaryIO]:
    """A file or URL, open for reading.

    Raises:
        TrainingError: it cannot be opened.
    """
    gopen = import_module("webdataset.gopen")
    scheme = path.partition("://")[0]
    try:
        if (
            is_url(path) and scheme != path and scheme not in gopen.gopen_schemes
        ):  # s3://, az:// and what else fsspec knows
            stream = open_url(path)
        else:
            stream = gopen.gopen(path, "rb")
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"{path} cannot be opened ({short_error(error)}). {PREPARE}, or correct data.folders.", code="cannot-open"
        ) from error
    try:
        yield stream
    finally:
        with suppress(OSError):  # a download that is ended before its end, because the samples in front were enough
            stream.close()


def _read(path: str, size: int = -1) -> bytes:
    with _open(path) as stream:
        try:
            return stream.read(size)
        except OSError as error:
            raise TrainingError(
                f"{path} cannot be read ({error}). {PREPARE}, or correct data.folders.", code="unreadable-data"
            ) from error


def _differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two descriptions of a model contradict each other; a hash of its file counts where both have one, and then for the
    name, since a pack's folder may be called anything."""
    digests = one.get("sha256"), other.get("sha256")
    alone = {"sha256", "name"} if all(digests) else {"sha256"}
    rest = [{key: value for key, value in each.items() if key not in alone} for each in (one, other)]
    return rest[0] != rest[1] or (all(digests) and digests[0] != digests[1])
