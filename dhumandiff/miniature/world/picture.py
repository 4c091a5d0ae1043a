"""From people, clothes, a scene and light to a picture, with masks, face boxes and landmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import DHumanDiffError, ImageError
from . import body
from .body import Outfit
from .dice import Dice
from .head import draw_hair_behind, draw_head, face_box, head_frame, landmarks
from .identity import Identity
from .pen import Frame, Pen
from .scene import SCENES, draw_plain, draw_scene
from .shape import Light, Pose, Shape

__all__ = ["SIZE", "Drawn", "Figure", "Portrait", "draw_figures", "draw_reference", "reference_pose"]

SIZE = (128, 96)
"""Width and height of a picture of two, px: 16 x 12 latents of an 8x autoencoder."""

REFERENCE_SIZE = 96
"""Side of a reference photo, px."""

UPRIGHT, PLAIN_LIGHT = Pose(), Light()
EVEN_LIGHT = Light(side=0.0, strength=0.0)

_OVERSAMPLING = 4  # at the default size; larger pictures need less
_COLUMN = 3.05  # head units that one person has; elbows may leave the picture
_ROWS = 4.60  # head units that a picture is high: down to the chest


@dataclass(frozen=True)
class Figure:
    """One person in a picture: who, in what, doing what, how the head is held, and where.

    `x` and `y` shift the figure, in head units, from the middle of its place; `size` is about 1.
    """

    identity: Identity
    outfit: Outfit
    action: str = "arms down"
    pose: Pose = UPRIGHT
    x: float = 0.0
    y: float = 0.0
    size: float = 1.0

    def __post_init__(self) -> None:
        if self.action not in body.ACTIONS:
            raise DHumanDiffError(
                f"There is no action {self.action!r}; there are {', '.join(body.ACTIONS)}.", code="unknown-action"
            )


@dataclass(frozen=True, eq=False)
class Portrait:
    """What is known of one drawn person, in picture px.

    `mask` [H, W] bool; `face_box` [4] x0 y0 x1 y1; `landmarks` [5, 2] left eye, right eye, nose tip, left and right
    mouth corner as the viewer sees them; `keypoints` [17, 3] x, y, confidence in COCO's order (left is the person's own
    left), zeros for what lies outside the picture.
    """

    mask: np.ndarray
    face_box: np.ndarray
    landmarks: np.ndarray
    keypoints: np.ndarray

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x0 y0 x1 y1 of the mask, the end not included."""
        rows, columns = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        if not len(rows):
            return 0, 0, 0, 0
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@dataclass(frozen=True, eq=False)
class Drawn:
    """A picture [H, W, 3] uint8 and the people in it, from left to right."""

    picture: np.ndarray
    people: tuple[Portrait, ...]


def draw_figures(
    figures: Sequence[Figure],
    scene: str,
    seed: int,
    light: Light = PLAIN_LIGHT,
    size: tuple[int, int] = SIZE,
    front: int = 0,
) -> Drawn:
    """Draw people side by side, from left to right, before a scene.

    Args:
        figures: none (the empty scene), one or two people.
        scene: one of `SCENES`; `seed` moves its parts about.
        size: width and height, px.
        front: which figure stands before the other where they touch (0: the left one).
    """
    width, height = size
    if not (16 <= width <= 4096 and 16 <= height <= 4096):
        raise ImageError(
            f"A drawn picture is 16 to 4096 px wide and high, not {width} x {height}.", code="drawn-size-out-of-range"
        )
    if len(figures) > 2:
        raise ImageError(f"A drawn picture holds at most 2 people, not {len(figures)}.", code="too-many-people")
    if scene not in SCENES:
        raise DHumanDiffError(f"There is no scene {scene!r}; there are {', '.join(SCENES)}.", code="unknown-scene")
    pen = Pen(width, height, _oversampling(width))
    draw_scene(pen, scene, seed)
    unit = min(width / (_COLUMN * max(len(figures), 1)), height / _ROWS)
    places = []
    for i, figure in enumerate(figures):
        # Two stand close together in the middle of a wide picture.
        column = min(width / len(figures), 1.12 * _COLUMN * unit)
        x = width / 2 + column * (i - (len(figures) - 1) / 2) + figure.x * unit
        places.append(((x, height - (_ROWS - 1.86) * unit + figure.y * unit), unit * figure.size))
    parts = [
        _Parts(pen, figure, *place, -1 if i == 0 else 1)
        for i, (figure, place) in enumerate(zip(figures, places, strict=True))
    ]
    order = sorted(range(len(figures)), key=lambda i: (figures[i].action != "arm around", i == front))
    for i in order:
        pen.owner = i + 1
        other = parts[1 - i] if len(parts) == 2 else None
        parts[i].draw(light, other)
    for i in order:  # a hand on a shoulder comes last
        if figures[i].action == "arm around" and len(parts) == 2:
            pen.owner = i + 1
            other = parts[1 - i]
            body.draw_hand_on(pen, other.upright, other.figure.identity, other.outer, figures[i].identity.skin_rgb)
    return _finish(pen, parts, light)


