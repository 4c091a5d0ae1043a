"""What a run trains, as files hold it: an adapter (`paired`), or a dual pathway whose identity path such an adapter is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from dhumandiff import Adapter
from dhumandiff.formats import dual_pathway as dual_format
from dhumandiff.formats import native
from dhumandiff.methods.dual_pathway.adapter import DualPathway
from dhumandiff.methods.dual_pathway.weights import Gates, Router, TextConsistency

__all__ = ["Weights", "build_weights", "identity_of", "load_weights", "metadata_of", "save_weights"]

Weights = Adapter | DualPathway

_IDENTITY = "identity."
_PARTS = {"tca": TextConsistency, "gates": Gates, "router": Router}


def build_weights(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Weights:
    """Weights around tensors, by their names.

    Raises:
        AdapterError: the tensors are not those of weights.
    """
    if not any(name.startswith(_IDENTITY) for name in tensors):
        return Adapter.from_tensors(dict(tensors), dict(metadata))
    own = {name.removeprefix(_IDENTITY): value for name, value in tensors.items() if name.startswith(_IDENTITY)}
    parts: dict[str, Any] = {}
    for part, kind in _PARTS.items():
        values = {
            name.removeprefix(f"{part}."): value for name, value in tensors.items() if name.startswith(f"{part}.")
        }
        if values:
            module = kind.from_shapes({name: tuple(value.shape) for name, value in values.items()})
            module.load_state_dict(values, strict=True, assign=True)
            parts[part] = module
    known = {key: value for key, value in metadata.items() if key not in dual_format.METADATA_KEYS}
    return DualPathway(Adapter.from_tensors(own, known), **parts, metadata=metadata).requires_grad_(False)


def load_weights(path: str | Path) -> Weights:
    """Read any file or folder of either kind.

    Raises:
        AdapterError: it holds neither.
    """
    return DualPathway.from_pretrained(path) if dual_format.is_file(Path(path)) else Adapter.from_pretrained(path)


def save_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors of either kind as one native file.

    Raises:
        AdapterError: it cannot be written.
    """
    writer = dual_format if any(name.startswith(_IDENTITY) for name in tensors) else native
    writer.save(path, dict(tensors), dict(metadata))


def identity_of(weights: Weights) -> Adapter:
    """The adapter: the weights themselves, or the identity path of a dual pathway."""
    return weights.identity if isinstance(weights, DualPathway) else weights


def metadata_of(weights: Weights) -> dict[str, str]:
    """What tensors cannot tell."""
    return weights.metadata if isinstance(weights, DualPathway) else weights.info.metadata
