"""Which face should be whose: what a sentence, boxes or masks say, never likeness.

    assignment, assigned_by = assign_faces(2, faces, picture, prompt=parse_prompt(text, mentions="all"))
    # (1, 0), "sides": face 1 is person 1's

Everything here is this project's choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np
from PIL import Image, ImageCms

from ..errors import ImageError
from ..faces.face import Face
from ..prompts import Prompt
from .metrics import match
from .sentence_cues import GARMENT_COLORS, garment_color, garment_colors_of, parts_of, sides_of

__all__ = [
    "FaceAssignment",
    "assign_by_boxes",
    "assign_by_clothes",
    "assign_by_masks",
    "assign_by_parts",
    "assign_by_sides",
    "assign_faces",
]

FaceAssignment = tuple[int | None, ...] | None
"""For each person the number of a face, or None where that face is missing; None as a whole where nothing says who should be
where: not decidable."""

_ORDER = ("left", "left of middle", "middle", "right of middle", "right")

MIN_LEAD = 0.1
"""Share of a chest by which the colors' right way round has to be ahead of the wrong one; below, clothes decide nothing."""


def assign_faces(
    persons: int,
    faces: Sequence[Face],
    picture: np.ndarray,
    *,
    prompt: Prompt | None = None,
    boxes: Sequence[Sequence[float]] | None = None,
    masks: np.ndarray | None = None,
    clothes: Sequence[str] | None = None,
) -> tuple[FaceAssignment, str]:
    """Who should be which face, by the first of these that says so: masks, boxes, sides in the sentence, colors of clothes.

    Args:
        persons: how many people there should be.
        faces: those found. Of more than `persons` the largest count, where sides or clothes decide.
        picture: uint8 [H, W, 3] RGB.
        prompt: the sentence with every mention (`parse_prompt(..., mentions="all")`).
        boxes: of each person, x0 y0 x1 y1 px.
        masks: of each person, [P, H, W] 0..1 of the picture's size.
        clothes: a few words about those of each person; without any, the sentence's.

    Returns:
        The assignment, and what decided: "masks", "boxes", "sides", "clothes" or "".

    Raises:
        ImageError: masks of another shape.
    """
    if masks is not None:
        return assign_by_masks(masks, faces), "masks"
    if boxes is not None:
        return assign_by_boxes(boxes, faces), "boxes"
    sides = sides_of(prompt, persons) if prompt is not None else None
    if sides is not None:
        if len(faces) < persons:
            return assign_by_parts(sides, faces, picture.shape[1]), "sides"
        return assign_by_sides(sides, faces), "sides"
    colors = None
    if clothes is not None:
        found = [garment_color(words) or "" for words in clothes]
        colors = tuple(found) if "" not in found and len({*found}) == persons else None
    elif prompt is not None:
        colors = garment_colors_of(prompt, persons)
    assignment = assign_by_clothes(colors, faces, picture) if colors is not None else None
    return assignment, "clothes" if assignment is not None else ""


def assign_by_sides(sides: Sequence[str], faces: Sequence[Face]) -> tuple[int | None, ...]:
    """By the sides of each person, as `sides_of` gives them: the largest faces from left to right are people from left to right.

    With too few faces they do not say who is missing, so every face counts as missing; `assign_by_parts` asks where they are.
    """
    if len(faces) < len(sides):
        return (None,) * len(sides)
    people = sorted(range(len(sides)), key=lambda k: _ORDER.index(sides[k]))
    across = sorted(_largest(faces, len(sides)), key=lambda n: faces[n].center[0])
    assignment = dict(zip(people, across, strict=True))
    return tuple(assignment[k] for k in range(len(sides)))


def assign_by_parts(sides: Sequence[str], faces: Sequence[Face], width: int) -> tuple[int | None, ...]:
    """By the part of the picture that a face lies in, for fewer faces than people: of two people the left half or the right one.

    Args:
        sides: of each person, as `sides_of` gives them.
        faces: those found.
        width: of the picture, px.

    Returns:
        For each person the one face that lies wholly in their part. A face across parts, and two in one, are nobody's.
    """
    parts = parts_of(len(sides))
    if not {*sides} <= {*parts}:  # "on the left" and "in the middle": where the one ends nobody says
        return (None,) * len(sides)
    found: list[int | None] = []
    for side in sides:
        start = parts.index(side) / len(parts) * width
        inside = [
            n for n, face in enumerate(faces) if start <= face.box[0] and face.box[2] <= start + width / len(parts)
        ]
        found.append(inside[0] if len(inside) == 1 else None)
    return tuple(found)


def assign_by_clothes(colors: Sequence[str], faces: Sequence[Face], picture: np.ndarray) -> FaceAssignment:
    """By the color of each person's clothes: the faces above the chests that show them.

    None where the colors do not clearly say so. With too few faces each is the one's whose color is clearly ahead of the
    others', or nobody's.
    """
    seen = {n: _chest(picture, faces[n]) for n in _largest(faces, len(colors))}
    wanted = [list(GARMENT_COLORS).index(name) for name in colors]
    if len(faces) < len(colors):
        return _some_by_clothes([seen[n][wanted] for n in sorted(seen)], len(colors))
    differing = min(len(colors), 2)  # two ways differ in two chests at least, of however many people
    ways = {
        assignment: float(np.sum([seen[n][k] for n, k in zip(assignment, wanted, strict=True)])) / differing
        for assignment in permutations(seen)
    }
    best, *others = sorted(ways, key=ways.__getitem__, reverse=True)
    clear = ways[best] - (ways[others[0]] if others else 0.0) >= MIN_LEAD
    return best if clear else None


