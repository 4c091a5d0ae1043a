"""FSDP2: base and adapter in parts, one in each process, for what does not fit one GPU.

Accelerate says that and how it is wanted (`accelerate launch --use_fsdp --fsdp_version 2`); torch's `fully_shard` does it. A
block of the frozen UNet is whole only while it computes, and so is a part of the adapter. Gradients, moments and averages are
never whole, but in a checkpoint, which is that of a run in one process.

What is in parts is a DTensor (parts.py).
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from torch import nn

from dhumandiff.formats.values import check_weights

from .. import TrainingError
from ..objectives.protocol import AttentionMaps
from .config import TrainConfig
from .frozen import BLOCKS
from .model import TrainableModel
from .weights import identity_of

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["OPTIMIZERS", "check_sharding", "is_sharded", "shard"]

OPTIMIZERS = ("adamw", "muon", "prodigy", "schedulefree")
"""Whose steps are the same on parts of the weights."""


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether Accelerate is configured for FSDP."""
    return accelerator.distributed_type.name == "FSDP"


def check_sharding(config: TrainConfig, accelerator: Accelerator) -> None:
    """Refuse what cannot be sharded, before anything is loaded.

    Raises:
        TrainingError: names the setting.
    """
    kind = accelerator.distributed_type.name
    if kind in ("DEEPSPEED", "MEGATRON_LM"):
        raise TrainingError(
            f"accelerate is configured for {kind}, but only FSDP can shard what is trained here. Run `accelerate config` again, or "
            "start with: accelerate launch --use_fsdp --fsdp_version 2 -m training train ...",
            code="sharding-not-supported",
        )
    if not is_sharded(accelerator):
        return
    plugin, name = accelerator.state.fsdp_plugin, config.optimizer.name
    half_prodigy = name == "prodigy" and accelerator.mixed_precision == "fp16"  # the scaler would not see its parts
    lacking = {
        "the first version of FSDP (set fsdp_version to 2)": plugin.fsdp_version != 2,
        "FSDP's own activation checkpointing (set base.gradient_checkpointing instead)": plugin.activation_checkpointing,
        "FSDP's offload of parameters to the CPU (set fsdp_offload_params to false)": type(plugin.cpu_offload).__name__
        == "CPUOffloadPolicy",
        f"base.quantization {config.base.quantization} (set it to none)": config.base.quantization != "none",
        "base.offload (set it to false)": config.base.offload,
        "base.compile (set it to false)": config.base.compile,
        "precision fp16 under prodigy (set it to bf16)": half_prodigy,
        f"optimizer.name {name} (choose {', '.join(OPTIMIZERS)})": name not in OPTIMIZERS,
    }
    for what, there in lacking.items():
        if there:
            raise TrainingError(
                f"FSDP does not go with {what}. Change it, or start without --use_fsdp.",
                code="sharding-does-not-go-with",
            )


def shard(model: TrainableModel, accelerator: Accelerator) -> None:
    """Cut base and adapter into parts, in place, each on this process's device; before there is an optimizer.

    The base is no part of `model`, so that it is sharded by itself: each block, and what is left of the UNet.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    for weights in (model.weights, identity_of(model.weights)):  # pipelines look at them once; later they are in parts
        check_weights(weights)
    _find_gradients_in_maps()
    # It fears writing into what comes out, which nothing here does.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    _compute_in_precision(model, accelerator)
    settings = {
        "mesh": init_device_mesh(accelerator.device.type, (accelerator.num_processes,)),
        "mp_policy": MixedPrecisionPolicy(cast_forward_inputs=False),  # Accelerate's autocast decides, as without FSDP
    }
    unet, adapter = model.base.unet, identity_of(model.weights)
    keep_whole = not accelerator.state.fsdp_plugin.reshard_after_forward
    for block in [module for module in unet.modules() if type(module).__name__ in BLOCKS]:
        fully_shard(block, reshard_after_forward=not keep_whole, **settings)
    fully_shard(unet, reshard_after_forward=False, **settings)  # little is left of it
    # What only some batches use stays in the unit of all: processes have to exchange the same units in the same order. Trained
    # weights always part again: a drawing must not leave averages where the next step computes.
    for part in (adapter.face_projection, *adapter.attention, model):
        fully_shard(part, reshard_after_forward=True, **settings)
    register_fsdp_forward_method(model, "run")


def _find_gradients_in_maps() -> None:
    """FSDP looks into what comes out of a forward pass for tensors with gradients."""
    from torch.export import register_dataclass
    from torch.utils._pytree import SUPPORTED_NODES

    if AttentionMaps not in SUPPORTED_NODES:
        register_dataclass(AttentionMaps)


def _compute_in_precision(model: nn.Module, accelerator: Accelerator) -> None:
    """What Accelerate does with a model that it prepares itself."""
    forward = model.forward

    def in_precision(*args: Any) -> Any:
        with accelerator.autocast():
            return forward(*args)

    model.forward = in_precision
