"""Sampling with a pair attached: the scheduler's loop, guidance, and the two cascades (cascade.py)."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import HostError
from ...methods.paired.attention_store import FocusListener, OnePass, ReleasedListener, fit_focus
from ...methods.paired.cascade import blend, focus_mask

if TYPE_CHECKING:
    from .attention import Attached
    from .pipeline import Portrait

log = logging.getLogger(__name__)

__all__ = ["MASK_ADVICE", "NO_MASK", "Sampler", "check_finite", "first_noise", "one_pass", "released", "two_strength"]

NO_MASK = (
    "The mode released reads its mask from the faces in the last step of a run at scene strength, and there are none."
)
MASK_ADVICE = "Choose the mode two_strength, or let the faces count there."


class Sampler:
    """Runs the scheduler, and predicts noise at a strength of the pair. One picture or a batch.

    Args:
        portrait: its UNet and scheduler.
        attached: the pair.
        conditions: what the UNet gets beside latent and time; rows [negative; prompt], or the prompt's alone.
        cfg: guidance.
        seeds: one a picture, of the noise it began with; a sampler that adds noise on the way goes on with theirs, so that a
            picture is the same alone and in a batch, and both runs of the mode released meet the same noise.
        share: start and end of the pair, see `Portrait.generate`.
        total: steps of all runs, for progress.
        progress: called with (steps done, total).
        joined: see below; of an `Attached` only.

    Attributes:
        acts: whether the pair acts in the step that is being sampled.
        joined: whether both predictions of a step are made in one call. On a CPU that gains nothing.
    """

    def __init__(
        self,
        portrait: Portrait,
        attached: Attached,
        conditions: dict[str, Any],
        cfg: float,
        seeds: Sequence[int],
        share: tuple[float, float],
        total: int,
        progress: Callable[[int, int], None] | None,
        joined: bool = False,
    ) -> None:
        self.portrait, self.attached, self.conditions = portrait, attached, conditions
        self.cfg, self.seeds, self.total, self.progress, self.done = cfg, seeds, total, progress, 0
        # Noise falls with the timestep, so comparing timesteps is comparing noise levels.
        (start, end), last = share, portrait.scheduler.config.num_train_timesteps - 1
        self._first_time = math.inf if start <= 0 else (1 - start) * last
        self._last_time = -math.inf if end >= 1 else (1 - end) * last
        self.acts = True
        self.joined = joined
        self._guided = cfg != 1
        self._known = {1: conditions}

    def acting(self, steps: int) -> list[bool]:
        """For each step whether the pair acts in it. Sets the scheduler to its beginning."""
        self.portrait.scheduler.set_timesteps(steps, device=self.portrait.device)
        times = self.portrait.scheduler.timesteps.tolist()
        return [self._last_time <= t <= self._first_time for t in times]

    def sample(self, noise: Tensor, steps: int, predict: Callable[[Tensor, Any, bool], Tensor]) -> Tensor:
        """From noise [N, C, H, W] of unit variance to latents, in float32.

        `predict` gets the latent as it is, the time, and whether this is the last step.

        Raises:
            HostError: the pair acts in no step, or NaN came out of one.
        """
        scheduler, acting = self.portrait.scheduler, self.acting(steps)
        if not any(acting):
            raise HostError(
                f"None of the {steps} steps lies between the pair's start and end, so the faces would be missing from the "
                "picture. Move start and end apart, or take more steps."
            )
        x = noise.to(self.portrait.device) * scheduler.init_noise_sigma
        adds = "generator" in inspect.signature(scheduler.step).parameters
        more = {"generator": [after_first_noise(seed, noise.shape[1:]) for seed in self.seeds]} if adds else {}
        times = list(scheduler.timesteps)
        for i, t in enumerate(times):
            self.acts = acting[i]
            x = scheduler.step(predict(x, t, i == len(times) - 1), t, x, **more).prev_sample
            check_finite(x, f"step {i + 1} of {len(times)}")
            self.done += 1
            if self.progress is not None:
                self.progress(min(self.done, self.total), self.total)
        return x

    def predict(
        self,
        strength: float | Tensor | tuple[float, ...],
        x: Tensor,
        t: Any,
        observe: Callable | None = None,
        heard: int = 0,
    ) -> Tensor:
        """Guided noise at a strength of the pair (0 in a step in which it does not act), float32 [N, C, H, W]: a number, one for
        every place, or several; then [copies * N, C, H, W], all pictures at the first, at the second ...

        `observe` hears every layer to which the pair adds something; of several strengths the one `heard`.
        """
        self.attached.strength, self.attached.observe = strength if self.acts else 0.0, observe
        self.attached.heard = heard
        conditions = self._conditions_of(len(strength) if isinstance(strength, tuple) else 1)
        rows = len(conditions["encoder_hidden_states"])
        scaled = self.portrait.scheduler.scale_model_input(x, t).to(self.portrait.dtype)
        out = self.portrait.pipeline.unet(scaled.repeat(rows // len(x), 1, 1, 1), t, **conditions).sample.float()
        if not self._guided:
            return out
        unconditional, conditional = out.chunk(2)
        return unconditional + self.cfg * (conditional - unconditional)

    def predict_both(
        self, scene: float, face: float, x: Tensor, t: Any, listener: FocusListener | None = None
    ) -> tuple[Tensor, Tensor]:
        """`predict` at both strengths of the cascade: in one call where that is faster and memory allows it.

        The listener hears the scene's prediction, or the face's where the scene has no attention to hear.
        """
        if self.joined:
            try:
                return self.predict((scene, face), x, t, listener, int(scene == 0)).chunk(2)
            except RuntimeError as error:
                if "out of memory" not in str(error):
                    raise
            log.info("No memory for both predictions of a step in one call: they are made one after the other.")
            self.joined = False
            if listener is not None:
                listener.drop()
        at_scene = self.predict(scene, x, t, listener if scene > 0 else None)
        return at_scene, self.predict(face, x, t, None if scene > 0 else listener)

    def _conditions_of(self, copies: int) -> dict[str, Any]:
        if copies not in self._known:
            self._known[copies] = _map(self.conditions, lambda rows: _repeat_halves(rows, copies, 1 + self._guided))
        return self._known[copies]


def two_strength(
    sampler: Sampler, noise: Tensor, steps: int, scene: float, face: float, share: float, given: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """One trajectory; at every step the focus gathered so far (or the given one [N, H, W]) joins both predictions."""
    listener = FocusListener()
    focus = None if given is None else fit_focus(given, _size(noise), len(noise)).to(sampler.portrait.device)

    def predict(x: Tensor, t: Any, _: bool) -> Tensor:
        nonlocal focus
        if not sampler.acts:
            return sampler.predict(scene, x, t)
        at_scene, at_face = sampler.predict_both(scene, face, x, t, listener if given is None else None)
        if given is None:
            maps = listener.maps()
            if maps is None:  # all persons are at strength 0
                return at_scene
            focus = focus_mask(maps, share)
        return blend(at_scene, at_face, focus)

    return sampler.sample(noise, steps, predict), focus


def one_pass(
    sampler: Sampler, noise: Tensor, steps: int, scene: float, face: float, share: float, given: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """One trajectory and one prediction a step; the focus gathered so far (or the given one) says which strength holds where."""
    strengths = OnePass(scene, face, share, given)

    def predict(x: Tensor, t: Any, _: bool) -> Tensor:
        return sampler.predict(strengths.strength(_size(noise), len(noise)), x, t, strengths.listener)

    return sampler.sample(noise, steps, predict), strengths.focus(_size(noise), len(noise))


def released(
    sampler: Sampler, noise: Tensor, steps: int, scene: float, face: float, share: float, given: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One run for the mask, read at its last step; a second one from the same noise, with both predictions.

    With a given mask this is `two_strength`.
    """
    if given is not None:
        return two_strength(sampler, noise, steps, scene, face, share, given)
    if not sampler.acting(steps)[-1]:
        raise HostError(f"{NO_MASK} The pair starts after the last of the {steps} steps. {MASK_ADVICE}")
    listener = ReleasedListener()
    sampler.sample(noise, steps, lambda x, t, last: sampler.predict(scene, x, t, listener if last else None))
    focus = listener.mask(len(noise), 100 * (1 - share))

    def predict(x: Tensor, t: Any, _: bool) -> Tensor:
        if not sampler.acts:
            return sampler.predict(scene, x, t)
        return blend(*sampler.predict_both(scene, face, x, t), focus)

    return sampler.sample(noise, steps, predict), focus