def _some_by_clothes(shares: Sequence[np.ndarray], persons: int) -> tuple[int | None, ...]:
    """`shares`: of each face, how much of the chest has each person's color [P]."""
    found: list[list[int]] = [[] for _ in range(persons)]
    for n, share in enumerate(shares):
        person = int(share.argmax())
        if share[person] - np.delete(share, person).max() >= MIN_LEAD:
            found[person].append(n)
    return tuple(own[0] if len(own) == 1 else None for own in found)


def assign_by_boxes(boxes: Sequence[Sequence[float]], faces: Sequence[Face]) -> tuple[int | None, ...]:
    """By where people are in a picture: the boxes x0 y0 x1 y1 [P] of persons or of their faces, px, such as an annotation's.

    A face may be whose box holds its center; of several, the one nearest to the middle of the upper edge of a person's box.
    """
    nearness = np.full((len(faces), len(boxes)), -np.inf)
    for n, face in enumerate(faces):
        x, y = face.center
        for k, (x0, y0, x1, y1) in enumerate(boxes):
            if x0 <= x <= x1 and y0 <= y <= y1:
                nearness[n, k] = -np.hypot((x - (x0 + x1) / 2) / max(x1 - x0, 1), (y - y0) / max(y1 - y0, 1))
    return _assigned(nearness)


def assign_by_masks(masks: np.ndarray, faces: Sequence[Face]) -> tuple[int | None, ...]:
    """By masks of people, [P, H, W] 0..1 of the picture's size: a face may be whose mask covers half of it or more.

    Raises:
        ImageError: masks of another shape.
    """
    masks = np.asarray(masks, dtype=np.float64)
    if masks.ndim != 3:
        raise ImageError(
            f"Masks of people are [persons, height, width], not {list(masks.shape)}.", code="not-person-masks"
        )
    covered = np.full((len(faces), len(masks)), -np.inf)
    height, width = masks.shape[1:]
    for n, face in enumerate(faces):
        x0, y0, x1, y1 = np.clip(np.round(face.box), 0, (width, height, width, height)).astype(int)
        inside = masks[:, y0:y1, x0:x1]
        if inside.size:
            share = inside.mean(axis=(1, 2))
            covered[n] = np.where(share >= 0.5, share, -np.inf)
    return _assigned(covered)


def _chest(picture: np.ndarray, face: Face) -> np.ndarray:
    """How much of the clothes below a face has each of `GARMENT_COLORS`: shares [12], by the nearest color in CIELAB."""
    x0, y0, x1, y1 = map(float, face.box)
    width, height = x1 - x0, y1 - y0
    rows = slice(*np.clip((round(y1 + 0.6 * height), round(y1 + 1.8 * height)), 0, picture.shape[0]))
    columns = slice(*np.clip((round(x0 - 0.3 * width), round(x1 + 0.3 * width)), 0, picture.shape[1]))
    patch = picture[rows, columns]
    if not patch.size:
        return np.zeros(len(GARMENT_COLORS))
    small = Image.fromarray(np.ascontiguousarray(patch)).resize((24, 24), Image.Resampling.BOX)
    apart = np.linalg.norm(_lab(small)[:, None] - _lab_colors()[None], axis=-1)
    return np.bincount(apart.argmin(axis=1), minlength=len(GARMENT_COLORS)) / len(apart)


def _lab(picture: Image.Image) -> np.ndarray:
    """Pixels as L a b, float [N, 3]; lightness counts half, since light varies it most."""
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    turned = ImageCms.applyTransform(picture, ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    values = np.asarray(turned).reshape(-1, 3).astype(np.float64)
    values[:, 0] *= 0.5 * 100 / 255
    values[:, 1:] = (values[:, 1:] + 128) % 256 - 128  # Pillow keeps a and b as signed bytes
    return values


def _lab_colors() -> np.ndarray:
    return _lab(Image.fromarray(np.array([list(GARMENT_COLORS.values())], dtype=np.uint8)))


def _largest(faces: Sequence[Face], count: int) -> list[int]:
    return sorted(sorted(range(len(faces)), key=lambda n: -faces[n].size)[:count])


def _assigned(score: np.ndarray) -> tuple[int | None, ...]:
    """The assignment with the largest sum among those that are possible (-inf: impossible)."""
    possible = np.isfinite(score)
    low = score[possible].min() if possible.any() else 0.0
    # Impossible ones cost more than all possible ones can gain, so they are chosen only where nothing is left.
    filled = np.where(possible, score, low - 10 * (1 + np.ptp(score[possible]) if possible.any() else 1))
    found = match(filled)
    return tuple(face if face is not None and possible[face, k] else None for k, face in enumerate(found))
