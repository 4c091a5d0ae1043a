"""The miniature's trained weights: small .safetensors files in half precision that ship with the project."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import HostError
from .design import FOLDER

__all__ = ["FOLDER", "load_part", "save_part"]


def load_part(name: str, folder: Path = FOLDER) -> dict[str, Tensor]:
    """The tensors of <name>.safetensors, float32.

    Raises:
        HostError: the file is not there or damaged.
    """
    path = folder / f"{name}.safetensors"
    try:
        tensors = load_file(path)
    except Exception as error:  # safetensors and the file system have an error each
        raise HostError(
            f"The miniature's weights {path} cannot be read ({error}). They ship with the project: install it again.",
            code="miniature-weights-unusable",
        ) from error
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}


def save_part(name: str, tensors: dict[str, Tensor], folder: Path = FOLDER) -> None:
    """Write <name>.safetensors in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    half = {key: (value.half() if value.is_floating_point() else value).contiguous() for key, value in tensors.items()}
    save_file(half, folder / f"{name}.safetensors")
