"""The loss on data that nothing is trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ..data.batch import NO_AUGMENTATION, BatchMaker
from ..data.dataset import PreparedDataset
from ..data.seeding import seeded_rng
from ..data.stream import SampleStream
from ..objectives.losses import compute_losses, weighted_sum
from ..objectives.protocol import Objective
from .config import TrainConfig
from .model import TrainableModel
from .sharding import is_sharded

__all__ = ["validate"]


@torch.no_grad()
def validate(
    model: TrainableModel,
    objectives: Sequence[Objective],
    config: TrainConfig,
    data: tuple[list[PreparedDataset], list[float]],
    accelerator: Any,
) -> float:
    """The mean loss over the same batches and noise every time, with references from other photos of the people.

    Collective: every process computes its part. data: prepared folders, and the weight of each.
    """
    folders, weights = data
    identity_key = model.adapter.info.identity_key
    augment = replace(NO_AUGMENTATION, paired=1.0)
    make = BatchMaker(folders, augment, identity_key, lambda *names: seeded_rng("validation", *names))
    stream, count = (
        SampleStream(folders, weights, batch_size=config.data.micro_batch_size),
        config.data.validation_batches,
    )
    total, processes = torch.zeros((), device=accelerator.device), accelerator.num_processes
    # With parts of the weights, no process can compute while another has nothing to do: what is past the count is not counted.
    rounds = math.ceil(count / processes) * processes if is_sharded(accelerator) else count
    model.eval()
    for number in range(rounds):
        samples, draws = next(stream)
        if number % processes == accelerator.process_index:
            batch = make(samples, draws, 0).to(accelerator.device)
            losses = compute_losses(model, batch, model.base, objectives, config.objectives.diffusion)
            if number < count:
                total += weighted_sum(objectives, losses) / count
    model.train()
    return float(accelerator.reduce(total, "sum"))