def _size(noise: Tensor) -> tuple[int, int]:
    return noise.shape[-2], noise.shape[-1]


def _map(values: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nested dict with changed tensors."""
    return {name: _map(value, change) for name, value in values.items()} if isinstance(values, dict) else change(values)


def _repeat_halves(rows: Tensor, copies: int, halves: int) -> Tensor:
    """[halves * N, ...] -> [halves * copies * N, ...], the copies inside of each half."""
    return torch.cat([half.repeat(copies, *[1] * (rows.ndim - 1)) for half in rows.chunk(halves)])


def first_noise(seed: int, shape: Sequence[int]) -> Tensor:
    """The noise [*shape] that a picture begins with, drawn on the CPU and so the same on every device."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def after_first_noise(seed: int, shape: Sequence[int]) -> torch.Generator:
    """Where that seed's numbers go on. Beginning anew would add the first noise again."""
    generator = torch.Generator().manual_seed(seed)
    torch.randn(*shape, generator=generator)
    return generator


def check_finite(values: Tensor, where: str) -> None:
    """Refuse NaN. HostError says where it came from and what to change."""
    if not values.isfinite().all():
        raise HostError(
            f"NaN or infinite values came out of {where}. Run the base in another dtype (--dtype bf16, or fp32), lower "
            "the strengths or the guidance, and check that base and adapter files are whole."
        )
