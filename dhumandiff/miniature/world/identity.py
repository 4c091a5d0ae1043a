"""Who a drawn person is: everything about a face that stays from picture to picture, drawn from one integer.

This project's choice throughout. What tells people apart at a glance comes first (hair, skin, beard, glasses, the shape
of the face), because a face is about 34 px high and an autoencoder keeps an eighth of that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...errors import DHumanDiffError
from .dice import Dice
from .pen import Color, mix, tint

__all__ = [
    "APART",
    "SPLITS",
    "Identity",
    "distance",
    "features",
    "people",
    "sample_identity",
]

Gender = Literal["woman", "man"]
Split = Literal["train", "recogniser", "judge", "test"]

SPLITS: dict[str, range] = {
    "train": range(0, 100_000),
    "recogniser": range(100_000, 200_000),
    "judge": range(200_000, 300_000),
    "test": range(300_000, 400_000),
}
"""Seeds of the people that each model may see; they never share one."""

APART = 1.0
"""The least `distance` between two people whom `people` hands out (two drawn at random are about 2.9 apart)."""

AGES = {"child": 0.13, "young": 0.42, "middle": 0.25, "old": 0.20}

_SKIN: tuple[Color, ...] = ((255, 231, 214), (247, 208, 176), (226, 173, 130), (176, 120, 82), (116, 76, 54))
HAIR: dict[str, Color] = {
    "black": (38, 33, 40),
    "dark brown": (80, 52, 40),
    "brown": (128, 84, 52),
    "auburn": (156, 68, 40),
    "ginger": (216, 112, 46),
    "blond": (236, 194, 98),
    "platinum": (246, 230, 190),
    "grey": (156, 158, 164),
    "white": (232, 232, 230),
    "pink": (240, 120, 170),
    "blue": (72, 126, 212),
    "teal": (48, 166, 156),
    "violet": (140, 92, 196),
    "red": (206, 44, 58),
}
_NATURAL = {"black": 5, "dark brown": 5, "brown": 4, "auburn": 3, "ginger": 3, "blond": 5, "platinum": 2}
_DYED = {"pink": 1, "blue": 1, "teal": 1, "violet": 1, "red": 1}
EYES: dict[str, Color] = {
    "brown": (92, 58, 36),
    "dark": (44, 34, 34),
    "hazel": (146, 104, 44),
    "green": (66, 138, 84),
    "blue": (62, 124, 206),
    "grey": (118, 134, 150),
}
LIPS: dict[str, Color] = {
    "natural": (0, 0, 0),  # made from the skin
    "rose": (214, 92, 108),
    "red": (200, 36, 54),
    "plum": (140, 50, 92),
    "coral": (240, 110, 88),
}
FRAMES: dict[str, Color] = {
    "black": (36, 34, 40),
    "brown": (120, 70, 38),
    "red": (198, 40, 52),
    "blue": (44, 84, 176),
    "gold": (206, 158, 60),
    "white": (244, 244, 240),
}
BANDS: dict[str, Color] = {
    "red": (222, 50, 64),
    "yellow": (252, 208, 66),
    "blue": (48, 112, 216),
    "green": (60, 170, 104),
    "white": (250, 248, 244),
}
METALS: dict[str, Color] = {"gold": (236, 190, 70), "silver": (214, 220, 228), "coral": (238, 96, 90)}

_WOMEN = {
    "long": 4,
    "wavy": 4,
    "bob": 4,
    "ponytail": 3,
    "bun": 3,
    "curly": 3,
    "braids": 2,
    "bowl": 2,
    "afro": 2,
    "side part": 2,
    "top knot": 1,
}
_MEN = {
    "side part": 4,
    "quiff": 4,
    "buzz": 3,
    "curly": 3,
    "spiky": 3,
    "bald": 3,
    "bowl": 2,
    "afro": 2,
    "receding": 2,
    "long": 1,
    "mohawk": 1,
    "top knot": 1,
}
STYLES = tuple(dict.fromkeys((*_WOMEN, *_MEN)))
BEARDS = ("none", "stubble", "full", "goatee", "moustache")
GLASSES = ("none", "round", "square")


@dataclass(frozen=True)
class Identity:
    """A face. Numbers without a unit run from 0 to 1 (0.5 is usual) unless said; names are keys of this file's tables."""

    seed: int
    gender: Gender
    age: str
    skin: float  # light to dark
    undertone: float  # -1 rosy to 1 golden
    face_width: float
    face_length: float
    jaw: float  # pointed to broad
    hair_style: str
    hair_color: str
    hair_tone: float
    hair_volume: float
    part: int  # on which side hair is parted and a mole sits, -1 or 1
    eye_color: str
    eye_size: float
    eye_distance: float
    brow_thickness: float
    brow_angle: float  # -1 sloping outwards to 1 sloping inwards
    nose_length: float
    nose_width: float
    mouth_width: float
    lip_fullness: float
    lip_color: str
    beard: str
    glasses: str
    frame_color: str
    freckles: bool
    mole: bool
    earrings: str  # "none", or a metal
    headband: str  # "none", or a color

    @property
    def name(self) -> str:
        """A name for files: the seed, and w or m."""
        return f"{self.seed:06d}{self.gender[0]}"

    @property
    def skin_rgb(self) -> Color:
        """The color of the skin in plain light."""
        at = self.skin * (len(_SKIN) - 1)
        low = min(int(at), len(_SKIN) - 2)
        base = mix(_SKIN[low], _SKIN[low + 1], at - low)
        return mix(base, (236, 150, 130) if self.undertone < 0 else (232, 186, 96), 0.14 * abs(self.undertone))

    @property
    def hair_rgb(self) -> Color:
        """The color of the hair in plain light."""
        return tint(HAIR[self.hair_color], 0.88 + 0.24 * self.hair_tone)

    @property
    def lip_rgb(self) -> Color:
        """The color of the lips."""
        return mix(self.skin_rgb, (176, 52, 60), 0.5) if self.lip_color == "natural" else LIPS[self.lip_color]


