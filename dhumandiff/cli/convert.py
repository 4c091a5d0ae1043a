"""Turn adapter weights from one format into another, bit for bit.

python -m dhumandiff convert models/dhumandiff/DHumanDiff pair.safetensors    four released files -> one native file
python -m dhumandiff convert pair.safetensors folder                          one native file -> four released files
python -m dhumandiff convert ip-adapter-plus-face_sdxl_vit-h.bin face.safetensors
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..errors import AdapterError
from .files import same_file

_FILE_ENDINGS = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".safetensor", ".sft", ".onnx", ".gguf", ".json", ".zip")
"""What no folder's name ends in, so that somebody means a file."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `convert` to the commands."""
    parser = subparsers.add_parser(
        "convert",
        help="turn adapter weights from one format into another",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, metavar="SRC", help="folder of four files, native file, IP-Adapter Plus")
    parser.add_argument("destination", type=Path, metavar="DST", help="a .safetensors (native) or a folder (released)")
    parser.add_argument("--force", action="store_true", help="overwrite what is there")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Convert `args.source` to `args.destination`.

    Raises:
        AdapterError: something is there and `args.force` is not set, or the source is no adapter.
    """
    from .. import formats
    from ..formats.reading import not_finite
    from ..methods.paired.adapter import Adapter

    destination: Path = args.destination
    native = destination.suffix == ".safetensors"
    if destination.suffix.lower() in _FILE_ENDINGS and not native and not os.path.isdir(destination):
        raise AdapterError(
            f"{destination}: choose a name ending in .safetensors (native), or a folder (released layout).",
            code="wrong-file-ending",
        )
    released = (*formats.released.FILES.values(), formats.released.NOTE)
    written = [destination] if native else [destination / name for name in released]
    source = formats.released.find(args.source) if os.path.isdir(args.source) else args.source
    if any(same_file(destination, read) for read in (args.source, source)):
        raise AdapterError(
            f"{destination} is what is converted: the source would be overwritten. Choose another destination.",
            code="source-would-be-overwritten",
        )
    there = [path for path in written if os.path.lexists(path)]
    if there and not args.force:
        raise AdapterError(
            f"{there[0]} is there already. Choose another destination, or overwrite it with --force.",
            code="already-there",
        )
    adapter = Adapter.from_pretrained(args.source)
    damaged = not_finite(adapter.state_dict())
    if damaged:
        raise AdapterError(
            f"{args.source}: {damaged[0]} holds NaN or infinite values. The file is damaged: get it again.",
            code="weights-not-finite",
        )
    if native:
        adapter.save_pretrained(destination)
    else:
        adapter.save_released(destination)
    print(f"{args.source} -> {destination} ({adapter.info.layers} layers)")
