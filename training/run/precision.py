"""Mixed precision: which dtype the frozen base is loaded in, and what the machine can do."""

from __future__ import annotations

import torch

from .. import TrainingError

__all__ = ["DTYPES", "choose_precision"]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}
"""Accelerate's word for a precision -> the dtype of the frozen weights."""


def choose_precision(precision: str) -> str:
    """Accelerate's word for a precision of `TrainConfig`; "auto" is bf16 on a GPU that computes in it, fp16 on one that would only
    imitate it (before NVIDIA's Ampere), no on a CPU.

    Raises:
        TrainingError: fp16 without a GPU.
    """
    if precision == "auto":
        if not torch.cuda.is_available():
            return "no"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if precision == "fp16" and not torch.cuda.is_available():
        raise TrainingError("precision is fp16, which needs a GPU. Choose bf16 or no.", code="fp16-without-gpu")
    return precision
