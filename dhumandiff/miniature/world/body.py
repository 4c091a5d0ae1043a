"""A half figure: neck, garment, arms and what they do. Head units (head.py), upright, below the head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...errors import DHumanDiffError
from .identity import Identity
from .pen import Color, Frame, Pen, Points, mix, tint

__all__ = [
    "ACTIONS",
    "COLORS",
    "GARMENTS",
    "Build",
    "Outfit",
    "draw_arm_behind",
    "draw_body",
    "draw_hand_on",
    "draw_hood",
]

COLORS: dict[str, Color] = {
    "red": (208, 44, 50),
    "yellow": (248, 205, 58),
    "green": (52, 146, 82),
    "blue": (44, 98, 200),
    "purple": (124, 66, 172),
    "pink": (248, 148, 186),
    "white": (246, 245, 242),
    "black": (46, 45, 52),
}
"""The eight colors of clothes, in plain light."""

GARMENTS: dict[str, tuple[str, ...]] = {
    "woman": ("dress", "shirt", "suit", "hoodie", "sweater"),
    "man": ("shirt", "suit", "hoodie", "sweater"),
}

ACTIONS = ("arms down", "waving", "holding flowers", "holding a cup", "arms crossed", "hand on hip", "arm around")


@dataclass(frozen=True)
class Outfit:
    """A garment ("shirt", "dress", "suit", "hoodie", "sweater") in one of the eight colors."""

    garment: str
    color: str

    def __post_init__(self) -> None:
        if self.garment not in GARMENTS["woman"]:
            raise DHumanDiffError(
                f"There is no garment {self.garment!r}; there are {', '.join(GARMENTS['woman'])}.",
                code="unknown-garment",
            )
        if self.color not in COLORS:
            raise DHumanDiffError(
                f"There are no {self.color!r} clothes; the colours are {', '.join(COLORS)}.", code="unknown-color"
            )


@dataclass(frozen=True)
class Build:
    """A body measured out, head units: half the shoulders, their height, half the neck, half an arm."""

    shoulder: float
    top: float
    neck: float
    arm: float

    @classmethod
    def of(cls, who: Identity) -> Build:
        """Children are narrow, men broad."""
        if who.age == "child":
            return cls(1.12, 1.50, 0.25, 0.21)
        if who.gender == "woman":
            return cls(1.27, 1.56, 0.28, 0.22)
        return cls(1.47, 1.56, 0.36, 0.26)


def draw_hood(pen: Pen, frame: Frame, who: Identity, outfit: Outfit) -> None:
    """What of a garment lies behind the neck."""
    if outfit.garment == "hoodie":
        b, color = Build.of(who), tint(COLORS[outfit.color], 0.80)
        half = [(b.neck + 0.42, 1.05), (b.neck + 0.56, 1.34), (b.neck + 0.30, 1.60)]
        pen.curve(frame, [(0, 1.0), *half, (0, 1.66), *[(-x, y) for x, y in half[::-1]]], color)


def draw_body(pen: Pen, frame: Frame, who: Identity, outfit: Outfit, action: str, outer: int) -> np.ndarray:
    """Draw neck, garment and arms; `outer` is the side (-1, 1) away from the partner.

    Returns the joints [6, 2] px of shoulders, elbows, wrists (each left then right, as the viewer sees them).
    """
    b = Build.of(who)
    skin, cloth = who.skin_rgb, COLORS[outfit.color]
    joints = {s: _arm(b, s, action, outer) for s in (-1, 1)}
    bare = outfit.garment == "dress"
    # Arms that hang stay behind the torso's edge; those that do something come before it.
    before = {s: not _hangs(s, action, outer) for s in (-1, 1)}
    for s in (-1, 1):
        if not before[s] and not (action == "arm around" and s != outer):
            _draw_arm(pen, frame, b, joints[s], skin, cloth, bare)
    _torso(pen, frame, b, skin, cloth, outfit, who)
    if action == "holding flowers":
        _bouquet_stems(pen, frame)
    if action == "holding a cup":
        _cup(pen, frame, joints[outer][2])
    for s in (-1, 1):
        if before[s]:
            _draw_arm(pen, frame, b, joints[s], skin, cloth, bare)
    if action == "holding flowers":
        _bouquet(pen, frame, outfit.color)
    return frame([joints[s][i] for i in range(3) for s in (-1, 1)])


def draw_arm_behind(
    pen: Pen, frame: Frame, who: Identity, outfit: Outfit, inner: int, target: tuple[float, float]
) -> None:
    """The arm that goes behind the partner, from the inner shoulder towards `target` (in this frame)."""
    b = Build.of(who)
    start = (inner * (b.shoulder - b.arm), b.top + 0.24)
    elbow = (inner * (b.shoulder + 0.35), b.top + 0.42)
    _draw_arm(pen, frame, b, [start, elbow, target], who.skin_rgb, COLORS[outfit.color], outfit.garment == "dress")


def draw_hand_on(pen: Pen, frame: Frame, partner: Identity, side: int, skin: Color) -> None:
    """The fingers of somebody else's hand on this figure's shoulder."""
    b = Build.of(partner)
    x, y = side * (b.shoulder - 0.16), b.top + 0.26
    for i in range(4):
        pen.stroke(
            frame, [(x + side * 0.12, y + 0.105 * i - 0.06), (x - side * 0.12, y + 0.105 * i - 0.02)], 0.115, skin
        )
        if i:
            pen.stroke(
                frame,
                [(x + side * 0.1, y + 0.105 * i - 0.11), (x - side * 0.1, y + 0.105 * i - 0.07)],
                0.02,
                tint(skin, 0.75),
            )


def shoulder(who: Identity, side: int) -> tuple[float, float]:
    """Where a hand lies on this figure's shoulder, head units."""
    b = Build.of(who)
    return side * (b.shoulder - 0.05), b.top + 0.25


