"""A head: skull, features, beard, glasses. Where the eyes, the nose and the mouth lie follows from the identity.

Head units: the origin is the middle of the head, the skull's top lies at y = -1, an average chin at +1, x to the right.
"""

from __future__ import annotations

import numpy as np

from . import hair
from .dice import Dice
from .identity import EYES, FRAMES, METALS, Identity
from .pen import CIRCLE, Color, Frame, Pen, mix, tint
from .shape import Light, Pose, Shape

__all__ = ["draw_hair_behind", "draw_head", "head_frame", "landmarks"]

BROW_LINE = -0.60
"""Where a detector's box begins, head units: the middle of the forehead."""


def head_frame(shape: Shape, origin: tuple[float, float], scale: float, pose: Pose) -> Frame:
    """Head units -> px. A head that looks aside or up keeps its outline, and what is on it slides that way."""
    way = np.array((0.24 * pose.yaw, 0.10 * pose.pitch))
    middle, reach = np.array((0.0, 0.1)), np.array((shape.width + 0.04, 1.1))

    def slide(points: np.ndarray) -> np.ndarray:
        # From 1 in the middle of the face to 0 at its edge.
        near = np.maximum(1 - ((points - middle) / reach) ** 2, 0)
        return points + near[:, :1] * near[:, 1:] * way

    return Frame(origin, scale, pose.roll, (0.0, 0.9), slide)


def landmarks(frame: Frame, shape: Shape) -> np.ndarray:
    """Left eye, right eye, nose tip, left and right mouth corner (as the viewer sees them) in px, [5, 2] float32."""
    points = [
        (-shape.eye_x, shape.eye_y),
        (shape.eye_x, shape.eye_y),
        (0.0, shape.nose_y),
        (-shape.mouth, shape.mouth_y),
        (shape.mouth, shape.mouth_y),
    ]
    return frame(points).astype(np.float32)


def face_box(frame: Frame, shape: Shape) -> np.ndarray:
    """What a detector would box: ear to ear, forehead to chin, in px, [4] float32 x0 y0 x1 y1."""
    outline = shape.outline()
    points = frame(outline[outline[:, 1] >= BROW_LINE])
    return np.concatenate((points.min(0), points.max(0))).astype(np.float32)


def draw_hair_behind(pen: Pen, frame: Frame, who: Identity) -> None:
    """Draw the hair that lies behind the body; first of all."""
    hair.draw_back(pen, frame, Shape.of(who), who)


def draw_head(pen: Pen, frame: Frame, who: Identity, pose: Pose, light: Light) -> None:
    """Draw the head, its front hair over whatever was drawn before."""
    shape = Shape.of(who)
    skin = who.skin_rgb
    shadow = tint(skin, 0.80)
    for s in (-1, 1):
        reach = 1 - 0.5 * s * pose.yaw  # of the far ear less is seen
        x = s * (shape.width + 0.035 * reach)
        pen.oval(frame, x, shape.eye_y + 0.14, 0.125, 0.19, skin)
        pen.oval(frame, x + s * 0.01, shape.eye_y + 0.15, 0.06, 0.11, shadow)
    outline = shape.outline()
    pen.polygon(frame, outline, skin)
    _shade(pen, frame, outline, mix(skin, tint(skin, 0.70), 0.25 + 0.55 * light.strength), light)
    _skin_marks(pen, frame, shape, who)
    _beard(pen, frame, shape, who)
    _mouth(pen, frame, shape, who, pose.expression)
    _nose(pen, frame, shape, who, light)
    _eyes(pen, frame, shape, who, pose)
    hair.draw_front(pen, frame, shape, who)
    _brows(pen, frame, shape, who, pose.expression)
    _glasses(pen, frame, shape, who)
    if who.earrings != "none":
        for s in (-1, 1):
            y = shape.eye_y + 0.40
            pen.oval(frame, s * (shape.width + 0.06), y, 0.085, 0.10, METALS[who.earrings])


