"""Hair: what lies behind head and body, and what lies over the face. One function a style, in head units (head.py)."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi, sin

from .brush import Brush
from .identity import BANDS, Identity
from .pen import Frame, Pen, mix
from .shape import Shape

__all__ = ["draw_back", "draw_front"]


def _curtain(b: Brush, length: float, wave: float) -> None:
    """Hair that falls behind the shoulders."""
    w, v = b.w, 0.16 + b.lift
    right = [
        (w * 0.7, -1.0),
        (w + v * 0.8, -0.3),
        (w + v + wave, 0.4),
        (w + v - wave * 0.4, 0.95),
        (w + v + wave, 1.45),
    ]
    bottom = [(w + v * 0.7, length - 0.05), (w * 0.5, length + 0.05), (0, length - 0.06)]
    half = right + bottom
    b.fill([(0, -1.12 - b.lift), *half, *[(-x, y) for x, y in half[-2::-1]]], b.dark)


def _side_locks(b: Brush, length: float, wave: float) -> None:
    """The hair before the shoulders, left and right of the face."""
    w, v = b.w, 0.14 + b.lift
    for s in (-1, 1):
        points = [
            (w * 0.60, -0.78),
            (w + 0.05 + 0.3 * v, -0.42),
            (w + v + wave, 0.35),
            (w + v - wave * 0.5, 0.85),
            (w + v * 0.9 + wave, 1.35),
            (w + 0.3 * v, length),
            (w - 0.16, length - 0.12),
            (w - 0.12 + wave * 0.6, 1.25),
            (w - 0.06 - wave * 0.6, 0.80),
            (w - 0.02, 0.35),
            (w - 0.08, -0.20),
        ]
        b.fill([(s * x, y) for x, y in points])


def _long_back(b: Brush) -> None:
    _curtain(b, 2.05, 0.0)


def _long(b: Brush) -> None:
    _side_locks(b, 1.95, 0.0)
    b.cap(b.parted())
    b.stroke([(0, -1.08 - b.lift), (0, -0.84)], 0.035, b.dark)
    b.gloss()


def _wavy_back(b: Brush) -> None:
    _curtain(b, 1.8, 0.12)


def _wavy(b: Brush) -> None:
    _side_locks(b, 1.75, 0.12)
    b.cap(b.swept(), b.lift + 0.05)
    b.gloss()


def _bob_back(b: Brush) -> None:
    w, v = b.w, 0.20 + b.lift
    half = [(w * 0.8, -1.0), (w + 0.8 * v, -0.3), (w + v, 0.35), (w + 0.75 * v, 0.78), (w * 0.7, 0.90)]
    b.fill([(0, -1.12 - b.lift), *half, (0, 0.86), *[(-x, y) for x, y in half[::-1]]], b.dark)


def _bob(b: Brush) -> None:
    w, v = b.w, 0.20 + b.lift
    for s in (-1, 1):
        points = [
            (w * 0.6, -0.8),
            (w + 0.5 * v, -0.45),
            (w + v, 0.25),
            (w + 0.85 * v, 0.66),
            (w + 0.40 * v, 0.88),
            (w - 0.08, 0.86),
            (w - 0.14, 0.80),
            (w - 0.02, 0.40),
            (w - 0.08, -0.2),
        ]
        b.fill([(s * x, y) for x, y in points])
    b.cap(b.fringe() if b.who.hair_volume > 0.5 else b.swept())
    b.gloss()


def _ponytail_back(b: Brush) -> None:
    s, w = b.side, b.w
    tail = [
        (s * w * 0.5, -0.95),
        (s * (w + 0.38), -0.78),
        (s * (w + 0.52), -0.05),
        (s * (w + 0.42), 0.62),
        (s * (w + 0.62), 1.2),
    ]
    b.stroke(tail, 0.50, b.dark, 0.16)


def _ponytail(b: Brush) -> None:
    b.cap(b.back_combed(), 0.5 * b.lift)
    s, w = b.side, b.w
    b.oval(s * w * 0.72, -0.99, 0.13, 0.10, (226, 78, 96))
    b.gloss()


def _bun_back(b: Brush) -> None:
    r = 0.30 + 0.12 * b.who.hair_volume
    b.oval(0, -1.18, r, r * 0.92, b.dark)
    b.stroke([(-r * 0.5, -1.30), (0, -1.40), (r * 0.5, -1.28)], 0.05, b.main)


def _bun(b: Brush) -> None:
    b.cap(b.back_combed(), 0.4 * b.lift)
    b.gloss()


def _knot_back(b: Brush) -> None:
    b.oval(0, -1.20, 0.24, 0.24, b.dark)


def _knot(b: Brush) -> None:
    # Shaved sides under the knot.
    b.cap(b.back_combed(-0.6), 0.0, color=mix(b.who.skin_rgb, b.main, 0.45))
    w = b.w
    half = [(w * 0.80, -0.62), (w * 0.62, -0.98), (w * 0.2, -1.14)]
    b.fill([*half, *[(-x, y) for x, y in half[::-1]], (-w * 0.4, -0.66), (0, -0.70), (w * 0.4, -0.66)])
    b.oval(0, -1.12, 0.13, 0.06, (60, 60, 70))


def _curly_back(b: Brush) -> None:
    r = 0.27 + 0.10 * b.who.hair_volume
    for s in (-1, 1):
        for y in (-0.55, -0.15, 0.25) + ((0.62, 0.95) if b.who.gender == "woman" else ()):
            b.oval(s * (b.w + 0.10), y, r, r, b.dark)


def _curly(b: Brush) -> None:
    r = 0.24 + 0.08 * b.who.hair_volume
    b.cap(b.back_combed(-0.60))
    b.locks(8, r, 0.98, 0.06, 0.94, 1.0)
    b.locks(6, r * 0.85, 0.74, 0.18, 0.82, 0.86)
    for i in range(4):
        x = b.w * (-0.5 + i / 3)
        b.stroke([(x - 0.10, -0.94), (x, -1.04), (x + 0.10, -0.94)], 0.035, b.light)


def _afro_back(b: Brush) -> None:
    r = 1.14 + 0.20 * b.who.hair_volume
    b.oval(0, -0.34, r * (b.w + 0.12) / 0.9, r, b.main)
    for i in range(15):
        angle = pi * (-0.18 + 1.36 * i / 14)
        b.oval(r * (b.w + 0.12) / 0.9 * cos(angle) * 0.93, -0.34 - r * 0.93 * sin(angle), 0.17, 0.17)


def _afro(b: Brush) -> None:
    b.cap(b.back_combed(-0.60), 0.04, -0.06)
    for i in range(5):
        b.oval(b.w * (-0.56 + 0.28 * i), -0.66 - 0.07 * (2 - abs(i - 2)), 0.15, 0.13)


def _braids_back(b: Brush) -> None:
    for s in (-1, 1):
        b.oval(s * (b.w + 0.02), 0.35, 0.2, 0.4, b.dark)


def _braids(b: Brush) -> None:
    b.cap(b.parted())
    b.stroke([(0, -1.08 - b.lift), (0, -0.84)], 0.04, b.dark)
    for s in (-1, 1):
        x = s * (b.w + 0.12)
        for i, y in enumerate((0.42, 0.68, 0.94, 1.20, 1.45)):
            b.oval(x + s * 0.03 * i, y, 0.20 - 0.015 * i, 0.18, b.main if i % 2 else b.dark)
        b.oval(x + s * 0.14, 1.62, 0.12, 0.09, (240, 90, 110))
        b.oval(x + s * 0.15, 1.78, 0.13, 0.16)


def _side_part(b: Brush) -> None:
    woman = b.who.gender == "woman"
    b.cap(b.swept(), b.lift + 0.04, 0.28 if woman else 0.02)
    s, w = b.side, b.w
    b.stroke([(s * w * 0.40, -0.78), (s * w * 0.36, -1.10)], 0.035, b.dark)
    b.gloss()


def _quiff(b: Brush) -> None:
    b.cap(b.back_combed(-0.58), 0.0, -0.02, b.dark)
    w, s, top = b.w, b.side, 1.26 + 0.22 * b.who.hair_volume
    b.fill(
        [
            (s * w * 0.86, -0.52),
            (s * w * 1.02, -0.86),
            (s * w * 0.86, -top + 0.06),
            (s * w * 0.30, -top),
            (-s * w * 0.40, -top + 0.16),
            (-s * w * 0.94, -0.88),
            (-s * w * 0.88, -0.52),
            (-s * w * 0.30, -0.62),
            (s * w * 0.30, -0.56),
        ]
    )
    b.stroke([(s * w * 0.62, -0.78), (s * w * 0.42, -1.10), (-s * w * 0.1, -1.16)], 0.06, b.light)


def _buzz(b: Brush) -> None:
    b.cap(b.back_combed(-0.64), -0.05, -0.02, mix(b.who.skin_rgb, b.main, 0.62))


def _spiky(b: Brush) -> None:
    b.cap(b.back_combed(-0.56), 0.0, -0.02)
    w, top = b.w, 1.30 + 0.16 * b.who.hair_volume
    points = []
    count = 7
    for i in range(count):
        x = w * (-1.04 + 2.08 * i / (count - 1))
        fall = abs(x / w) ** 2
        points += [(x, -top + 0.40 * fall), (x + w * 0.17, -0.98 + 0.22 * fall)]
    b.pen.polygon(
        b.frame, [(-w * 0.98, -0.42), *points[:-1], (w * 0.98, -0.42), (w * 0.6, -0.64), (-w * 0.6, -0.64)], b.main
    )
    # The fringe is spiky too.
    teeth = [(w * (-0.7 + 1.4 * i / 6), -0.44 if i % 2 else -0.64) for i in range(7)]
    b.pen.polygon(b.frame, [(-w * 0.8, -0.8), *teeth, (w * 0.8, -0.8)], b.main)


def _bald(b: Brush) -> None:
    s = b.side
    shine = mix(b.who.skin_rgb, (255, 255, 255), 0.35)
    b.stroke([(-s * 0.42, -0.66), (-s * 0.26, -0.80), (-s * 0.06, -0.84)], 0.05, shine, 0.09)


def _receding(b: Brush) -> None:
    w = b.w
    for s in (-1, 1):
        points = [
            (w * 0.88, 0.04),
            (w + 0.07, 0.08),
            (w + 0.10 + 0.3 * b.lift, -0.28),
            (w + 0.04 + 0.2 * b.lift, -0.58),
            (w * 0.86, -0.72),
            (w * 0.84, -0.46),
            (w * 0.93, -0.20),
        ]
        b.fill([(s * x, y) for x, y in points])
    b.fill([(-w * 0.45, -0.92), (0, -1.02), (w * 0.45, -0.92), (w * 0.30, -1.06), (0, -1.10), (-w * 0.30, -1.06)])


def _bowl(b: Brush) -> None:
    b.cap(b.fringe(-0.34), b.lift + 0.03, 0.30)
    b.gloss()


def _mohawk(b: Brush) -> None:
    b.cap(b.back_combed(-0.62), -0.05, -0.04, mix(b.who.skin_rgb, b.main, 0.35))
    w = b.w
    top = 1.46
    half = [(w * 0.26, -top + 0.04), (w * 0.40, -1.0), (w * 0.34, -0.60)]
    b.fill([(0, -top), *half, (0, -0.54), *[(-x, y) for x, y in half[::-1]]])
    b.stroke([(-w * 0.1, -0.9), (-w * 0.06, -1.25)], 0.06, b.light)


_BACK: dict[str, Callable[[Brush], None]] = {
    "long": _long_back,
    "wavy": _wavy_back,
    "bob": _bob_back,
    "ponytail": _ponytail_back,
    "bun": _bun_back,
    "top knot": _knot_back,
    "curly": _curly_back,
    "afro": _afro_back,
    "braids": _braids_back,
}
_FRONT: dict[str, Callable[[Brush], None]] = {
    "long": _long,
    "wavy": _wavy,
    "bob": _bob,
    "ponytail": _ponytail,
    "bun": _bun,
    "top knot": _knot,
    "curly": _curly,
    "afro": _afro,
    "braids": _braids,
    "side part": _side_part,
    "quiff": _quiff,
    "buzz": _buzz,
    "spiky": _spiky,
    "bald": _bald,
    "receding": _receding,
    "bowl": _bowl,
    "mohawk": _mohawk,
}


def draw_back(pen: Pen, frame: Frame, shape: Shape, who: Identity) -> None:
    """Draw what of the hair lies behind head and body."""
    if who.hair_style in _BACK:
        _BACK[who.hair_style](Brush(pen, frame, shape, who))


def draw_front(pen: Pen, frame: Frame, shape: Shape, who: Identity) -> None:
    """Draw the hair over face and shoulders."""
    brush = Brush(pen, frame, shape, who)
    _FRONT[who.hair_style](brush)
    if who.headband != "none":
        w, up = brush.w, brush.lift
        half = [(w * 0.68, -0.86 - 0.35 * up), (w + 0.05 + 0.3 * up, -0.40)]
        path = [(-x, y) for x, y in half[::-1]] + [(0.0, -1.00 - 0.5 * up), *half]
        brush.stroke(path, 0.17, BANDS[who.headband])
