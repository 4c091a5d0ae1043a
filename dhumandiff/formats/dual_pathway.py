"""The dual pathway's own format: one .safetensors, tensors named as in `DualPathway.state_dict()`.

    identity.*     a DHumanDiff adapter under its native names (identity.face_projection.*, identity.attention.{k}.to_k_ip1.weight, ...)
    tca.layers.{k}.to_k.down.weight, .to_k.up.weight, .to_v.down.weight, .to_v.up.weight      text consistency
    gates.layers.{k}                                                                          gates, one a group of heads
    router.norm.*, router.pool.weight, router.proj.*, router.layers.{k}.*                     router

Any part may be lacking, and a file may hold the trained parts without the identity, to be put beside an adapter.

Metadata (all strings): format "dhumandiff-dual-pathway", format_version "1", parts (comma between), pathway_licence, pathway_source,
pathway_identity (source of the identity that the trained parts were trained with). With an identity, also what `native` has:
base_family, clip_tower, recogniser, identity_channels, licence, source.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import AdapterError
from .reading import METADATA, TensorFile, check_dtypes, read_tensor_file
from .writing import at_once, plain, size

__all__ = ["METADATA_KEYS", "NAME", "PARTS", "DualWeights", "has_identity", "is_file", "load", "matches", "save"]

NAME = "dual-pathway"
FORMAT = "dhumandiff-dual-pathway"
VERSION = 1
PARTS = ("identity", "tca", "gates", "router")
METADATA_KEYS = ("pathway_licence", "pathway_source", "pathway_identity")
"""What the file says of the trained parts."""


@dataclass(frozen=True)
class DualWeights:
    """A file's tensors under their names in the file, and its metadata."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]

    @property
    def parts(self) -> tuple[str, ...]:
        """Which of `PARTS` are there."""
        found = {name.partition(".")[0] for name in self.tensors}
        return tuple(part for part in PARTS if part in found)

    def of(self, part: str) -> dict[str, Tensor]:
        """A part's tensors under its own names."""
        return {
            name.removeprefix(f"{part}."): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(f"{part}.")
        }


def matches(file: TensorFile) -> bool:
    """Whether the names of the tensors are those of a file of the dual pathway."""
    starts = ("identity.face_projection.", "tca.layers.0.", "gates.layers.0", "router.layers.0.")
    return any(name.startswith(starts) for name in file.tensors)


def is_file(path: Path) -> bool:
    """Whether a path is a file of this format, by what its header says; False for whatever cannot be read."""
    if not os.path.isfile(path):
        return False
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except Exception:  # no safetensors file, or a damaged one, of which its reader says more
        return False


def has_identity(path: Path) -> bool:
    """Whether a file of this format holds an adapter, too, by what its header says."""
    with safe_open(path, framework="pt", device="cpu") as file:
        return any(name.startswith("identity.") for name in file.keys())  # noqa: SIM118 (no dict: it cannot be walked)


def load(path: Path) -> DualWeights:
    """Read a file.

    Raises:
        AdapterError: it is damaged, something else, of a newer version, or its metadata is lacking.
    """
    file = read_tensor_file(path)
    check_dtypes(file)
    metadata = file.metadata
    unknown = [name for name in file.tensors if name.partition(".")[0] not in PARTS]
    if not matches(file) or unknown:
        named = f"; {unknown[0]!r} is none of its tensors" if unknown else ""
        raise AdapterError(
            f"{path}: this is no file of the dual pathway{named}. Expected: one .safetensors with identity.*, tca.*, gates.* or "
            "router.*, as training exports it.",
            code="no-dual-pathway-file",
        )
    lacking = [name for name in ("format", "format_version", "parts", *METADATA_KEYS) if name not in metadata]
    if any(name.startswith("identity.") for name in file.tensors):
        lacking += [name for name in METADATA if name not in metadata]
    if lacking or metadata["format"] != FORMAT:
        raise AdapterError(
            f"{path}: the names of the tensors are those of the dual pathway, but the metadata lacks {', '.join(lacking) or 'its format'}. "
            "Another program has rewritten the file: export or convert the weights again.",
            code="dual-metadata-missing",
        )
    if metadata["format_version"] != str(VERSION):
        raise AdapterError(
            f"{path}: the file has format version {metadata['format_version']} of the dual pathway, this program knows version "
            f"{VERSION}. Update DHumanDiff.",
            code="dual-newer-format",
        )
    weights = DualWeights(
        path, dict(file.tensors), {k: v for k, v in metadata.items() if k in (*METADATA, *METADATA_KEYS)}
    )
    missing = [part for part in filter(None, metadata["parts"].split(",")) if part not in weights.parts]
    if missing:
        raise AdapterError(
            f"{path}: the file says that it holds {missing[0]!r}, but there are no such tensors. It is incomplete: get it again.",
            code="dual-part-missing",
        )
    return weights


def save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write one .safetensors, bit for bit.

    Args:
        path: of the file.
        tensors: under their names in the file.
        metadata: `METADATA_KEYS`, and with an identity those of `native`.

    Raises:
        AdapterError: the name has another ending, or the file cannot be written.
    """
    if path.suffix != ".safetensors":
        raise AdapterError(
            f"{path}: weights of the dual pathway are one file; choose a name that ends in .safetensors.",
            code="wrong-file-ending",
        )
    tensors = plain(tensors)
    parts = DualWeights(path, tensors, {}).parts
    keys = (*METADATA_KEYS, *(METADATA if "identity" in parts else ()))
    own = {"format": FORMAT, "format_version": str(VERSION), "parts": ",".join(parts)}
    with at_once(path, size(tensors)) as temporary:
        save_file(tensors, temporary, metadata={**own, **{key: metadata.get(key, "") for key in keys}})
