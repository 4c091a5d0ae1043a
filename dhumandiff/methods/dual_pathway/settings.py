"""The numbers that a person sets, under one name each from the node or the flag to the formula."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...errors import HostError

__all__ = ["SOURCES", "DualPathwaySettings"]

SOURCES = ("given", "attention", "router")
"""Where regions come from: masks; the identity attention while sampling; a trained router."""

MAX_STRENGTH = 3
MAX_FEATHER = 512


@dataclass(frozen=True)
class DualPathwaySettings:
    """How much the people count in their regions and outside of them.

    Attributes:
        identity_strength: s_v, of the identity path, inside of the regions.
        text_strength: s_t, of the text-consistency path, outside of them.
        regions: one of `SOURCES`.
        feather: width of the ramp on either side of a given region's border, px of the picture; the latent has 8 px steps.
        face_share: with regions "attention", the share of the picture that is face, 0..1.
        hard_routes: with regions "router", each position belongs to whom it fits best, instead of to each in part.
        start, end: share of sampling in which the people act, 0..1.
        require_trained: refuse weights without a text-consistency path of their own.
    """

    identity_strength: float = 1.0
    text_strength: float = 0.4
    regions: str = SOURCES[0]
    feather: float = 16.0
    face_share: float = 0.1
    hard_routes: bool = False
    start: float = 0.0
    end: float = 1.0
    require_trained: bool = False

    def check(self) -> None:
        """Refuse what makes no picture.

        Raises:
            HostError: an unknown source of regions, or a number outside of its limits.
        """
        if self.regions not in SOURCES:
            raise HostError(
                f"Regions come from {', '.join(SOURCES)}, not from {self.regions!r}: choose one of them.",
                code="dual-unknown-regions",
            )
        limits = {
            "identity strength": (self.identity_strength, MAX_STRENGTH),
            "text strength": (self.text_strength, MAX_STRENGTH),
            "feather": (self.feather, MAX_FEATHER),
            "face share": (self.face_share, 1),
        }
        for name, (value, most) in limits.items():
            if not 0 <= value <= most or math.isnan(value):
                raise HostError(
                    f"The {name} of the dual pathway is {value}; it lies between 0 and {most}.",
                    code="dual-out-of-range",
                )
        if not 0 <= self.start < self.end <= 1:
            raise HostError(
                f"The dual pathway starts at {self.start:g} and ends at {self.end:g} of sampling: choose shares from 0 to 1, the "
                "start before the end.",
                code="dual-start-not-before-end",
            )
