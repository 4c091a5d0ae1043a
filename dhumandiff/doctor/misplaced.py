"""Model files that are there, but where nobody looks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .folders import Folders, files_in

__all__ = ["adapter_elsewhere", "encoder_elsewhere", "not_a_pack_yet"]

ENCODER_SIGNS = ("image_encoder", "clip", "vit-h", "vit_h")
"""What the path of an image encoder holds, in small letters; a look into every checkpoint would take too long."""


def adapter_elsewhere(folders: Folders, name: str) -> Path | None:
    """The first folder of other models that holds a file of that name: one of the released ones."""
    for folder in (*folders.ip_adapters, *folders.clip_vision, *folders.checkpoints):
        for path in files_in(folder, name):
            return path.parent
    return None


def encoder_elsewhere(folders: Folders, fits: Callable[[Path], bool]) -> Path | None:
    """The first image encoder that fits, in a folder of other models."""
    for folder in (*folders.ip_adapters, *folders.adapters, *folders.checkpoints):
        for path in files_in(folder, ".safetensors"):
            if any(sign in path.relative_to(folder).as_posix().lower() for sign in ENCODER_SIGNS) and fits(path):
                return path
    return None


def not_a_pack_yet(root: Path, name: str) -> tuple[str, str] | None:
    """What lies below InsightFace's root and is no pack, and what to do: a zip to unpack, models without a folder."""
    for place in (root / "models", root):
        if zips := sorted(place.glob("*.zip")):
            return f"{zips[0]} is not unpacked.", f"Unpack it to {root / 'models' / zips[0].stem}."
        if models := sorted(place.glob("*.onnx")):
            text = f"{models[0].name} and what belongs to it lie in {place} itself; a pack has a folder of its own."
            return text, f"Move the .onnx files of one pack into {root / 'models' / name}."
    return None
