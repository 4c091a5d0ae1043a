"""What a picture shows, as a sentence in PairHuman's manner: who stands where, in what, doing what, before which scene.

Faces are described only in what the base learns from (looks.py). Person 1 is who is named first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...prompts import Prompt, parse_prompt
from .body import Outfit
from .dice import Dice
from .identity import Identity
from .looks import Looks, describe
from .shape import Expression

__all__ = ["EXPRESSION_WORDS", "HEAD_WORDS", "SCENE_WORDS", "Script", "category", "looks_of", "write_caption"]

SCENE_WORDS: dict[str, tuple[str, ...]] = {
    "beach": ("on a beach", "at the beach", "on a sunny beach"),
    "forest": ("in a forest", "in the woods", "among trees in a forest"),
    "city": ("in a city", "on a city street", "before tall buildings in a city"),
    "snow": ("in the snow", "in a snowy landscape", "in snowy mountains"),
    "sunset": ("at sunset", "before a sunset", "at sunset by the sea"),
    "room": ("in a room", "in a living room", "at home in a room"),
    "field": ("in a green field", "in a field of flowers", "in a grassy field"),
    "night": ("at night", "under a night sky", "at night under the stars"),
}

_ACTION_WORDS = {
    "waving": ("waves", "is waving"),
    "holding flowers": ("holds flowers", "is holding flowers"),
    "holding a cup": ("holds a cup", "is holding a cup"),
    "arms crossed": ("has crossed arms", "stands with crossed arms"),
    "hand on hip": ("has a hand on the hip",),
    "arm around": ("has an arm around",),  # whom, is added
}

EXPRESSION_WORDS: dict[str, tuple[str, ...]] = {
    "smile": ("smiles", "is smiling"),
    "neutral": ("is serious", "looks serious"),
    "laugh": ("laughs", "is laughing"),
    "eyes closed": ("has closed eyes", "stands with closed eyes"),
}
"""Of `shape.EXPRESSIONS`."""

HEAD_WORDS: dict[str, tuple[str, ...]] = {
    "inward": ("turns to the other", "looks at the other"),
    "outward": ("turns away", "looks away"),
    "ahead": ("looks ahead", "faces the camera"),
}
"""Which way a head is turned, as seen from the middle of the picture."""


@dataclass(frozen=True)
class Script:
    """All that a sentence says of a picture. People, outfits and actions in the order of the sentence, person 1 first.

    expressions, heads: what it says of each face, of `EXPRESSION_WORDS` and `HEAD_WORDS`; "" says nothing of it, which is how
    the base that ships learned.
    """

    people: tuple[Identity, Identity]
    outfits: tuple[Outfit, Outfit]
    actions: tuple[str, str]
    scene: str
    first_is_left: bool
    both_smile: bool = False
    expressions: tuple[Expression | Literal[""], Expression | Literal[""]] = ("", "")
    heads: tuple[str, str] = ("", "")

    @property
    def tells_faces(self) -> bool:
        """Whether the sentence says something of an expression or of how a head is turned."""
        return any((*self.expressions, *self.heads))

    def side(self, person: int) -> str:
        """ "left" or "right", of person 0 or 1."""
        return "left" if (person == 0) == self.first_is_left else "right"


def category(script: Script) -> str:
    """PairHuman's kind of picture."""
    children = sum(who.age == "child" for who in script.people)
    if children:
        return "parent-child" if children == 1 else "siblings"
    if script.people[0].gender == script.people[1].gender:
        return "friends"
    return "wedding" if _is_wedding(script) else "couple"


def _is_wedding(script: Script) -> bool:
    worn = {
        who.gender: (outfit.garment, outfit.color) for who, outfit in zip(script.people, script.outfits, strict=True)
    }
    return worn.get("woman") == ("dress", "white") and worn.get("man", ("",))[0] == "suit"


