"""The geometry and the light of one picture: buckets, crops, masks, and variants of a face.

All of it is this project's choice; buckets follow what SDXL was trained with (sides of multiples of 64, one area).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dhumandiff.faces import Face

from .annotation import Box

__all__ = [
    "Crop",
    "augment_face",
    "body_box",
    "buckets",
    "choose_crop",
    "face_mask",
    "person_mask",
    "provided_mask",
    "split",
]

_HEAD_ROOM = (0.25, 0.5, 0.25, 0.2)  # of the face box, left, top, right, bottom: what of the head a crop must not cut
_FEATHER = 0.06  # of a box's shorter side: how soft a person's mask ends


def buckets(resolution: int, step: int, max_aspect: float) -> list[tuple[int, int]]:
    """(height, width) px of all buckets, tall to wide: multiples of `step` with at most `resolution` squared pixels."""
    found = set()
    for width in range(step, int(resolution * max_aspect**0.5) + step, step):
        height = min(resolution**2 // width, int(width * max_aspect)) // step * step
        if height >= step and max(height, width) <= max_aspect * min(height, width):
            found |= {(height, width), (width, height)}
    area = 0.8 * max(height * width for height, width in found)  # smaller ones are squeezed between two steps
    return sorted((h, w) for h, w in found if h * w >= area)


@dataclass(frozen=True)
class Crop:
    """How a picture becomes one of a bucket's size: scaled by `scale`, then cut at `top`, `left`.

    Attributes:
        bucket: (height, width) px.
        scale: (down, across) from the picture to the scaled one.
        scaled: (height, width) px of the scaled picture.
        top, left: px of the scaled picture, as SDXL's crop conditioning counts.
    """

    bucket: tuple[int, int]
    scale: tuple[float, float]
    scaled: tuple[int, int]
    top: int
    left: int

    def pixels(self, image: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] -> uint8 [bucket height, bucket width, 3]."""
        size = (self.scaled[1], self.scaled[0])
        scaled = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS) if size != image.shape[1::-1] else image
        height, width = self.bucket
        return np.asarray(scaled)[self.top : self.top + height, self.left : self.left + width].copy()

    def points(self, points: np.ndarray) -> np.ndarray:
        """[..., 2] x y px of the picture -> px of the crop."""
        return np.asarray(points, np.float64) * self.scale[::-1] - (self.left, self.top)

    def box(self, box: Sequence[float]) -> Box:
        """A box of the picture -> of the crop, clipped to it."""
        (x0, y0), (x1, y1) = self.points(np.reshape(box, (2, 2)))
        height, width = self.bucket
        return (
            float(np.clip(x0, 0, width)),
            float(np.clip(y0, 0, height)),
            float(np.clip(x1, 0, width)),
            float(np.clip(y1, 0, height)),
        )


def choose_crop(
    size: tuple[int, int], faces: Sequence[Box], people: Sequence[Box], choices: Sequence[tuple[int, int]]
) -> Crop | None:
    """The bucket of the nearest shape in which both heads fit, and the cut that keeps most of the people.

    Args:
        size: (height, width) of the picture.
        faces, people: boxes in px of the picture.
        choices: buckets.

    Returns:
        None if no bucket holds both heads.
    """
    height, width = size
    heads = _union([_head(box, size) for box in faces])
    bodies = _union([*people, heads])
    shape = math.log(width / height)
    for bucket in sorted(choices, key=lambda choice: (abs(math.log(choice[1] / choice[0]) - shape), choice)):
        scale = max(bucket[0] / height, bucket[1] / width)
        scaled = (max(bucket[0], round(height * scale)), max(bucket[1], round(width * scale)))
        scales = (scaled[0] / height, scaled[1] / width)
        rows = _start(*(scales[0] * box[i] for box in (heads, bodies) for i in (1, 3)), bucket[0], scaled[0])
        columns = _start(*(scales[1] * box[i] for box in (heads, bodies) for i in (0, 2)), bucket[1], scaled[1])
        if rows is not None and columns is not None:
            return Crop(bucket, scales, scaled, rows, columns)
    return None


def _start(head: float, chin: float, top: float, bottom: float, window: int, length: int) -> int | None:
    """Along one axis: where a window starts that holds the heads, with the bodies as central as that allows."""
    low, high = max(0, math.ceil(chin) - window), min(length - window, math.floor(head))
    if low > high:
        return None
    return min(max(round((top + bottom - window) / 2), low), high)


def _head(face: Box, size: tuple[int, int]) -> Box:
    width, height = face[2] - face[0], face[3] - face[1]
    left, top, right, bottom = _HEAD_ROOM
    return (
        max(0.0, face[0] - left * width),
        max(0.0, face[1] - top * height),
        min(float(size[1]), face[2] + right * width),
        min(float(size[0]), face[3] + bottom * height),
    )


def _union(boxes: Sequence[Box]) -> Box:
    low, high = np.min(boxes, axis=0), np.max(boxes, axis=0)
    return float(low[0]), float(low[1]), float(high[2]), float(high[3])


def body_box(face: Box, size: tuple[int, int]) -> Box:
    """Where the person of a face stands, by an adult's proportions: shoulders three faces wide, seven heads tall."""
    width, height = face[2] - face[0], face[3] - face[1]
    middle = (face[0] + face[2]) / 2
    return (
        max(0.0, middle - 1.5 * width),
        max(0.0, face[1] - 0.5 * height),
        min(float(size[1]), middle + 1.5 * width),
        min(float(size[0]), face[1] + 7 * height),
    )


