"""Weights of which each process has a part (sharding.py), and what optimizer, averages and checkpoints do with them.

Such a weight is a DTensor, cut along its first dimension. Everything here takes plain tensors too, and leaves them as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["distributed_state", "gathered", "gathered_state", "local", "on_parts", "part_of", "whole"]


def local(value: Tensor) -> Tensor:
    """This process's part, in the same memory."""
    return value.to_local() if hasattr(value, "to_local") else value


def whole(value: Tensor) -> Tensor:
    """All of it, in every process. Collective."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def gathered(value: Tensor, like: Tensor) -> Tensor:
    """All of what each process has a part of: `value` is as long as `local(like)`. Collective.

    A long value is flat where the weight is not. It comes to the CPU of the first process; the others only get its shape.
    """
    if local(like) is like:
        return value
    part = _dtensor(value.reshape(local(like).shape).to(local(like).device), like)
    all_of_it = whole(part).to("cpu" if torch.distributed.get_rank() == 0 else "meta")
    return all_of_it.flatten() if value.ndim == 1 else all_of_it


def part_of(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of what is whole, cut as `like`; flat where the value is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return value
    there = value.to(local(like).device).reshape(like.shape)
    # Every process has read the same file, so nothing is sent.
    part = local(distribute_tensor(there, like.device_mesh, like.placements, src_data_rank=None)).clone()
    return part.flatten() if value.ndim == 1 else part


def gathered_state(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Any]]:
    """`state_dict()["state"]` as one process has it. Collective."""
    weights = _weights_of(optimizer)
    return {
        number: {name: _gathered_moment(name, value, weights[number]) for name, value in values.items()}
        for number, values in optimizer.state_dict()["state"].items()
    }


def distributed_state(
    optimizer: torch.optim.Optimizer, state: Mapping[int, Mapping[str, Any]]
) -> dict[int, dict[str, Any]]:
    """The inverse of `gathered_state`, for `load_state_dict`."""
    weights, as_dtensor = _weights_of(optimizer), not hasattr(optimizer, "sharded")
    return {
        number: {name: _distributed_moment(value, weights[number], as_dtensor) for name, value in values.items()}
        for number, values in state.items()
    }


def on_parts(kind: type[torch.optim.Optimizer], weights: Iterable[Tensor], **settings: Any) -> torch.optim.Optimizer:
    """An optimizer that cannot deal with DTensors, on this process's parts of the weights as plain tensors.

    kind: a class whose step exchanges by itself what concerns all parts.
    """
    in_parts = list(weights)

    class OnParts(kind):
        sharded = in_parts

        def step(self, closure: None = None) -> None:
            for weight, part in zip(in_parts, self.param_groups[0]["params"], strict=True):
                part.grad = None if weight.grad is None else local(weight.grad)
            if any(
                group["lr"] for group in self.param_groups
            ):  # as a warm-up begins nothing moves, and Prodigy stumbles
                super().step(closure)

        def zero_grad(self, set_to_none: bool = True) -> None:
            for weight in in_parts:
                weight.grad = None
            super().zero_grad(set_to_none)

    return OnParts([nn.Parameter(local(weight.detach())) for weight in in_parts], **settings)


def _weights_of(optimizer: torch.optim.Optimizer) -> dict[int, Tensor]:
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    return dict(enumerate(getattr(optimizer, "sharded", weights)))


def _gathered_moment(name: str, value: Any, like: Tensor) -> Any:
    if not isinstance(value, Tensor) or local(like) is like:
        return value
    if name == "p0":  # Prodigy keeps a single 0 for a part that began as zeros
        value = value if value.ndim else torch.zeros_like(local(like)).flatten()
    return gathered(local(value), like) if value.ndim else value


def _distributed_moment(value: Any, like: Tensor, as_dtensor: bool) -> Any:
    if not isinstance(value, Tensor) or not value.ndim or local(like) is like:
        return value
    part = part_of(value, like)
    return _dtensor(part, like) if as_dtensor else part


def _dtensor(part: Tensor, like: Any) -> Tensor:
    from torch.distributed.tensor import DTensor

    where = (like.device_mesh, like.placements)
    return DTensor.from_local(part, *where, run_check=False, shape=like.shape, stride=like.stride())
