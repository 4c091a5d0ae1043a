"""Muon for matrices, AdamW for everything else, as one optimiser.

Muon (Jordan et al. 2024; at scale: arXiv 2502.16982) makes the momentum of every matrix orthogonal before it is taken as a
step, so that no direction of the matrix is left behind. torch.optim.Muon takes matrices only, this one convolutions
[out, in, h, w], too, as matrices [out, in * h * w], and keeps the rest in the same optimiser.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Muon"]


class Muon(torch.optim.AdamW):
    """AdamW whose first group, where there are matrices, moves by Muon.

    Args:
        matrices: parameters of two or more dimensions, for Muon; may be empty.
        rest: parameters for AdamW; may be empty.
        turn: Muon's learning rate, about the size of a step's singular values. Steps of tall matrices are larger by the root
            of rows / columns.
        momentum: Muon's, with Nesterov's look ahead.
        lr, betas, weight_decay: AdamW's; the decay holds for both.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        rest: Iterable[Tensor],
        *,
        turn: float,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        groups: list[dict[str, Any]] = [
            {"params": list(matrices), "lr": turn, "momentum": momentum},
            {"params": list(rest), "momentum": None},
        ]
        super().__init__([one for one in groups if one["params"]], lr=lr, betas=betas, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Move every parameter that has a gradient. Afterwards the matrices' gradients are gone."""
        for group in self.param_groups:
            if group["momentum"] is not None:
                self._turn(group)
        super().step(closure)  # which passes over parameters without a gradient

    def _turn(self, group: dict[str, Any]) -> None:
        alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}  # matrices of one shape are turned together
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                # torch's AdamW expects the count of steps in every state that it loads
                state |= {"step": torch.zeros(()), "momentum": torch.zeros_like(parameter)}
            momentum = state["momentum"].mul_(group["momentum"]).add_(parameter.grad)
            move = (parameter.grad + group["momentum"] * momentum).reshape(len(parameter), -1)
            alike.setdefault(move.shape, []).append((parameter, move))
            parameter.grad = None
        for (rows, columns), some in alike.items():
            scale = max(1.0, rows / columns) ** 0.5
            turned = _orthogonal(torch.stack([move for _, move in some]))
            for (parameter, _), move in zip(some, turned, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(move.reshape(parameter.shape), alpha=-group["lr"] * scale)


def _orthogonal(matrices: Tensor) -> Tensor:
    """The nearest matrices with singular values of about 1, by five Newton-Schulz steps with Muon's coefficients."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).float()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return (x.mT if tall else x).to(matrices.dtype)
