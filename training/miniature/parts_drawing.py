"""The miniature's world for Parts2Whole: clothes in two colors with a pattern, pictures of parts, and maps of poses.

    couple = draw_couple(seed, (first, second), pictures=3)
    couple.parts[0][2]                # the clothes of person 1: a picture, where in it they are, and what kind of part they are
    couple.targets[0].picture         # both of them, dressed so, drawn otherwise than any of the parts

No sentence of this world speaks of patterns, so a base that reads words cannot know them. A pattern is made of two drawings of
the same script, one in either color: folds, sleeves and edges stay as they are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from dhumandiff.methods.parts2whole.pictures import squash, squash_mask
from dhumandiff.miniature.base import SIZE
from dhumandiff.miniature.world import (
    COLORS,
    GARMENTS,
    SCENES,
    Drawn,
    Figure,
    Identity,
    Outfit,
    Portrait,
    Script,
    draw_figures,
    draw_reference,
    draw_script,
    sample_identity,
    sample_script,
    write_caption,
)
from dhumandiff.miniature.world.dice import Dice
from dhumandiff.miniature.world.identity import BANDS
from dhumandiff.miniature.world.picture import sample_light, sample_pose
from dhumandiff.prompts import parse_prompt

__all__ = ["PATTERNS", "Clothes", "Couple", "PartPicture", "Target", "draw_couple", "held_out"]

PATTERNS = ("plain", "stripes", "bars", "halves")
"""One color; stripes across; bars from top to bottom; one color left and one right."""

STRIPE = SIZE[0] // 16
"""Px of a stripe: two make a period. Narrower ones the autoencoder of the first design cannot keep."""

PHOTO = SIZE[0]
"""Side of the picture that clothes are cut out of, px."""
FACE_PHOTO = 3 * SIZE[0] // 4
"""Side of the photos of faces and hair, px."""

CHANGED = 24
"""Sum of differences of R, G, B from which a px counts as another color."""


@dataclass(frozen=True)
class Clothes:
    """What somebody wears: a pattern of `PATTERNS` in two colors; plain is the first of them."""

    garment: str
    pattern: str
    colors: tuple[str, str]

    @property
    def seen(self) -> frozenset[str]:
        """The colors that show."""
        return frozenset(self.colors[: 1 if self.pattern == "plain" else 2])

    @property
    def label(self) -> str:
        """What kind of part they are."""
        return "whole body clothes" if self.garment == "dress" else "upper body clothes"


@dataclass(frozen=True, eq=False)
class PartPicture:
    """A picture of a part, uint8 [H, W, 3], where in it the part is, uint8 [H, W], and its label."""

    label: str
    picture: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True, eq=False)
class Target:
    """A picture of both people.

    Attributes:
        script: what it shows; the outfits have the first color of the clothes.
        picture: uint8 [H, W, 3].
        people: in the order of the sentence.
        pose: heads, bodies and arms, bool [3, H, W].
        text: the sentence, with the garments' names but not their colors.
        text_colors: the same with the first color of each.
    """

    script: Script
    picture: np.ndarray
    people: tuple[Portrait, Portrait]
    pose: np.ndarray
    text: str
    text_colors: str


@dataclass(frozen=True, eq=False)
class Couple:
    """Two people, what they wear, pictures of their parts (face, hair or headwear if there is any, clothes), and of them."""

    people: tuple[Identity, Identity]
    clothes: tuple[Clothes, Clothes]
    parts: tuple[tuple[PartPicture, ...], tuple[PartPicture, ...]]
    targets: tuple[Target, ...]


def held_out(clothes: Clothes) -> bool:
    """Whether clothes are of those that nobody trains on: one in five combinations of garment, pattern and colors."""
    return Dice("held-out clothes", clothes.garment, clothes.pattern, *sorted(clothes.seen)).chance(0.2)


def sample_clothes(seed: int, people: tuple[Identity, Identity], unseen: bool) -> tuple[Clothes, Clothes]:
    """What both wear, four different colors; `unseen`: all of it held out, else none of it."""
    dice = Dice("clothes", seed)
    while True:
        colors = list(COLORS)
        drawn = [colors.pop(dice.number(len(colors))) for _ in range(4)]
        worn = [
            Clothes(dice.pick(GARMENTS[who.gender]), dice.pick(PATTERNS), (drawn[2 * k], drawn[2 * k + 1]))
            for k, who in enumerate(people)
        ]
        if all(held_out(one) == unseen for one in worn):
            return worn[0], worn[1]


def draw_couple(
    seed: int, people: tuple[Identity, Identity], pictures: int = 1, unseen: bool = False, script: Script | None = None
) -> Couple:
    """Two people with everything, from a seed.

    Args:
        seed: decides the rest.
        people: person 1 and person 2.
        pictures: how many targets.
        unseen: with clothes of combinations that are held out.
        script: of the targets, but for the clothes; None: each has one of its own.
    """
    clothes = sample_clothes(seed, people, unseen)
    parts = tuple(
        draw_parts(Dice("parts", seed, k).number(2**31), *both)
        for k, both in enumerate(zip(people, clothes, strict=True))
    )
    targets = []
    for number in range(pictures):
        own = Dice("target", seed, number).number(2**31)
        targets.append(draw_target(own, script or sample_script(own, people), clothes))
    return Couple(people, clothes, (parts[0], parts[1]), tuple(targets))


def draw_target(seed: int, script: Script, clothes: tuple[Clothes, Clothes]) -> Target:
    """A picture of two people in their clothes."""
    first, second = (
        replace(script, outfits=tuple(Outfit(one.garment, one.colors[color]) for one in clothes)) for color in (0, 1)
    )
    drawn, other = draw_script(first, seed, SIZE), draw_script(second, seed, SIZE)
    people = drawn.people if script.first_is_left else drawn.people[::-1]
    picture = drawn.picture.copy()
    for person, worn in zip(people, clothes, strict=True):
        swapped = _second_color(person, worn.pattern) & person.mask
        picture[swapped] = other.picture[swapped]
    text, colors = _sentences(first, seed)
    return Target(first, picture, (people[0], people[1]), _pose(drawn), text, colors)


def draw_parts(seed: int, who: Identity, clothes: Clothes) -> tuple[PartPicture, ...]:
    """Pictures of a person's parts, each of a drawing of its own; somebody else wears the clothes."""
    dice = Dice("part pictures", seed)
    parts = [_face(who, dice.number(2**31)), _hair(who, dice.number(2**31)), _worn(clothes, who.gender, dice)]
    return tuple(part for part in parts if part is not None)