def face_mask(box: Box, bucket: tuple[int, int], factor: int) -> np.ndarray:
    """An ellipse in a face box (px of the crop) -> uint8 [height, width] at latent size, 255 inside."""
    y, x = _centers(bucket, factor)
    across, down = max((box[2] - box[0]) / 2, 1e-3), max((box[3] - box[1]) / 2, 1e-3)
    far = np.hypot((x - (box[0] + box[2]) / 2) / across, (y - (box[1] + box[3]) / 2) / down)
    soft = factor / min(across, down)  # a latent pixel wide
    mask = np.clip((1 - far) / soft + 0.5, 0, 1)
    mask[_nearest(box, bucket, factor)] = 1.0  # a face smaller than a latent pixel still has one
    return _bytes(mask)


def person_mask(box: Box, face: np.ndarray, bucket: tuple[int, int], factor: int) -> np.ndarray:
    """A person's box with rounded corners and soft edges, and the face -> uint8 [height, width] at latent size."""
    y, x = _centers(bucket, factor)
    soft = max(factor, _FEATHER * min(box[2] - box[0], box[3] - box[1]))
    round_ = 0.25 * min(box[2] - box[0], box[3] - box[1])
    across = np.abs(x - (box[0] + box[2]) / 2) - (box[2] - box[0]) / 2 + round_
    down = np.abs(y - (box[1] + box[3]) / 2) - (box[3] - box[1]) / 2 + round_
    outside = np.hypot(np.maximum(across, 0), np.maximum(down, 0)) + np.minimum(np.maximum(across, down), 0) - round_
    return np.maximum(_bytes(np.clip(0.5 - outside / soft, 0, 1)), face)


def split(masks: Sequence[np.ndarray], faces: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Share out what two persons' masks both cover, in proportion; a face belongs to its own person alone."""
    first, second = (mask.astype(np.float32) / 255 for mask in masks)
    both = np.minimum(first, second)
    total = np.maximum(first + second, 1e-6)
    shares = [one - both * (1 - one / total) for one in (first, second)]
    for k in (0, 1):
        mine, other = (faces[i].astype(np.float32) / 255 for i in (k, 1 - k))
        shares[k] = np.maximum(shares[k], mine) * np.where(other > mine, 1 - other, 1)
    return [_bytes(share) for share in shares]


def provided_mask(mask: np.ndarray, crop: Crop, factor: int) -> np.ndarray:
    """A mask picture uint8 [H, W, 3] of the original's shape, cut like it -> uint8 [height, width] at latent size."""
    gray = np.repeat(mask.max(axis=-1, keepdims=True), 3, axis=-1)
    scaled = Image.fromarray(gray).resize((crop.scaled[1], crop.scaled[0]), Image.Resampling.BILINEAR)
    height, width = crop.bucket
    cut = scaled.crop((crop.left, crop.top, crop.left + width, crop.top + height)).convert("L")
    return np.asarray(cut.resize((width // factor, height // factor), Image.Resampling.BOX)).copy()


def _centers(bucket: tuple[int, int], factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Centers of the latent pixels, px of the crop."""
    y, x = np.mgrid[: bucket[0] // factor, : bucket[1] // factor]
    return (y + 0.5) * factor, (x + 0.5) * factor


def _nearest(box: Box, bucket: tuple[int, int], factor: int) -> tuple[int, int]:
    row = int((box[1] + box[3]) / 2 / factor)
    column = int((box[0] + box[2]) / 2 / factor)
    return min(max(row, 0), bucket[0] // factor - 1), min(max(column, 0), bucket[1] // factor - 1)


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(values.clip(0, 1) * 255).astype(np.uint8)


def augment_face(
    crop: np.ndarray, face: Face, rng: random.Random, flip: float, light: float, color: float
) -> tuple[np.ndarray, Face]:
    """A variant of a head crop uint8 [S, S, 3]: other light, other color, mirrored or not.

    Gains act in linear light (gamma 2.2), where light adds up.

    Args:
        crop: uint8 [S, S, 3].
        face: in px of the crop.
        rng: decides everything.
        flip: probability that it is mirrored.
        light: most stops between the two sides of the face, half of it for the exposure.
        color: most change of a channel's gain and of the saturation, as a fraction.

    Returns:
        The variant and its face.
    """
    side = len(crop)
    linear = (crop.astype(np.float32) / 255) ** 2.2
    across = np.linspace(-1, 1, side, dtype=np.float32)[None, :, None]
    stops = rng.uniform(-light, light) * across / 2 + rng.uniform(-light, light) / 2
    gains = np.array([1 + rng.uniform(-color, color) for _ in range(3)], np.float32)
    linear = linear * np.exp2(stops) * gains / gains.mean()
    gray = linear.mean(axis=-1, keepdims=True)
    linear = gray + (linear - gray) * (1 + rng.uniform(-color, color))
    varied = np.rint(linear.clip(0, 1) ** (1 / 2.2) * 255).astype(np.uint8)
    if rng.random() < flip:
        varied = varied[:, ::-1].copy()
        points = face.landmarks[[1, 0, 2, 4, 3]] * np.float32([-1, 1]) + np.float32([side, 0])
        box = np.float32([side - face.box[2], face.box[1], side - face.box[0], face.box[3]])
        face = Face(box, points.astype(np.float32), face.score)
    return varied, face
