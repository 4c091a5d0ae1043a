"""Where people stand: eight scenes, clearly different by color and by shape. A share of the height is the unit.

Between and above two people little of a scene is seen, so each has its colors in broad bands and something upright.
"""

from __future__ import annotations

from collections.abc import Callable

from .dice import Dice
from .pen import Color, Frame, Pen, mix, tint

__all__ = ["PLAIN", "SCENES", "draw_plain", "draw_scene"]

PLAIN: tuple[Color, ...] = (
    (226, 232, 236),
    (214, 226, 214),
    (236, 224, 210),
    (206, 214, 230),
    (232, 214, 220),
    (196, 204, 208),
)
"""Backgrounds of reference photos."""


class _View:
    """A pen with x from 0 to `aspect` and y from 0 to 1, and the dice of this very view."""

    def __init__(self, pen: Pen, dice: Dice) -> None:
        self.pen, self.dice = pen, dice
        self.frame = Frame((0.0, 0.0), float(pen.height))
        self.aspect = pen.width / pen.height

    def sky(self, *colors: Color, top: float = 0.0, bottom: float = 1.0) -> None:
        self.pen.gradient(top, bottom, colors)

    def oval(self, x: float, y: float, rx: float, ry: float, color: Color) -> None:
        self.pen.oval(self.frame, x, y, rx, ry, color)

    def poly(self, points: list[tuple[float, float]], color: Color) -> None:
        self.pen.polygon(self.frame, points, color)

    def box(self, x0: float, y0: float, x1: float, y1: float, color: Color) -> None:
        self.poly([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], color)

    def line(self, points: list[tuple[float, float]], width: float, color: Color, end: float | None = None) -> None:
        self.pen.stroke(self.frame, points, width, color, end)

    def hill(self, height: float, swing: float, color: Color) -> None:
        """Land from a wavy line down."""
        a, d = self.aspect, self.dice
        ridge = [(a * i / 4, height + d.between(-swing, swing)) for i in range(-1, 6)]
        self.pen.curve(self.frame, [(-a, 1.6), *ridge, (2 * a, 1.6)], color)

    def spots(self) -> list[float]:
        """Where something upright is seen: left of, between, and right of two people (x)."""
        a, d = self.aspect, self.dice
        return [a * d.between(0.02, 0.07), a * d.between(0.46, 0.54), a * d.between(0.93, 0.98)]

    def cloud(self, x: float, y: float, size: float, color: Color) -> None:
        for dx, dy, r in ((-0.9, 0.1, 0.5), (0.0, -0.1, 0.7), (0.85, 0.1, 0.48), (0.0, 0.25, 0.6)):
            self.oval(x + dx * size, y + dy * size, 1.2 * r * size, 0.62 * r * size, color)


def _beach(v: _View) -> None:
    horizon = v.dice.between(0.36, 0.46)
    v.sky((96, 192, 244), (206, 240, 252), bottom=horizon)
    v.oval(v.aspect * v.dice.between(0.4, 0.6), 0.13, 0.075, 0.075, (255, 240, 150))
    v.cloud(v.aspect * v.dice.between(0.05, 0.3), 0.07, 0.07, (255, 255, 255))
    v.sky((24, 132, 190), (62, 186, 210), top=horizon, bottom=0.66)
    for y in (0.06, 0.14):
        v.line(
            [(v.aspect * i / 6, horizon + y + (0.008 if i % 2 else -0.008)) for i in range(-1, 8)],
            0.014,
            (220, 246, 250),
        )
    v.sky((250, 228, 170), (236, 200, 134), top=0.645)
    v.line([(v.aspect * i / 5, 0.65 + (0.012 if i % 2 else -0.012)) for i in range(-1, 7)], 0.03, (255, 252, 244))
    if v.dice.chance(0.6):
        left, _, right = v.spots()
        x = v.dice.pick((left, right))
        lean = 0.05 if x < v.aspect / 2 else -0.05
        v.line([(x, 0.8), (x + 0.2 * lean, 0.5), (x + lean, 0.16)], 0.045, (142, 98, 60), 0.03)
        for dx, dy in ((-0.17, 0.03), (-0.12, -0.08), (0.12, -0.08), (0.17, 0.03), (0.02, 0.12)):
            v.line(
                [(x + lean, 0.15), (x + lean + dx * 0.6, 0.13 + dy * 0.7), (x + lean + dx, 0.19 + dy)],
                0.055,
                (52, 150, 84),
                0.01,
            )
    else:
        x = v.spots()[1]
        v.line([(x, 0.30), (x, 0.80)], 0.02, (250, 250, 250))
        v.poly([(x - 0.15, 0.38), (x - 0.09, 0.30), (x, 0.265), (x + 0.09, 0.30), (x + 0.15, 0.38)], (240, 92, 76))
        v.poly([(x - 0.05, 0.38), (x - 0.03, 0.29), (x, 0.265), (x + 0.03, 0.29), (x + 0.05, 0.38)], (255, 250, 240))


