"""A vector pen: smooth shapes in a frame of one's own, drawn large and shrunk, so that edges are soft.

Every shape is drawn twice: in its color, and in the number of whom it belongs to. The second picture becomes the
persons' masks, so a mask is exactly what is seen of a person, whoever stands in front.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from math import cos, pi, radians, sin

import numpy as np
from PIL import Image, ImageDraw

__all__ = ["CIRCLE", "Color", "Frame", "Pen", "Points", "closed", "mix", "opened", "tint"]

Color = tuple[int, int, int]
Points = Sequence[tuple[float, float]]

_STEPS = 5  # straight pieces between two control points of a curve


def mix(first: Color, second: Color, share: float) -> Color:
    """A color between two: `share` 0 is the first, 1 the second."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def tint(color: Color, factor: float) -> Color:
    """Darker (`factor` below 1, a little towards blue, as shadows are) or lighter (above 1)."""
    if factor >= 1:
        return mix(color, (255, 250, 240), min(factor - 1, 1.0))
    weights = (1.0, 1.03, 0.9)
    red, green, blue = (
        round(value * (1 - (1 - factor) * weight)) for value, weight in zip(color, weights, strict=True)
    )
    return red, green, blue


@cache
def _basis(count: int, loop: bool) -> np.ndarray:
    """What turns control points [count, 2] into points of the Catmull-Rom curve through them: a matrix."""
    rows = []
    for segment in range(count if loop else count - 1):
        for step in range(_STEPS):
            t = step / _STEPS
            weights = (
                (-t + 2 * t**2 - t**3) / 2,
                (2 - 5 * t**2 + 3 * t**3) / 2,
                (t + 4 * t**2 - 3 * t**3) / 2,
                (-(t**2) + t**3) / 2,
            )
            row = np.zeros(count)
            for offset, weight in enumerate(weights, -1):
                at = segment + offset
                row[at % count if loop else min(max(at, 0), count - 1)] += weight
            rows.append(row)
    if not loop:
        rows.append(np.eye(count)[-1])
    return np.array(rows)


@cache
def _ramp(count: int) -> np.ndarray:
    return np.linspace(0, 1, count)[:, None]


def closed(points: Points) -> np.ndarray:
    """The smooth closed curve through control points; a point given twice makes a corner."""
    return _basis(len(points), True) @ np.asarray(points, dtype=float)


def opened(points: Points) -> np.ndarray:
    """The smooth open curve through control points."""
    return _basis(len(points), False) @ np.asarray(points, dtype=float)


CIRCLE = np.array([(cos(2 * pi * i / 28), sin(2 * pi * i / 28)) for i in range(28)])
_QUARTER = np.array((-1.0, 1.0))  # times (y, x): a quarter turn
_HALF = np.array([(cos(pi * i / 6 - pi / 2), sin(pi * i / 6 - pi / 2)) for i in range(7)])  # a round cap, to +x