def _hangs(side: int, action: str, outer: int) -> bool:
    if action in ("waving", "hand on hip", "holding a cup"):
        return side != outer
    return action in ("arms down", "arm around")


def _arm(b: Build, s: int, action: str, outer: int) -> list[tuple[float, float]]:
    """Shoulder, elbow and wrist."""
    x = b.shoulder
    start = (s * (x - b.arm), b.top + 0.24)
    if action == "holding flowers":
        return [start, (s * (x + 0.02), 2.70), (s * 0.26, 2.74)]
    if action == "arms crossed":
        return [start, (s * (x + 0.02), 2.62), (-s * 0.52, 2.56 - 0.10 * s)]
    if action == "waving" and s == outer:
        return [start, (s * (x + 0.20), 2.22), (s * min(x + 0.14, 1.52), 1.12)]
    if action == "hand on hip" and s == outer:
        return [start, (s * (x + 0.28), 2.52), (s * (x - 0.42), 3.02)]
    if action == "holding a cup" and s == outer:
        return [start, (s * (x + 0.04), 2.72), (s * 0.50, 2.46)]
    return [start, (s * (x - 0.02), 2.75), (s * (x + 0.03), 3.75)]


def _draw_arm(pen: Pen, frame: Frame, b: Build, joints: Points, skin: Color, cloth: Color, bare: bool) -> None:
    (x0, y0), (x1, y1), (x2, y2) = joints
    length = float(np.hypot(x2 - x1, y2 - y1)) or 1.0
    dx, dy = (x2 - x1) / length, (y2 - y1) / length
    sleeve = tint(cloth, 0.91)
    # Two strokes: one that bends sharply would overlap itself.
    for path, start, end in (([(x0, y0), (x1, y1)], 2.0, 1.8), ([(x1, y1), (x2, y2)], 1.8, 1.4)):
        pen.stroke(frame, path, start * b.arm, skin if bare else sleeve, end * b.arm)
    hand = 0.205 if b.arm > 0.215 else 0.185
    pen.oval(frame, x2 + dx * 0.14, y2 + dy * 0.14, hand, hand, skin)
    if bare:
        pen.stroke(frame, [(x0, y0), (x0 + (x1 - x0) * 0.24, y0 + (y1 - y0) * 0.24)], 2.25 * b.arm, sleeve)