def _forest(v: _View) -> None:
    v.sky((176, 216, 138), (126, 182, 104), (92, 150, 78))
    for i in range(7):  # the wood far behind
        x = v.aspect * (i + v.dice.between(0.2, 0.8)) / 7
        v.oval(x, v.dice.between(0.10, 0.26), 0.14, 0.20, (116, 172, 92))
    v.sky((72, 124, 62), (50, 96, 52), top=0.74)
    for x in v.spots():
        width = v.dice.between(0.05, 0.075)
        v.line([(x, 0.95), (x + v.dice.between(-0.01, 0.01), 0.5), (x, -0.05)], width * 1.25, (104, 70, 46), width)
        v.line([(x - width * 0.3, 0.9), (x - width * 0.3, 0.1)], width * 0.22, (134, 94, 62))
    for x in (*v.spots(), v.aspect * 0.25, v.aspect * 0.75):
        r = v.dice.between(0.12, 0.17)
        for dx, dy in ((-0.10, 0.02), (0.10, 0.02), (0.0, -0.05)):
            v.oval(x + dx, dy, r, r * 0.85, (38, 104, 58) if dx else (54, 128, 66))
    for x in v.spots():
        v.oval(x + v.dice.between(-0.05, 0.05), 0.80, 0.12, 0.09, (44, 112, 58))


def _city(v: _View) -> None:
    v.sky((206, 220, 232), (232, 228, 220))
    x, walls = -0.05, ((150, 162, 180), (122, 134, 156), (172, 160, 156), (138, 150, 170))
    number = 0
    while x < v.aspect:
        width, top = v.dice.between(0.17, 0.26), v.dice.between(0.02, 0.24)
        wall = walls[number % 4]
        v.box(x, top, x + width, 0.86, wall)
        v.box(x, top, x + width, top + 0.018, tint(wall, 0.8))
        pane = (250, 224, 140) if v.dice.chance(0.4) else (214, 232, 246)
        columns = 3 if width > 0.2 else 2
        gap = width / columns
        for row in range(6):
            for column in range(columns):
                wx, wy = x + gap * (column + 0.27), top + 0.055 + 0.115 * row
                v.box(wx, wy, wx + gap * 0.46, wy + 0.065, pane if (row + column) % 3 else tint(wall, 0.72))
        x += width + 0.012
        number += 1
    v.box(0, 0.80, v.aspect, 1.0, (112, 114, 122))
    v.box(0, 0.80, v.aspect, 0.825, (186, 186, 188))
    for i in range(5):
        v.box(v.aspect * (i + 0.2) / 5, 0.925, v.aspect * (i + 0.7) / 5, 0.945, (240, 238, 226))


_SNOW_CAP = ((-0.32, 0.32), (0.0, 0.0), (0.32, 0.32), (0.1, 0.25), (-0.1, 0.34))