def sample_identity(seed: int, gender: Gender | None = None) -> Identity:
    """The person of a seed; with `gender`, that seed's woman or man (the same person if it is the seed's own gender)."""
    if gender not in (None, "woman", "man"):
        raise DHumanDiffError(f'A drawn person\'s gender is "woman" or "man", not {gender!r}.', code="unknown-gender")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise DHumanDiffError(
            f"A drawn person's seed is a whole number from 0 on, not {seed!r}.", code="drawn-seed-not-whole"
        )
    seed = int(seed)
    if gender is None:
        gender = "woman" if Dice("gender", seed).chance(0.5) else "man"
    woman = gender == "woman"
    dice = Dice("identity", gender, seed)
    age = dice.pick(AGES)
    child, old = age == "child", age == "old"
    skin = dice.between(0, 1)
    style = dice.pick(_WOMEN if woman else _MEN)
    if child:
        style = {"bald": "bowl", "receding": "side part", "mohawk": "spiky"}.get(style, style)
    color = dice.pick(_NATURAL)
    if old:
        color = dice.pick({"grey": 4, "white": 4, color: 1})
    elif not child and dice.chance(0.2 if woman else 0.1):
        color = dice.pick(_DYED)
    elif age == "middle" and dice.chance(0.2):
        color = "grey"
    beards = {"none": 5, "stubble": 2, "full": 3, "goatee": 2, "moustache": 2}
    return Identity(
        seed=seed,
        gender=gender,
        age=age,
        skin=skin,
        undertone=dice.between(-1, 1),
        face_width=dice.between(0, 1),
        face_length=dice.between(0, 1),
        jaw=min(1.0, max(0.0, dice.near(0.4 if woman else 0.65, 0.5))),
        hair_style=style,
        hair_color=color,
        hair_tone=dice.between(0, 1),
        hair_volume=dice.between(0, 1),
        part=dice.side(),
        # Dark skin with light eyes is rare among people, and so it is here.
        eye_color=dice.pick({"brown": 3, "dark": 3, "hazel": 2} if skin > 0.65 else dict.fromkeys(EYES, 1)),
        eye_size=dice.between(0, 1),
        eye_distance=dice.between(0, 1),
        brow_thickness=dice.between(0, 0.7) if woman else dice.between(0.25, 1),
        brow_angle=dice.between(-1, 1),
        nose_length=dice.between(0, 1),
        nose_width=dice.between(0, 1),
        mouth_width=dice.between(0, 1),
        lip_fullness=dice.between(0.25, 1) if woman else dice.between(0, 0.6),
        lip_color="natural"
        if child or not woman
        else dice.pick({"natural": 3, "rose": 2, "red": 2, "plum": 1, "coral": 2}),
        beard="none" if woman or child else dice.pick(beards),
        glasses=dice.pick({"none": 13, "round": 2, "square": 2} if child else {"none": 9, "round": 4, "square": 4}),
        frame_color=dice.pick({"black": 4, "brown": 2, "red": 2, "blue": 2, "gold": 2, "white": 1}),
        freckles=dice.chance(0.35 if skin < 0.5 else 0.1),
        mole=dice.chance(0.15),
        earrings=dice.pick({"none": 3, "gold": 2, "silver": 2, "coral": 1} if woman else {"none": 12, "gold": 1}),
        headband=dice.pick(tuple(BANDS)) if woman and style != "top knot" and dice.chance(0.3) else "none",
    )


