"""Say what a weights file or folder is: format, sizes, layers, dtype, parameters, licence.

python -m dhumandiff inspect models/dhumandiff/DHumanDiff
python -m dhumandiff inspect pair.safetensors --json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `inspect` to the commands."""
    parser = subparsers.add_parser(
        "inspect",
        help="say what a weights file or folder is",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", type=Path, metavar="FILE", help="file or folder")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print what `args.path` is."""
    found = look(args.path)
    print(json.dumps(found, indent=2) if args.json else as_text(found))


def look(path: Path) -> dict[str, Any]:
    """Everything `inspect` knows, as plain values. AdapterError says what a file that is no adapter looks like."""
    from dataclasses import asdict

    from .. import formats
    from ..methods.paired.adapter import Adapter

    weights = formats.load(path)
    adapter = Adapter.from_tensors(weights.tensors, weights.metadata, places=weights.places)
    parameters: dict[str, int] = {}
    for name, tensor in weights.tensors.items():
        part = name.partition(".")[0]
        parameters[part] = parameters.get(part, 0) + tensor.numel()
    return {
        "path": str(path),
        "format": weights.format,
        "subject_path": adapter.has_subject_path,
        **asdict(adapter.info),
        "dtypes": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in weights.tensors.values()}),
        "parameters": parameters,
        "bytes": sum(tensor.numel() * tensor.element_size() for tensor in weights.tensors.values()),
    }


_FORMATS = {
    "released": "the four released files",
    "native": "a native DHumanDiff adapter",
    "ip-adapter-plus": "an IP-Adapter Plus for SDXL",
}


def in_a_sentence(found: dict[str, Any]) -> str:
    """The little that tells one file from another, for lists."""
    persons = "one set of weights for everybody" if found["shared"] else f"{found['persons']} persons"
    subject = "with" if found["subject_path"] else "without"
    return (
        f"{_FORMATS[found['format']]} ({found['base_family']}, {found['layers']} cross-attention layers, {persons}, "
        f"{subject} subject path); {', '.join(found['dtypes'])}, {found['bytes'] / 1e6:,.1f} MB; "
        f"licence: {found['licence']}"
    )


def as_text(found: dict[str, Any]) -> str:
    """The same for people."""
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
        "base": f"{found['base_family']}, {found['layers']} cross-attention layers ({widths})",
        "face tokens": f"{found['face_tokens']} x {found['context_width']} a face, keys and values: {persons}",
        "subject path": subject,
        "vision tower": f"{found['clip_tower']}, width {found['clip_width']}",
        "recogniser": f"{found['recogniser'] or 'none'}, channels {found['identity_channels']}",
        "parameters": f"{total / 1e6:,.1f} M ({parts})",
        "stored as": f"{', '.join(found['dtypes'])}, {found['bytes'] / 1e6:,.1f} MB",
        "licence": found["licence"],
        "source": found["source"],
    }
    return "\n".join([found["path"], *(f"  {name:<13} {value}" for name, value in rows.items())])
