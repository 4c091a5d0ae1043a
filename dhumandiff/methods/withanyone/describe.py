"""What a file of WithAnyone is, as plain values and in words."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from ...catalogue import WITHANYONE
from ...formats import withanyone
from .adapter import WithAnyone

__all__ = ["as_text", "describe", "in_a_sentence", "tensors_of"]

_KINDS = {
    "withanyone": "WithAnyone, both branches",
    "arc": "WithAnyone's ArcFace branch",
    "sig": "WithAnyone's SigLIP branch",
    "kontext": "WithAnyone's ArcFace branch for FLUX.1 Kontext (by the name of the file)",
}


def describe(path: Path) -> dict[str, Any]:
    """Plain values under the names that `inspect --json` prints.

    Raises:
        AdapterError: the file is damaged, or another model's.
    """
    adapter = WithAnyone.from_pretrained(path)
    tensors = adapter.state_dict()
    parameters: dict[str, int] = {}
    for name, tensor in tensors.items():
        part = name.partition(".")[0]
        parameters[part] = parameters.get(part, 0) + tensor.numel()
    return {
        "path": str(path),
        "format": withanyone.NAME,
        "base_family": "flux",
        **{name: value for name, value in asdict(adapter.info).items() if name != "source"},
        "licence": WITHANYONE.license,
        "source": WITHANYONE.url,
        "dtypes": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}),
        "parameters": parameters,
        "bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()),
    }


def tensors_of(path: Path) -> dict[str, Tensor]:
    """All tensors of the method."""
    return withanyone.load(path).tensors


def in_a_sentence(found: dict[str, Any]) -> str:
    """The little that tells one file from another, for lists."""
    return (
        f"{_KINDS[found['kind']]} (FLUX of width {found['width']}, {found['blocks']} blocks); {', '.join(found['dtypes'])}, "
        f"{found['bytes'] / 1e6:,.1f} MB; license: {found['licence']}"
    )


def as_text(found: dict[str, Any]) -> str:
    """The same for people."""
    parts = ", ".join(f"{part} {count / 1e6:,.1f} M" for part, count in found["parameters"].items())
    siglip = f", and SigLIP's states, {found['siglip_width']} wide" if found["sig"] else ""
    rows = {
        "this is": _KINDS[found["kind"]],
        "base": f"FLUX of width {found['width']}, {found['blocks']} blocks; {found['heads']} heads",
        "people": "up to 4, each in a box or a mask",
        "reads": f"face embeddings of {found['embedding_width']} numbers (antelopev2, not normalized){siglip}",
        "ignored": "; ".join(found["ignored"]) or "nothing",
        "parameters": f"{sum(found['parameters'].values()) / 1e6:,.1f} M ({parts})",
        "stored as": f"{', '.join(found['dtypes'])}, {found['bytes'] / 1e6:,.1f} MB",
        "licence": found["licence"],
        "source": found["source"],
    }
    return "\n".join([found["path"], *(f"  {name:<13} {value}" for name, value in rows.items())])
