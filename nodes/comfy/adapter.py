"""An adapter under ComfyUI's memory management."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import comfy.model_patcher
import comfy.ops
import torch

from ...dhumandiff.formats import dual_pathway
from ...dhumandiff.methods.paired.adapter import Adapter
from .dual import load_pathway
from .memory import managed

__all__ = ["load_adapter"]


def load_adapter(path: Path, full: Iterable[Path] = ()) -> comfy.model_patcher.ModelPatcher:
    """Read an adapter's files: DHD_ADAPTER, whose `model` is the `Adapter`; of the dual pathway with what is trained beside it.

    Args:
        path: of the file or folder.
        full: where the full adapter of a low-rank file may be.

    Raises:
        AdapterError: the files are damaged, or no adapter.
    """
    if dual_pathway.is_file(path):
        return load_pathway(path)
    adapter = Adapter.from_pretrained(path, operations=comfy.ops.manual_cast, full=full)
    # A few tokens per run: float32 costs nothing here and keeps small differences between faces.
    adapter.compute_dtype = torch.float32
    return managed(adapter)
