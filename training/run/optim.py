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
from .parts import gathered, local, on_parts, part_of

__all__ = ["EMA", "GROUP_STATE", "ScheduleFreeAverage", "make_optimizer", "make_scheduler", "parameter_groups"]


GROUP_STATE = {
    "prodigy": ("d", "d_max", "d_numerator", "d_denom", "d_hat", "k"),
    "schedulefree": ("k", "weight_sum", "lr_max", "scheduled_lr", "train_mode"),
}
"""What optimizers keep for a group of weights, not for each weight; a checkpoint needs it to go on bit for bit."""


def parameter_groups(config: OptimizerConfig, module: nn.Module) -> list[Any]:
    """The trained parameters; where parts have rates of their own, a group for each part.

    Raises:
        TrainingError: a part that is not trained has a rate.
    """
    trained = [(name, value) for name, value in module.named_parameters() if value.requires_grad]
    if not config.part_learning_rates:
        return [value for _, value in trained]
    parts: dict[str, list[Tensor]] = {}
    for name, value in trained:
        parts.setdefault(name.partition(".")[0], []).append(value)
    strange = [name for name in config.part_learning_rates if name not in parts]
    if strange:
        raise TrainingError(
            f"optimizer.part_learning_rates names {strange[0]}, which is not trained: {', '.join(parts)} are.",
            code="rate-of-an-untrained-part",
        )
    rates = config.part_learning_rates
    return [{"params": values, "lr": rates.get(part, config.learning_rate)} for part, values in parts.items()]


def make_optimizer(config: OptimizerConfig, parameters: Sequence[Any], sharded: bool = False) -> torch.optim.Optimizer:
    """AdamW of torch or bitsandbytes, torch's Adafactor, Muon, Prodigy, or the schedule-free AdamW.

    parameters: tensors, or groups of them (`parameter_groups`). sharded: each process has a part of each.

    Raises:
        TrainingError: a package is missing.
    """
    settings: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.name == "adafactor":
        return torch.optim.Adafactor(parameters, **settings)
    settings["betas"] = tuple(config.betas)
    if config.name == "adamw":
        first = parameters[0]["params"][0] if isinstance(parameters[0], dict) else parameters[0]
        # One kernel for all weights: torch's other way on GPUs needs as much memory again as the weights.
        return torch.optim.AdamW(parameters, fused=first.is_cuda, **settings)
    if config.name == "muon":
        return Muon(*_matrices_and_rest(config, parameters), muon_lr=config.muon_lr, **settings)
    try:
        if config.name == "prodigy":
            from prodigyopt import Prodigy

            # Both as its authors advise for adapters: the warm-up must not be taken for a small distance.
            settings |= {"use_bias_correction": True, "safeguard_warmup": True}
            if sharded:
                return on_parts(Prodigy, parameters, fsdp_in_use=True, **settings)
            return Prodigy(parameters, **settings)
        if config.name == "schedulefree":
            from schedulefree import AdamWScheduleFree

            optimizer = AdamWScheduleFree(parameters, warmup_steps=config.warmup_steps, **settings)
            optimizer.train()
            return optimizer
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        package = {"prodigy": "prodigyopt", "schedulefree": "schedulefree"}.get(config.name, "bitsandbytes")
        raise TrainingError(
            f"optimizer.name is {config.name}, but {package} cannot be imported ({error}). Install it with: "
            f"pip install {package}; or choose adamw, muon or adafactor.",
            code="bitsandbytes-missing" if package == "bitsandbytes" else "optimizer-missing",
        ) from error
    return AdamW8bit(parameters, **settings)


def _matrices_and_rest(config: OptimizerConfig, parameters: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """For Muon; where parts have rates, that of a part's matrices is as many times Muon's as that of its rest is AdamW's."""
    if not isinstance(parameters[0], dict):
        return [value for value in parameters if value.ndim == 2], [value for value in parameters if value.ndim != 2]
    matrices = [
        {
            "params": [value for value in group["params"] if value.ndim == 2],
            "lr": config.muon_lr * (group["lr"] / config.learning_rate),
        }
        for group in parameters
    ]
    return matrices, [
        {**group, "params": [value for value in group["params"] if value.ndim != 2]} for group in parameters
    ]


def make_scheduler(config: OptimizerConfig, optimizer: torch.optim.Optimizer, steps: int) -> Any:
    """Diffusers' schedule of the learning rate, to be stepped after every step of the optimizer."""
    from diffusers.optimization import get_scheduler

    return get_scheduler(
        "constant" if config.name == "schedulefree" else config.schedule,  # whose warm-up is its own
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
        weights: name of the parameter -> its average; of a sharded one, this process's part.
        steps: how many steps were averaged.
    """

    def __init__(self, module: nn.Module, decay: float, device: str | None = None) -> None:
        self.decay, self.steps = decay, 0
        self.parameters = {name: value for name, value in module.named_parameters() if value.requires_grad}
        self.weights: dict[str, Tensor] = {}
        if decay > 0:
            self.weights = {
                name: local(value.detach()).to(device, copy=True) for name, value in self.parameters.items()
            }

    @torch.no_grad()
    def update(self) -> None:
        """Average in the weights after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, value in self.weights.items():
            # Never non_blocking: a copy to the CPU would be read here before it has arrived.
            value.lerp_(local(self.parameters[name].detach()).to(value.device), 1 - decay)

    def snapshot(self) -> dict[str, Tensor]:
        """The averages as they are now, for a checkpoint; empty without any. Collective."""
        return {name: gathered(value, self.parameters[name]) for name, value in self.weights.items()}

    @contextmanager
    def use_ema(self) -> Iterator[None]:
        """While this is open, the module works with the averages."""
        own = {
            name: local(self.parameters[name].detach()).to(value.device, copy=True)
            for name, value in self.weights.items()
        }
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
            value.copy_(part_of(weights[name], self.parameters[name]))

    @torch.no_grad()
    def _copy_in(self, weights: Mapping[str, Tensor]) -> None:
        for name, value in weights.items():
            local(self.parameters[name].detach()).copy_(value)


class ScheduleFreeAverage(EMA):
    """The schedule-free optimizer's own average, in the place of an EMA.

    The optimizer keeps z, the weights are y, and the average is x; its eval() turns y into x, as train() does back, up to
    rounding. So the weights are put back as they were, to the bit.

    Args:
        module: its parameters with gradients.
        optimizer: AdamWScheduleFree.
    """

    def __init__(self, module: nn.Module, optimizer: Any) -> None:
        super().__init__(module, 0)
        self.optimizer = optimizer

    def update(self) -> None:
        self.steps += 1

    def snapshot(self) -> dict[str, Tensor]:
        with self.use_ema():
            return {name: gathered(local(value.detach()).clone(), value) for name, value in self.parameters.items()}

    @contextmanager
    def use_ema(self) -> Iterator[None]:
        own = {name: local(value.detach()).clone() for name, value in self.parameters.items()}
        self.optimizer.eval()
        try:
            yield
        finally:
            self.optimizer.train()
            self._copy_in(own)

    def load_state_dict(self, weights: Mapping[str, Tensor], steps: int) -> None:
        """The average follows from the weights and the optimizer's state."""
        self.steps = steps
