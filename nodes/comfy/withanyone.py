"""WithAnyone's weights under ComfyUI's memory management, in two parts: what is needed before sampling, and what during it.

Keys and values of people do not change while sampling, so the projections, `norm1` and `to_kv` (of 5.6 GB in bf16 more than half)
are loaded for them alone, before the model is, and make room again. Only `norm2`, `to_q` and `to_out` go along with the model,
of the branches that count: they read the picture, which changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.model_management as model_management
import comfy.ops
import torch
from torch import Tensor, nn

from ...dhumandiff.errors import AdapterError
from ...dhumandiff.methods.withanyone import WithAnyone
from ...dhumandiff.methods.withanyone.people import people_tokens
from .memory import managed

if TYPE_CHECKING:
    from ...dhumandiff.references.reference import FaceReference

__all__ = ["PRECISIONS", "KeysValues", "keys_values_of", "load_withanyone", "sampling_parts", "under_memory_management"]

PARTS = "dhumandiff_parts"
KeysValues = tuple[dict[str, tuple[Tensor, Tensor]], ...]
"""For each block: branch -> keys and values of all people, each [P, heads, T, 64]."""
PRECISIONS: dict[str, torch.dtype | None] = {
    "auto": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
}
"""What the weights are kept in. Auto: bf16 where the device computes in it, else fp16, else fp32."""


class Part(nn.Module):
    """Some of an adapter's layers; they stay the adapter's own."""

    def __init__(self, adapter: WithAnyone, layers: Sequence[str], within: str = "") -> None:
        super().__init__()
        for name, module in adapter.named_modules():
            if list(module.children()) or not name.startswith(within):
                continue
            if name.rpartition(".")[2] in layers:
                self.add_module(name.replace(".", "_"), module)


class Parts:
    """The two halves of one adapter, and what was made of the people who were asked for last."""

    def __init__(self, adapter: WithAnyone) -> None:
        numbers = ("0", "2", "3")  # of the projections
        self.before = managed(Part(adapter, ("norm1", "to_kv", *numbers)))
        self.during = {
            branch: managed(Part(adapter, ("norm2", "to_q", "to_out"), f"ipa_{branch}."))
            for branch in ("arc", "sig")
            if getattr(adapter.info, branch)
        }
        self.made_of: tuple[Any, ...] = ()
        self.made: dict[str, list[tuple[Tensor, Tensor]]] = {}


def load_withanyone(path: Path, precision: str = "auto") -> Any:
    """Read a file of WithAnyone: DHD_WITHANYONE, whose `model` is the `WithAnyone`.

    Raises:
        AdapterError: the file is damaged, or another model's.
    """
    dtype = PRECISIONS[precision] or _best_dtype(model_management.get_torch_device())
    adapter = WithAnyone.from_pretrained(path, operations=comfy.ops.manual_cast, dtype=dtype)
    return under_memory_management(adapter)


def under_memory_management(adapter: WithAnyone) -> Any:
    """DHD_WITHANYONE of weights that are there."""
    adapter.compute_dtype = torch.float32  # a few hundred tokens, once
    patcher = managed(adapter)  # never loaded itself: its parts are
    patcher.set_attachments(PARTS, Parts(adapter))
    return patcher


def _best_dtype(device: torch.device) -> torch.dtype:
    if model_management.should_use_bf16(device):
        return torch.bfloat16
    return torch.float16 if model_management.should_use_fp16(device) else torch.float32


def _parts(adapter: Any) -> Parts:
    parts = adapter.get_attachment(PARTS)
    if parts is None:
        parts = Parts(adapter.model)
        adapter.set_attachments(PARTS, parts)
    return parts


def sampling_parts(adapter: Any, branches: Sequence[str]) -> list[Any]:
    """The ModelPatchers of what is needed while sampling with these branches."""
    return [_parts(adapter).during[branch] for branch in branches]


def keys_values_of(
    adapter: Any, references: Sequence[FaceReference], weights: Mapping[str, float], dtype: torch.dtype
) -> KeysValues:
    """Keys and values of people at every block, on the device where ComfyUI keeps what is in between.

    The same people are not encoded again: what was made last stays with the adapter.

    Args:
        adapter: DHD_WITHANYONE.
        references: one a person.
        weights: of the branches; one of weight 0 is left out.
        dtype: of the model's tokens.

    Raises:
        AdapterError: the weights have no such branch, or make NaN.
        FaceReferenceError: a reference lacks something, or was made with another recognizer.
    """
    parts, model = _parts(adapter), adapter.model
    branches = [branch for branch, weight in weights.items() if weight != 0]
    made_of = (dtype, *references)
    if len(made_of) != len(parts.made_of) or any(a is not b for a, b in zip(made_of, parts.made_of, strict=True)):
        parts.made_of, parts.made = made_of, {}
    lacking = [branch for branch in branches if branch not in parts.made]
    if lacking:
        model_management.load_models_gpu([parts.before])
        device, keep = parts.before.load_device, model_management.intermediate_device()
        with torch.no_grad():
            for branch, tokens in people_tokens(model, references, lacking, device).items():
                pairs = [model.keys_values(block, branch, tokens) for block in range(model.info.blocks)]
                if not all(bool(torch.isfinite(values).all()) for _, values in pairs):
                    raise AdapterError(
                        "The WithAnyone weights make NaN of the references: their file is damaged. Get it again.",
                        code="withanyone-makes-nan",
                    )
                parts.made[branch] = [(k.to(keep, dtype), v.to(keep, dtype)) for k, v in pairs]
    return tuple({branch: parts.made[branch][block] for branch in branches} for block in range(model.info.blocks))