def _shade(pen: Pen, frame: Frame, outline: np.ndarray, color: Color, light: Light) -> None:
    """A crescent of shadow along the side away from the light."""
    away = -1 if light.side > 0 else 1
    half = outline[(outline[:, 0] * away >= -1e-6)]
    half = half[np.argsort(half[:, 1])]
    depth = (0.10 + 0.16 * abs(light.side)) * np.sin(np.clip((half[:, 1] + 1.0) / 2.0, 0, 1) * np.pi) ** 0.7
    inner = half - np.stack((away * depth, np.zeros_like(depth)), 1)
    inner[:, 0] = np.where(inner[:, 0] * away < 0, 0, inner[:, 0])
    pen.polygon(frame, np.concatenate((half, inner[::-1])), color)


def _skin_marks(pen: Pen, frame: Frame, shape: Shape, who: Identity) -> None:
    skin = who.skin_rgb
    blush = mix(skin, (236, 96, 96), 0.26 if who.gender == "woman" or who.age == "child" else 0.14)
    cheek = (shape.eye_y + shape.mouth_y) / 2 + 0.04
    for s in (-1, 1):
        pen.oval(frame, s * shape.width * 0.62, cheek, 0.16, 0.105, blush)
    if who.freckles:
        dots = Dice("freckles", who.seed)
        color = mix(skin, (150, 76, 40), 0.55)
        for s in (-1, 1):
            for i in range(5):
                x = s * (0.16 + 0.095 * i)
                pen.oval(frame, x, cheek - 0.09 + dots.between(-0.07, 0.07), 0.034, 0.034, color)
    if who.mole:
        pen.oval(frame, who.part * shape.mouth * 1.25, shape.mouth_y - 0.12, 0.045, 0.045, (70, 44, 36))
    if who.age in ("middle", "old"):
        line = mix(skin, tint(skin, 0.55), 0.75 if who.age == "old" else 0.4)
        for s in (-1, 1):
            x = shape.mouth * 1.05
            fold = [(s * 0.17, shape.nose_y), (s * x, shape.nose_y + 0.11), (s * (x + 0.03), shape.mouth_y + 0.02)]
            pen.stroke(frame, fold, 0.032, line, 0.016)
            if who.age == "old":
                under = shape.eye_y + shape.eye + 0.05
                bag = [
                    (s * (shape.eye_x - 0.12), under),
                    (s * shape.eye_x, under + 0.05),
                    (s * (shape.eye_x + 0.12), under),
                ]
                pen.stroke(frame, bag, 0.028, line)
        if who.age == "old":
            for i in (0, 1):
                y = shape.brow_y - 0.15 - 0.11 * i
                pen.stroke(frame, [(-0.26 + 0.05 * i, y), (0, y - 0.02), (0.26 - 0.05 * i, y)], 0.028, line)


def _jaw(shape: Shape, top: float, inner: float, grow: float) -> list[tuple[float, float]]:
    """A shape along the jaw, from ear to ear round the chin; `inner` is where it ends on the cheeks."""
    half = [
        (shape.width + 0.01, top),
        (shape.width + 0.01 + grow * 0.2, top + 0.05),
        (shape.jaw + 0.02 + grow * 0.4, 0.62 * shape.chin),
        (shape.jaw * 0.62 + grow * 0.4, 0.93 * shape.chin + grow * 0.6),
    ]
    upper = [(shape.width * 0.84, top + 0.12), (shape.jaw * 0.76, inner), (shape.mouth * 0.7, inner - 0.06)]
    return [
        *half,
        (0.0, shape.chin + grow),
        *[(-x, y) for x, y in half[::-1]],
        *[(-x, y) for x, y in upper],
        (0.0, inner - 0.03),
        *upper[::-1],
    ]


