"""A small file beside a full adapter: what was trained on top of it, as products of two narrow matrices (LoRA).

    {name}.lora_A.weight [r, in]    {name}.lora_B.weight [out, r]    name.weight of the full adapter becomes W + B A
    every other tensor                                               takes the place of the full adapter's, or is added

Names are those of `Adapter.state_dict()`, such as attention.0.to_k_ip1.lora_A.weight; there is no further scale. Metadata (all
strings): format "dhumandiff-low-rank", format_version "1", the native format's base_family to source, and

    base_adapter           file or folder name of the full adapter, a hint where to look first
    base_adapter_sha256    `digest` of the full adapter's tensors; another adapter is refused
    persons                "2" where an IP-Adapter's one key/value projection was copied for each person, "" otherwise

Source of the formula: LoRA, https://arxiv.org/abs/2106.09685, equation 3 with alpha = r.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..errors import AdapterError
from ..io import expand_user
from . import ip_adapter, native, released
from .reading import METADATA, TensorFile, Weights, check_dtypes, read_tensor_file
from .writing import at_once, plain, size

__all__ = ["NAME", "VERSION", "digest", "full_adapter", "is_file", "load", "matches", "merge", "neighbors", "save"]

NAME = "low-rank"
FORMAT = "dhumandiff-low-rank"
VERSION = 1
OWN = ("base_adapter", "base_adapter_sha256", "persons")
"""Keys of the metadata beside those of the native format."""
A, B = ".lora_A.weight", ".lora_B.weight"
SHIPPED = Path(__file__).parents[1] / "miniature" / "weights" / "adapter.safetensors"
"""The miniature's adapter, the one full adapter that everybody has."""
VALUES = 64
"""Values of each tensor that the digest looks at."""


def matches(file: TensorFile) -> bool:
    """Whether a file says that it is of this format."""
    return file.metadata.get("format") == FORMAT


def is_file(path: Path) -> bool:
    """Whether this is such a file; what cannot be read is none."""
    try:
        return path.suffix == ".safetensors" and path.is_file() and matches(read_tensor_file(path))
    except (AdapterError, OSError):
        return False


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Which adapter this is: SHA-256 over names, shapes and 64 values of each tensor, rounded to float16.

    So an adapter and its half-precision export are the same one, and a file of gigabytes is told apart in a moment.
    """
    total = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        flat = value.detach().reshape(-1)
        flat = flat[:: max(1, len(flat) // VALUES)][:VALUES]
        total.update(f"{name} {list(value.shape)} ".encode())
        total.update(flat.to("cpu", torch.float16).contiguous().numpy().tobytes())
    return total.hexdigest()


def load(file: TensorFile, full: Iterable[Path] = ()) -> Weights:
    """The full adapter with this file's changes in it, in the full adapter's dtype.

    Args:
        file: the small one.
        full: where the full adapter may be: files and folders. Without any, its neighbors are looked at.

    Raises:
        AdapterError: the full adapter is not there, or the file does not fit it.
    """
    _check(file)
    weights, _ = full_adapter(file, full)
    tensors = merge(weights.tensors, file.tensors, file.metadata["persons"], str(file.path))
    metadata = {name: file.metadata[name] for name in METADATA}
    parts = {name.partition(".")[0] for name in file.tensors}
    return Weights(NAME, tensors, metadata, {**weights.files, **dict.fromkeys(parts, str(file.path))})


def full_adapter(file: TensorFile, full: Iterable[Path] = ()) -> tuple[Weights, Path]:
    """The full adapter that a file was trained on, and where it is.

    Raises:
        AdapterError: none of the candidates is it; the message names it and what was looked at.
    """
    wanted, name = file.metadata["base_adapter_sha256"], file.metadata["base_adapter"]
    given = [expand_user(path) for path in full]
    candidates = dict.fromkeys(given or neighbors(file.path))
    looked = []
    for path in sorted(candidates, key=lambda path: path.name != name):
        weights = _read(path)
        if weights is None:
            continue
        if digest(weights.tensors) == wanted:
            return weights, path
        looked.append(str(path))
    others = f" Looked at, and found to be others: {', '.join(looked[:4])}." if looked else ""
    raise AdapterError(
        f"{file.path}: this small file changes the adapter {name!r} (digest {wanted[:12]}), which is not there.{others} Put that "
        "adapter into the same folder, or export the run again with --merged true, which needs no other file.",
        code="full-adapter-missing",
    )


def merge(full: Mapping[str, Tensor], tensors: Mapping[str, Tensor], persons: str, path: str) -> dict[str, Tensor]:
    """Put a file's tensors into those of its full adapter; `path` is named in errors.

    Raises:
        AdapterError: half of a pair is missing, or a shape does not fit.
    """
    merged = _for_each_person(full, persons)
    for name, value in tensors.items():
        if name.endswith(B):
            if name.removesuffix(B) + A not in tensors:
                raise _unfit(path, name, f"{name.removesuffix(B) + A} is missing")
        elif not name.endswith(A):
            merged[name] = value
        else:
            down, up = value, tensors.get(name.removesuffix(A) + B)
            changed = name.removesuffix(A) + ".weight"
            weight = merged.get(changed)
            if up is None or weight is None:
                lacking = changed if up is not None else name.removesuffix(A) + B
                raise _unfit(path, name, f"{lacking} is missing")
            shapes = [list(each.shape) for each in (up, down, weight)]
            if not all(len(shape) == 2 for shape in shapes) or [up.shape[0], down.shape[1]] != shapes[2]:
                raise _unfit(path, name, f"the shapes {shapes[0]} x {shapes[1]} do not make {shapes[2]}")
            if up.shape[1] != down.shape[0]:
                raise _unfit(path, name, f"the ranks {up.shape[1]} and {down.shape[0]} differ")
            merged[changed] = (weight.float() + up.float() @ down.float()).to(weight.dtype)
    return merged


def save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write the small file.

    Raises:
        AdapterError: the name has another ending, or the file cannot be written.
    """
    if path.suffix != ".safetensors":
        raise AdapterError(
            f"{path}: a low-rank adapter is one file; choose a name that ends in .safetensors.",
            code="wrong-file-ending",
        )
    tensors = plain(tensors)
    stamped = {"format": FORMAT, "format_version": str(VERSION)}
    with at_once(path, size(tensors)) as temporary:
        save_file(tensors, temporary, metadata={**stamped, **{name: metadata[name] for name in (*METADATA, *OWN)}})


