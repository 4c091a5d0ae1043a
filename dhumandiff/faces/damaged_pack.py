"""A pack with a file that nobody can load: InsightFace loads all of a folder, also what is not asked for (age, 106 points, 3D), so
that one damaged file of those would take finding and telling faces down."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["damaged_files", "load_without"]


def damaged_files(folder: Path, onnxruntime: Any) -> list[str]:
    """The names of a pack's .onnx files that ONNX Runtime cannot load."""
    return [path.name for path in sorted(folder.glob("*.onnx")) if not _loads(path, onnxruntime)]


def _loads(path: Path, onnxruntime: Any) -> bool:
    try:
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception:  # its families have no common base
        return False
    return True


def load_without(damaged: list[str], folder: Path, load: Callable[[Path], Any]) -> Any:
    """InsightFace's object of a pack without some of its files; it names its files as they lie in the pack.

    Args:
        damaged: names of the files.
        folder: the pack.
        load: loads a folder.
    """
    with tempfile.TemporaryDirectory(prefix="dhumandiff.") as temporary:
        for path in folder.iterdir():
            if path.name not in damaged and path.is_file():
                _stand_in(path, Path(temporary) / path.name)
        app = load(Path(temporary))
    app.model_dir = str(folder.resolve())
    for model in app.models.values():
        if isinstance(getattr(model, "model_file", None), str):
            model.model_file = str(folder.resolve() / Path(model.model_file).name)
    return app


def _stand_in(path: Path, name: Path) -> None:
    try:
        os.symlink(path.resolve(), name)
    except OSError:  # Windows lets not everybody make links
        shutil.copyfile(path, name)