def _torso(pen: Pen, frame: Frame, b: Build, skin: Color, cloth: Color, outfit: Outfit, who: Identity) -> None:
    fold = tint(cloth, 0.84)
    x, y, n = b.shoulder, b.top, b.neck
    pen.polygon(frame, [(-n, 0.55), (n, 0.55), (n + 0.05, y + 0.1), (-n - 0.05, y + 0.1)], skin)
    pen.curve(frame, [(-n, 0.80), (n, 0.80), (n, 1.06), (0, 1.22), (-n, 1.06)], tint(skin, 0.80))  # the chin's shadow
    waist = x * (0.80 if who.gender == "woman" and who.age != "child" else 0.93)
    half = [
        (n + 0.02, y - 0.30),
        (n + 0.20, y - 0.14),
        (x - 0.20, y - 0.03),
        (x, y + 0.26),
        (x - 0.06, 2.3),
        (waist, 3.1),
        (waist + 0.1, 4.4),
    ]
    pen.curve(frame, [*half, (0, 4.6), *[(-a, c) for a, c in half[::-1]], (0, y - 0.12)], cloth)
    for s in (-1, 1):  # where the sleeves begin
        pen.stroke(
            frame, [(s * (x - 0.34), y + 0.55), (s * (x - 0.30), 2.2), (s * (waist - 0.20), 2.9)], 0.05, fold, 0.02
        )
    _GARMENTS[outfit.garment](pen, frame, b, outfit, who, waist)


def _dress(pen: Pen, frame: Frame, b: Build, outfit: Outfit, who: Identity, waist: float) -> None:
    cloth = COLORS[outfit.color]
    edge = tint(cloth, 0.72)
    y, n = b.top, b.neck
    skin = who.skin_rgb
    neckline = [(n + 0.16, y - 0.22), (n + 0.24, y + 0.06), (0.30, y + 0.38)]
    pen.curve(frame, [(0, y - 0.30), *neckline, (0, y + 0.46), *[(-a, c) for a, c in neckline[::-1]]], skin)
    pen.stroke(frame, [(-waist + 0.04, 2.86), (0, 2.94), (waist - 0.04, 2.86)], 0.13, edge)
    pen.oval(frame, 0, y + 0.02, 0.07, 0.07, (250, 244, 226))


def _suit(pen: Pen, frame: Frame, b: Build, outfit: Outfit, who: Identity, waist: float) -> None:
    cloth = COLORS[outfit.color]
    fold, edge = tint(cloth, 0.84), tint(cloth, 0.72)
    y, n = b.top, b.neck
    skin = who.skin_rgb
    inside = (176, 206, 240) if outfit.color == "white" else (250, 250, 250)
    tie = (150, 30, 48) if outfit.color in ("black", "white", "blue") else (44, 44, 60)
    pen.polygon(frame, [(-n - 0.06, y - 0.26), (n + 0.06, y - 0.26), (0.0, 2.72)], inside)
    if who.gender == "man":
        pen.polygon(
            frame,
            [
                (-0.10, y - 0.10),
                (0.10, y - 0.10),
                (0.07, y + 0.06),
                (0.14, 2.25),
                (0, 2.5),
                (-0.14, 2.25),
                (-0.07, y + 0.06),
            ],
            tie,
        )
    else:
        pen.polygon(frame, [(-n, y - 0.30), (n, y - 0.30), (0, y + 0.35)], skin)
    for s in (-1, 1):
        lapel = [
            (s * (n + 0.02), y - 0.30),
            (s * (n + 0.34), y + 0.16),
            (s * (n + 0.22), y + 0.40),
            (s * 0.36, y + 0.46),
            (0, 2.74),
        ]
        pen.polygon(frame, lapel, tint(cloth, 1.10) if outfit.color == "black" else fold)
    pen.stroke(frame, [(0, 2.72), (0.02, 4.2)], 0.04, edge)
    pen.oval(frame, 0.10, 2.95, 0.055, 0.055, edge)


def _shirt(pen: Pen, frame: Frame, b: Build, outfit: Outfit, who: Identity, waist: float) -> None:
    cloth = COLORS[outfit.color]
    fold, edge = tint(cloth, 0.84), tint(cloth, 0.72)
    y, n = b.top, b.neck
    skin = who.skin_rgb
    pen.polygon(frame, [(-n - 0.02, y - 0.30), (n + 0.02, y - 0.30), (0.0, y + 0.22)], skin)
    light = tint(cloth, 1.16) if outfit.color != "white" else fold
    for s in (-1, 1):
        pen.polygon(
            frame, [(s * n, y - 0.40), (s * (n + 0.24), y - 0.12), (s * (n + 0.02), y + 0.24), (0, y + 0.14)], light
        )
    pen.stroke(frame, [(0, y + 0.18), (0, 4.2)], 0.045, fold)
    for i in range(4):
        pen.oval(frame, 0.0, y + 0.42 + 0.42 * i, 0.05, 0.05, edge)


