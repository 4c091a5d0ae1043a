"""The project's own format: one .safetensors, tensors named as in `Adapter.state_dict()`.

    face_projection.*        identity_projection.*        mapping.*        attention.{k}.to_k_ip1.weight, ...

Metadata (all strings): format "dhumandiff", format_version "1", base_family, clip_tower, recogniser, identity_channels,
shared ("true" when one key/value projection serves every person), licence, source.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from ..errors import AdapterError
from .reading import FAMILIES, METADATA, TensorFile, Weights, check_dtypes
from .writing import at_once, plain, size

__all__ = ["NAME", "VERSION", "load", "matches", "save"]

NAME = "native"
VERSION = 1
PARTS = ("face_projection", "identity_projection", "mapping", "attention")
CHANNELS = ("rgb-swapped", "bgr")


def matches(file: TensorFile) -> bool:
    """Whether the names of the tensors are those of a native file."""
    return any(name.startswith(("face_projection.", "attention.0.to_k_ip")) for name in file.tensors)


def load(file: TensorFile) -> Weights:
    """Check the metadata and hand the tensors on as they are."""
    check_dtypes(file)
    check_metadata(file.metadata, file.path)
    metadata = {name: file.metadata[name] for name in METADATA}
    return Weights(NAME, file.tensors, metadata, dict.fromkeys(PARTS, str(file.path)))


def check_metadata(metadata: Mapping[str, str], path: Path) -> None:
    """Refuse metadata that is missing, of a newer version, or of another base."""
    lacking = [name for name in ("format", "format_version", *METADATA) if name not in metadata]
    if metadata.get("format") != "dhumandiff" or lacking:
        raise AdapterError(
            f"{path}: the names of the tensors are those of an adapter, but the metadata lacks "
            f"{', '.join(lacking) or 'its format'}. Another program has rewritten the file: convert the weights again.",
            code="metadata-missing",
        )
    if metadata["format_version"] != str(VERSION):
        raise AdapterError(
            f"{path}: the file has format version {metadata['format_version']}, this program knows version {VERSION}. "
            "Update DHumanDiff.",
            code="newer-format",
        )
    if (
        metadata["base_family"] not in FAMILIES.values()
    ):  # whether it fits the base at hand, the hosts see by its layers
        raise AdapterError(
            f"{path}: the adapter was made for {metadata['base_family']!r}; {', '.join(FAMILIES.values())} are known.",
            code="unknown-base-family",
        )
    if metadata["identity_channels"] not in CHANNELS:
        raise AdapterError(
            f"{path}: identity_channels is {metadata['identity_channels']!r}; {' or '.join(CHANNELS)} was expected.",
            code="unknown-identity-channels",
        )


def stamped(metadata: Mapping[str, str], shared: bool) -> dict[str, str]:
    """The full metadata of a file."""
    own = {"format": "dhumandiff", "format_version": str(VERSION), "shared": str(shared).lower()}
    return {**own, **{name: metadata[name] for name in METADATA}}


def save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write one .safetensors, bit for bit.

    Raises:
        AdapterError: the name has another ending, or the file cannot be written.
    """
    if path.suffix != ".safetensors":
        raise AdapterError(
            f"{path}: a native adapter is one file; choose a name that ends in .safetensors.", code="wrong-file-ending"
        )
    shared = "attention.0.to_k_ip.weight" in tensors
    tensors = plain(tensors)
    with at_once(path, size(tensors)) as temporary:
        save_file(tensors, temporary, metadata=stamped(metadata, shared))
