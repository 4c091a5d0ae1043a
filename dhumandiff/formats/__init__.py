"""Checkpoint formats, one file each: `released` (four .pt), `native` (one .safetensors), `ip_adapter` (Plus, SDXL), `low_rank`
(a small .safetensors that changes one of these), and of other methods, each with a `load` of its own, `dual_pathway` (one file),
`parts2whole` (a folder) and `withanyone` (one file, for FLUX).

    detect(path)   the name of the format, from names and shapes of the tensors only
    load(path)     tensors under the adapter's own names, and the metadata that tensors cannot tell

A format module has NAME, matches(file) and load(file); `released` works on folders. Tensors that are read are views of
the mapped file wherever the file's own layout allows it, so reading costs neither time nor memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from ..errors import AdapterError
from ..io import expand_user
from . import dual_pathway, ip_adapter, low_rank, native, parts2whole, released, withanyone
from .reading import METADATA, TensorFile, Weights, looks_like, read_tensor_file

__all__ = [
    "METADATA",
    "Weights",
    "detect",
    "dual_pathway",
    "ip_adapter",
    "load",
    "low_rank",
    "native",
    "parts2whole",
    "released",
    "withanyone",
]

EXPECTED = (
    "Expected: a folder with the four released files (face_projection.pt, face_projection2.pt, mapping.pt, "
    "ip_adapter_ca.pt), a native .safetensors, or an IP-Adapter Plus (Face) file for SDXL with ViT-H"
)


def detect(path: str | os.PathLike[str]) -> str:
    """Name the format of a folder or file.

    Raises:
        AdapterError: it is something else; the message says what it looks like.
    """
    path = _existing(path)
    if path.is_dir():
        if parts2whole.is_folder(path):
            return parts2whole.NAME
        released.find(path)
        return released.NAME
    file = read_tensor_file(path)
    others = (withanyone, dual_pathway)
    return next((other.NAME for other in others if other.matches(file)), None) or _format_of(file).NAME


def load(path: str | os.PathLike[str], full: Iterable[Path] = ()) -> Weights:
    """Read a folder or file of any format.

    Args:
        path: of it.
        full: for a low-rank file, where its full adapter may be; without any, beside it.

    Raises:
        AdapterError: it cannot be read, or is something else; the message names the file and what was expected.
    """
    path = _existing(path)
    if path.is_dir():
        if parts2whole.is_folder(path):
            raise AdapterError(
                f"{path}: these are weights of Parts2Whole, which draws parts of people on Stable Diffusion 1.5; load them "
                f"with Parts2Whole's own loader. {EXPECTED}.",
                code="weights-of-parts2whole",
            )
        return released.load(path)
    file = read_tensor_file(path)
    return low_rank.load(file, full) if low_rank.matches(file) else _format_of(file).load(file)


def _existing(path: str | os.PathLike[str]) -> Path:
    path = expand_user(path)
    if not os.path.exists(path):  # False, too, where a folder above may not be entered; Path.exists raises there
        raise AdapterError(f"{path}: there is no such file or folder. {EXPECTED}.", code="file-missing")
    return path


def _format_of(file: TensorFile) -> ModuleType:
    for known in (low_rank, native, ip_adapter):
        if known.matches(file):
            return known
    raise AdapterError(f"{file.path}: this looks like {looks_like(file.tensors)}. {EXPECTED}.", code="no-adapter-file")