def _check(file: TensorFile) -> None:
    check_dtypes(file)
    lacking = [name for name in ("format_version", *METADATA, *OWN) if name not in file.metadata]
    if lacking:
        raise AdapterError(
            f"{file.path}: the metadata lacks {', '.join(lacking)}. Another program has rewritten the file: export the run again.",
            code="metadata-missing",
        )
    if file.metadata["format_version"] != str(VERSION):
        raise AdapterError(
            f"{file.path}: the file has low-rank format version {file.metadata['format_version']}, this program knows version "
            f"{VERSION}. Update DHumanDiff.",
            code="newer-format",
        )


def _unfit(path: str, name: str, why: str) -> AdapterError:
    return AdapterError(
        f"{path}: the tensor {name!r} does not fit the full adapter: {why}. The file is damaged or was rewritten: export the "
        "run again.",
        code="low-rank-unfit",
    )


def _for_each_person(full: Mapping[str, Tensor], persons: str) -> dict[str, Tensor]:
    """An IP-Adapter's one key/value projection under the names of each person; others as they are."""
    if not persons:
        return dict(full)
    made = {}
    for name, value in full.items():
        front, shared, last = name.rpartition("_ip.")
        if not shared or not name.startswith("attention."):
            made[name] = value
            continue
        for person in range(int(persons)):  # memory of their own, so that they can be written
            made[f"{front}_ip{person + 1}.{last}"] = value.clone()
    return made


def _read(path: Path) -> Weights | None:
    """A candidate, None where it is no full adapter."""
    try:
        if path.is_dir():
            return released.load(path)
        file = read_tensor_file(path)
        kind = next((kind for kind in (native, ip_adapter) if kind.matches(file)), None)
        return kind.load(file) if kind else None
    except (AdapterError, OSError):
        return None


def neighbors(path: Path) -> Iterator[Path]:
    """What lies beside a file, one folder further up, and in folders beside it; and the adapter that ships."""
    for folder in (path.parent, path.parent.parent):
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            found = folder / entry.name
            if os.path.isfile(found / "ip_adapter_ca.pt") or (found.suffix == ".safetensors" and found != path):
                yield found
            elif folder == path.parent and os.path.isdir(found):
                yield from sorted(found.glob("*.safetensors"))
    yield SHIPPED
