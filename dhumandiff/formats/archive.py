"""How a torch file (a zip archive) stores its values: mapping one is right only where every record lies there as it is."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["fingerprint", "holds", "is_plain"]


def is_plain(path: Path) -> bool:
    """Whether no record is compressed."""
    return all(record.compress_type == zipfile.ZIP_STORED for record in _records(path))


def holds(path: Path, tensors: Mapping[str, Tensor]) -> bool:
    """Whether each of these mapped tensors lies on a record of its very size; false where one is cut, or exchanged."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in tensors.values()
        if tensor.layout == torch.strided and tensor.device.type == "cpu"
    }
    values = [record for record in _records(path) if re.search(r"(^|/)data/\d+$", record.filename)]
    sizes = iter([record.file_size for record in sorted(values, key=lambda record: record.header_offset)])
    # Both in the order of the file, where lists of a training script may have records that no tensor is on.
    return all(size in sizes for _, size in sorted(storages.items()) if size)


def fingerprint(path: Path) -> str:
    """A short checksum of what an archive holds, by the checksums in its directory, so that its values are not read; "" of another
    file."""
    found = sorted((record.filename.partition("/")[2], record.file_size, record.CRC) for record in _records(path))
    return hashlib.sha256(repr(found).encode()).hexdigest()[:32] if found else ""


def _records(path: Path) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(path) as file:
            return file.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return []  # torch.load says what is wrong
