"""Models of a picture that take turns on a GPU which is too small for all of them.

SDXL's text encoders, UNet and VAE and the adapter take 8.2 GiB together in fp16, and decoding 1024 x 1024 px another 3: one after
another, 8 GB are enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["Turns", "is_out_of_memory", "too_small_for"]

ADAPTER, WORK = 1.6 * 2**30, 4.5 * 2**30
"""Bytes of the released adapter in fp16, and of what is computed beside the weights: decoding 1024 x 1024 px in float32 takes 3.0
GiB by PyTorch's own count, and cuDNN and the driver have theirs."""


class Turns:
    """Who is on the device.

    Args:
        device: where models compute.
        one_at_a_time: whether they wait on the CPU until it is their turn; else they are on the device all the time.
    """

    def __init__(self, device: torch.device, one_at_a_time: bool) -> None:
        self.device, self.one_at_a_time = device, one_at_a_time

    @contextmanager
    def of(self, *models: Any) -> Iterator[None]:
        """While this is open, these models are on the device."""
        if not self.one_at_a_time:
            yield
            return
        try:
            for model in models:
                model.to(self.device)
            yield
        finally:
            for model in models:
                model.to("cpu")
            if self.device.type == "cuda":
                torch.cuda.empty_cache()


def too_small_for(models: Sequence[nn.Module], device: torch.device) -> bool:
    """Whether a GPU does not hold these models, an adapter and what is computed with them at once."""
    if device.type != "cuda":
        return False
    weights = sum(value.numel() * value.element_size() for model in models for value in model.parameters())
    return weights + ADAPTER + WORK > torch.cuda.get_device_properties(device).total_memory


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that the device is full; each backend has a class or words of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error)
