"""A face measured out, how a head is held, and the light on it. Head units (head.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .identity import Identity
from .pen import closed

__all__ = ["EXPRESSIONS", "Expression", "Light", "Pose", "Shape"]

Expression = Literal["smile", "neutral", "laugh", "eyes closed"]
EXPRESSIONS: tuple[Expression, ...] = ("smile", "neutral", "laugh", "eyes closed")


@dataclass(frozen=True)
class Pose:
    """How a head is held: `roll` in degrees, `yaw` and `pitch` from -1 to 1 (about 30 degrees), and the expression."""

    roll: float = 0.0
    yaw: float = 0.0
    pitch: float = 0.0
    expression: Expression = "smile"


@dataclass(frozen=True)
class Light:
    """Where light comes from (`side` -1 left to 1 right), how uneven (`strength` 0 to 1), warm (-1 to 1), `gain` about 1."""

    side: float = -0.5
    strength: float = 0.5
    warmth: float = 0.0
    gain: float = 1.0


@dataclass(frozen=True)
class Shape:
    """A face measured out, head units."""

    width: float  # half of it, at the cheekbones
    chin: float
    jaw: float  # half the width at mouth height
    eye_x: float
    eye_y: float
    eye: float  # half the width of an eye
    brow_y: float
    nose_y: float
    mouth_y: float
    mouth: float  # half the width

    @classmethod
    def of(cls, who: Identity) -> Shape:
        """The measures of a person: children have low, large eyes and a round face."""
        child = who.age == "child"
        width = (0.71 if child else 0.66) + 0.20 * who.face_width
        chin = (0.86 if child else 0.91) + 0.17 * who.face_length
        eye_y = 0.13 if child else 0.03 + 0.02 * who.face_length
        eye = 0.125 + 0.08 * who.eye_size + (0.02 if child else 0.0)
        nose_y = eye_y + 0.22 + (0.06 if child else 0.15) * who.nose_length
        return cls(
            width=width,
            chin=chin,
            jaw=width * (0.62 + 0.30 * (0.35 if child else who.jaw)),
            eye_x=0.26 + 0.10 * who.eye_distance + 0.25 * (width - 0.69),
            eye_y=eye_y,
            eye=eye,
            brow_y=eye_y - eye - 0.105,
            nose_y=nose_y,
            mouth_y=min(nose_y + 0.25, chin - 0.20),
            mouth=0.19 + 0.13 * who.mouth_width,
        )

    def outline(self, first: float = -1.0) -> np.ndarray:
        """The face's edge as a dense closed curve; `first` -1: the whole skull."""
        half = [
            (self.width * 0.60, first + 0.13),
            (self.width * 0.95, -0.48),
            (self.width, 0.05),
            (self.jaw, 0.60 * self.chin),
            (self.jaw * 0.56, 0.90 * self.chin),
        ]
        return closed([(0.0, first), *half, (0.0, self.chin), *[(-x, y) for x, y in half[::-1]]])
