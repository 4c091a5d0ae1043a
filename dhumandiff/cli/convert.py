"""Turn adapter weights from one format into another, bit for bit.

python -m dhumandiff convert models/dhumandiff/DHumanDiff pair.safetensors    four released files -> one native file
python -m dhumandiff convert pair.safetensors folder                          one native file -> four released files
python -m dhumandiff convert ip-adapter-plus-face_sdxl_vit-h.bin face.safetensors

What was trained for the dual pathway, joined with its adapter, and taken out again:

python -m dhumandiff convert models/dhumandiff/DHumanDiff dual.safetensors --pathway trained.safetensors
python -m dhumandiff convert dual.safetensors trained.safetensors --part pathway
python -m dhumandiff convert dual.safetensors pair.safetensors --part identity
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import AdapterError
from .files import same_file

if TYPE_CHECKING:
    from torch import Tensor

    from ..methods.paired.adapter import Adapter

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
    parser.add_argument("--pathway", type=Path, metavar="FILE", help="join SRC with trained parts of the dual pathway")
    parser.add_argument(
        "--part", choices=("identity", "pathway"), help="of a file of the dual pathway, which to take out"
    )
    parser.add_argument("--force", action="store_true", help="overwrite what is there")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Convert `args.source` to `args.destination`.

    Raises:
        AdapterError: something is there and `args.force` is not set, or the source is no adapter.
    """
    from .. import formats

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
    if any(same_file(destination, read) for read in (args.source, source, args.pathway) if read is not None):
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
    if args.pathway is not None or formats.dual_pathway.is_file(args.source):
        _convert_dual(args, native)
    else:
        if args.part is not None:
            raise AdapterError(
                f"{args.source} is no file of the dual pathway, so there is no part to take out: leave --part away.",
                code="no-parts-to-take-out",
            )
        _convert_adapter(args.source, destination, native)


def _convert_adapter(source: Path, destination: Path, native: bool) -> None:
    from ..methods.paired.adapter import Adapter

    adapter = Adapter.from_pretrained(source)
    _check_finite(source, adapter.state_dict())
    _save_adapter(adapter, destination, native)
    print(f"{source} -> {destination} ({adapter.info.layers} layers)")


def _convert_dual(args: argparse.Namespace, native: bool) -> None:
    """Join an adapter with trained parts, or take something out of a file that has both."""
    from .. import formats
    from ..methods.dual_pathway import DualPathway
    from ..methods.paired.adapter import Adapter

    if (args.pathway is None) == (args.part is None):
        raise AdapterError(
            f"{args.pathway or args.source} holds weights of the dual pathway: join them with an adapter (--pathway), or say what to "
            "take out (--part identity or --part pathway).",
            code="join-or-take-out",
        )
    if not native and args.part != "identity":
        raise AdapterError(
            f"{args.destination}: weights of the dual pathway are one file; choose a name that ends in .safetensors.",
            code="wrong-file-ending",
        )
    if args.pathway is not None:
        dual = DualPathway.from_pretrained(args.pathway, Adapter.from_pretrained(args.source))
        _check_finite(args.pathway, dual.state_dict())
        dual.save_pretrained(args.destination)
        print(f"{args.source} + {args.pathway} -> {args.destination} ({', '.join(dual.info.parts)})")
        return
    weights = formats.dual_pathway.load(args.source)
    _check_finite(args.source, weights.tensors)
    if args.part == "identity":
        adapter = DualPathway.from_pretrained(args.source).identity
        _save_adapter(adapter, args.destination, native)
        print(f"{args.source} -> {args.destination} ({adapter.info.layers} layers)")
        return
    tensors = {name: tensor for name, tensor in weights.tensors.items() if not name.startswith("identity.")}
    if not tensors:
        raise AdapterError(
            f"{args.source} holds nothing that was trained for the dual pathway, only its identity path.",
            code="dual-nothing-trained",
        )
    formats.dual_pathway.save(args.destination, tensors, weights.metadata)
    print(f"{args.source} -> {args.destination} ({', '.join(part for part in weights.parts if part != 'identity')})")


def _save_adapter(adapter: Adapter, destination: Path, native: bool) -> None:
    if native:
        adapter.save_pretrained(destination)
    else:
        adapter.save_released(destination)


def _check_finite(source: Path, tensors: Mapping[str, Tensor]) -> None:
    from ..formats.reading import not_finite

    damaged = not_finite(tensors)
    if damaged:
        raise AdapterError(
            f"{source}: {damaged[0]} holds NaN or infinite values. The file is damaged: get it again.",
            code="weights-not-finite",
        )