def _hoodie(pen: Pen, frame: Frame, b: Build, outfit: Outfit, who: Identity, waist: float) -> None:
    cloth = COLORS[outfit.color]
    fold = tint(cloth, 0.84)
    y, n = b.top, b.neck
    for s in (-1, 1):
        roll = [
            (s * (n + 0.10), y - 0.36),
            (s * (n + 0.42), y - 0.10),
            (s * 0.30, y + 0.34),
            (0, y + 0.42),
            (0, y + 0.22),
            (s * (n - 0.02), y - 0.06),
        ]
        pen.curve(frame, roll, fold)
        cord = (240, 240, 240) if outfit.color != "white" else (150, 150, 160)
        pen.stroke(frame, [(s * 0.17, y + 0.36), (s * 0.20, y + 0.95)], 0.055, cord)
    pen.curve(frame, [(-0.62, 2.75), (0.62, 2.75), (0.80, 3.3), (0.80, 4.0), (-0.80, 4.0), (-0.80, 3.3)], fold)


def _sweater(pen: Pen, frame: Frame, b: Build, outfit: Outfit, who: Identity, waist: float) -> None:
    cloth = COLORS[outfit.color]
    fold = tint(cloth, 0.84)
    x, y, n = b.shoulder, b.top, b.neck
    skin = who.skin_rgb
    half = [(n + 0.10, y - 0.30), (n + 0.16, y - 0.06)]
    pen.curve(frame, [*half, (0, y + 0.22), *[(-a, c) for a, c in half[::-1]], (0, y - 0.04)], fold)
    pen.curve(frame, [(-n, y - 0.4), (n, y - 0.4), (n + 0.02, y - 0.12), (0, y + 0.06), (-n - 0.02, y - 0.12)], skin)
    pen.curve(frame, [(-n, 0.85), (n, 0.85), (n, 1.06), (0, 1.22), (-n, 1.06)], tint(skin, 0.80))
    for level in (2.15, 2.5):
        pen.stroke(frame, [(-x + 0.36, level), (0, level + 0.06), (x - 0.36, level)], 0.05, fold)


_GARMENTS: dict[str, Callable[[Pen, Frame, Build, Outfit, Identity, float], None]] = {
    "dress": _dress,
    "suit": _suit,
    "shirt": _shirt,
    "hoodie": _hoodie,
    "sweater": _sweater,
}
"""What makes a garment of a torso in plain cloth."""


_FLOWERS: tuple[Color, ...] = ((255, 246, 240), (255, 190, 90), (250, 130, 150), (255, 246, 240), (250, 130, 150))


def _bouquet_stems(pen: Pen, frame: Frame) -> None:
    for x in (-0.16, 0.0, 0.16):
        pen.stroke(frame, [(x * 1.4, 2.3), (x * 0.2, 2.75), (-x * 0.6, 3.2)], 0.07, (64, 130, 70))


def _bouquet(pen: Pen, frame: Frame, cloth: str) -> None:
    leaf = (104, 170, 84) if cloth == "green" else (70, 140, 76)
    pen.oval(frame, 0, 2.28, 0.46, 0.34, leaf)
    for (x, y), color in zip(
        ((-0.28, 2.32), (0.28, 2.32), (0.0, 2.42), (-0.15, 2.08), (0.16, 2.10)), _FLOWERS, strict=True
    ):
        pen.oval(frame, x, y, 0.175, 0.165, color)
        pen.oval(frame, x, y, 0.06, 0.06, (226, 150, 50) if color[1] > 200 else mix(color, (255, 255, 255), 0.5))


def _cup(pen: Pen, frame: Frame, wrist: tuple[float, float]) -> None:
    x, y = wrist[0] * 0.72, wrist[1] - 0.10
    pen.polygon(
        frame, [(x - 0.20, y - 0.36), (x + 0.20, y - 0.36), (x + 0.15, y + 0.22), (x - 0.15, y + 0.22)], (248, 240, 226)
    )
    pen.oval(frame, x, y - 0.36, 0.20, 0.07, (110, 66, 40))
    pen.polygon(
        frame,
        [(x - 0.185, y - 0.14), (x + 0.185, y - 0.14), (x + 0.165, y + 0.06), (x - 0.165, y + 0.06)],
        (214, 120, 74),
    )
