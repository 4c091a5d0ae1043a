"""The training loop of the miniature's frozen parts. Killed and started again, it resumes where it was, bit for bit.

Every step draws its batch from a generator seeded by the step's number, so that nothing but weights, optimizer, EMA and the
number has to be kept. Matrices move by Muon, everything else by AdamW: measured on the autoencoder, AdamW stood at
14.7 dB after 90 s at any rate, Muon at 18.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from tqdm import tqdm

from dhumandiff.io import atomic_write

from .. import TrainingError
from ..data.seeding import seeded_rng
from ..run.muon import Muon

__all__ = ["fit"]

MAX_GRAD_NORM, WARMUP = 1.0, 50
"""Of AdamW's gradient; steps until the full learning rates."""


def fit(
    folder: Path,
    name: str,
    model: nn.Module,
    losses: Callable[[torch.Generator, int], Mapping[str, Tensor]],
    *,
    steps: int,
    learning_rate: float = 2e-3,
    muon_lr: float = 0.03,
    weight_decay: float = 0.0,
    adamw: Iterable[Tensor] = (),
    ema: float = 0.995,
    save_every: int = 100,
    save_minutes: float = math.inf,
    decay: float = 1.0,
    bf16: bool = False,
    seed: int = 0,
    accelerator: Any = None,
) -> None:
    """Train `model` in place and leave the EMA of its weights in it.

    Args:
        folder: keeps <name>.pt (to resume) and <name>.csv (the losses). A finished run is only loaded.
        name: of the part.
        model: what is trained.
        losses: (generator of this step, the step) -> one batch's loss parts; their sum is minimized.
        steps: optimizer steps.
        learning_rate: AdamW's.
        muon_lr: Muon's learning rate.
        weight_decay: Muon's.
        adamw: matrices for AdamW all the same, such as token tables.
        ema: decay of the EMA.
        save_every: steps between checkpoints.
        save_minutes: and minutes, on machines that others use, too.
        decay: the share of the steps, at their end, over which the rates fall. A run that is to be made longer has a small one.
        bf16: compute in bfloat16 where torch's autocast does; weights and averages stay in float32.
        seed: of the batches.
        accelerator: Accelerate's, where several processes compute a part of each batch; they step with the mean of their
            gradients.

    Raises:
        TrainingError: the loss is NaN or infinite.
    """
    kept, log = folder / f"{name}.pt", folder / f"{name}.csv"
    folder.mkdir(parents=True, exist_ok=True)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    aside = {id(parameter) for parameter in adamw}
    matrices = [parameter for parameter in parameters if parameter.ndim > 1 and id(parameter) not in aside]
    rest = [parameter for parameter in parameters if parameter.ndim < 2 or id(parameter) in aside]
    optimizer = Muon(matrices, rest, muon_lr=muon_lr, lr=learning_rate)
    for group in optimizer.param_groups:
        group["weight_decay"] = weight_decay if group["momentum"] else 0.0
    full = [group["lr"] for group in optimizer.param_groups]
    ema_weights = [parameter.detach().clone() for parameter in parameters]
    done, smooth = 0, {}
    if kept.exists():
        found = torch.load(kept, weights_only=True, map_location="cpu")
        for parameter, average, now, mean in zip(parameters, ema_weights, found["now"], found["mean"], strict=True):
            parameter.data.copy_(now)
            average.copy_(mean)
        optimizer.load_state_dict(found["optimiser"])
        done, smooth = found["step"], found["smooth"]
        _forget_after(log, done)
    device = parameters[0].device.type
    precision = partial(torch.autocast, device, torch.bfloat16) if bf16 else nullcontext
    saved = time.monotonic()
    bar = tqdm(range(done, steps), initial=done, total=steps, desc=name, unit="step", mininterval=5)
    for step in bar:
        fallen = max(step / steps - (1 - decay), 0.0) / decay
        share = min((step + 1) / WARMUP, 0.5 * (1 + math.cos(math.pi * fallen)) * 0.98 + 0.02)
        for group, highest in zip(optimizer.param_groups, full, strict=True):
            group["lr"] = highest * share
        with precision():
            parts = losses(torch.Generator().manual_seed(seeded_rng(seed, step).getrandbits(62)), step)
        loss = torch.stack(list(parts.values())).sum()
        if not loss.isfinite():
            raise TrainingError(
                f"{name}: the loss of step {step} is {loss.item()}. Lower its rates in training/miniature.",
                code="part-not-finite",
            )
        optimizer.zero_grad()
        loss.backward()
        if accelerator is not None:
            gradients = [parameter.grad for parameter in parameters]
            mean = accelerator.reduce(parameters_to_vector(gradients), reduction="mean")
            vector_to_parameters(mean, gradients)
        nn.utils.clip_grad_norm_(rest, MAX_GRAD_NORM)
        with precision():  # Muon's products of matrices, too
            optimizer.step()
        kept_share = min(ema, (step + 1) / (step + 10))
        torch._foreach_lerp_(ema_weights, [parameter.data for parameter in parameters], 1 - kept_share)
        if accelerator is not None and not accelerator.is_main_process:
            continue
        for part, value in parts.items():
            smooth[part] = 0.98 * smooth.get(part, value.item()) + 0.02 * value.item()
        if (step + 1) % 20 == 0:
            bar.set_postfix({part: f"{value:.4g}" for part, value in smooth.items()}, refresh=False)
            _note(log, step + 1, smooth)
        late = time.monotonic() - saved > 60 * save_minutes
        if (step + 1) % save_every == 0 or step + 1 == steps or late:
            saved = time.monotonic()
            state = {
                "step": step + 1,
                "smooth": smooth,
                "now": [parameter.data for parameter in parameters],
                "mean": ema_weights,
                "optimiser": optimizer.state_dict(),
            }
            _save(kept, state)
    for parameter, average in zip(parameters, ema_weights, strict=True):
        parameter.data.copy_(average)
    model.requires_grad_(False).eval()


def _save(path: Path, state: dict) -> None:
    with atomic_write(path) as part:
        torch.save(state, part)


def _note(log: Path, step: int, values: Mapping[str, float]) -> None:
    new = not log.exists()
    with log.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["step", *values])
        writer.writerow([step, *(f"{value:.6g}" for value in values.values())])


def _forget_after(log: Path, step: int) -> None:
    """Take out of the log what a killed run noted after its last checkpoint."""
    if log.exists():
        head, *rows = log.read_text().splitlines(keepends=True)
        log.write_text("".join([head, *(row for row in rows if int(row.split(",")[0]) <= step)]))
