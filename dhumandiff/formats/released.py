"""The layout the authors published (Hugging Face Pan1111/DHumanDiff): a folder of four torch files.

    face_projection.pt    face_projection2.pt (identity projection)    mapping.pt    ip_adapter_ca.pt (paired attention)

The files say nothing about where they come from, so the metadata is what the authors' code and pages tell. A folder
written by `save` also holds adapter.json with the metadata of its weights, which then counts, and checksums of the files: a
writing that was killed between two of them is told.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import AdapterError
from ..io import read_text
from . import archive
from .native import check_metadata, stamped
from .reading import (
    FAMILIES,
    METADATA,
    TensorFile,
    Weights,
    check_dtypes,
    looks_like,
    number_layers,
    read_tensor_file,
)
from .writing import all_at_once, plain, size

__all__ = ["AS_RELEASED", "FILES", "NAME", "find", "load", "save"]

NAME = "released"

FILES = {
    "face_projection": "face_projection.pt",
    "identity_projection": "face_projection2.pt",
    "mapping": "mapping.pt",
    "attention": "ip_adapter_ca.pt",
}
"""Part of the adapter -> file."""

NOTE = "adapter.json"

AS_RELEASED = {
    "base_family": "sdxl",
    "clip_tower": "CLIP ViT-H/14 (IP-Adapter image encoder)",
    "recogniser": "insightface buffalo_l",
    "identity_channels": "rgb-swapped",
    "licence": "none stated by the authors",
    "source": "released layout of DHumanDiff (Hugging Face Pan1111/DHumanDiff)",
}

_SIGNS = {
    "face_projection": "latents",
    "identity_projection": "perceiver_resampler.proj_in.weight",
    "mapping": "fc2.weight",
    "attention": "1.to_k_ip1.weight",
}  # a tensor that no other of the four files has


def find(folder: Path) -> Path:
    """The folder that holds all four files: this one, or the only one directly inside it that does.

    Raises:
        AdapterError: files are missing; the message names them.
    """
    try:
        if not _missing(folder):
            return folder
        inside = sorted(entry for entry in folder.iterdir() if entry.is_dir())
        complete = [entry for entry in inside if not _missing(entry)]
        others = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    except OSError as error:
        raise AdapterError(
            f"{folder}: the folder cannot be read ({error.strerror or error}).", code="file-not-readable"
        ) from error
    if len(complete) == 1:
        return complete[0]
    if complete:
        names = ", ".join(entry.name for entry in complete)
        raise AdapterError(
            f"{folder}: several folders inside hold an adapter ({names}). Choose one of them.", code="several-adapters"
        )
    missing = ", ".join(_missing(folder))
    also = f" It holds {', '.join(others[:6])}{', ...' if len(others) > 6 else ''}." if others else " It is empty."
    singles = [name for name in others if name.endswith(".safetensors")]
    hint = (
        f"To use {singles[0]}, choose the file itself."
        if singles
        else "Put the missing files there under exactly these names, or run `python -m dhumandiff download`."
    )
    raise AdapterError(
        f"{folder}: the released layout is four files, and {missing} is not there.{also} {hint}",
        code="released-file-missing",
    )


def _missing(folder: Path) -> list[str]:
    return [name for name in FILES.values() if not (folder / name).is_file()]


def load(folder: Path) -> Weights:
    """Read the four files (in the folder, or one level deeper)."""
    folder = find(folder)
    tensors: dict[str, Tensor] = {}
    files = {part: str(folder / name) for part, name in FILES.items()}
    for part, name in FILES.items():
        file = read_tensor_file(folder / name)
        _check_is(part, file)
        check_dtypes(file)
        if part == "attention":
            tensors |= number_layers(file)
        else:
            tensors |= {f"{part}.{rest}": tensor for rest, tensor in file.tensors.items()}
    note = _read_note(folder)
    context = next((tensor.shape[1] for name, tensor in tensors.items() if name.startswith("attention.")), 0)
    if note["base_family"] == AS_RELEASED["base_family"] and context in FAMILIES:
        note["base_family"] = FAMILIES[context]  # somebody's own weights in this layout
    return Weights(NAME, tensors, note, files)


def _check_is(part: str, file: TensorFile) -> None:
    # A later layer stands in for a missing first one, so that the message is about the gap.
    alike = part == "attention" and any(".to_k_ip" in name for name in file.tensors)
    if _SIGNS[part] not in file.tensors and not alike:
        raise AdapterError(
            f"{file.path}: under this name {FILES[part]} was expected (with a tensor {_SIGNS[part]!r}), "
            f"but it looks like {looks_like(file.tensors)}.",
            code="another-part-under-this-name",
        )


def _read_note(folder: Path) -> dict[str, str]:
    path = folder / NOTE
    if not path.is_file():
        return dict(AS_RELEASED)
    try:
        told = json.loads(read_text(path))
        files = {str(name): str(digest) for name, digest in told.get("files", {}).items()}
        note = {str(name): str(value) for name, value in told.items()}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise AdapterError(
            f"{path}: the note about these weights cannot be read ({error}). Mend or remove it.", code="note-damaged"
        ) from error
    check_metadata(note, path)
    _check_written_together(folder, files)
    return {name: note[name] for name in METADATA}


def _check_written_together(folder: Path, files: Mapping[str, str]) -> None:
    others = [name for name in FILES.values() if name in files and archive.fingerprint(folder / name) != files[name]]
    if others:
        raise AdapterError(
            f"{folder}: {', '.join(others)} and {NOTE} were not written together, so parts of two adapters may be mixed: most likely "
            "writing was broken off. Write or get all of them again (what was there before may still be beside them, under names "
            f'that begin with a dot), or, where you exchanged a file yourself, remove "files" from {NOTE}.',
            code="files-of-two-adapters",
        )


def save(folder: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write the four files and adapter.json.

    Raises:
        AdapterError: the weights lack a subject path, or share keys and values between people.
    """
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in FILES}
    for name, tensor in plain(tensors).items():
        part, _, rest = name.partition(".")
        if part == "attention":
            k, _, rest = rest.partition(".")
            rest = f"{2 * int(k) + 1}.{rest}"
        parts[part][rest] = tensor
    if not parts["identity_projection"] or not parts["mapping"] or "1.to_k_ip.weight" in parts["attention"]:
        raise AdapterError(
            f"{folder}: the released layout needs a subject path and keys and values for each person, which these "
            "weights lack (they come from an IP-Adapter). Choose a destination that ends in .safetensors.",
            code="layout-cannot-hold-this",
        )
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise AdapterError(f"{folder}: this is a file; the released layout needs a folder.", code="folder-needed")
    # The note first, so that whatever a killed writing leaves is told by it.
    needed = {folder / NOTE: 0} | {folder / name: size(parts[part]) for part, name in FILES.items()}
    with all_at_once(needed) as (note, *temporaries):
        for part, temporary in zip(FILES, temporaries, strict=True):
            torch.save(parts[part], temporary)
        files = dict(zip(FILES.values(), map(archive.fingerprint, temporaries), strict=True))
        told = {**stamped(metadata, shared=False), "files": files}
        note.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