def _face(who: Identity, seed: int) -> PartPicture:
    photo = draw_reference(who, seed, FACE_PHOTO)
    mask = _head(photo.people[0], photo.picture.shape[:2]) & ~_hair_of(who, seed, photo)
    return _part("face", photo.picture, mask & photo.people[0].mask)


def _hair(who: Identity, seed: int) -> PartPicture | None:
    photo = draw_reference(who, seed, FACE_PHOTO)
    mask = _hair_of(who, seed, photo)
    return _part("hair or headwear", photo.picture, mask) if mask.sum() >= 2 * STRIPE**2 else None


def _hair_of(who: Identity, seed: int, photo: Drawn) -> np.ndarray:
    """Px of hair and headband, bool [H, W]: what changes with their colors, but for beard and brows."""
    hair = next(name for name in ("violet", "teal") if name != who.hair_color)
    band = who.headband if who.headband == "none" else next(name for name in BANDS if name != who.headband)
    other = draw_reference(replace(who, hair_color=hair, headband=band), seed, FACE_PHOTO)
    changed = _differ(photo.picture, other.picture)
    person = photo.people[0]
    x0, _, x1, y1 = person.face_box
    y, x = np.mgrid[: changed.shape[0], : changed.shape[1]]
    eyes = person.landmarks[:2, 1].mean()
    brows = (y > eyes - 0.22 * (y1 - person.face_box[1])) & (x > x0) & (x < x1) & (y < y1 + STRIPE / 2)
    return changed & ~brows


def _head(person: Portrait, shape: tuple[int, ...]) -> np.ndarray:
    """An oval around the face, bool [H, W]."""
    x0, y0, x1, y1 = person.face_box
    y, x = np.mgrid[: shape[0], : shape[1]]
    across, down = (x - (x0 + x1) / 2) / (x1 - x0), (y - (y0 + y1) / 2) / (y1 - y0)
    return across**2 + down**2 < 0.55**2


