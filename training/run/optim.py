"""What moves the weights: optimiser, schedule, and the moving average, which is steadier than the weights themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .. import TrainingError
from .config import OptimiserConfig
from .muon import Muon

__all__ = ["Averages", "make_optimiser", "make_schedule"]


def make_optimiser(config: OptimiserConfig, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
    """AdamW of torch or bitsandbytes, torch's Adafactor, or Muon. TrainingError when bitsandbytes is missing."""
    settings: dict[str, Any] = {"lr": config.rate, "weight_decay": config.decay}
    if config.kind == "adafactor":
        return torch.optim.Adafactor(parameters, **settings)
    settings["betas"] = tuple(config.betas)
    if config.kind == "adamw":
        # One kernel for all weights: torch's other way on GPUs needs as much memory again as the weights.
        return torch.optim.AdamW(parameters, fused=parameters[0].is_cuda, **settings)
    if config.kind == "muon":
        matrices = [parameter for parameter in parameters if parameter.ndim == 2]
        rest = [parameter for parameter in parameters if parameter.ndim != 2]
        return Muon(matrices, rest, turn=config.turn, **settings)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise TrainingError(
            f"optimiser.kind is adamw8bit, but bitsandbytes cannot be imported ({error}). Install it with: "
            "pip install bitsandbytes; or choose adamw, muon or adafactor."
        ) from error
    return AdamW8bit(parameters, **settings)


def make_schedule(config: OptimiserConfig, optimiser: torch.optim.Optimizer, steps: int) -> Any:
    """Diffusers' schedule of the rate, to be stepped after every step of the optimiser."""
    from diffusers.optimization import get_scheduler

    return get_scheduler(
        config.schedule,
        optimiser,
        num_warmup_steps=config.warmup,
        num_training_steps=steps,
    )


class Averages:
    """The average of every parameter that learns.

    Early on the decay is smaller, (1 + n) / (10 + n) after n steps, so that the start is soon forgotten (the usual rule, as in
    diffusers' EMAModel).

    Args:
        module: whose parameters.
        decay: of the average; 0 keeps none, and the weights themselves take its place.
        device: where the averages are kept; None: with the parameters.
    """

    def __init__(self, module: nn.Module, decay: float, device: str | None = None) -> None:
        self.decay, self.steps = decay, 0
        self.parameters = {name: value for name, value in module.named_parameters() if value.requires_grad}
        self.values = {}
        if decay > 0:
            self.values = {name: value.detach().to(device, copy=True) for name, value in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, value in self.values.items():
            value.lerp_(self.parameters[name].detach().to(value.device, non_blocking=True), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While this is open, the module works with the averages."""
        own = {name: self.parameters[name].detach().to(value.device, copy=True) for name, value in self.values.items()}
        self._write(self.values)
        try:
            yield
        finally:
            self._write(own)

    @torch.no_grad()
    def load(self, values: dict[str, Tensor], steps: int) -> None:
        """Go on from saved averages, named as the parameters."""
        self.steps = steps
        for name, value in self.values.items():
            value.copy_(values[name])

    @torch.no_grad()
    def _write(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.parameters[name].copy_(value)
