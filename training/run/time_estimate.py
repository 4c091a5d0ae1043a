"""How long a run will take, before it starts: its arithmetic is counted on shapes, and this device is asked how fast it is."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from .logging import duration

__all__ = ["EFFICIENCY", "operations", "speed", "time_line"]

EFFICIENCY = 0.4
"""Share of a large matrix product's speed that training reaches, a guess: small layers, memory traffic, the optimizer."""

SIDE = 2048
"""Of the matrices that the speed is measured with."""


def operations(run: Callable[[], Tensor]) -> float:
    """Floating-point operations of a forward and backward pass, on tensors without values."""
    with FlopCounterMode(display=False) as counter:
        run().sum().backward()
    return float(counter.get_total_flops())


def speed(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """Floating-point operations a second in large matrix products."""
    matrix = torch.randn(SIDE, SIDE, device=device, dtype=dtype)
    done, started = 0, 0.0
    for number in range(1000):
        if number == 1:  # the first product warms up
            _wait(device)
            started = time.perf_counter()
        matrix @ matrix
        if number and (number % 8 == 0 or device.type == "cpu"):
            _wait(device)
            done = number
            if time.perf_counter() - started > seconds:
                break
    return done * 2 * SIDE**3 / (time.perf_counter() - started)


def time_line(operations_a_step: float, steps: int, device: torch.device, dtype: torch.dtype) -> str:
    """The estimate in words, for one process on this device."""
    found = speed(device, dtype)
    left = steps * operations_a_step / (found * EFFICIENCY)
    return (
        f"{duration(left)} or more on this {device.type}, not counting checkpoints and drawings. An estimate: {operations_a_step / 1e12:.3g} "
        f"TFLOP a step, at {EFFICIENCY:.0%} of the {found / 1e12:.3g} TFLOP/s that a matrix product reaches here. The first console "
        "line has the measured time"
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
