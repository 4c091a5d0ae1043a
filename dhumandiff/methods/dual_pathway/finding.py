"""Regions that nobody draws: found while sampling, and handed from step to step as a mode of sampling.

    mode = FindRegions(settings)
    mode.begin(size, images)
    for each step:
        step = mode.begin_step()          # step.strength goes to `DualConditioning.residual`, step.store gets what the layers see
    mode.end_pass()
    mode.focus                            # where the identity path counted

In the first step nothing is known yet, and all positions take the text-consistency path. From the second on each position counts by
how unlike the rest of the picture it reads each person (`conditioning.attention_store.token_contrast`), as in DHumanDiff's mode
one_pass. With a router the layers know it themselves, and the mode only gathers what they said.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...conditioning.attention_store import AttentionStore
from ...conditioning.batch_layout import Tile
from ...conditioning.focus import face_likeness, reached_by, stretch
from ...conditioning.steps import CascadeStep
from .settings import DualPathwaySettings

__all__ = ["FindRegions", "found_regions"]


def found_regions(maps: Tensor, face_share: float) -> Tensor:
    """Where each person's face is, by the maps gathered so far.

    Args:
        maps: of `AttentionStore`, [images, P, H, W].
        face_share: of the picture, 0..1, of all faces together.

    Returns:
        [images, P, H, W] 0..1: 1 in the top `face_share` of the positions, soft around. Each position counts for the person whom it
        reads most clearly, so that regions do not overlap.
    """
    if face_share <= 0:
        return torch.zeros_like(maps)
    stretched = stretch(maps)
    clearest = stretched.amax(dim=1)
    soft = face_likeness(clearest, reached_by(clearest, face_share)) if face_share < 1 else torch.ones_like(clearest)
    owner = stretched.argmax(dim=1, keepdim=True)
    return torch.zeros_like(maps).scatter_(1, owner, soft[:, None])


class FindRegions:
    """The method's mode of sampling; `conditioning.steps.SamplingMode`.

    Args:
        settings: of the method.

    Attributes:
        store: what the layers said so far; None where regions are given.
        focus: where the identity path counted, of all people together, [images, H, W] 0..1; None before the end, and where regions are
            given.
    """

    passes = 1

    def __init__(self, settings: DualPathwaySettings) -> None:
        self.settings = settings
        self.store = None if settings.regions == "given" else AttentionStore()
        self.focus: Tensor | None = None

    def begin(self, size: tuple[int, int], images: int) -> None:
        """Before a run: for pictures with latents of (height, width)."""
        self.focus = None

    def resize(self, size: tuple[int, int]) -> None:
        """Before a step whose latents have another (height, width)."""
        if self.store is not None:
            self.store.resize(size)

    def begin_step(self, acts: bool = True, is_last: bool = False) -> CascadeStep:
        """What the step predicts at: the regions found so far, or 1 where none are found this way."""
        regions = self.regions()
        if self.settings.regions == "attention" and regions is not None:
            return CascadeStep((regions,), self.store)
        return CascadeStep((1.0,), self.store)

    def regions(self) -> Tensor | None:
        """Each person's region by what was gathered so far, [images, P, H, W]; None before that, and where they are given."""
        maps = None if self.store is None else self.store.maps()
        if maps is None or self.settings.regions == "router":
            return maps
        return found_regions(maps, self.settings.face_share)

    def combine(self, made: Sequence[Sequence[Tensor]], tiles: Sequence[Tile] | None = None) -> list[Tensor]:
        """One prediction for each prompt: the only one."""
        return list(made[0])

    def end_pass(self) -> None:
        """After a run of the sampler."""
        regions = self.regions()
        self.focus = None if regions is None else regions.sum(dim=1).clamp(max=1)
