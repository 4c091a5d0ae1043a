"""Say what is here and what is missing for a first portrait. The text may go into a bug report as it is.

python -m dhumandiff doctor                                for portraits without ComfyUI
python -m dhumandiff doctor --models ../../models          for ComfyUI, from the pack's folder

The exit code is 0 when nothing stands in the way of a portrait, else 1.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

_MODELS = Path("models")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `doctor` to the commands."""
    parser = subparsers.add_parser(
        "doctor",
        help="say what is missing for a first portrait, for you and for bug reports",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    models = "ComfyUI's models folder, or the one that `download` filled (default: models)"
    parser.add_argument("--models", type=Path, default=_MODELS, metavar="FOLDER", help=models)
    root = "where models/<pack> is (default: FOLDER/insightface with ComfyUI, ~/.insightface without)"
    parser.add_argument("--face-root", type=Path, metavar="FOLDER", help=root)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the report; the exit code."""
    from ..doctor import Folders, comfyui_beside, examine
    from ..io import expand_user

    folder = Path(os.path.abspath(expand_user(args.models)))  # without "..", behind which a name would be seen
    if not os.path.isdir(folder) and args.models != _MODELS:
        print(
            f"--models {folder} {'is a file, no folder' if os.path.exists(folder) else 'does not exist'}: nothing is found in it."
        )
    report = examine(Folders.below(folder, args.face_root), comfyui_beside(folder))
    encoding = sys.stdout.encoding or "utf-8"  # a file's name may have letters that an old terminal does not
    print(str(report).encode(encoding, "replace").decode(encoding))
    return 1 if report.in_the_way else 0
