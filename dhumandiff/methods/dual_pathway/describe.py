"""What a file of the dual pathway is, as plain values and in words."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from ...formats import dual_pathway
from .adapter import DualPathway, parts_of

__all__ = ["as_text", "describe", "in_a_sentence", "tensors_of"]

_PARTS = {"identity": "identity path", "tca": "text consistency", "gates": "gates", "router": "router"}


def describe(path: Path) -> dict[str, Any]:
    """Plain values under the names that `inspect --json` prints.

    Raises:
        AdapterError: the file is damaged, or its parts do not belong together.
    """
    weights = dual_pathway.load(path)
    # Read whole where that is possible, so that parts which do not fit each other are found.
    base = asdict(DualPathway.from_pretrained(path).identity.info) if "identity" in weights.parts else {}
    parts = parts_of(weights)
    tca, gates, router = parts.get("tca"), parts.get("gates"), parts.get("router")
    parameters = {part: sum(tensor.numel() for tensor in weights.of(part).values()) for part in weights.parts}
    sized = next((part for part in (tca, router) if part is not None), None)
    hidden = base.get("hidden", () if sized is None else sized.hidden)
    return {
        "path": str(path),
        "format": dual_pathway.NAME,
        "parts": list(weights.parts),
        "layers": len(hidden) or len(gates.groups if gates else ()),
        "hidden": list(hidden),
        "context_width": base.get("context_width", None if tca is None else tca.context_width),
        **({"clip_width": base["clip_width"]} if base else {}),
        "trained": tca is not None,
        "rank": None if tca is None else tca.rank,
        "gate_groups": [] if gates is None else list(gates.groups),
        "router_width": None if router is None else router.width,
        **weights.metadata,
        "dtypes": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in weights.tensors.values()}),
        "parameters": parameters,
        "bytes": sum(tensor.numel() * tensor.element_size() for tensor in weights.tensors.values()),
    }


def tensors_of(path: Path) -> dict[str, Tensor]:
    """All tensors of the file."""
    return dual_pathway.load(path).tensors


def in_a_sentence(found: dict[str, Any]) -> str:
    """The little that tells one file from another, for lists."""
    parts = ", ".join(_PARTS[part] for part in found["parts"])
    beside = "" if "identity" in found["parts"] else ", to be used with an adapter beside it"
    return (
        f"weights of the dual pathway ({parts}; {found['layers']} cross-attention layers{beside}); {', '.join(found['dtypes'])}, "
        f"{found['bytes'] / 1e6:,.1f} MB; license: {found['pathway_licence'] or found.get('licence') or 'not stated'}"
    )


def as_text(found: dict[str, Any]) -> str:
    """The same for people."""
    hidden = found["hidden"]
    widths = ", ".join(f"{hidden.count(width)} of width {width}" for width in sorted(set(hidden))) or "widths unknown"
    parts = ", ".join(f"{_PARTS[part]} {count / 1e6:,.2f} M" for part, count in found["parameters"].items())
    gates = f"{sum(found['gate_groups'])} groups of heads" if found["gate_groups"] else "none: a mask acts as given"
    identity = "not in this file: give the adapter beside it"
    if "identity" in found["parts"]:
        identity = f"{found['source'] or 'an adapter'}; recogniser {found['recogniser'] or 'none'}, license: {found['licence']}"
    rows = {
        "this is": "weights of the dual pathway",
        "base": f"{found.get('base_family') or 'of the identity'}, {found['layers']} cross-attention layers ({widths})",
        "identity": identity,
        "text path": f"trained, rank {found['rank']}" if found["trained"] else "untrained: a weaker identity path",
        "gates": gates,
        "router": f"routing tokens of width {found['router_width']}" if found["router_width"] else "none",
        "trained with": found["pathway_identity"] or "not stated",
        "parameters": f"{sum(found['parameters'].values()) / 1e6:,.2f} M ({parts})",
        "stored as": f"{', '.join(found['dtypes'])}, {found['bytes'] / 1e6:,.1f} MB",
        "licence": found["pathway_licence"] or "not stated",
        "source": found["pathway_source"] or "not stated",
    }
    return "\n".join([found["path"], *(f"  {name:<13} {value}" for name, value in rows.items())])
