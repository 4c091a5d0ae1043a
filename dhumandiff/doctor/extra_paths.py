"""ComfyUI's extra_model_paths.yaml: more folders for each kind of model, as ComfyUI itself reads the file."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import DHumanDiffError, HostError, short_error
from ..io import read_text

__all__ = ["FILE", "extra_folders"]

FILE = "extra_model_paths.yaml"
"""Beside ComfyUI's main.py, and so beside its models folder."""

_OLD_NAMES = {"unet": "diffusion_models", "clip": "text_encoders"}


def extra_folders(models: Path) -> dict[str, tuple[list[Path], list[Path]]]:
    """Kind of model -> (folders before ComfyUI's own, folders behind them), of the file beside a models folder.

    Raises:
        HostError: the file cannot be read.
    """
    path = Path(os.path.abspath(models)).parent / FILE
    if not path.is_file():
        return {}
    import yaml  # huggingface_hub brings it

    try:
        sections = yaml.safe_load(read_text(path)) or {}
        found: dict[str, tuple[list[Path], list[Path]]] = {}
        for section in sections.values():
            if section:
                _read_section(section, path.parent, found)
    except (OSError, DHumanDiffError, yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        raise HostError(
            f"{path} cannot be read ({short_error(error)}). Mend it, as ComfyUI's extra_model_paths.yaml.example shows, or move "
            "it away.",
            code="extra-model-paths-damaged",
        ) from error
    return found


def _read_section(section: dict, beside: Path, found: dict[str, tuple[list[Path], list[Path]]]) -> None:
    settings = dict(section)
    base = settings.pop("base_path", None)
    first = bool(settings.pop("is_default", False))
    root = beside if base is None else beside / os.path.expandvars(os.path.expanduser(str(base)))
    for kind, lines in settings.items():
        for line in str(lines).split("\n"):
            if line.strip():
                folder = Path(os.path.normpath(root / line.strip()))
                found.setdefault(_OLD_NAMES.get(kind, kind), ([], []))[0 if first else 1].append(folder)
