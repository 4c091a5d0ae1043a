"""The noise schedule that the weights were trained on: plain linear betas, more noise than Stable Diffusion 1.5 has.

On the base's own schedule (sigma_max 14.61) the weights look bad for no visible reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ...errors import AdapterError

__all__ = ["NoiseSchedule"]


@dataclass(frozen=True)
class NoiseSchedule:
    """Betas of the diffusion, under the names of diffusers' scheduler_config.json.

    Attributes:
        beta_start, beta_end: of the first and the last training step.
        beta_schedule: "linear": evenly between them; "scaled_linear": their square roots evenly.
        num_train_timesteps: training steps.
        prediction_type: what the UNet predicts: epsilon or v_prediction.
    """

    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "linear"
    num_train_timesteps: int = 1000
    prediction_type: str = "epsilon"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> NoiseSchedule:
        """What a scheduler_config.json says; what it leaves open is as trained.

        Raises:
            AdapterError: a schedule that is not known here.
        """
        schedule = cls(**{each.name: config[each.name] for each in fields(cls) if each.name in config})
        numbers = schedule.beta_start, schedule.beta_end, schedule.num_train_timesteps
        strange = [name for name in ("trained_betas", "rescale_betas_zero_snr") if config.get(name)]
        kinds = (int, float), (int, float), int
        if strange or not all(isinstance(one, kind) and one > 0 for one, kind in zip(numbers, kinds, strict=True)):
            raise AdapterError(
                f"scheduler/scheduler_config.json asks for betas that are not computed here ({', '.join(strange) or numbers}): they "
                "have a first and a last one above 0, and a number of steps. Get the file again.",
                code="unknown-betas",
            )
        known = schedule.beta_schedule in ("linear", "scaled_linear")
        if not known or schedule.prediction_type not in ("epsilon", "v_prediction"):
            raise AdapterError(
                f"scheduler/scheduler_config.json asks for {schedule.beta_schedule} betas and the prediction "
                f"{schedule.prediction_type}; linear or scaled_linear, and epsilon or v_prediction are known. Get the file "
                "again.",
                code="unknown-noise-schedule",
            )
        return schedule

    def sigmas(self) -> Tensor:
        """Noise over signal of every training step, [T] float64, rising."""
        power = 1 if self.beta_schedule == "linear" else 2
        ends = self.beta_start ** (1 / power), self.beta_end ** (1 / power)
        betas = torch.linspace(*ends, self.num_train_timesteps, dtype=torch.float64) ** power
        kept = torch.cumprod(1 - betas, dim=0)
        return ((1 - kept) / kept).sqrt()
