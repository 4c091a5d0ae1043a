"""What a weights file is, as plain values and in words.

found = describe(Path("models/dhumandiff/DHumanDiff"))
print(as_text(found))
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from . import formats
from .formats.reading import read_tensor_file
from .methods.dual_pathway import describe as of_dual_pathway
from .methods.paired.adapter import Adapter, field_of
from .methods.parts2whole import describe as of_parts
from .methods.withanyone import describe as of_withanyone

__all__ = ["as_text", "describe", "in_a_sentence", "tensors_of"]

KEYS = {field_of(key): key for key in formats.METADATA}
"""Field of `AdapterInfo` -> its name in files and in what is printed."""


def describe(path: Path, full: Iterable[Path] = ()) -> dict[str, Any]:
    """What a weights file or folder is. full: where the full adapter of a low-rank file may be; without any, beside it.

    Returns:
        Plain values under the names that `inspect --json` prints: path, format, the fields of `AdapterInfo`
        (those that files keep under their names in files), dtypes, parameters of each part, bytes.

    Raises:
        AdapterError: the file is no adapter; the message says what it looks like.
    """
    if other := _of_another_method(path):
        return other.describe(path)
    weights = formats.load(path, full)
    adapter = Adapter.from_tensors(weights.tensors, weights.metadata, files=weights.files)
    own = read_tensor_file(path) if weights.format == formats.low_rank.NAME else None
    tensors = own.tensors if own else weights.tensors
    parameters: dict[str, int] = {}
    for name, tensor in tensors.items():
        part = name.partition(".")[0]
        parameters[part] = parameters.get(part, 0) + tensor.numel()
    return {
        "path": str(path),
        "format": weights.format,
        "subject_path": adapter.has_subject_path,
        **{KEYS.get(name, name): value for name, value in asdict(adapter.info).items()},
        "dtypes": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}),
        "parameters": parameters,
        "bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()),
        **({"base_adapter": own.metadata["base_adapter"]} if own else {}),
    }


def tensors_of(path: Path) -> dict[str, Tensor]:
    """All tensors of a weights file or folder.

    Raises:
        AdapterError: as `describe`.
    """
    other = _of_another_method(path)
    return other.tensors_of(path) if other else formats.load(path).tensors


_OTHERS = {
    formats.dual_pathway.NAME: of_dual_pathway,
    formats.parts2whole.NAME: of_parts,
    formats.withanyone.NAME: of_withanyone,
}
"""Format -> what describes the weights of another method than DHumanDiff."""


def _of_another_method(path: Path) -> ModuleType | None:
    if formats.parts2whole.is_folder(path):
        return of_parts
    if formats.dual_pathway.is_file(path):
        return of_dual_pathway
    return of_withanyone if formats.withanyone.is_file(path) else None


_FORMATS = {
    "released": "the four released files",
    "native": "a native DHumanDiff adapter",
    "ip-adapter-plus": "an IP-Adapter Plus for SDXL",
    "low-rank": "a low-rank file",
}


def in_a_sentence(found: dict[str, Any]) -> str:
    """The little that tells one file from another, for lists."""
    if found["format"] in _OTHERS:
        return _OTHERS[found["format"]].in_a_sentence(found)
    persons = "one set of weights for everybody" if found["shared"] else f"{found['persons']} persons"
    subject = "with" if found["subject_path"] else "without"
    on = f" on {found['base_adapter']}" if "base_adapter" in found else ""
    return (
        f"{_FORMATS[found['format']]}{on} ({found['base_family']}, {found['layers']} cross-attention layers, {persons}, "
        f"{subject} subject path); {', '.join(found['dtypes'])}, {found['bytes'] / 1e6:,.1f} MB; "
        f"license: {found['licence']}"
    )


def as_text(found: dict[str, Any]) -> str:
    """The same for people."""
    if found["format"] in _OTHERS:
        return _OTHERS[found["format"]].as_text(found)
    hidden = found["hidden"]
    widths = ", ".join(f"{hidden.count(width)} of width {width}" for width in sorted(set(hidden)))
    persons = "one for everybody" if found["shared"] else f"{found['persons']} persons"
    subject = (
        f"identity {found['identity_width']} -> token {found['token_width']}; words {found['text_width']} wide"
        if found["subject_path"]
        else "none: face tokens and paired attention only"
    )
    total = sum(found["parameters"].values())
    parts = ", ".join(f"{part.replace('_', ' ')} {count / 1e6:,.1f} M" for part, count in found["parameters"].items())
    rows = {
        "this is": _FORMATS[found["format"]],
        **({"on top of": found["base_adapter"]} if "base_adapter" in found else {}),
        "base": f"{found['base_family']}, {found['layers']} cross-attention layers ({widths})",
        "face tokens": f"{found['face_tokens']} x {found['context_width']} a face, keys and values: {persons}",
        "subject path": subject,
        "image encoder": f"{found['clip_tower']}, width {found['clip_width']}",
        "recogniser": f"{found['recogniser'] or 'none'}, channels {found['identity_channels']}",
        "parameters": f"{total / 1e6:,.1f} M ({parts})",
        "stored as": f"{', '.join(found['dtypes'])}, {found['bytes'] / 1e6:,.1f} MB",
        "licence": found["licence"],
        "source": found["source"],
    }
    return "\n".join([found["path"], *(f"  {name:<13} {value}" for name, value in rows.items())])
