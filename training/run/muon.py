"""Muon for matrices, AdamW for everything else, as one optimizer.

Muon (Jordan et al. 2024; at scale: arXiv 2502.16982) makes the momentum of every matrix orthogonal before it is taken as a
step, so that no direction of the matrix is left behind. torch.optim.Muon takes matrices only, this one convolutions
[out, in, h, w], too, as matrices [out, in * h * w], and keeps the rest in the same optimizer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .parts import local, part_of, whole

__all__ = ["Muon"]


class Muon(torch.optim.AdamW):
    """AdamW whose first group, where there are matrices, moves by Muon.

    Args:
        matrices: parameters of two or more dimensions, for Muon; may be empty. Or groups of them, as other optimizers take them,
            which may have rates of their own.
        rest: parameters or groups for AdamW; may be empty.
        muon_lr: Muon's learning rate, about the size of a step's singular values. Steps of tall matrices are larger by the root
            of rows / columns.
        momentum: Muon's, in Nesterov's form.
        lr, betas, weight_decay: AdamW's; the decay holds for both.
    """

    def __init__(
        self,
        matrices: Iterable[Any],
        rest: Iterable[Any],
        *,
        muon_lr: float,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        groups = [*_groups(matrices, lr=muon_lr, momentum=momentum), *_groups(rest, lr=lr, momentum=None)]
        super().__init__(groups, lr=lr, betas=betas, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Move every parameter that has a gradient. Afterwards the matrices' gradients are gone."""
        for group in self.param_groups:
            if group["momentum"] is not None:
                self._muon_step(group)
        super().step(closure)  # AdamW skips the matrices, whose gradients `_muon_step` has removed

    def _muon_step(self, group: dict[str, Any]) -> None:
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                # torch's AdamW expects the count of steps in every state that it loads
                state |= {"step": torch.zeros(()), "momentum": torch.zeros_like(parameter)}
            momentum = state["momentum"].mul_(group["momentum"]).add_(parameter.grad)
            # Of a sharded matrix every process computes all of the step, and takes its own part.
            move = whole(parameter.grad + group["momentum"] * momentum).reshape(len(parameter), -1)
            parameter.grad = None
            rows, columns = move.shape
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            scale = max(1.0, rows / columns) ** 0.5
            step = part_of(_orthogonal(move).reshape(parameter.shape), parameter)
            local(parameter).add_(step, alpha=-group["lr"] * scale)


def _groups(given: Iterable[Any], **settings: Any) -> list[dict[str, Any]]:
    """Parameters or groups as groups with these settings where they have none of their own."""
    values = list(given)
    groups = values if values and isinstance(values[0], dict) else [{"params": values}]
    return [{**settings, **group} for group in groups if group["params"]]


def _orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix with singular values of about 1, by five Newton-Schulz steps with Muon's coefficients.

    One at a time: on a CPU stacks of alike matrices took twice as long (measured on the miniature's UNet).
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T.contiguous() if tall else matrix).float()
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        a = x @ x.T
        x = torch.addmm(x, torch.addmm(a, a, a, beta=-4.775, alpha=2.0315), x, beta=3.4445)
    return (x.T if tall else x).to(matrix.dtype)