def _beard(pen: Pen, frame: Frame, shape: Shape, who: Identity) -> None:
    if who.beard == "none":
        return
    hair_rgb = tint(who.hair_rgb, 0.9)
    lip = shape.mouth_y - 0.055
    if who.beard == "stubble":
        pen.curve(frame, _jaw(shape, shape.eye_y + 0.22, shape.nose_y + 0.13, 0.0), mix(who.skin_rgb, hair_rgb, 0.36))
        return
    if who.beard == "full":
        pen.curve(frame, _jaw(shape, shape.eye_y + 0.16, shape.nose_y + 0.13, 0.11), hair_rgb)
    if who.beard == "goatee":
        y, chin, x = shape.mouth_y, shape.chin, shape.mouth + 0.06
        half = [(x, y - 0.06), (x + 0.01, y + 0.10), (x * 0.72, chin + 0.02)]
        points = [(0, lip - 0.08), (x * 0.7, lip - 0.06), *half, (0, chin + 0.13)]
        pen.curve(frame, [*points, *[(-a, b) for a, b in points[-2:0:-1]]], hair_rgb)
    if who.beard in ("moustache", "full"):
        x = shape.mouth + (0.13 if who.beard == "moustache" else 0.06)
        half = [
            (0.0, lip - 0.10),
            (x * 0.5, lip - 0.10),
            (x, lip + 0.07),
            (x - 0.02, lip + 0.08),
            (x * 0.5, lip + 0.045),
        ]
        points = [*half, (0, lip + 0.02), *[(-a, b) for a, b in half[:0:-1]]]
        pen.curve(frame, points, tint(who.hair_rgb, 0.78 if who.beard == "full" else 0.95))


def _mouth(pen: Pen, frame: Frame, shape: Shape, who: Identity, expression: str) -> None:
    y, x = shape.mouth_y, shape.mouth
    lips, full = who.lip_rgb, 0.035 + 0.065 * who.lip_fullness
    if expression == "laugh":
        x *= 1.08
        half = [(x, y - 0.05), (x * 0.96, y), (x * 0.56, y + 0.15)]
        points = [(0.0, y - 0.02), *half, (0.0, y + 0.19), *[(-a, b) for a, b in half[::-1]]]
        grown = [(a * 1.10, b + (0.45 * full if b > y + 0.05 else -0.3 * full)) for a, b in points]
        pen.curve(frame, grown, lips)
        pen.curve(frame, points, (112, 34, 44))
        teeth = [(x * 0.90, y - 0.028), (x * 0.66, y + 0.055)]
        pen.curve(frame, [(0, y - 0.012), *teeth, (0, y + 0.066), *[(-a, b) for a, b in teeth[::-1]]], (255, 252, 246))
        return
    bend = 0.085 if expression == "smile" else 0.03 if expression == "eyes closed" else -0.005
    corner, middle = y - bend * 0.6, y + bend * 0.6
    upper = [
        (-x, corner),
        (-x * 0.5, middle - full * 0.75),
        (0, middle - full * 0.55),
        (x * 0.5, middle - full * 0.75),
        (x, corner),
    ]
    lower = [(x * 0.55, middle + full * 0.9), (0, middle + full * 1.25), (-x * 0.55, middle + full * 0.9)]
    pen.curve(frame, [*upper, *lower], lips)
    pen.stroke(
        frame,
        [(-x, corner), (-x * 0.5, middle), (0, middle + 0.01), (x * 0.5, middle), (x, corner)],
        0.034,
        tint(lips, 0.62),
    )


def _nose(pen: Pen, frame: Frame, shape: Shape, who: Identity, light: Light) -> None:
    side = -1 if light.side > 0 else 1
    y, x = shape.nose_y, 0.075 + 0.095 * who.nose_width
    skin = who.skin_rgb
    shadow, line = tint(skin, 0.87), tint(skin, 0.68)
    bridge = shape.eye_y + 0.02
    pen.curve(
        frame,
        [
            (side * 0.02, bridge),
            (side * 0.07, bridge),
            (side * 0.055, y - 0.10),
            (side * x, y - 0.02),
            (side * x * 0.8, y + 0.05),
            (0, y + 0.055),
            (-side * x * 0.8, y + 0.045),
            (-side * x * 0.85, y),
            (0, y - 0.01),
        ],
        shadow,
    )
    pen.stroke(frame, [(-x, y + 0.01), (-x * 0.5, y + 0.06), (x * 0.5, y + 0.06), (x, y + 0.01)], 0.034, line)