def _snow(v: _View) -> None:
    v.sky((166, 198, 228), (222, 236, 248), bottom=0.7)
    for x in (-0.05, v.aspect * 0.5 + v.dice.between(-0.1, 0.1), v.aspect + 0.05):
        peak, wide = v.dice.between(0.10, 0.22), v.dice.between(0.34, 0.44)
        v.poly([(x - wide, 0.7), (x, peak), (x + wide, 0.7)], (150, 176, 208))
        v.poly(
            [(x + dx * wide, peak + dy * (0.7 - peak)) for dx, dy in _SNOW_CAP],
            (250, 252, 255),
        )
    v.hill(0.60, 0.03, (238, 244, 252))
    for x in v.spots():
        base = v.dice.between(0.66, 0.74)
        for i in range(3):
            y, wide = base - 0.11 * i, 0.105 - 0.022 * i
            v.poly([(x - wide, y), (x, y - 0.19), (x + wide, y)], (62, 118, 112))
            v.poly(
                [(x - 0.5 * wide, y - 0.09), (x, y - 0.19), (x + 0.5 * wide, y - 0.09), (x, y - 0.07)], (248, 252, 255)
            )
    v.hill(0.78, 0.02, (252, 253, 255))
    for _ in range(26):
        r = v.dice.between(0.006, 0.013)
        v.oval(v.dice.between(0, v.aspect), v.dice.between(0, 0.75), r, r, (255, 255, 255))


def _sunset(v: _View) -> None:
    horizon = v.dice.between(0.58, 0.66)
    v.sky((120, 62, 132), (226, 92, 98), (255, 160, 74), (255, 214, 112), bottom=horizon)
    x = v.aspect * v.dice.between(0.44, 0.56)
    v.oval(x, horizon - 0.13, 0.135, 0.135, (255, 240, 176))
    for _ in range(3):
        y, cx = v.dice.between(0.08, 0.4), v.dice.between(0, v.aspect)
        v.line(
            [(cx - 0.25, y), (cx, y - 0.008), (cx + 0.25, y)], 0.03, mix((255, 176, 120), (190, 80, 120), y * 2), 0.012
        )
    v.sky((214, 104, 84), (98, 46, 98), top=horizon)
    for i in range(5):
        y, wide = horizon + 0.035 + 0.05 * i, 0.12 - 0.016 * i
        v.line([(x - wide, y), (x + wide, y)], 0.014, (255, 214, 130))
    v.pen.curve(
        v.frame,
        [(-0.2, 1.1), (-0.1, horizon - 0.08), (0.18, horizon - 0.03), (0.42, horizon + 0.03), (0.3, 1.1)],
        (84, 42, 88),
    )
    a = v.aspect
    v.pen.curve(
        v.frame,
        [
            (a + 0.2, 1.1),
            (a + 0.1, horizon - 0.10),
            (a - 0.16, horizon - 0.02),
            (a - 0.4, horizon + 0.03),
            (a - 0.3, 1.1),
        ],
        (104, 50, 92),
    )


def _room(v: _View) -> None:
    wall = v.dice.pick(((238, 206, 164), (232, 196, 160), (240, 212, 178)))
    v.sky(wall, tint(wall, 0.95))
    for i in range(9):  # wallpaper
        x = v.aspect * i / 9
        v.box(x, 0, x + 0.03, 0.8, tint(wall, 0.94))
    left, middle, right = v.spots()
    if v.dice.chance(0.5):
        left, right = right, left
    v.box(middle - 0.13, 0.08, middle + 0.13, 0.42, (124, 78, 48))
    v.box(middle - 0.105, 0.105, middle + 0.105, 0.395, (246, 240, 226))
    v.oval(middle, 0.27, 0.06, 0.08, (214, 110, 80))
    v.oval(middle - 0.05, 0.32, 0.04, 0.05, (84, 130, 120))
    v.line([(left, 0.34), (left, 0.84)], 0.018, (96, 68, 48))
    v.poly([(left - 0.11, 0.36), (left - 0.06, 0.19), (left + 0.06, 0.19), (left + 0.11, 0.36)], (255, 236, 178))
    v.box(right - 0.07, 0.62, right + 0.07, 0.82, (196, 100, 70))
    for dx, dy in ((-0.10, 0.34), (-0.04, 0.24), (0.04, 0.22), (0.10, 0.34)):
        v.line([(right, 0.62), (right + dx * 0.6, (0.62 + dy) / 2), (right + dx, dy + 0.05)], 0.06, (80, 142, 88), 0.02)
    v.box(0, 0.80, v.aspect, 1, (156, 100, 62))
    v.box(0, 0.79, v.aspect, 0.815, (252, 244, 230))
    v.pen.curve(
        v.frame,
        [
            (0.16, 0.66),
            (0.2, 0.56),
            (v.aspect - 0.2, 0.56),
            (v.aspect - 0.16, 0.66),
            (v.aspect - 0.16, 1.1),
            (0.16, 1.1),
        ],
        (176, 92, 74),
    )


