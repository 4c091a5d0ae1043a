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

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .. import TrainingError

__all__ = ["Muon", "fit"]

CLIP, WARM = 1.0, 50
"""Largest norm of AdamW's gradient; steps until the full rates."""


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal before each step (Jordan et al. 2024; arXiv 2502.16982).

    torch.optim.Muon takes matrices only; here a convolution [out, in, h, w] counts as the matrix [out, in * h * w].
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override] (torch has a closure here)
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}  # matrices of one shape are turned together
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"].mul_(group["momentum"]).add_(parameter.grad)
                move = (parameter.grad + group["momentum"] * momentum).reshape(len(parameter), -1)
                alike.setdefault(move.shape, []).append((parameter, move))
            for (rows, columns), some in alike.items():
                scale = max(1.0, rows / columns) ** 0.5
                turned = _orthogonal(torch.stack([move for _, move in some]))
                for (parameter, _), move in zip(some, turned, strict=True):
                    parameter.mul_(1 - group["lr"] * group["decay"])
                    parameter.add_(move.reshape(parameter.shape), alpha=-group["lr"] * scale)


def _orthogonal(matrices: Tensor) -> Tensor:
    """The nearest matrices with singular values of about 1, by five Newton-Schulz steps with Muon's coefficients."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return x.mT if tall else x


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
) -> None:
    """Train `model` in place and leave the averages of its weights in it.

    losses: one batch's loss parts, drawn with the generator of this step; their sum is minimised.
    rate, turn: learning rates of AdamW and of Muon. decay: Muon's weight decay. plain: matrices for AdamW all the same, such as tables of words.
    folder: keeps <name>.pt (to go on) and <name>.csv (the losses). A finished run is only loaded.
    """
    kept, log = folder / f"{name}.pt", folder / f"{name}.csv"
    folder.mkdir(parents=True, exist_ok=True)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    aside = {id(parameter) for parameter in plain}
    turned = [parameter for parameter in parameters if parameter.ndim > 1 and id(parameter) not in aside]
    rest = [parameter for parameter in parameters if parameter.ndim < 2 or id(parameter) in aside]
    optimisers = [torch.optim.AdamW(rest, lr=rate, weight_decay=0.0, betas=(0.9, 0.99))]
    if turned:
        optimisers.append(Muon(turned, turn, decay=decay))
    averages = [parameter.detach().clone() for parameter in parameters]
    done, smooth = 0, {}
    if kept.exists():
        found = torch.load(kept, weights_only=True)
        for parameter, average, now, mean in zip(parameters, averages, found["now"], found["mean"], strict=True):
            parameter.data.copy_(now)
            average.copy_(mean)
        for optimiser, state in zip(optimisers, found["optimisers"], strict=True):
            optimiser.load_state_dict(state)
        done, smooth = found["step"], found["smooth"]
        _forget_after(log, done)
    bar = tqdm(range(done, steps), initial=done, total=steps, desc=name, unit="step", mininterval=5)
    for step in bar:
        share = min((step + 1) / WARM, 0.5 * (1 + math.cos(math.pi * step / steps)) * 0.98 + 0.02)
        for optimiser, full in zip(optimisers, (rate, turn), strict=False):
            for group in optimiser.param_groups:
                group["lr"] = full * share
        parts = losses(torch.Generator().manual_seed(hash((seed, step)) % 2**62), step)
        loss = torch.stack(list(parts.values())).sum()
        if not loss.isfinite():
            raise TrainingError(f"{name}: the loss of step {step} is {loss.item()}. Lower its rates in training/mini.")
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(rest, CLIP)
        for optimiser in optimisers:
            optimiser.step()
        kept_share = min(ema, (step + 1) / (step + 10))
        torch._foreach_lerp_(averages, [parameter.data for parameter in parameters], 1 - kept_share)
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
                "optimisers": [optimiser.state_dict() for optimiser in optimisers],
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