class Frame:
    """Coordinates of one's own: `origin` in picture px, `scale` px a unit, turned by `roll` degrees about `pivot`.

    `warp` bends points before they are turned (a head that looks aside).
    """

    def __init__(
        self,
        origin: tuple[float, float],
        scale: float,
        roll: float = 0.0,
        pivot: tuple[float, float] = (0.0, 0.0),
        warp: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self.origin, self.scale, self.warp = origin, scale, warp
        c, s = cos(radians(roll)), sin(radians(roll))
        turn = np.array(((c, s), (-s, c)))
        self._matrix = turn * scale
        self._shift = (np.array(pivot) - np.array(pivot) @ turn) * scale + origin

    def __call__(self, points: np.ndarray | Points) -> np.ndarray:
        """Local points [N, 2] -> picture px [N, 2]."""
        points = np.asarray(points, dtype=float)
        if self.warp is not None:
            points = self.warp(points)
        return points @ self._matrix + self._shift


class Pen:
    """A picture being drawn. `owner` is the number written into the second picture: 0 the scene, 1, 2, ... a person."""

    def __init__(self, width: int, height: int, oversampling: int) -> None:
        self.width, self.height, self.oversampling = width, height, oversampling
        size = (width * oversampling, height * oversampling)
        self.image = Image.new("RGB", size)
        self.owners = Image.new("L", size)
        self.owner = 0
        self._paint, self._note = ImageDraw.Draw(self.image), ImageDraw.Draw(self.owners)

    def polygon(self, frame: Frame, points: np.ndarray | Points, color: Color) -> None:
        """Fill straight-edged points."""
        flat = (frame(points) * self.oversampling).ravel().tolist()
        self._paint.polygon(flat, fill=color)
        if self.owner:
            self._note.polygon(flat, fill=self.owner)

    def curve(self, frame: Frame, points: Points, color: Color) -> None:
        """Fill the smooth closed curve through control points."""
        self.polygon(frame, closed(points), color)

    def oval(self, frame: Frame, x: float, y: float, rx: float, ry: float, color: Color) -> None:
        """Fill an ellipse."""
        self.polygon(frame, CIRCLE * (rx, ry) + (x, y), color)

    def ring(self, frame: Frame, points: np.ndarray, middle: tuple[float, float], width: float, color: Color) -> None:
        """Draw the outline of a convex shape around (0, 0) of its own, `points` [N, 2], moved to `middle`."""
        reach = np.hypot(points[:, :1], points[:, 1:])
        outer, inner = points * (1 + width / 2 / reach), points * (1 - width / 2 / reach)
        # Out and back in one polygon: where it overlaps itself, it is not filled.
        self.polygon(frame, np.concatenate((outer, outer[:1], inner[:1], inner[::-1])) + middle, color)

    def stroke(self, frame: Frame, points: Points, width: float, color: Color, end: float | None = None) -> None:
        """A smooth line with round ends through control points, from `width` to `end` (units) thick."""
        path = opened(points) if len(points) > 2 else np.asarray(points, dtype=float)
        pieces = path[1:] - path[:-1]
        along = np.concatenate((pieces[:1], pieces[1:] + pieces[:-1], pieces[-1:]))
        along /= np.sqrt((along * along).sum(1, keepdims=True)) + 1e-9
        across = along[:, ::-1] * _QUARTER
        radius = (width + ((width if end is None else end) - width) * _ramp(len(path))) / 2
        side = across * radius
        far = _HALF @ (np.stack((along[-1], across[-1])) * radius[-1]) + path[-1]
        near = _HALF @ (np.stack((-along[0], -across[0])) * radius[0]) + path[0]
        # One side, the far cap, back along the other side, the near cap.
        self.polygon(frame, np.concatenate((path - side, far, (path + side)[::-1], near)), color)

    def gradient(self, top: float, bottom: float, colors: Sequence[Color]) -> None:
        """Fill the whole width between two heights (shares of the picture) with colors running downwards."""
        y0, y1 = round(top * self.image.height), round(bottom * self.image.height)
        if y1 <= y0:
            return
        at = np.linspace(0, len(colors) - 1, y1 - y0)
        column = np.stack([np.interp(at, range(len(colors)), channel) for channel in zip(*colors, strict=True)], -1)
        strip = Image.fromarray(np.ascontiguousarray(column[:, None].round().astype(np.uint8)))
        self.image.paste(strip.resize((self.image.width, y1 - y0), Image.Resampling.NEAREST), (0, y0))

    def finish(self, persons: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """(picture [H, W, 3] uint8, one mask [H, W] bool a person): a px belongs to whom more than half of it shows."""
        n = self.oversampling
        picture = np.asarray(self.image.reduce(n))
        owners = np.asarray(self.owners)
        masks = []
        for person in range(1, persons + 1):
            share = Image.fromarray((owners == person).astype(np.uint8) * 255).reduce(n)
            masks.append(np.asarray(share) > 128)
        return picture, tuple(masks)
