"""FSDP on the CPU: Accelerate shards on GPUs only, so it is told that this is one. Everything else is real: gloo, `fully_shard`."""

import os

import torch

LAUNCHED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"}
"""What `accelerate launch --use_fsdp --fsdp_version 2` puts into the environment of its processes."""


def pretend_fsdp(**variables):
    """From now on `Accelerator()` in this process is configured for FSDP; variables: others of the environment."""
    import accelerate
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    os.environ |= LAUNCHED | variables
    make = accelerate.Accelerator.__init__

    def init(accelerator, *given, **named):
        make(accelerator, *given, **named)
        AcceleratorState._shared_state["fsdp_plugin"] = FullyShardedDataParallelPlugin()
        for state in (AcceleratorState, PartialState):
            state._shared_state["distributed_type"] = DistributedType.FSDP

    accelerate.Accelerator.__init__ = init
    torch.Tensor.cuda = lambda tensor, *_, **__: tensor  # Prodigy adds up what concerns all parts on the GPU