def _field(v: _View) -> None:
    v.sky((92, 170, 238), (196, 228, 250), bottom=0.6)
    v.cloud(v.aspect * v.dice.between(0.40, 0.60), v.dice.between(0.08, 0.14), 0.085, (255, 255, 255))
    v.cloud(v.aspect * v.dice.pick((0.02, 0.97)), v.dice.between(0.12, 0.22), 0.07, (255, 255, 255))
    v.hill(0.46, 0.03, (150, 204, 92))
    v.hill(0.58, 0.03, (120, 186, 70))
    if v.dice.chance(0.5):
        x = v.dice.pick(v.spots())
        v.line([(x, 0.5), (x, 0.36)], 0.03, (120, 82, 52))
        v.oval(x, 0.30, 0.085, 0.10, (66, 142, 66))
    v.hill(0.74, 0.02, (92, 164, 58))
    for _ in range(34):
        x, y = v.dice.between(0, v.aspect), v.dice.between(0.56, 0.98)
        color = v.dice.pick(((240, 70, 70), (255, 226, 80), (255, 255, 255), (240, 70, 70)))
        r = 0.011 + 0.014 * (y - 0.5)
        v.oval(x, y, r, r, color)


def _night(v: _View) -> None:
    v.sky((14, 18, 56), (34, 40, 96), (70, 66, 134), bottom=0.85)
    x = v.aspect * v.dice.between(0.46, 0.54)
    y = v.dice.between(0.12, 0.20)
    v.oval(x, y, 0.085, 0.085, (255, 246, 206))
    if v.dice.chance(0.5):
        v.oval(x + 0.045, y - 0.02, 0.075, 0.075, (24, 30, 78))
    for _ in range(34):
        r = v.dice.between(0.005, 0.012)
        v.oval(v.dice.between(0, v.aspect), v.dice.between(0, 0.62), r, r, (255, 252, 226))
    v.hill(0.66, 0.05, (30, 36, 74))
    for x in v.spots():
        base = v.dice.between(0.74, 0.80)
        for i in range(3):
            wide = 0.085 - 0.018 * i
            v.poly(
                [(x - wide, base - 0.10 * i), (x, base - 0.17 - 0.10 * i), (x + wide, base - 0.10 * i)], (20, 30, 56)
            )
    v.hill(0.82, 0.02, (22, 26, 54))


_DRAW: dict[str, Callable[[_View], None]] = {
    "beach": _beach,
    "forest": _forest,
    "city": _city,
    "snow": _snow,
    "sunset": _sunset,
    "room": _room,
    "field": _field,
    "night": _night,
}
SCENES = tuple(_DRAW)
"""The eight scenes."""


def draw_scene(pen: Pen, kind: str, seed: int) -> None:
    """Fill the picture with one of `SCENES`; the seed moves its parts about."""
    _DRAW[kind](_View(pen, Dice("scene", kind, seed)))


def draw_plain(pen: Pen, seed: int) -> None:
    """Fill the picture with the plain background of a reference photo."""
    color = Dice("plain", seed).pick(PLAIN)
    pen.gradient(0, 1, (tint(color, 1.06), tint(color, 0.9)))
