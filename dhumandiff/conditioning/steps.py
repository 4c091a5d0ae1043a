"""What a host does in one step of sampling, and what says so: a mode of a method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from .attention_store import AttentionRecord
from .batch_layout import Tile
from .identity import Strength

__all__ = ["BOTH", "FACES", "SCENE", "CascadeStep", "SamplingMode", "Store"]

SCENE, FACES, BOTH = "scene", "faces", "scene and faces"


class Store(Protocol):
    """What a mode records attention with."""

    def __call__(self, record: AttentionRecord) -> None:
        """Take in one layer of one call."""
        ...

    def resize(self, size: tuple[int, int]) -> None:
        """Bring what was gathered to another size of the latent."""
        ...

    def discard_pending(self) -> None:
        """Forget what a call that failed half-way recorded: it is made again."""
        ...


@dataclass(frozen=True, eq=False)
class CascadeStep:
    """What a host does in one step.

    Attributes:
        strengths: to predict at, one prediction for each.
        store: called with what the layers see; None: nothing is recorded.
        recorded: at which of the strengths.
        drawing: what is drawn in it, for people: "scene", "faces", "scene and faces".
    """

    strengths: tuple[float | Tensor, ...]
    store: Store | None = None
    recorded: int = 0
    drawing: str = BOTH

    @property
    def strength(self) -> Strength:
        """The strengths as a conditioning takes them: the only one, or all."""
        if len(self.strengths) == 1:
            return self.strengths[0]
        return tuple(float(strength) for strength in self.strengths)


class SamplingMode(Protocol):
    """What hosts ask of a mode; `methods.paired.cascade_modes.CascadeMode` says what each does.

    Attributes:
        passes: runs of the sampler, from the same noise.
        focus: where the faces were, [images or 1, H, W]; None before it is known, and where that is not asked.
    """

    passes: int
    focus: Tensor | None

    def begin(self, size: tuple[int, int], images: int) -> None:
        """Before a run: for pictures with latents of (height, width)."""
        ...

    def resize(self, size: tuple[int, int]) -> None:
        """Before a step whose latents have another (height, width)."""
        ...

    def begin_step(self, acts: bool = True, is_last: bool = False) -> CascadeStep:
        """What the step predicts at."""
        ...

    def combine(self, made: Sequence[Sequence[Tensor]], tiles: Sequence[Tile] | None = None) -> list[Tensor]:
        """One prediction for each prompt."""
        ...

    def end_pass(self) -> None:
        """After a run of the sampler."""
        ...
