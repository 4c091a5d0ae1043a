"""What a person looks like, in words: for sentences that the base learns from, as real ones describe people now and then."""

from __future__ import annotations

from dataclasses import dataclass, field

from .dice import Dice
from .identity import BANDS, FRAMES, HAIR, Identity

__all__ = ["LOOKS", "Looks", "describe"]

_HAIR_WORDS: dict[str, str] = {
    "long": "long {} hair",
    "wavy": "wavy {} hair",
    "bob": "a {} bob",
    "ponytail": "a {} ponytail",
    "bun": "a {} bun",
    "curly": "{} curls",
    "braids": "{} braids",
    "bowl": "a {} bowl cut",
    "afro": "{} afro hair",
    "side part": "neat {} hair",
    "top knot": "a {} knot",
    "quiff": "a {} quiff",
    "buzz": "very short {} hair",
    "spiky": "spiky {} hair",
    "bald": "a bald head",
    "receding": "thin {} hair",
    "mohawk": "a {} mohawk",
}
"""Words for each hair style, with room for the color."""

_GLASSES_WORDS = {"round": "round {} glasses", "square": "square {} glasses"}
_BEARDS = {"stubble": "stubble", "full": "a full beard", "goatee": "a goatee", "moustache": "a moustache"}
_AGES = {"old": ("old", "elderly"), "young": ("young",), "middle": ("middle aged",)}
_SKINS = ("pale", "light", "tan", "brown", "dark")

LOOKS: dict[str, tuple[str, ...]] = {
    "age": tuple(_AGES),
    "skin": _SKINS,
    "style": tuple(_HAIR_WORDS),
    "hair": tuple(HAIR),
    "glasses": tuple(_GLASSES_WORDS),
    "frame": tuple(FRAMES),
    "beard": tuple(_BEARDS),
    "headband": tuple(BANDS),
}
"""What a sentence may say of somebody's looks, and all that it may say."""


@dataclass(frozen=True)
class Looks:
    """Words that go before the noun ("old tan"), and after it ("with long gray hair and a moustache"); either may be "".

    said: what they say, by the names of `LOOKS`.
    """

    before: str = ""
    after: str = ""
    said: dict[str, str] = field(default_factory=dict)


def describe(who: Identity, dice: Dice, most: int = 3) -> Looks:
    """A person in words; now one trait is named, now another, and up to `most` after the noun."""
    said, before = {}, []
    if who.age in _AGES and dice.chance(0.5):
        said["age"] = who.age
        before.append(dice.pick(_AGES[who.age]))
    if dice.chance(0.7):
        said["skin"] = _SKINS[min(int(who.skin * len(_SKINS)), len(_SKINS) - 1)]
        before.append(said["skin"])
    hair = {"style": who.hair_style} | ({} if who.hair_style == "bald" else {"hair": who.hair_color})
    traits = [(_HAIR_WORDS[who.hair_style].format(who.hair_color), hair)]
    if who.glasses != "none":
        glasses = {"glasses": who.glasses, "frame": who.frame_color}
        traits.append((_GLASSES_WORDS[who.glasses].format(who.frame_color), glasses))
    if who.beard != "none":
        traits.append((_BEARDS[who.beard], {"beard": who.beard}))
    if who.headband != "none":
        traits.append((f"a {who.headband} headband", {"headband": who.headband}))
    if who.freckles:
        traits.append(("freckles", {}))
    told = [trait for trait in traits if dice.chance(0.8)][:most]
    words = [word for word, _ in told]
    for _, says in told:
        said |= says
    after = f"with {' and '.join((', '.join(words[:-1]), words[-1]) if len(words) > 1 else words)}" if words else ""
    return Looks(" ".join(before), after, said)
