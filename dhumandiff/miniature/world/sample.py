"""A sample: a picture of two people with everything a training set says about it, from one integer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...errors import DHumanDiffError
from ...prompts import parse_prompt
from .body import ACTIONS, COLORS, GARMENTS, Outfit
from .caption import HEAD_WORDS, Script, category, write_caption
from .dice import Dice
from .identity import Identity, sample_identity
from .picture import (
    REFERENCE_SIZE,
    SIZE,
    Drawn,
    Figure,
    Portrait,
    draw_figures,
    draw_reference,
    sample_light,
    sample_pose,
)
from .scene import SCENES
from .shape import EXPRESSIONS, Pose

__all__ = [
    "Sample",
    "draw_script",
    "head_of",
    "sample_couple",
    "sample_pair",
    "sample_script",
    "sample_strangers",
    "say_faces",
    "tell_faces",
]

TURNED, AHEAD = (0.5, 0.9), 0.15
"""How far a head is turned that is said to be turned, and at most where it is said to look ahead (`Pose.yaw`)."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture of two people. Whatever comes twice is in the order of the sentence: person 1 is named first.

    `picture` [H, W, 3] uint8 RGB; `caption_marked` has @1 and @2 behind every word that names a person, `caption` has
    not; `annotation` is PairHuman's JSON (docs/method.md#pairhumans-annotation), with what only this world knows under "dhumandiff";
    `references` are fresh drawings of each person alone.
    """

    seed: int
    script: Script
    picture: np.ndarray
    people: tuple[Portrait, Portrait]
    caption: str
    caption_marked: str
    annotation: dict[str, Any]
    references: tuple[tuple[Drawn, ...], tuple[Drawn, ...]]


def sample_couple(seed: int, pool: Sequence[Identity]) -> tuple[Identity, Identity]:
    """Two different people out of many, by the seed."""
    if len(pool) < 2:
        raise DHumanDiffError(
            f"Two people cannot be drawn out of {len(pool)}. Give a pool of at least 2.", code="pool-too-small"
        )
    dice = Dice("couple", seed)
    first = dice.number(len(pool))
    return pool[first], pool[(first + 1 + dice.number(len(pool) - 1)) % len(pool)]


def sample_strangers(seed: int) -> tuple[Identity, Identity]:
    """Two people of the training split whom the seed names."""
    first = Dice("strangers", seed).number(50_000)
    return sample_identity(2 * first), sample_identity(2 * first + 1)


def sample_script(seed: int, people: tuple[Identity, Identity]) -> Script:
    """What the seed's picture of two people shows: two outfits of different colors, actions, the scene, who is left."""
    first, second = people
    if first == second:
        raise DHumanDiffError(f"A picture of two people needs two, not {first.name} twice.", code="same-person-twice")
    dice = Dice("script", seed)
    colors = tuple(COLORS)
    one = dice.number(len(colors))
    two = (one + 1 + dice.number(len(colors) - 1)) % len(colors)
    worn = [Outfit(dice.pick(GARMENTS[who.gender]), colors[c]) for who, c in zip(people, (one, two), strict=True)]
    adults = all(who.age != "child" for who in people)
    if adults and first.gender != second.gender and dice.chance(0.15):
        groom = Outfit("suit", dice.pick([c for c in colors if c != "white"]))
        worn = [Outfit("dress", "white") if who.gender == "woman" else groom for who in people]
    actions = [dice.pick({name: 3 if name == "arms down" else 1 for name in ACTIONS}) for _ in people]
    if actions[0] == actions[1] == "arm around":
        actions[1] = "arms down"
    return Script(
        people=(first, second),
        outfits=(worn[0], worn[1]),
        actions=(actions[0], actions[1]),
        scene=dice.pick(SCENES),
        first_is_left=dice.chance(0.5),
        both_smile=dice.chance(0.3),
    )


