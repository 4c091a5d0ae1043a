"""The frozen base in less memory, or faster: fewer bits a weight, blocks that wait on the CPU, compiled layers.

Fewer bits: torchao for fp8 and int8, bitsandbytes for nf4. torchao's weights are tensors of their own kind inside of ordinary
Linear layers, on any device; but it has given up nf4, which bitsandbytes has had since QLoRA (arXiv 2305.14314). Both let
gradients pass to what goes in, which is all that a frozen layer needs. Convolutions stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .. import TrainingError
from .config import BaseConfig

__all__ = ["BYTES", "BlockOffload", "compile_layers", "offloaded_blocks", "quantize"]

BYTES = {"none": 0.0, "fp8": 1.0, "int8": 1.0, "nf4": 0.5 + 4 / 64}
"""Bytes of a weight of a Linear layer; none: as the rest. nf4 has a scale in float32 for each 64."""

BLOCKS = ("BasicTransformerBlock", "ResnetBlock2D")
"""Classes of the UNet's modules that gradient checkpointing runs again one at a time."""

WITHOUT_PEOPLE = ("ResnetBlock2D", "FeedForward")
"""Classes in which no people act, so that a compiler finds nothing but arithmetic."""

BACKEND = "inductor"


def quantize(unet: nn.Module, config: BaseConfig) -> None:
    """Keep the weights of the UNet's Linear layers in fewer bits, in place.

    Raises:
        TrainingError: torchao or bitsandbytes is missing.
    """
    kind = config.quantization
    if kind == "none":
        return
    package = "bitsandbytes" if kind == "nf4" else "torchao"
    try:
        if kind == "nf4":
            _to_nf4(unet)
            return
        from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

        quantize_(
            unet,
            Float8WeightOnlyConfig() if kind == "fp8" else Int8WeightOnlyConfig(),
            filter_fn=lambda module, _: isinstance(module, nn.Linear),
        )
    except ImportError as error:
        raise TrainingError(
            f"base.quantization is {kind}, which needs {package} ({error}). Install it with: pip install {package}; or set "
            "base.quantization to none.",
            code="quantization-package-missing",
        ) from error


def _to_nf4(unet: nn.Module) -> None:
    from bitsandbytes.nn import Linear4bit, Params4bit

    for owner in list(unet.modules()):
        for name, layer in list(owner.named_children()):
            if type(layer) is nn.Linear:
                small = Linear4bit(
                    layer.in_features,
                    layer.out_features,
                    bias=layer.bias is not None,
                    compute_dtype=layer.weight.dtype,
                    quant_type="nf4",
                    device="meta",
                )
                # It becomes four bits when it is moved to its device.
                small.weight = Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4", module=small)
                small.bias = layer.bias
                setattr(owner, name, small)


def compile_layers(unet: nn.Module) -> int:
    """Compile the layers in which no people act, in place; how many."""
    import torch._dynamo

    # One compilation for each shape of a class, of which an SDXL has more than the usual limit of 8.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    layers = [
        module
        for name, module in unet.named_modules()
        if type(module).__name__ in WITHOUT_PEOPLE or name.endswith(".attn1")
    ]
    for layer in layers:
        layer.compile(backend=BACKEND)
    return len(layers)


def offloaded_blocks(unet: nn.Module) -> Iterator[nn.Module]:
    """The modules that `BlockOffload` moves."""
    return (module for module in unet.modules() if type(module).__name__ in BLOCKS)


class BlockOffload:
    """Blocks of the UNet whose weights wait on the CPU, and are on the device only while they compute.

    It goes with gradient checkpointing: a block's weights come before its forward pass and leave after it; in the backward pass
    they come again for the second forward pass, and leave when the gradient of what went in is there.

    Args:
        unet: frozen, with gradient checkpointing; its blocks are moved to the CPU.
        device: where it computes.

    Attributes:
        present: how many blocks are on the device.
        most: the most that were at once.
    """

    def __init__(self, unet: nn.Module, device: torch.device) -> None:
        self.device, self.present, self.most = device, 0, 0
        self._waiting: dict[nn.Module, dict[str, Tensor]] = {}
        self._here: set[nn.Module] = set()
        moved = {id(value) for block in offloaded_blocks(unet) for value in block.parameters()}
        for value in unet.parameters():
            if id(value) not in moved:
                value.data = value.data.to(device)
        for block in offloaded_blocks(unet):
            self._waiting[block] = {name: self._resting(value) for name, value in block.named_parameters()}
            self._put(block, self._waiting[block])
            block.register_forward_pre_hook(self._come)
            block.register_forward_hook(self._after_forward)
            block.register_full_backward_hook(self._after_backward)

    def _resting(self, value: Tensor) -> Tensor:
        value = value.detach().to("cpu")
        return value.pin_memory() if self.device.type == "cuda" else value

    def _come(self, block: nn.Module, _: Any) -> None:
        if block in self._here:
            return
        self._put(block, {name: value.to(self.device, copy=True) for name, value in self._waiting[block].items()})
        self._here.add(block)
        self.present = len(self._here)
        self.most = max(self.most, self.present)

    def _after_forward(self, block: nn.Module, *_: Any) -> None:
        if not self._in_backward():  # where the weights are needed until the gradient has passed
            self._leave(block)

    def _after_backward(self, block: nn.Module, *_: Any) -> None:
        self._leave(block)

    def _leave(self, block: nn.Module) -> None:
        self._put(block, self._waiting[block])
        self._here.discard(block)
        self.present = len(self._here)

    @staticmethod
    def _in_backward() -> bool:
        return torch._C._current_graph_task_id() != -1

    @staticmethod
    def _put(block: nn.Module, values: dict[str, Tensor]) -> None:
        for name, parameter in block.named_parameters():
            parameter.data = values[name]
