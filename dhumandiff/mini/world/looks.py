"""What a person looks like, in words: for sentences that the base learns from, as real ones describe people now and then."""

from __future__ import annotations

from .dice import Dice
from .identity import Identity

__all__ = ["GLASSES_WORDS", "HAIR_WORDS", "describe"]

HAIR_WORDS: dict[str, str] = {
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
"""Words for each hair style, with room for the colour."""

GLASSES_WORDS = {"round": "round {} glasses", "square": "square {} glasses"}
_BEARDS = {"stubble": "stubble", "full": "a full beard", "goatee": "a goatee", "moustache": "a moustache"}
_AGES = {"old": ("old", "elderly"), "young": ("young",), "middle": ("middle aged",)}
_SKINS = ("pale", "light", "tan", "brown", "dark")


def describe(who: Identity, dice: Dice, most: int = 3) -> tuple[str, str]:
    """Words that go before the noun ("old tan"), and after it ("with long grey hair and a moustache"); either may be "".

    Up to `most` traits after the noun.
    """
    before = [dice.pick(_AGES[who.age])] if who.age in _AGES and dice.chance(0.4) else []
    if dice.chance(0.5):
        before.append(_SKINS[min(int(who.skin * len(_SKINS)), len(_SKINS) - 1)])
    traits = [HAIR_WORDS[who.hair_style].format(who.hair_colour)]
    if who.glasses != "none":
        traits.append(GLASSES_WORDS[who.glasses].format(who.frame_colour))
    if who.beard != "none":
        traits.append(_BEARDS[who.beard])
    if who.headband != "none":
        traits.append(f"a {who.headband} headband")
    if who.freckles:
        traits.append("freckles")
    told = [trait for trait in traits if dice.chance(0.75)][:most]
    after = f"with {' and '.join((', '.join(told[:-1]), told[-1]) if len(told) > 1 else told)}" if told else ""
    return " ".join(before), after