def tell_faces(script: Script, seed: int, unlike: Sequence[Pose] = ()) -> Script:
    """The script with an expression and a turn of the head for either person, all alike often.

    unlike: poses, one a person, whose expression and turn are not chosen: those of the reference photos, say.
    """
    dice = Dice("told faces", seed)
    chosen = []
    for person in (0, 1):
        before = unlike[person] if unlike else None
        expressions = [name for name in EXPRESSIONS if before is None or name != before.expression]
        heads = [name for name in HEAD_WORDS if before is None or name != head_of(before, script.side(person))]
        chosen.append((dice.pick(expressions), dice.pick(heads)))
    (one, first), (two, second) = chosen
    return replace(script, expressions=(one, two), heads=(first, second), both_smile=False)


def head_of(pose: Pose, side: str) -> str:
    """What `HEAD_WORDS` calls a pose of the person on this side; the bounds lie halfway between those that are drawn."""
    inward = pose.yaw if side == "left" else -pose.yaw
    bound = (TURNED[0] + AHEAD) / 2
    return "inward" if inward > bound else "outward" if inward < -bound else "ahead"


def draw_script(script: Script, seed: int, size: tuple[int, int] = SIZE) -> Drawn:
    """Draw what a script says. The seed moves what no sentence says: poses, places, light, the parts of the scene.

    People come from left to right, as in every `Drawn`. The same script with other seeds gives fresh pictures of the
    same two people in the same clothes.
    """
    dice = Dice("variation", seed)
    figures = _figures(script, seed, dice)
    return draw_figures(figures, script.scene, dice.number(1_000_000), sample_light(dice), size, dice.number(2))


def say_faces(script: Script, seed: int) -> Script:
    """The script that says of either face what the seed's picture of it shows anyway: the picture stays the same."""
    figures = _figures(script, seed, Dice("variation", seed))
    one, two = (figure.pose for figure in (figures if script.first_is_left else reversed(figures)))
    return replace(
        script,
        expressions=(one.expression, two.expression),
        heads=(head_of(one, script.side(0)), head_of(two, script.side(1))),
        both_smile=False,
    )


def _figures(script: Script, seed: int, dice: Dice) -> list[Figure]:
    """Who stands where and how, from left to right."""
    figures = []
    for k in (0, 1) if script.first_is_left else (1, 0):
        who = script.people[k]
        pose = sample_pose(dice, 0.75)
        if script.both_smile and pose.expression not in ("smile", "laugh"):
            pose = replace(pose, expression="smile")
        pose = _as_told(script, k, pose, seed)
        lower = 0.25 if who.age == "child" else 0.0
        place = dice.near(0, 0.14), lower + dice.near(0, 0.14), dice.between(0.95, 1.05)
        figures.append(Figure(who, script.outfits[k], script.actions[k], pose, *place))
    return figures


def _as_told(script: Script, person: int, pose: Pose, seed: int) -> Pose:
    """The pose with what the script says of it; it has dice of its own, so that nothing else of the picture moves."""
    expression, head = script.expressions[person], script.heads[person]
    if expression:
        pose = replace(pose, expression=expression)
    if head:
        dice = Dice("head", seed, person)
        turned = dice.between(*TURNED) * (1 if head == "inward" else -1) * (1 if script.side(person) == "left" else -1)
        pose = replace(pose, yaw=dice.near(0, AHEAD) if head == "ahead" else turned)
    return pose


def sample_pair(
    seed: int,
    people: tuple[Identity, Identity] | None = None,
    references: int = 2,
    size: tuple[int, int] = SIZE,
    reference_size: int = REFERENCE_SIZE,
    script: Script | None = None,
) -> Sample:
    """The sample of a seed.

    Args:
        seed: decides everything that is not given.
        people: person 1 and person 2; without them two people of the training split that the seed names.
        references: how many fresh drawings of each person.
        size: width and height of the picture, px; reference_size: side of a reference, px.
        script: what the picture shows, with its own people.
    """
    if script is None:
        script = sample_script(seed, people or sample_strangers(seed))
    drawn = draw_script(script, seed, size)
    left, right = drawn.people
    portraits = (left, right) if script.first_is_left else (right, left)
    marked, prompt = write_caption(script, seed)
    photos = [
        tuple(draw_reference(who, Dice("photo", seed, k).number(2**31), reference_size) for k in range(references))
        for who in script.people
    ]
    return Sample(
        seed=seed,
        script=script,
        picture=drawn.picture,
        people=portraits,
        caption=prompt.text,
        caption_marked=marked,
        annotation=_annotation(script, seed, drawn.picture.shape[:2], portraits, marked),
        references=(photos[0], photos[1]),
    )


