"""A brush for hair: the shapes that several styles share, in head units (head.py)."""

from __future__ import annotations

from math import cos, pi, sin

from .dice import Dice
from .identity import Identity
from .pen import Color, Frame, Pen, Points, mix, tint
from .shape import Shape

__all__ = ["Brush"]


class Brush:
    """Pen, frame, face and colors of one head of hair, so that styles read as shapes."""

    def __init__(self, pen: Pen, frame: Frame, shape: Shape, who: Identity) -> None:
        self.pen, self.frame, self.who = pen, frame, who
        self.w = shape.width
        self.lift = 0.04 + 0.18 * who.hair_volume
        self.side = who.part
        self.main = who.hair_rgb
        self.dark = tint(self.main, 0.78)
        self.light = mix(self.main, (255, 240, 215), 0.22)
        self.dice = Dice("hair", who.gender, who.seed)

    def fill(self, points: Points, color: Color | None = None) -> None:
        self.pen.curve(self.frame, points, color or self.main)

    def oval(self, x: float, y: float, rx: float, ry: float, color: Color | None = None) -> None:
        self.pen.oval(self.frame, x, y, rx, ry, color or self.main)

    def stroke(self, points: Points, width: float, color: Color, end: float | None = None) -> None:
        self.pen.stroke(self.frame, points, width, color, end)

    def cap(self, hairline: Points, lift: float | None = None, drop: float = 0.05, color: Color | None = None) -> None:
        """Hair over the skull, from one temple to the other; `hairline` runs from the right temple to the left."""
        w, up = self.w, self.lift if lift is None else lift
        # `drop` is how far down it reaches before the ears. Doubled points make the corners there.
        self.fill(
            [
                (-w - 0.04, drop),
                (-w - 0.05, drop),
                (-w - 0.05 - 0.4 * up, -0.36),
                (-w * 0.84 - 0.3 * up, -0.84 - 0.4 * up),
                (-w * 0.42, -1.08 - up),
                (0.0, -1.13 - up),
                (w * 0.42, -1.08 - up),
                (w * 0.84 + 0.3 * up, -0.84 - 0.4 * up),
                (w + 0.05 + 0.4 * up, -0.36),
                (w + 0.05, drop),
                (w + 0.04, drop),
                (w - 0.05, drop - 0.06),
                *hairline,
                (-w + 0.05, drop - 0.06),
            ],
            color,
        )

    def gloss(self, y: float = -0.86) -> None:
        """A streak of light over the crown."""
        w, s = self.w, self.side
        points = [(-s * w * 0.62, y + 0.17), (-s * w * 0.30, y - 0.02), (s * w * 0.05, y - 0.07)]
        self.stroke(points, 0.05, self.light, 0.09)

    def swept(self) -> list[tuple[float, float]]:
        """The hairline of hair combed from a parting over the forehead."""
        w, s = self.w, self.side
        line = [
            (s * w * 0.88, -0.22),
            (s * w * 0.74, -0.52),
            (s * w * 0.40, -0.76),
            (-s * w * 0.10, -0.50),
            (-s * w * 0.62, -0.36),
            (-s * w * 0.88, -0.14),
        ]
        return line if s > 0 else line[::-1]

    def parted(self) -> list[tuple[float, float]]:
        """The hairline of hair that falls to both sides of the middle."""
        w = self.w
        return [
            (w * 0.88, -0.10),
            (w * 0.66, -0.46),
            (0.04, -0.82),
            (-0.04, -0.82),
            (-w * 0.66, -0.46),
            (-w * 0.88, -0.10),
        ]

    def back_combed(self, height: float = -0.66) -> list[tuple[float, float]]:
        """A high, round hairline."""
        w = self.w
        return [
            (w * 0.89, -0.20),
            (w * 0.76, -0.50),
            (w * 0.40, height),
            (0.0, height - 0.04),
            (-w * 0.40, height),
            (-w * 0.76, -0.50),
            (-w * 0.89, -0.20),
        ]

    def fringe(self, height: float = -0.28) -> list[tuple[float, float]]:
        """A straight fringe over the brows."""
        w = self.w
        return [
            (w * 0.88, -0.10),
            (w * 0.80, height - 0.04),
            (w * 0.42, height + 0.02),
            (0.0, height),
            (-w * 0.42, height + 0.02),
            (-w * 0.80, height - 0.04),
            (-w * 0.88, -0.10),
        ]

    def locks(self, count: int, radius: float, reach: float, start: float, end: float, squash: float = 1.0) -> None:
        """Round locks along an arc about the skull, angles in turns of half a circle (0 right, 0.5 the crown)."""
        for i in range(count):
            angle = pi * (start + (end - start) * i / max(count - 1, 1))
            r = radius * self.dice.between(0.9, 1.12)
            self.oval(reach * (self.w + 0.08) * cos(angle), -0.12 - squash * reach * sin(angle), r, r)
