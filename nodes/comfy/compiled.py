"""People in a compiled UNet (TorchCompileModel and nodes like it).

Compiled code keeps what it saw of Python's objects when it was made: TorchCompileModel leaves out every guard on
``transformer_options``, where strengths, masks, people and the batch's layout ride. So none of them is shown to the compiler.
What the people add to a layer is one operator of PyTorch: the compiler sees its query and its place, and each time that it
runs, it looks up the call that is going on. Nothing breaks the graph, and nothing in it grows old.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...dhumandiff.errors import HostError

if TYPE_CHECKING:
    from .attention import AppliedPeople
    from .batch import UNetCall

_WRAPPER, _SETTINGS = "torch.compile", "torch_compile_kwargs"
"""Names of ComfyUI (comfy_api.torch_helpers.torch_compile)."""
_GRAPH_MODES = ("reduce-overhead", "max-autotune")
_SCHEMA = "(Tensor query, SymInt people, SymInt layer, SymInt heads, SymInt height, SymInt width) -> Tensor"

_going_on: ContextVar[tuple[UNetCall | None, Sequence[AppliedPeople]]] = ContextVar("going_on", default=(None, ()))


@contextlib.contextmanager
def going_on(call: UNetCall, people: Sequence[AppliedPeople]) -> Iterator[None]:
    """The call of the UNet that compiled layers look up, and the people of its MODEL."""
    token = _going_on.set((call, people))
    try:
        yield
    finally:
        _going_on.reset(token)


@torch.library.custom_op("dhumandiff::residual", mutates_args=(), schema=_SCHEMA)
def residual_in_compiled(query: Tensor, people: int, layer: int, heads: int, height: int, width: int) -> Tensor:
    """What people add to a layer in the call that is going on: [B, Q, C] like the query; zeros where they add nothing.

    Args:
        query: [B, Q, C], the layer's own.
        people: their number on the MODEL.
        layer: its number in the adapter's order.
        heads: of the layer.
        height, width: of the layer.
    """
    call, applied = _going_on.get()
    if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
        raise _refused("CUDA graphs")
    if call is None or people >= len(applied):  # another MODEL that the same code was compiled for
        return torch.zeros_like(query)
    call.in_compiled = True
    residual = applied[people].residual(call, layer, query, heads, (height, width))
    return torch.zeros_like(query) if residual is None else residual


@residual_in_compiled.register_fake
def _like_the_query(query: Tensor, people: int, layer: int, heads: int, height: int, width: int) -> Tensor:
    return torch.empty_like(query)


def is_compiled(model: Any) -> bool:
    """Whether a MODEL's UNet, or a part of it, is compiled.

    Raises:
        HostError: it is compiled in a way that would draw the first call's people for ever.
    """
    if model.get_wrappers(WrappersMP.APPLY_MODEL, _WRAPPER):
        settings = model.model_options.get(_SETTINGS) or {}
        graphs = (settings.get("options") or {}).get("triton.cudagraphs")
        if graphs or settings.get("backend") == "cudagraphs" or settings.get("mode") in _GRAPH_MODES:
            raise _refused("CUDA graphs (backend cudagraphs, mode reduce-overhead or max-autotune)")
        return True
    unet = model.get_model_object("diffusion_model")
    modules = [*unet.modules(), *(part for part in model.object_patches.values() if isinstance(part, torch.nn.Module))]
    return any("_orig_mod" in part._modules or getattr(part, "_compiled_call_impl", None) for part in modules)


def _refused(what: str) -> HostError:
    return HostError(
        f"The MODEL is compiled with {what}, which would repeat the first call's strengths, masks and people in all others. Compile "
        "it with TorchCompileModel and the backend inductor, or take the node that compiles away.",
        code="compiled-model",
    )
