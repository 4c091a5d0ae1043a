"""Regions that nobody draws: found while sampling, and handed from step to step as a mode of sampling.

    mode = FindRegions(settings)
    mode.begin(size, images)
    for each step:
        step = mode.begin_step()          # step.strength goes to `DualConditioning.residual`, step.store gets what the layers see
    mode.end_pass()
    mode.focus                            # where the identity path counted

In the first step nothing is known yet, and all positions take the text-consistency path. From the second on each position counts by
how unlike the rest of the picture it reads a person (`conditioning.attention_store.token_contrast`), as in DHumanDiff's mode
one_pass. Whose face it is, masks say; without them all people count there, told apart by projections of their own, as in DHumanDiff. With a router the layers know it themselves, and the mode only gathers what they said.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
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
        face_share: of the picture, 0..1, of all faces together; each person has as much of it.

    Returns:
        [images, P, H, W] 0..1: of each person 1 in their top share of the positions, soft around. They may overlap: a position that
        reads one person clearly often reads the other so, too, since both look at faces. Whose face it is, these maps do not say.
    """
    if face_share <= 0:
        return torch.zeros_like(maps)
    if face_share >= 1:
        return torch.ones_like(maps)
    people = rearrange(stretch(maps), "n p h w -> (n p) h w")
    soft = face_likeness(people, reached_by(people, face_share / maps.shape[1]))
    return rearrange(soft, "(n p) h w -> n p h w", p=maps.shape[1])


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
        if regions is not None:  # a router's do not overlap, others may
            self.focus = regions.sum(dim=1) if self.settings.regions == "router" else regions.amax(dim=1)
