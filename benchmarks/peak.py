"""The most memory that was in use: of a GPU as PyTorch counts it, of a process as Linux does."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

RESET = Path("/proc/self/clear_refs")
"""Where Linux is told to forget a process's highest memory."""


def reset_peak(device: str = "cpu") -> None:
    """Forget the peak; nothing on a system that does not count."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):
        RESET.write_text("5")


def peak(device: str = "cpu") -> int:
    """Highest memory since `reset_peak`, bytes: allocated on the GPU, or resident in this process; 0 where nobody counts."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return 0
