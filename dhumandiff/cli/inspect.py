"""Say what a weights file or folder is: format, sizes, layers, dtype, parameters, licence.

python -m dhumandiff inspect models/dhumandiff/DHumanDiff
python -m dhumandiff inspect models/dhumandiff/Parts2Whole
python -m dhumandiff inspect models/withanyone/withanyone.safetensors
python -m dhumandiff inspect pathway.safetensors
python -m dhumandiff inspect models/checkpoints/sdxl.safetensors       a base; or an image encoder of models/clip_vision
python -m dhumandiff inspect pair.safetensors --json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


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
    from ..describe import as_text, describe, tensors_of
    from ..formats.reading import not_finite

    if model := _model_of_comfyui(args.path):
        print(
            json.dumps(model, indent=2)
            if args.json
            else "\n".join(f"{key:<15} {value}" for key, value in model.items())
        )
        return
    found = describe(args.path)
    damaged = not_finite(tensors_of(args.path))
    if damaged:
        found["not_finite"] = damaged
    print(json.dumps(found, indent=2) if args.json else as_text(found))
    if damaged and not args.json:
        more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""
        print(f"  {'damaged':<13} NaN or infinite values in {', '.join(damaged[:3])}{more}: get the file again")


def _model_of_comfyui(path: Path) -> dict[str, object] | None:
    """What a base or an image encoder is, by its head; None for whatever else, and for what is damaged."""
    from ..errors import DHumanDiffError
    from ..formats import checkpoint, clip_vision

    if path.suffix != ".safetensors":
        return None
    try:
        if width := clip_vision.width(path):
            title = clip_vision.KINDS.get(width, {"title": f"an image encoder of width {width}"})["title"]
            return {"path": str(path), "format": "image encoder", "model": title, "bytes": path.stat().st_size}
        facts = checkpoint.examine(path, None)
    except DHumanDiffError:  # told by whoever reads the file for what it is not
        return None
    return {
        "path": str(path),
        "format": "checkpoint",
        "model": checkpoint.TITLES[facts.family],
        "lacks": ", ".join(facts.lacking) or "nothing",
        "predicts": facts.prediction,
        "zero_snr": facts.zero_snr,
        "bytes": path.stat().st_size,
    }
