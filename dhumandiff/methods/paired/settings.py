"""The numbers that a person sets, under one name each from the node or the flag to the formula."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from ...errors import HostError
from .cascade import FACE_STRENGTH, FOCUS_FRACTION, SCENE_STRENGTH

__all__ = [
    "MODES",
    "CascadeSettings",
    "SamplingSettings",
    "check_released",
    "check_start_end",
    "check_strengths",
    "released_without_mask",
    "split_settings",
]

MODES = ("one_pass", "two_strength", "released")
"""Of the cascade: one prediction a step, two, or as published; `cascade_modes` says what each does."""

MAX_PIXELS = 2**26
"""Of a picture, 8192 x 8192."""
MAX_STEPS = 10000
"""Of a sampler, as in ComfyUI's nodes."""


@dataclass(frozen=True)
class CascadeSettings:
    """How much the faces count, and where.

    Attributes:
        mode: one of `MODES`; or "none", in which `strength` holds everywhere.
        scene_strength: outside of the faces.
        face_strength: where the faces are.
        focus_fraction: share of the picture that is face, 0..1.
        strength: everywhere, in the mode none.
    """

    mode: str = MODES[0]
    scene_strength: float = SCENE_STRENGTH
    face_strength: float = FACE_STRENGTH
    focus_fraction: float = FOCUS_FRACTION
    strength: float = 1.0

    def check(self) -> None:
        """Refuse what makes no picture.

        Raises:
            HostError: an unknown mode, or a number outside of its limits.
        """
        if self.mode not in (*MODES, "none"):
            raise HostError(
                f"The cascade knows the modes none, {', '.join(MODES)}, not {self.mode!r}.", code="unknown-mode"
            )
        _check_range("strength", self.strength, 0, 3)
        _check_range("scene strength", self.scene_strength, 0, 3)
        _check_range("face strength", self.face_strength, 0, 3)
        _check_range("focus share", self.focus_fraction, 0, 1)


@dataclass(frozen=True)
class SamplingSettings:
    """How a picture is sampled.

    Attributes:
        steps: of the sampler; 50 is as published. The mode released takes them twice.
        cfg: guidance; 5 is as published, 1 computes no unconditional half.
        sampler: by ComfyUI's name, euler or euler_ancestral; None: the one that the pipeline has.
        seed: of the noise, which is drawn on the CPU and so is the same on every device.
        size: (width, height) in px, multiples of 8; 512 x 512 is as published.
        start, end: share of sampling in which the people act, 0..1, counted in noise levels as ComfyUI does it: a share p is the
            noise of training timestep (1 - p) * (T - 1), and 0 and 1 leave nothing out.
        person_strengths: one a person, multiplied with the strength in every mode; None: 1 each.
    """

    steps: int = 50
    cfg: float = 5.0
    sampler: str | None = None
    seed: int = 0
    size: tuple[int, int] = (512, 512)
    start: float = 0.0
    end: float = 1.0
    person_strengths: tuple[float, ...] | None = None

    def check(self) -> None:
        """Refuse what makes no picture, before anything heavy is done.

        Raises:
            HostError: a number outside of its limits.
        """
        width, height = self.size
        if width % 8 or height % 8 or min(width, height) < 64:
            raise HostError(
                f"A picture of {width} x {height} cannot be made: width and height are multiples of 8, from 64 on. "
                f"Nearest: {max(64, round(width / 8) * 8)} x {max(64, round(height / 8) * 8)}.",
                code="picture-size",
            )
        if width * height > MAX_PIXELS:
            raise HostError(
                f"A picture of {width} x {height} is larger than any computer draws at once: choose at most "
                f"{MAX_PIXELS / 1e6:.0f} megapixels. SDXL was trained with about one.",
                code="picture-of-too-many-pixels",
            )
        if self.steps > MAX_STEPS:
            raise HostError(
                f"{self.steps} steps are too many: at most {MAX_STEPS}, and 50 are as published.", code="too-many-steps"
            )
        if self.steps < 1:
            raise HostError(
                f"{self.steps} steps make no picture: 1 or more are needed, 50 are as published.", code="no-steps"
            )
        if not 0 <= self.seed < 2**64:
            raise HostError(f"The seed is {self.seed}; it lies between 0 and {2**64 - 1}.", code="seed")
        _check_range("cfg", self.cfg, 1, 100)
        for n, value in enumerate(self.person_strengths or (), 1):
            _check_range(f"strength of person {n}", value, 0, 3)
        check_start_end(self.start, self.end)


def split_settings(**named: Any) -> tuple[CascadeSettings, SamplingSettings]:
    """Settings of both kinds by the names of their fields; what is not named stays as it is by default."""
    cascade = {name: named.pop(name) for name in CascadeSettings.__dataclass_fields__ if name in named}
    return CascadeSettings(**cascade), SamplingSettings(**named)


def check_strengths(*strengths: float) -> None:
    """Refuse strengths that are no numbers, which a linked input may bring: they would make NaN of the picture.

    Raises:
        HostError: says so.
    """
    for value in strengths:
        if not isinstance(value, Real) or not math.isfinite(value):
            raise HostError(
                f"A strength of {value} is none: 1 is as trained, 0 as if nobody were there.",
                code="strength-not-a-number",
            )


def check_start_end(start: float, end: float) -> None:
    """Refuse a start that is not before the end, or shares outside of 0..1.

    Raises:
        HostError: says so.
    """
    if not 0 <= start < end <= 1:
        raise HostError(
            f"The people start at {start:g} and end at {end:g} of sampling: choose shares from 0 to 1, the start before "
            "the end.",
            code="start-not-before-end",
        )


def check_released(
    scene_strength: float, person_strengths: Sequence[float] | None = None, acts_to_the_end: bool = True
) -> None:
    """Refuse what would leave the mode released without a mask after a whole run, which it reads in the last step.

    Args:
        scene_strength: of its first run.
        person_strengths: one a person; None: 1 each.
        acts_to_the_end: whether the people act in the last step.

    Raises:
        HostError: the faces do not count there.
    """
    reasons = {
        "The scene strength is 0.": scene_strength == 0,
        "The people do not act in the last step: set `end` to 1 and `start` before it.": not acts_to_the_end,
        "All person strengths are 0.": person_strengths is not None and not any(person_strengths),
    }
    if found := [reason for reason, holds in reasons.items() if holds]:
        raise HostError(released_without_mask(*found), code="released-without-mask")


def released_without_mask(*reasons: str) -> str:
    """The one sentence for a mode released that has nothing to read its mask from."""
    return " ".join(
        (
            "The mode released reads its mask from the faces in the last step of a run at scene strength, and there are none.",
            *reasons,
            "Choose the mode two_strength, or let the faces count there.",
        )
    )


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high or math.isnan(value):
        raise HostError(f"The {name} is {value}; it lies between {low} and {high}.", code="out-of-range")
