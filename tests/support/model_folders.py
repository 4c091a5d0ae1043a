"""A ComfyUI's models folder in which all is there, and the doctor's command on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from dhumandiff.__main__ import main
from dhumandiff.doctor.findings import DAMAGED, MISSING
from dhumandiff.onnx_bytes import tiny_model

from . import layouts

PATCHES = "vision_model.embeddings.patch_embedding.weight"


def whole_folder(base: Path) -> Path:
    """Adapter, face pack, image encoder of width 80 and a checkpoint."""
    layouts.released_folder(base / "dhumandiff" / "DHumanDiff", dtype=torch.float16)
    face_pack(base / "insightface" / "models" / "buffalo_l")
    for kind in ("clip_vision", "checkpoints"):
        (base / kind).mkdir()
    image_encoder(base / "clip_vision" / "tower.safetensors", 80)
    (base / "checkpoints" / "sdxl.safetensors").write_bytes(b"any")
    (base.parent / "comfyui_version.py").write_text('__version__ = "0.33.0"\n')
    return base


def face_pack(place: Path) -> Path:
    place.mkdir(parents=True)
    for name in ("det_10g.onnx", "w600k_r50.onnx"):
        (place / name).write_bytes(tiny_model())
    return place


def image_encoder(path: Path, width: int) -> None:
    save_file({PATCHES: torch.zeros(width, 3, 2, 2)}, path)


def doctor(capsys: Any, folder: Path, *options: Any) -> tuple[int, str]:
    """(exit code, text) of the command."""
    code = main(["doctor", "--models", str(folder), *map(str, options)])
    return code, capsys.readouterr().out


def wrong(text: str) -> list[str]:
    """Lines of what stands in the way, each with the line of what to do."""
    lines = text.splitlines()
    return [" ".join(lines[i : i + 2]) for i, line in enumerate(lines) if line[2:].startswith((MISSING, DAMAGED))]
