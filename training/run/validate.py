"""The loss on data that nothing is trained on, and the precision in which it and training are computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from .. import TrainingError
from ..data.batch import NO_AUGMENTATION, BatchMaker
from ..data.dataset import PreparedDataset
from ..data.seeding import seeded_rng
from ..data.stream import SampleStream
from ..objectives import Objective, losses_of
from .config import TrainConfig
from .model import PairModel

__all__ = ["DTYPES", "choose_precision", "validate"]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}
"""What a base is loaded in, by Accelerate's words."""


def choose_precision(wanted: str) -> str:
    """Accelerate's word for a precision; "auto" is bf16 on a GPU. TrainingError for fp16 without one."""
    if wanted == "auto":
        return "bf16" if torch.cuda.is_available() else "no"
    if wanted == "fp16" and not torch.cuda.is_available():
        raise TrainingError("precision is fp16, which needs a GPU. Choose bf16 or no.")
    return wanted


def validate(
    pair: PairModel,
    objectives: Sequence[Objective],
    config: TrainConfig,
    validation: tuple[list[PreparedDataset], list[float]],
    identity: str,
    accelerator: Any,
) -> float:
    """The loss on data nothing was trained on: the same batches and noise every time, references of other photos."""
    folders, weights = validation
    make = BatchMaker(
        folders, replace(NO_AUGMENTATION, paired=1.0), identity, lambda *names: seeded_rng("validation", *names)
    )
    stream, count = SampleStream(folders, weights, batch_size=config.data.micro_batch), config.data.validation_batches
    total = torch.zeros((), device=accelerator.device)
    pair.eval()
    for number in range(count):
        samples, draws = next(stream)
        if number % accelerator.num_processes == accelerator.process_index:
            batch = make(samples, draws, 0).to(accelerator.device)
            values = losses_of(pair, batch, pair.base, objectives, config.objectives.diffusion)
            total += sum(objective.weight * value for objective, value in zip(objectives, values, strict=True)) / count
    pair.train()
    return float(accelerator.reduce(total, "sum"))