def write_caption(script: Script, seed: int, looks: bool = False) -> tuple[str, Prompt]:
    """(the sentence with its marks @1 and @2, the sentence without and every mention of a person).

    looks: describe either person now and then, in fewer words about what they do: what the base learns from. Sentences for
    portraits never do, since who somebody is has to come from the reference.
    """
    dice = Dice("caption", seed)
    first, second = _nouns(script, dice)
    place = dice.pick(SCENE_WORDS[script.scene])
    sides = [f"on the {script.side(k)}" for k in (0, 1)]
    worn = [f"a {outfit.color} {outfit.garment}" for outfit in script.outfits]
    described = looks_of(script, seed) if looks else (Looks(), Looks())
    a, b = (
        " ".join(filter(None, (look.before, f"{noun[0]}@{k + 1}", look.after)))
        for k, (noun, look) in enumerate(zip((first, second), described, strict=True))
    )
    a = f"{_a(a)} {a}"
    b = f"another {b}" if first[0] == second[0] else f"{_a(b)} {b}"
    # Later on: "the man", or "the woman on the left" when both are women.
    later = [f"the {noun[1]}@{k + 1}" for k, noun in enumerate((first, second))]
    if first[1] == second[1]:
        later = [f"{name} {side}" for name, side in zip(later, sides, strict=True)]
    wears = f"{later[0]} wears {worn[0]}, {later[1]} {worn[1]}."
    sentences = dice.pick(
        (
            (f"{a} {sides[0]} in {worn[0]} and {b} {sides[1]} in {worn[1]} stand {place}.",),
            (f"{a} {sides[0]} and {b} {sides[1]} pose {place}.", wears),
            (f"{a} in {worn[0]} stands {sides[0]} beside {b} in {worn[1]} {sides[1]}, {place}.",),
            (f"{sides[0]} {a} wears {worn[0]}, {sides[1]} {b} wears {worn[1]}.", f"they are {place}."),
            (f"portrait {place}: {a} {sides[0]} wearing {worn[0]} and {b} {sides[1]} wearing {worn[1]}.",),
            (f"{a} {sides[0]} and {b} {sides[1]}, {place}.", wears),
        )
    )
    deeds = [_deed(script, k, later, dice) for k in (0, 1) if script.actions[k] in _ACTION_WORDS and dice.chance(0.8)]
    if len(deeds) == 2 and dice.chance(0.5):
        deeds = [f"{deeds[0]} and {deeds[1]}"]
    told = [bool(look.said) for look in described]
    if all(told) or (any(told) and dice.chance(0.5)):  # CLIP reads 77 tokens
        deeds = []
    if script.tells_faces:
        faces = filter(None, (_face(script, k, later[k], dice) for k in (0, 1)))
        deeds = [", ".join(faces)]  # instead of what they do, for the same reason
    sentences = [*sentences, *(f"{deed}." for deed in deeds)]
    if script.both_smile and dice.chance(0.5):
        sentences.append("both smile.")
    marked = " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)
    return marked, parse_prompt(marked, mentions="all")


def looks_of(script: Script, seed: int) -> tuple[Looks, Looks]:
    """How `write_caption` describes either person where it is to tell their looks: one sentence in five does not."""
    dice = Dice("looks", seed)
    told = dice.chance(0.8)
    first, second = (describe(who, dice) if told and dice.chance(0.9) else Looks() for who in script.people)
    return first, second


def _a(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def _nouns(script: Script, dice: Dice) -> list[tuple[str, str]]:
    """What each person is called first, and later."""
    children = [who.age == "child" for who in script.people]
    family = sum(children) == 1 and dice.chance(0.35)
    wedding = _is_wedding(script) and dice.chance(0.8)
    at_once = dice.chance(0.5)  # "a groom", or "a man" first and "the groom" later
    found = []
    for who, child in zip(script.people, children, strict=True):
        woman = who.gender == "woman"
        if child:
            noun = "girl" if woman else "boy"
        elif family:
            noun = "mother" if woman else "father"
        else:
            noun = dice.pick({"woman": 5, "lady": 1} if woman else {"man": 5, "gentleman": 1})
        later = ("bride" if woman else "groom") if wedding else noun
        found.append((later if at_once else noun, later))
    (first, _), (second, _) = found
    if script.people[0].gender == script.people[1].gender and first != second and not any(children):
        found[1] = found[0]  # "a woman and a lady" might be read as one person
    return found


def _deed(script: Script, person: int, later: list[str], dice: Dice) -> str:
    who, other = script.people[person], script.people[1 - person]
    action = script.actions[person]
    told_apart = who.gender != other.gender
    name = later[person]
    if told_apart and dice.chance(0.5):
        name = "she" if who.gender == "woman" else "he"
    words = dice.pick(_ACTION_WORDS[action])
    return f"{name} {words} {later[1 - person]}" if action == "arm around" else f"{name} {words}"


def _face(script: Script, person: int, name: str, dice: Dice) -> str:
    """What is said of a person's face; "" for nothing."""
    wanted = ((EXPRESSION_WORDS, script.expressions[person]), (HEAD_WORDS, script.heads[person]))
    said = [dice.pick(words[what]) for words, what in wanted if what]
    return f"{name} {' and '.join(said)}" if said else ""