def _annotation(
    script: Script, seed: int, size: tuple[int, int], portraits: tuple[Portrait, Portrait], marked: str
) -> dict[str, Any]:
    matches: list[dict[str, Any]] = []
    for number, sentence in enumerate(re.split(r"(?<=\.) ", marked), 1):
        if "@" in sentence:
            prompt = parse_prompt(sentence, mentions="all")
            named = [
                {"words": mention.word, "start_idx": mention.start, "end_idx": mention.end, "object_id": mention.person}
                for mention in prompt.mentions
            ]
        else:
            prompt, named = None, []
        matches.append({"sentence_ID": number, "sentence": prompt.text if prompt else sentence, "person_info": named})
    held = {"holding flowers": ("flowers", "a small bunch of flowers"), "holding a cup": ("cup", "a paper cup")}
    objects = [
        {"object_id": k, "count": 1, "appearance": held[action][1], "interaction": f"held by person {k}"}
        for k, action in enumerate(script.actions, 1)
        if action in held
    ]
    return {
        "Information": {
            "height": size[0],
            "width": size[1],
            "Image category": category(script),
            "Photo Settings": "Half body",
        },
        "image_caption": {"text": " ".join(match["sentence"] for match in matches), "match_info": matches},
        "people": [_person(script, k, portraits[k]) for k in (0, 1)],
        "objects": objects,
        "dhumandiff": {
            "seed": seed,
            "scene": script.scene,
            "caption_marked": marked,
            "people": [
                {
                    "object_id": k + 1,
                    "identity": script.people[k].name,
                    "side": script.side(k),
                    "garment": script.outfits[k].garment,
                    "colour": script.outfits[k].color,
                    "face_box": _rounded(portraits[k].face_box),
                    "landmarks": _rounded(portraits[k].landmarks),
                }
                for k in (0, 1)
            ],
        },
    }


_AGES = {"child": "child", "young": "young adult", "middle": "middle-aged", "old": "old"}


def _person(script: Script, k: int, portrait: Portrait) -> dict[str, Any]:
    who, outfit = script.people[k], script.outfits[k]
    worn = []
    if who.glasses != "none":
        worn.append(f"{who.glasses} {who.frame_color} glasses")
    if who.earrings != "none":
        worn.append(f"{who.earrings} earrings")
    if who.headband != "none":
        worn.append(f"a {who.headband} headband")
    traits = [f"{who.eye_color} eyes"]
    if who.beard != "none":
        traits.append({"full": "full beard"}.get(who.beard, who.beard))
    traits += ["freckles"] * who.freckles + ["a mole"] * who.mole
    tone = ("very light", "light", "medium", "brown", "dark")[min(int(who.skin * 5), 4)]
    return {
        "object_id": k + 1,
        "gender": "female" if who.gender == "woman" else "male",
        "age_group": _AGES[who.age],
        "unique_coordinate": list(portrait.box),
        "facial_traits": ", ".join(traits),
        "hair_detail": "bald" if who.hair_style == "bald" else f"{who.hair_color}, {who.hair_style}",
        "skin_tone": tone,
        "action": script.actions[k],
        "expression": script.expressions[k] or ("smiling" if script.both_smile else ""),
        "details_of_clothes_and_shoes": f"a {outfit.color} {outfit.garment}",
        "accessories": ", ".join(worn),
        "keypoints": _rounded(portrait.keypoints),
        "identity": who.name,
        "face_box": _rounded(portrait.face_box),
    }


def _rounded(values: np.ndarray) -> list:
    return np.round(values.astype(float), 2).tolist()