def draw_reference(who: Identity, seed: int, size: int = REFERENCE_SIZE, light: Light | None = None) -> Drawn:
    """A photo of one person alone: head and neck in a square, plain background, pose, clothes and, if not given, light by the
    seed.

    The geometry is that of the released example references: the face box spans 0.60 to 0.65 of the side and its center
    lies at 0.65 to 0.68 of the height, up to a little play (docs/method.md#reference-pictures).
    """
    if not 16 <= size <= 4096:
        raise ImageError(f"A drawn reference is 16 to 4096 px wide, not {size}.", code="drawn-size-out-of-range")
    dice = _reference_dice(who, seed)
    pose, drawn_light = sample_pose(dice, 0.8), sample_light(dice)
    light = light or drawn_light
    outfit = Outfit(dice.pick(body.GARMENTS[who.gender]), dice.pick(tuple(body.COLORS)))
    pen = Pen(size, size, _oversampling(size))
    draw_plain(pen, dice.number(1_000_000))
    shape = Shape.of(who)
    share, middle = dice.between(0.60, 0.645), dice.between(0.652, 0.672)
    # Measured on the head as it is held: a turned head has a larger box.
    box = face_box(head_frame(shape, (0.0, 0.0), 1.0, pose), shape)
    wide, high = float(box[2] - box[0]), float(box[3] - box[1])
    scale = share * size / (wide * high) ** 0.5
    x = size * dice.between(0.497, 0.512) - scale * float(box[0] + box[2]) / 2
    y = size * middle - scale * float(box[1] + box[3]) / 2
    parts = _Parts(pen, Figure(who, outfit, pose=pose), (x, y), scale, dice.side())
    pen.owner = 1
    parts.draw(light, None)
    return _finish(pen, [parts], light)


def reference_pose(who: Identity, seed: int) -> Pose:
    """How the head is held in `draw_reference` of this person and seed."""
    return sample_pose(_reference_dice(who, seed), 0.8)


def _reference_dice(who: Identity, seed: int) -> Dice:
    return Dice("reference", who.name, seed)


def sample_pose(dice: Dice, reach: float = 1.0) -> Pose:
    """A head held at random; smiling as often as not."""
    return Pose(
        roll=dice.near(0, 11 * reach),
        yaw=dice.between(-0.9, 0.9) * reach,
        pitch=dice.near(0, 0.8),
        expression=dice.pick({"smile": 5, "neutral": 3, "laugh": 3, "eyes closed": 1}),
    )


def sample_light(dice: Dice) -> Light:
    """Light at random."""
    return Light(
        side=dice.between(0.3, 1.0) * dice.side(),
        strength=dice.between(0.0, 1.0),
        warmth=dice.near(0.0, 0.7),
        gain=dice.between(0.88, 1.06),
    )


def _oversampling(width: int) -> int:
    return _OVERSAMPLING if width <= 192 else 3 if width <= 512 else 2


class _Parts:
    """A figure in its place, ready to be drawn."""

    def __init__(self, pen: Pen, figure: Figure, origin: tuple[float, float], unit: float, outer: int) -> None:
        self.pen, self.figure, self.outer = pen, figure, outer
        scale = unit * figure.size
        who = figure.identity
        self.shape = Shape.of(who)
        self.upright = Frame(origin, scale)
        self.head = head_frame(self.shape, origin, scale, figure.pose)
        self.joints = np.zeros((6, 2))

    def draw(self, light: Light, partner: _Parts | None) -> None:
        """Draw everything from the hair behind to the hair before."""
        pen, f = self.pen, self.figure
        who = f.identity
        draw_hair_behind(pen, self.head, who)
        body.draw_hood(pen, self.upright, who, f.outfit)
        if f.action == "arm around" and partner is not None:
            target = partner.upright([body.shoulder(partner.figure.identity, partner.outer)])[0]
            x, y = (target - self.upright.origin) / self.upright.scale
            body.draw_arm_behind(pen, self.upright, who, f.outfit, -self.outer, (float(x), float(y)))
        self.joints = body.draw_body(pen, self.upright, who, f.outfit, f.action, self.outer)
        draw_head(pen, self.head, who, f.pose, light)

    def keypoints(self) -> np.ndarray:
        """COCO's 17 points; hips and below are never in the picture."""
        left_eye, right_eye, nose = landmarks(self.head, self.shape)[:3]
        ear = self.shape.width, self.shape.eye_y + 0.14
        left_ear, right_ear = self.head([(-ear[0], ear[1]), ear])
        # The person's left is the viewer's right.
        upper = [nose, right_eye, left_eye, right_ear, left_ear, *self.joints[[1, 0, 3, 2, 5, 4]]]
        points = np.zeros((17, 3), dtype=np.float32)
        points[: len(upper), :2] = upper
        inside = (points[:, :2] >= 0).all(1) & (points[:, 0] < self.pen.width) & (points[:, 1] < self.pen.height)
        points[: len(upper), 2] = 1
        points[~inside] = 0
        return points


def _finish(pen: Pen, parts: Sequence[_Parts], light: Light) -> Drawn:
    picture, masks = pen.finish(len(parts))
    people = tuple(
        Portrait(mask, face_box(part.head, part.shape), landmarks(part.head, part.shape), part.keypoints())
        for part, mask in zip(parts, masks, strict=True)
    )
    return Drawn(_lit(picture, light), people)


def _lit(picture: np.ndarray, light: Light) -> np.ndarray:
    """The picture under its light: brighter on one side, warmer or cooler."""
    width = picture.shape[1]
    across = 1 + 0.12 * light.strength * light.side * np.linspace(-1, 1, width, dtype=np.float32)
    warm = np.array([1 + 0.07 * light.warmth, 1 + 0.01 * light.warmth, 1 - 0.09 * light.warmth], dtype=np.float32)
    return np.clip(picture * (light.gain * across[:, None] * warm) + 0.5, 0, 255).astype(np.uint8)