def _worn(clothes: Clothes, gender: str, dice: Dice) -> PartPicture:
    """The clothes on somebody else, cut out with a little around them."""
    model = sample_identity(dice.number(50_000), "woman" if gender == "woman" else "man")
    pose, place, light = sample_pose(dice), (dice.near(0, 0.1), dice.near(0, 0.1)), sample_light(dice)
    scene, number = dice.pick(SCENES), dice.number(1_000_000)
    photos = [
        draw_figures(
            [Figure(model, Outfit(clothes.garment, color), "arms down", pose, *place)],
            scene,
            number,
            light,
            (PHOTO, PHOTO),
        )
        for color in clothes.colors
    ]
    person = photos[0].people[0]
    mask = _differ(photos[0].picture, photos[1].picture) & person.mask
    picture = photos[0].picture.copy()
    swapped = _second_color(person, clothes.pattern) & mask
    picture[swapped] = photos[1].picture[swapped]
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    margin = [dice.number(7) for _ in range(4)]
    top, bottom = max(rows[0] - margin[0], 0), rows[-1] + 1 + margin[1]
    left, right = max(columns[0] - margin[2], 0), columns[-1] + 1 + margin[3]
    return _part(clothes.label, picture[top:bottom, left:right], mask[top:bottom, left:right])


def _part(label: str, picture: np.ndarray, mask: np.ndarray) -> PartPicture:
    """Squashed to the pictures' size, as the method has it."""
    pixels = np.ascontiguousarray(picture)
    found = squash_mask(mask.astype(np.uint8) * 255, (picture.shape[0], picture.shape[1]), SIZE, f"the {label}")
    drawn = (squash(pixels, SIZE)[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    return PartPicture(label, drawn, (found[0, 0].numpy() >= 0.5).astype(np.uint8) * 255)


def _second_color(person: Portrait, pattern: str) -> np.ndarray:
    """Where a pattern has its second color, bool [H, W]."""
    y, x = np.mgrid[: person.mask.shape[0], : person.mask.shape[1]]
    middle, top = _chest(person)
    if pattern == "stripes":
        return (y - top) // STRIPE % 2 == 1
    if pattern == "bars":
        return (x - middle + STRIPE / 2) // STRIPE % 2 == 1
    return x >= middle if pattern == "halves" else np.zeros_like(person.mask)


def _chest(person: Portrait) -> tuple[float, float]:
    """x of the middle of a body, y of its shoulders, px."""
    shoulders = person.keypoints[5:7]
    known = shoulders[shoulders[:, 2] > 0]
    x0, _, x1, y1 = person.face_box
    middle = float(known[:, 0].mean()) if len(known) == 2 else float(x0 + x1) / 2
    return middle, float(known[:, 1].mean()) if len(known) else float(y1) + STRIPE


def _differ(picture: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.abs(picture.astype(int) - other).sum(-1) > CHANGED


def _pose(drawn: Drawn) -> np.ndarray:
    """A map of who stands where, of heads, bodies and arms; nothing of how they look. bool [3, H, W]."""
    height, width = drawn.picture.shape[:2]
    heads, bodies, arms = np.zeros((3, height, width), bool)
    y, x = np.mgrid[:height, :width]
    for person in drawn.people:
        heads |= _head(person, (height, width))
        middle, top = _chest(person)
        wide = (person.face_box[2] - person.face_box[0]) * 0.9
        bodies |= (np.abs(x - middle) < wide) & (y > top - STRIPE / 2)
        for joints in (person.keypoints[[5, 7, 9]], person.keypoints[[6, 8, 10]]):
            for (x0, y0, seen), (x1, y1, seen_too) in pairwise(joints):
                if seen and seen_too:
                    along = ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / max((x1 - x0) ** 2 + (y1 - y0) ** 2, 1)
                    along = np.clip(along, 0, 1)
                    arms |= np.hypot(x - x0 - along * (x1 - x0), y - y0 - along * (y1 - y0)) < 3 * STRIPE / 8
    return np.stack([heads, bodies, arms])


def _sentences(script: Script, seed: int) -> tuple[str, str]:
    """The sentence without and with the colors of the clothes."""
    text = parse_prompt(write_caption(script, seed)[0], mentions="all").text
    plain = text
    for outfit in script.outfits:
        plain = plain.replace(f"{outfit.color} {outfit.garment}", outfit.garment)
    return plain, text
