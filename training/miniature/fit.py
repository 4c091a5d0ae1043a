"""The training loop of the miniature's frozen parts. Killed and started again, it goes on where it was, bit for bit.

Every step draws its batch from a generator seeded by the step's number, so that nothing but weights, optimiser, averages
and the number has to be kept. Matrices move by Muon, everything else by AdamW: measured on the autoencoder, AdamW stood at
14.7 dB after 90 s at any rate, Muon at 18.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from tqdm import tqdm

from .. import TrainingError
from ..run.muon import Muon

__all__ = ["fit"]

CLIP, WARM = 1.0, 50
"""Largest norm of AdamW's gradient; steps until the full rates."""


def fit(
    folder: Path,
    name: str,
    model: nn.Module,
    losses: Callable[[torch.Generator, int], Mapping[str, Tensor]],
    *,
    steps: int,
    rate: float = 2e-3,
    turn: float = 0.03,
    decay: float = 0.0,
    plain: Iterable[Tensor] = (),
    ema: float = 0.995,
    save_every: int = 100,
    seed: int = 0,
    accelerator: Any = None,
) -> None:
    """Train `model` in place and leave the averages of its weights in it.

    losses: one batch's loss parts, drawn with the generator of this step; their sum is minimised.
    rate, turn: learning rates of AdamW and of Muon. decay: Muon's weight decay. plain: matrices for AdamW all the same, such as tables of words.
    accelerator: Accelerate's, where several processes compute a part of each batch; they step with the mean of their gradients.
    folder: keeps <name>.pt (to go on) and <name>.csv (the losses). A finished run is only loaded.
    """
    kept, log = folder / f"{name}.pt", folder / f"{name}.csv"
    folder.mkdir(parents=True, exist_ok=True)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    aside = {id(parameter) for parameter in plain}
    turned = [parameter for parameter in parameters if parameter.ndim > 1 and id(parameter) not in aside]
    rest = [parameter for parameter in parameters if parameter.ndim < 2 or id(parameter) in aside]
    optimiser = Muon(turned, rest, muon_lr=turn, lr=rate)
    for group in optimiser.param_groups:
        group["weight_decay"] = decay if group["momentum"] else 0.0
    full = [group["lr"] for group in optimiser.param_groups]
    averages = [parameter.detach().clone() for parameter in parameters]
    done, smooth = 0, {}
    if kept.exists():
        found = torch.load(kept, weights_only=True)
        for parameter, average, now, mean in zip(parameters, averages, found["now"], found["mean"], strict=True):
            parameter.data.copy_(now)
            average.copy_(mean)
        optimiser.load_state_dict(found["optimiser"])
        done, smooth = found["step"], found["smooth"]
        _forget_after(log, done)
    bar = tqdm(range(done, steps), initial=done, total=steps, desc=name, unit="step", mininterval=5)
    for step in bar:
        share = min((step + 1) / WARM, 0.5 * (1 + math.cos(math.pi * step / steps)) * 0.98 + 0.02)
        for group, highest in zip(optimiser.param_groups, full, strict=True):
            group["lr"] = highest * share
        parts = losses(torch.Generator().manual_seed(hash((seed, step)) % 2**62), step)
        loss = torch.stack(list(parts.values())).sum()
        if not loss.isfinite():
            raise TrainingError(f"{name}: the loss of step {step} is {loss.item()}. Lower its rates in training/mini.")
        optimiser.zero_grad()
        loss.backward()
        if accelerator is not None:
            gradients = [parameter.grad for parameter in parameters]
            mean = accelerator.reduce(parameters_to_vector(gradients), reduction="mean")
            vector_to_parameters(mean, gradients)
        nn.utils.clip_grad_norm_(rest, CLIP)
        optimiser.step()
        kept_share = min(ema, (step + 1) / (step + 10))
        torch._foreach_lerp_(averages, [parameter.data for parameter in parameters], 1 - kept_share)
        if accelerator is not None and not accelerator.is_main_process:
            continue
        for part, value in parts.items():
            smooth[part] = 0.98 * smooth.get(part, value.item()) + 0.02 * value.item()
        if (step + 1) % 20 == 0:
            bar.set_postfix({part: f"{value:.4g}" for part, value in smooth.items()}, refresh=False)
            _note(log, step + 1, smooth)
        if (step + 1) % save_every == 0 or step + 1 == steps:
            state = {
                "step": step + 1,
                "smooth": smooth,
                "now": [parameter.data for parameter in parameters],
                "mean": averages,
                "optimiser": optimiser.state_dict(),
            }
            _save(kept, state)
    for parameter, average in zip(parameters, averages, strict=True):
        parameter.data.copy_(average)
    model.requires_grad_(False).eval()


def _save(path: Path, state: dict) -> None:
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


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
