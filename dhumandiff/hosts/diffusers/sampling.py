"""Sampling with people attached: the scheduler's loop, guidance, and the cascade's modes (methods/paired/cascade_modes.py)."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...conditioning.identity import Strength
from ...conditioning.steps import CascadeStep, SamplingMode
from ...errors import HostError
from ...methods.paired.cascade_modes import CascadeMode
from ...methods.paired.settings import SamplingSettings, check_released
from .attention import Attached
from .memory import is_out_of_memory

log = logging.getLogger(__name__)

__all__ = ["DenoisingLoop", "advance_generator", "check_finite", "initial_noise"]


class DenoisingLoop:
    """From noise to latents, for one picture or a batch.

    Args:
        unet: what predicts.
        scheduler: any of diffusers' that steps on a noise prediction.
        attached: the people on the UNet; None for the base alone.
        conditions: what the UNet gets beside latent and time; samples [negative; prompt], or the prompt's alone.
        settings: steps, guidance, and the share of sampling in which the people act. Size and seed are those of the noise.
        seeds: one a picture, of the noise it began with; a sampler that adds noise on the way goes on with theirs, so that a
            picture is the same alone and in a batch, and both runs of the mode released meet the same noise.
        progress: called with (steps done, all steps).
        batched: whether both predictions of a step are made in one call, where memory allows. On a CPU that gains nothing.
    """

    def __init__(
        self,
        unet: nn.Module,
        scheduler: Any,
        attached: Attached | None,
        conditions: dict[str, Any],
        settings: SamplingSettings,
        seeds: Sequence[int],
        progress: Callable[[int, int], None] | None = None,
        batched: bool = False,
    ) -> None:
        self.unet, self.scheduler, self.attached, self.settings = unet, scheduler, attached, settings
        self.seeds, self.progress, self.batched, self.steps_done = seeds, progress, batched, 0
        self._conditions = {1: conditions}
        self._guided = settings.cfg != 1
        self._acts = True

    def run(self, noise: Tensor, mode: SamplingMode) -> Tensor:
        """Latents [N, C, H, W] in float32, from noise of unit variance.

        Raises:
            HostError: the people act in no step, there is nothing to make the mode's mask from, or NaN came out.
        """
        mode.begin((noise.shape[-2], noise.shape[-1]), len(noise))
        if isinstance(mode, CascadeMode) and mode.passes == 2:
            check_released(mode.settings.scene_strength, self.settings.person_strengths, self._acting()[-1])
        latent = noise
        for _ in range(mode.passes):
            latent = self._run_pass(noise, mode)
            mode.end_pass()
        return latent

    def _run_pass(self, noise: Tensor, mode: SamplingMode) -> Tensor:
        scheduler, acting = self.scheduler, self._acting()
        if not any(acting):
            raise HostError(
                f"None of the {self.settings.steps} steps lies between the start and end of the people, so the faces would be "
                "missing from the picture. Move start and end apart, or take more steps.",
                code="acts-in-no-step",
            )
        x = noise.to(_device_of(self.unet)) * scheduler.init_noise_sigma
        adds_noise = "generator" in inspect.signature(scheduler.step).parameters
        more = {"generator": [advance_generator(seed, noise.shape[1:]) for seed in self.seeds]} if adds_noise else {}
        times = list(scheduler.timesteps)
        for i, t in enumerate(times):
            self._acts = acting[i]
            step = mode.begin_step(acting[i], is_last=i == len(times) - 1)
            [prediction] = mode.combine([[made] for made in self._predict(step, x, t)])
            x = scheduler.step(prediction, t, x, **more).prev_sample
            if i in (0, len(times) - 1):  # NaN stays: looking at every step would wait for the device each time
                check_finite(x, f"step {i + 1} of {len(times)}")
            self.steps_done += 1
            if self.progress is not None:
                total = self.settings.steps * mode.passes
                self.progress(min(self.steps_done, total), total)
        return x

    def _acting(self) -> list[bool]:
        """For each step whether the people act in it. Sets the scheduler to its beginning."""
        self.scheduler.set_timesteps(self.settings.steps, device=_device_of(self.unet))
        start, end, last = self.settings.start, self.settings.end, self.scheduler.config.num_train_timesteps - 1
        # Noise falls with the timestep, so comparing timesteps is comparing noise levels.
        first_time = math.inf if start <= 0 else (1 - start) * last
        last_time = -math.inf if end >= 1 else (1 - end) * last
        return [last_time <= t <= first_time for t in self.scheduler.timesteps.tolist()]

    def _predict(self, step: CascadeStep, x: Tensor, t: Any) -> list[Tensor]:
        """A prediction for each strength of the step: in one call where that is faster and memory allows it."""
        if len(step.strengths) > 1 and self.batched:
            try:
                return list(self._call(step.strength, x, t, step.store, step.recorded).chunk(len(step.strengths)))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            log.info("No memory for both predictions of a step in one call: they are made one after the other.")
            self.batched = False
            if step.store is not None:
                step.store.discard_pending()
        return [
            self._call(strength, x, t, step.store if number == step.recorded else None)
            for number, strength in enumerate(step.strengths)
        ]

    def _call(self, strength: Strength, x: Tensor, t: Any, record: Any = None, recorded_strength: int = 0) -> Tensor:
        """Guided noise at a strength of the people (0 in a step in which they do not act), float32 [N, C, H, W]; at several
        [copies * N, C, H, W]: all pictures at the first, at the second ..."""
        if self.attached is not None:
            self.attached.strength = strength if self._acts else 0.0
            self.attached.record, self.attached.recorded_strength = record, recorded_strength
        conditions = self._conditions_of(len(strength) if isinstance(strength, tuple) else 1)
        batch = len(conditions["encoder_hidden_states"])
        scaled = self.scheduler.scale_model_input(x, t).to(conditions["encoder_hidden_states"].dtype)
        out = self.unet(scaled.repeat(batch // len(x), 1, 1, 1), t, **conditions).sample.float()
        if not self._guided:
            return out
        unconditional, conditional = out.chunk(2)
        return unconditional + self.settings.cfg * (conditional - unconditional)

    def _conditions_of(self, copies: int) -> dict[str, Any]:
        if copies not in self._conditions:
            halves = 1 + self._guided
            self._conditions[copies] = _map(self._conditions[1], lambda rows: _repeat_halves(rows, copies, halves))
        return self._conditions[copies]


def _device_of(unet: nn.Module) -> torch.device:
    return next(unet.parameters()).device


def _map(values: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nested dict with changed tensors."""
    return {name: _map(value, change) for name, value in values.items()} if isinstance(values, dict) else change(values)


def _repeat_halves(rows: Tensor, copies: int, halves: int) -> Tensor:
    """[halves * N, ...] -> [halves * copies * N, ...], the copies inside of each half."""
    return torch.cat([half.repeat(copies, *[1] * (rows.ndim - 1)) for half in rows.chunk(halves)])


def initial_noise(seed: int, shape: Sequence[int]) -> Tensor:
    """The noise [*shape] that a picture begins with, drawn on the CPU and so the same on every device."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def advance_generator(seed: int, shape: Sequence[int]) -> torch.Generator:
    """Where that seed's numbers go on behind its `initial_noise`. Beginning anew would add the first noise again."""
    generator = torch.Generator().manual_seed(seed)
    torch.randn(*shape, generator=generator)
    return generator


def check_finite(values: Tensor, where: str) -> None:
    """Refuse NaN. HostError says where it came from and what to change."""
    if not values.isfinite().all():
        raise HostError(
            f"NaN or infinite values came out of {where}. Run the base in another dtype (--dtype bf16, or fp32), lower "
            "the strengths or the guidance, and check that base and adapter files are whole.",
            code="not-finite",
        )