# How much of the picture a hair style fills with its color: a bald head's hair color shows in the brows only.
_HAIR_MASS = {"bald": 0.05, "buzz": 0.4, "receding": 0.4, "mohawk": 0.5, "afro": 1.3, "long": 1.3, "wavy": 1.3}
_AGE_SHOWS = {"child": 0.0, "young": 0.35, "middle": 0.5, "old": 1.0}


def features(identity: Identity) -> np.ndarray:
    """A person as a vector [F] whose Euclidean distances say how different two people look (this project's choice).

    1 is a clear difference: other hair style, black against brown hair, light against medium skin, with or without
    beard or glasses. The small traits count a quarter to a half from one extreme to the other.
    """

    def kind(value: str, kinds: Iterable[str], weight: float) -> list[float]:
        return [weight / 2**0.5 * (value == other) for other in kinds]

    def color(rgb: Color, weight: float) -> list[float]:
        return [weight * value / 128 for value in rgb]

    mass = _HAIR_MASS.get(identity.hair_style, 1.0)
    glasses = identity.glasses != "none"
    return np.array(
        [
            *color(identity.skin_rgb, 1.5),
            *color(identity.hair_rgb, 1.2 * mass),
            *kind(identity.hair_style, STYLES, 1.2),
            *kind(identity.beard, BEARDS, 1.0),
            *kind(identity.glasses, GLASSES, 1.0),
            *(color(FRAMES[identity.frame_color], 0.3) if glasses else [0, 0, 0]),
            *color(EYES[identity.eye_color], 0.3),
            *color(identity.lip_rgb, 0.3),
            0.6 * _AGE_SHOWS[identity.age],
            0.8 * identity.face_width,
            0.6 * identity.face_length,
            0.6 * identity.jaw,
            0.5 * identity.hair_volume * mass,
            0.2 * identity.part,
            0.6 * identity.eye_size,
            0.5 * identity.eye_distance,
            0.6 * identity.brow_thickness,
            0.2 * identity.brow_angle,
            0.4 * identity.nose_length,
            0.4 * identity.nose_width,
            0.4 * identity.mouth_width,
            0.4 * identity.lip_fullness,
            0.4 * identity.freckles,
            0.2 * identity.mole,
            0.4 * (identity.earrings != "none"),
            0.5 * (identity.headband != "none"),
            *(color(BANDS[identity.headband], 0.4) if identity.headband != "none" else [0, 0, 0]),
        ]
    )


def distance(first: Identity, second: Identity) -> float:
    """How different two people look: 0 for one and the same, about 2.9 for two drawn at random (see `features`)."""
    return float(np.linalg.norm(features(first) - features(second)))


def people(split: Split, count: int, apart: float = APART) -> list[Identity]:
    """The first `count` people of a split, leaving out who is nearer than `apart` to somebody before.

    Raises:
        DHumanDiffError: no such split, or it holds fewer.
    """
    if split not in SPLITS:
        raise DHumanDiffError(
            f"There is no split {split!r} of drawn people; there are {', '.join(SPLITS)}.", code="unknown-split"
        )
    chosen: list[Identity] = []
    taken = np.empty((max(count, 0), len(features(sample_identity(0)))))
    for seed in SPLITS[split]:
        if len(chosen) >= count:
            return chosen
        identity = sample_identity(seed)
        vector = features(identity)
        if len(chosen) and ((taken[: len(chosen)] - vector) ** 2).sum(1).min() < apart**2:
            continue
        taken[len(chosen)] = vector
        chosen.append(identity)
    if len(chosen) < count:
        raise DHumanDiffError(
            f"The split {split!r} holds {len(chosen)} people who are {apart} apart, not {count}. Ask for fewer, or for "
            "people less far apart.",
            code="too-many-drawn-people",
        )
    return chosen
