"""The miniature: a small drawn world in which the whole method really works on a CPU.

`world` draws portraits of two people, with sentences, masks and reference photos, from integer seeds. `base` is a tiny
SDXL that was trained on it, `faces` its detector, recognizer and judge; `mini_adapter` is the trained adapter. All weights
ship in `weights/` and are made by `python -m training mini`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..methods.paired.adapter import Adapter

__all__ = ["mini_adapter"]


def mini_adapter() -> Adapter:
    """The adapter that was trained for the miniature's base, image encoder and recognizer.

    In float32: its file is in half precision, in which a CPU would compute otherwise than ComfyUI does.
    """
    from ..methods.paired.adapter import Adapter
    from .weights import FOLDER

    return Adapter.from_pretrained(FOLDER / "adapter.safetensors").float()