def _eyes(pen: Pen, frame: Frame, shape: Shape, who: Identity, pose: Pose) -> None:
    lid = (56, 38, 36) if who.gender == "woman" else mix((56, 38, 36), who.skin_rgb, 0.25)
    thick = 0.06 if who.gender == "woman" else 0.045
    r = shape.eye
    for s in (-1, 1):
        x, y = s * shape.eye_x, shape.eye_y
        if pose.expression == "eyes closed":
            pen.stroke(frame, [(x - r, y + 0.01), (x, y + 0.08), (x + r, y + 0.01)], thick * 1.1, lid)
            continue
        squint = 0.72 if pose.expression == "laugh" else 1.0
        h = r * 0.80 * squint
        pen.oval(frame, x, y, r, h, (252, 251, 248))
        look = x + 0.05 * pose.yaw
        pen.oval(frame, look, y + 0.008, r * 0.60, min(r * 0.68, h), EYES[who.eye_color])
        pen.oval(frame, look, y + 0.008, r * 0.30, min(r * 0.34, h), (24, 20, 24))
        pen.oval(frame, look - r * 0.2, y - h * 0.34, r * 0.15, r * 0.15, (255, 255, 255))
        arch = [
            (x - r * 1.02, y - h * 0.15),
            (x - r * 0.6, y - h * 0.85),
            (x, y - h * 1.08),
            (x + r * 0.6, y - h * 0.85),
            (x + r * 1.02, y - h * 0.15),
        ]
        pen.stroke(frame, arch, thick, lid)
        if who.gender == "woman" and who.age != "child":
            pen.stroke(frame, [(x + s * r * 0.9, y - h * 0.3), (x + s * (r + 0.07), y - h * 0.75)], 0.045, lid, 0.02)


def _brows(pen: Pen, frame: Frame, shape: Shape, who: Identity, expression: str) -> None:
    color = tint(who.hair_rgb, 0.72)
    if who.hair_color in ("platinum", "white"):
        color = mix(color, (140, 120, 100), 0.4)
    thick = 0.045 + 0.085 * who.brow_thickness
    lift = 0.03 if expression == "laugh" else 0.0
    slope = 0.06 * who.brow_angle
    for s in (-1, 1):
        x, y, r = s * shape.eye_x, shape.brow_y - lift, shape.eye + 0.05
        points = [(x - s * (r - 0.05), y + slope * 0.8), (x, y - 0.035), (x + s * r, y + 0.03 - slope * 0.4)]
        pen.stroke(frame, points, thick, color, thick * 0.55)


def _glasses(pen: Pen, frame: Frame, shape: Shape, who: Identity) -> None:
    if who.glasses == "none":
        return
    color = FRAMES[who.frame_color]
    r = max(shape.eye + 0.075, 0.215)
    y = shape.eye_y + 0.02
    for s in (-1, 1):
        x = s * shape.eye_x * 1.04
        if who.glasses == "round":
            edge = CIRCLE * r
        else:
            h, c = r * 0.84, 0.035
            half = [(r + 0.03 - c, -h), (r + 0.03, c - h), (r, h - 1.6 * c), (r - 1.6 * c, h)]
            edge = np.array([*half, *[(-a, b) for a, b in half[::-1]]])
        temple = [(abs(x) + r - 0.02, y - 0.05), (shape.width + 0.02, y - 0.02)]
        pen.stroke(frame, [(s * a, b) for a, b in temple], 0.06, color)
        pen.ring(frame, edge, (x, y), 0.075, color)
    inner = shape.eye_x * 1.04 - r
    pen.stroke(frame, [(-inner - 0.02, y - 0.03), (0, y - 0.08), (inner + 0.02, y - 0.03)], 0.07, color)
