"""What moves the weights: the optimizer, the learning rate's schedule, and the moving average (EMA) of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .. import TrainingError
from .config import OptimizerConfig
from .muon import Muon

__all__ = ["EMA", "make_optimizer", "make_scheduler"]


def make_optimizer(config: OptimizerConfig, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
    """AdamW of torch or bitsandbytes, torch's Adafactor, or Muon.

    Raises:
        TrainingError: bitsandbytes is missing.
    """
    settings: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.name == "adafactor":
        return torch.optim.Adafactor(parameters, **settings)
    settings["betas"] = tuple(config.betas)
    if config.name == "adamw":
        # One kernel for all weights: torch's other way on GPUs needs as much memory again as the weights.
        return torch.optim.AdamW(parameters, fused=parameters[0].is_cuda, **settings)
    if config.name == "muon":
        matrices = [parameter for parameter in parameters if parameter.ndim == 2]
        rest = [parameter for parameter in parameters if parameter.ndim != 2]
        return Muon(matrices, rest, muon_lr=config.muon_lr, **settings)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise TrainingError(
            f"optimizer.name is adamw8bit, but bitsandbytes cannot be imported ({error}). Install it with: "
            "pip install bitsandbytes; or choose adamw, muon or adafactor.",
            code="bitsandbytes-missing",
        ) from error
    return AdamW8bit(parameters, **settings)


def make_scheduler(config: OptimizerConfig, optimizer: torch.optim.Optimizer, steps: int) -> Any:
    """Diffusers' schedule of the learning rate, to be stepped after every step of the optimizer."""
    from diffusers.optimization import get_scheduler

    return get_scheduler(
        config.schedule,
        optimizer,
        num_warmup_steps=config.warmup_steps,
        num_training_steps=steps,
    )


class EMA:
    """The exponential moving average of every trained parameter.

    Early on the decay is smaller, (1 + n) / (10 + n) after n steps, so that the initial weights are soon forgotten (the usual
    rule, as in diffusers' EMAModel).

    Args:
        module: its parameters with gradients are averaged.
        decay: of the average; 0 keeps no average, and the weights themselves are used.
        device: where the averages are kept; None: with the parameters.

    Attributes:
        weights: name of the parameter -> its average.
        steps: how many steps were averaged.
    """

    def __init__(self, module: nn.Module, decay: float, device: str | None = None) -> None:
        self.decay, self.steps = decay, 0
        self.parameters = {name: value for name, value in module.named_parameters() if value.requires_grad}
        self.weights: dict[str, Tensor] = {}
        if decay > 0:
            self.weights = {name: value.detach().to(device, copy=True) for name, value in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Average in the weights after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, value in self.weights.items():
            # Never non_blocking: a copy to the CPU would be read here before it has arrived.
            value.lerp_(self.parameters[name].detach().to(value.device), 1 - decay)

    @contextmanager
    def use_ema(self) -> Iterator[None]:
        """While this is open, the module works with the averages."""
        own = {name: self.parameters[name].detach().to(value.device, copy=True) for name, value in self.weights.items()}
        self._copy_in(self.weights)
        try:
            yield
        finally:
            self._copy_in(own)

    @torch.no_grad()
    def load_state_dict(self, weights: Mapping[str, Tensor], steps: int) -> None:
        """Resume from saved averages, named as the parameters."""
        self.steps = steps
        for name, value in self.weights.items():
            value.copy_(weights[name])

    @torch.no_grad()
    def _copy_in(self, weights: Mapping[str, Tensor]) -> None:
        for name, value in weights.items():
            self.parameters[name].copy_(value)
