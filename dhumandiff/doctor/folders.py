"""Where the doctor looks for model files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..io import expand_user
from .extra_paths import extra_folders

__all__ = ["FACE_ROOT", "PROJECT", "Folders", "comfyui_beside", "files_in"]

FACE_ROOT = Path("~/.insightface")
"""InsightFace's own root; packs lie in models/ below it."""


PROJECT = Path(__file__).resolve().parents[2]
"""The folder in which `python -m dhumandiff` is typed; in ComfyUI the pack's, below custom_nodes."""


@dataclass(frozen=True)
class Folders:
    """Folders of each kind of model; several where ComfyUI's extra_model_paths.yaml names more. None need exist."""

    adapters: tuple[Path, ...]
    ip_adapters: tuple[Path, ...]
    clip_vision: tuple[Path, ...]
    checkpoints: tuple[Path, ...]
    face_root: Path
    """InsightFace's root that counts; packs lie in models/ below it."""
    other_face_root: Path | None = None
    """Another one, where a pack may lie in vain."""
    withanyone: tuple[Path, ...] = ()
    diffusion_models: tuple[Path, ...] = ()
    """Of models without text encoders and VAE, such as FLUX."""
    vae: tuple[Path, ...] = ()

    @classmethod
    def below(cls, models: Path, face_root: Path | None = None) -> Folders:
        """Those of a models folder, and of the extra_model_paths.yaml of a ComfyUI around it.

        ComfyUI has its face packs there, the command line below ~/.insightface. A `face_root` that is given counts, for both.

        Raises:
            HostError: extra_model_paths.yaml cannot be read.
        """
        extra = extra_folders(models) if is_comfyui(models) else {}

        def of(kind: str, *own: str) -> tuple[Path, ...]:
            before, behind = extra.get(kind, ([], []))
            return tuple(dict.fromkeys([*before, *(models / name for name in own or (kind,)), *behind]))

        own, comfyui = expand_user(FACE_ROOT), models / "insightface"
        counts, other = (comfyui, own) if is_comfyui(models) else (own, comfyui)
        return cls(
            adapters=of("dhumandiff"),
            ip_adapters=of("ipadapter"),
            clip_vision=of("clip_vision"),
            checkpoints=of("checkpoints"),
            face_root=expand_user(face_root) if face_root else counts,
            other_face_root=None if face_root else other,
            withanyone=of("withanyone"),
            diffusion_models=of("diffusion_models", "diffusion_models", "unet"),
            vae=of("vae"),
        )


def is_comfyui(models: Path) -> bool:
    """Whether a models folder is one of ComfyUI's."""
    return os.path.isdir(models / "checkpoints")


def comfyui_beside(models: Path) -> str | None:
    """The version of the ComfyUI that a models folder belongs to; None when it is not one of ComfyUI's."""
    if not is_comfyui(models):
        return None
    try:
        text = (models.absolute().parent / "comfyui_version.py").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        text = ""
    version = re.search(r'__version__ = "([^"]+)"', text)
    return version[1] if version else "of unknown version"


def files_in(folder: Path, *endings: str) -> Iterator[Path]:
    """Files below a folder, hidden folders left out; nothing where there is no such folder or it may not be read."""
    for place, inside, names in os.walk(folder, followlinks=True):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        for name in sorted(names):
            if name in endings or os.path.splitext(name)[1].lower() in endings:
                yield Path(place) / name
