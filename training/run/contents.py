"""What data and base hold, as short checksums: other pictures under the same names, another base of the same sizes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import TrainingError
from ..data.dataset import PreparedDataset
from .base import BaseModel

__all__ = ["check_contents", "contents_of", "validation_changed"]

HEAD = 1 << 20
"""Bytes of a shard that are looked at where dataset.json has no checksum of it."""
BEGINNING = 1 << 16
"""Bytes of a shard on a disk that are looked at besides: dataset.json may be that of another file."""
VALUES = 16
"""Values of each weight of the base that are looked at."""


def contents_of(
    base: BaseModel, folders: Sequence[PreparedDataset], validation: Sequence[PreparedDataset] = ()
) -> dict[str, Any]:
    """Checksums for a checkpoint: of each shard, what they share, and the base's weights."""
    values = torch.cat(list(_samples(base)))
    return {
        "shards": [[_shard(folder, entry) for entry in folder.header["shards"]] for folder in folders],
        "beginnings": [[_beginning(folder, entry) for entry in folder.header["shards"]] for folder in folders],
        "validation": [[_shard(folder, entry) for entry in folder.header["shards"]] for folder in validation],
        "common": [_digest(folder.common[name] for name in sorted(folder.common)) for folder in folders],
        "base": {
            "dtype": str(base.unet.dtype),
            "sha256": _digest([values]),
            "values": values[:: max(1, len(values) // 64)].tolist(),
        },
    }


def check_contents(run: Path, found: Mapping[str, Any], now: Mapping[str, Any], base: str) -> None:
    """Refuse to resume with other data or another base. What a checkpoint of an earlier version lacks is not compared.

    Raises:
        TrainingError: naming the shard, or the base.
    """
    advice = f"Bring back what the run was started with, or choose another folder (--run); init.weights: {run} would start from its weights."
    for number, after in enumerate(now["shards"]):
        changed = {
            shard
            for part in ("shards", "beginnings")
            for before in found.get(part, [])[number : number + 1]
            for shard, (one, other) in enumerate(zip(before, now[part][number], strict=False))
            if one and other and one != other
        }
        common = "common" in found and found["common"][number] != now["common"][number]
        if changed or common:
            what = f"{len(changed)} of {len(after)} shards" if changed else "common.safetensors"
            raise TrainingError(
                f"{run} was trained with other data: {what} of data.folders, entry {number + 1}, hold something else under "
                f"the same names. {advice}",
                code="run-with-other-data",
            )
    if "base" in found and not _same_base(found["base"], now["base"]):
        raise TrainingError(
            f"{run} was trained on another base: {base} has the same sizes, but other weights. {advice}",
            code="run-on-another-base",
        )


def validation_changed(found: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether scores of earlier checkpoints are of other validation data; which is allowed, but has to be said."""
    return "validation" in found and found["validation"] != now["validation"]


def _same_base(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    if before["dtype"] == after["dtype"]:
        return before["sha256"] == after["sha256"]
    ours, theirs = torch.tensor(before["values"]), torch.tensor(after["values"])  # rounded otherwise
    return ours.shape == theirs.shape and bool(torch.allclose(ours, theirs, rtol=0.02, atol=1e-4))


def _shard(folder: PreparedDataset, entry: Mapping[str, Any]) -> str:
    if entry.get("sha256"):
        return str(entry["sha256"])
    path = Path(folder.path) / str(entry["name"])
    if not path.is_file():  # behind a URL
        return hashlib.sha256(folder.head(str(entry["name"]), HEAD)).hexdigest()
    with path.open("rb") as file:
        return hashlib.sha256(f"{path.stat().st_size} ".encode() + file.read(HEAD)).hexdigest()


def _beginning(folder: PreparedDataset, entry: Mapping[str, Any]) -> str | None:
    path = Path(folder.path) / str(entry["name"])
    if not path.is_file():  # behind a URL, where it would take a question for each shard
        return None
    with path.open("rb") as file:
        return hashlib.sha256(file.read(BEGINNING)).hexdigest()


def _samples(base: BaseModel) -> Iterator[Tensor]:
    """A few values of every weight, float32."""
    for part in (base.unet, base.text_encoder):
        for weight in [] if part is None else part.parameters():
            flat = weight.detach().reshape(-1)
            yield flat[:: max(1, len(flat) // VALUES)][:VALUES].float().cpu()


def _digest(tensors: Any) -> str:
    sha256 = hashlib.sha256()
    for tensor in tensors:
        sha256.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha256.hexdigest()
