"""What a sentence says of people by which their faces can be told apart: sides and colors of clothes, never likeness.

    sides_of(prompt, 2)              # ("left", "right"); of four people also "left of middle", "right of middle"
    garment_colors_of(prompt, 2)     # ("black", "white")

Everything here is this project's choice.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from ..prompts import Mention, Prompt
from ..prompts.person_nouns import noun_of
from ..prompts.typed import fold
from .east_asian_sides import read_east_asian_sides

__all__ = [
    "GARMENT_COLORS",
    "garment_color",
    "garment_colors_of",
    "mentions_colors",
    "mentions_sides",
    "parts_of",
    "sides_of",
]

_OF_PICTURE = r"of (?:the |this |a )?(?:picture|image|photo\w*|frame|portrait|shot|scene|composition)"
_SIDE = re.compile(
    rf"""(?:(?:(?:on|to)\ the\ )?(?P<near>left|right)\ of\ (?:the\ )?(?:middle|cent(?:er|re))(?!\w)
      | (?:on|at|in)\ (?:the\ )?(?:middle|cent(?:er|re))[ -](?P<inner>left|right)(?!\w)
      | (?P<ordinal>first|second|third|fourth|1st|2nd|3rd|4th)(?:\ (?:person|one|face))?\ from\ (?:the\ )?(?P<end>left|right)(?!\w)
      | (?:on|at|to|in)\ (?:the\ )?(?P<far>far\ |very\ )?(?P<side>left|right|middle|cent(?:er|re))
        (?:-?\ ?hand)?(?:\ (?:side|half|part|edge))?(?![\w-]|\ (?:hand|arm|leg|foot|shoulder|ear|eye|cheek|knee)\b)
        (?:\ {_OF_PICTURE})?
      | (?P<most>left|right)-?most
      | \((?:on\ the\ )?(?P<bracket>left|right)\)
      | (?<![\w])(?P<label>left|right):)""",
    re.VERBOSE | re.IGNORECASE,
)
_ORDINALS = {"first": 0, "1st": 0, "second": 1, "2nd": 1, "third": 2, "3rd": 2, "fourth": 3, "4th": 3}
_ACROSS = re.compile(
    r"\b(?:from )?(?P<first>left)(?: to |-to-)right\b|\b(?:from )?right(?: to |-to-)left\b", re.IGNORECASE
)
_PART = r"hand(?!\W*side)|arm|leg|foot|feet|shoulder|elbow|wrist|knee|eye|ear|cheek|palm|thumb|finger|index|fist|hip|handed|angle"
# A side in any wording, or what looks like one: not "his left hand", "right behind", "has left the house".
_ANY_SIDE = re.compile(
    rf"""\bleft(?!\w|\ (?:{_PART})s?\b|-handed)(?:(?<=the\ left)|(?!\ (?:behind|over|alone|open|the|his|her|their|an?)\b))
      | \bleft-?(?:most|wards?)\b | \bto\ left\b
      | (?<!all\ )(?<!just\ )\bright(?!\w|-handed|\ (?:(?:{_PART})s?|now|away|here|there|behind|next|beside|before|after|at|above|below
          |under|over|in\ front|up|down)\b)
      | \bright-?(?:most|wards?)\b
      | [左右](?![左右手脚腿臂眼耳肩]) | 왼쪽 | 오른쪽""",
    re.VERBOSE | re.IGNORECASE,
)
_GAZE = re.compile(
    r"\b(?:look|gaz|glanc|star|turn|fac|point|lean|tilt|walk|mov|head|gestur|wav)(?:e|es|s|ing|ed)?(?: \w+){0,2} $",
    re.I,
)
_CLAUSE = re.compile(r"[,;:]|\b(?:and|while|but)\b", re.IGNORECASE)
_THING = re.compile(r"\s*(?:there (?:is|are) )?(?:an?|the|some|his|her|their|two|three|several)\b", re.IGNORECASE)
_GARMENT_WORDS = """suit tuxedo jacket blazer coat shirt t-shirt tee top blouse sweater jumper pullover hoodie cardigan vest
dress gown robe kimono hanfu qipao cheongsam sari uniform outfit costume attire clothes clothing"""
_LOOKS = re.compile(  # what somebody wears or has, by the last word of "with glasses and a beard"
    rf"(?:{'|'.join(_GARMENT_WORDS.split())}|beard|mou?stache|stubble|goatee|glasses|hair|bob|bun|braids?|curls|ponytail|fringe"
    r"|freckles|mole|head|face|eyes|smile|hat|cap|beret|headband|veil|crown|tiara|tie|scarf|earrings?|necklace|gloves|belt|trousers"
    r"|pants|jeans|skirt|shoes|boots)\s*$",
    re.IGNORECASE,
)
_OF_PERSON = re.compile(  # "of the young", before who is meant; not "of the bench a"
    r" (?:of|from) (?:(?:the|an?|another|his|her|their) )?(?:(?!(?:the|an?|another|his|her|their)\b)[\w'’-]+ ){0,3}",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"[.!?;\n]+")
_FULL_STOP = re.compile(r"[.!?]+")  # a list of people may have semicolons, or lines
_FRONT = re.compile(r"(?:^|[,:;.!?\n]|\b(?:and|while|with|where|but))\s*(?:the\s+)?$", re.IGNORECASE)

MOST_LETTERS, MOST_SIDES = 10_000, 100
"""Of a text that is read: finding whose side is whose takes time that grows with the square of its length."""

GARMENT_COLORS: dict[str, tuple[int, int, int]] = {
    "black": (25, 25, 28),
    "white": (242, 242, 240),
    "grey": (135, 137, 140),
    "red": (200, 35, 45),
    "orange": (238, 125, 35),
    "yellow": (246, 210, 60),
    "green": (50, 140, 70),
    "blue": (45, 85, 175),
    "purple": (120, 60, 155),
    "pink": (238, 140, 175),
    "brown": (115, 75, 48),
    "beige": (215, 195, 160),
}
"""Clothes' colors in plain light, sRGB."""
_SAME = {
    "gray": "grey",
    "silver": "grey",
    "navy": "blue",
    "violet": "purple",
    "cream": "beige",
    "ivory": "white",
    "gold": "yellow",
}
_WORN = re.compile(
    rf"\b(?P<color>{'|'.join((*GARMENT_COLORS, *_SAME))})(?:[ -][\w-]+){{0,2}}?[ -](?:{'|'.join(_GARMENT_WORDS.split())})\b",
    re.IGNORECASE,
)


_PARTS = {
    2: ("left", "right"),
    3: ("left", "middle", "right"),
    4: ("left", "left of middle", "right of middle", "right"),
}


def parts_of(persons: int) -> tuple[str, ...]:
    """The places of so many people from left to right, in the words of `sides_of`; () where there are no words for them."""
    return _PARTS.get(persons, ())


def sides_of(prompt: Prompt, persons: int) -> tuple[str, ...] | None:
    """The place of each person, one of `parts_of`, as the viewer sees it, or None where the sentence does not say so.

    Of two people, one side is enough. Of four, "on the left" is the place beside somebody on the far left. What contradicts itself
    says nothing.
    """
    if not _is_readable(prompt.text):
        return None
    prompt = replace(prompt, text=fold(prompt.text))
    said: list[set[str]] = [set() for _ in range(persons)]
    _read_across(prompt, said)
    people = [mention for mention in prompt.mentions if mention.person <= persons]
    if not read_east_asian_sides(prompt.text, people, said):
        return None
    for start, end in _sentences(prompt.text):
        mentions = [
            mention for mention in prompt.mentions if start <= mention.start < end and mention.person <= persons
        ]
        sides = [one for one in _SIDE.finditer(prompt.text, start, end) if not _across(prompt.text, one)]
        placed: set[int] = set()
        for number, found in enumerate(sides):
            side = _side(found, persons)
            until = sides[number + 1].start() if number + 1 < len(sides) else end
            who, other = _persons_at(prompt.text, found, mentions, start, until, placed)
            if who is not None:
                said[who - 1].add(side)
                placed.add(who)
            if other is not None and other != who:
                said[other - 1].add(_OPPOSITE.get(side, side))
    if any(len(each) > 1 for each in said):
        return None
    known = [next(iter(each), "") for each in said]
    if persons == 2 and known.count("") == 1:
        other = _OPPOSITE.get(known[0] or known[1])
        known = [side or other or "" for side in known]
    if persons == 4:
        known = [_among_four(side, known) for side in known]
    if "" in known or _NOWHERE in known or len(set(known)) < persons:
        return None
    return tuple(known)


_NOWHERE = "nowhere"
_OPPOSITE = {"left": "right", "right": "left"}
_FOUR = {
    "far left": "left",
    "left of middle": "left of middle",
    "right of middle": "right of middle",
    "far right": "right",
}


def _side(found: re.Match, persons: int) -> str:
    """What a phrase says of a place. Of four people, who is "far left" is told from who is "left"; of fewer, both are "left"."""
    if found["ordinal"]:
        places, place = parts_of(persons), _ORDINALS[found["ordinal"].lower()]
        if place >= len(places):
            return _NOWHERE
        side = places[::-1][place] if found["end"].lower() == "right" else places[place]
        return f"far {side}" if persons == 4 and side in _OPPOSITE else side
    if inner := found["near"] or found["inner"]:
        return f"{inner.lower()} of middle" if persons == 4 else inner.lower()
    side = (found["side"] or found["most"] or found["label"] or found["bracket"]).lower()
    side = side.replace("center", "middle").replace("centre", "middle")
    return f"far {side}" if persons == 4 and (found["far"] or found["most"]) and side in _OPPOSITE else side


def _among_four(side: str, known: Sequence[str]) -> str:
    """One of four places; "" where "left" or "right" may be either of two."""
    if side in _OPPOSITE:
        outer, inner = f"far {side}" in known, f"{side} of middle" in known
        return f"{side} of middle" if outer and not inner else side if inner and not outer else ""
    return _FOUR.get(side, "")


def _is_readable(text: str) -> bool:
    """Whether a text is short enough to be read for sides and clothes: nothing that a picture shows takes more words."""
    return len(text) <= MOST_LETTERS and sum(1 for _ in islice(_SIDE.finditer(text), MOST_SIDES + 1)) <= MOST_SIDES


def mentions_sides(text: str) -> bool:
    """Whether a text speaks of left or right in whatever words, so that who is where is not left open by it.

    Where `sides_of` cannot read them, it is safer to take nobody for anybody.
    """
    return _ANY_SIDE.search(fold(text)) is not None


def mentions_colors(prompt: Prompt, persons: int) -> bool:
    """Whether a sentence gives somebody clothes of a color that it does not give everybody."""
    worn = [{*each} for each in _worn(prompt, persons)]
    return any(each != worn[0] for each in worn)


def _across(text: str, found: re.Match) -> bool:
    """Whether a side is half of "from left to right"."""
    return any(one.start() <= found.start() < one.end() for one in _ACROSS.finditer(text))


def _read_across(prompt: Prompt, said: list[set[str]]) -> None:
    """ "From left to right: a man and a woman" gives people sides in the order in which they are named.

    Of more than two, all of them have to be named in that very sentence, and all before the phrase or all after it: whoever comes in
    the next one, or sits in front of those who are listed, may be anywhere.
    """
    found = list(_ACROSS.finditer(prompt.text))
    first = [mention for mention in prompt.first_mentions().mentions if mention.person <= len(said)]
    places = parts_of(len(said))
    if not found or not places or len(first) != len(said):
        return
    if len(said) > 2:
        ends = [end.start() for end in _FULL_STOP.finditer(prompt.text)]
        spots = [*(mention.start for mention in first), *(phrase.start() for phrase in found)]
        phrases = [phrase.start() for phrase in found]
        around = {bisect(phrases, mention.start) for mention in first}
        if len({bisect(ends, spot) for spot in spots}) > 1 or len(around) > 1:
            return
    if len(said) == 4:
        places = tuple(f"far {place}" if place in _OPPOSITE else place for place in places)
    for forward in {one["first"] is not None for one in found}:
        for mention, place in zip(first, places if forward else places[::-1], strict=True):
            said[mention.person - 1].add(place)


def _persons_at(
    text: str, found: re.Match, mentions: Sequence[Mention], start: int, until: int, placed: set[int]
) -> tuple[int | None, int | None]:
    """Who stands on the side that a phrase names, and who is on the other ("to the left of the woman").

    `placed`: who has a side in this sentence already.
    """
    before = [mention for mention in mentions if mention.end <= found.start()]
    after = [mention for mention in mentions if found.end() <= mention.start < until]
    last = before[-1] if before else None
    if _GAZE.search(text[start : found.start()]):  # where somebody looks is not where somebody is
        return None, None
    if after and _OF_PERSON.fullmatch(text, found.end(), after[0].start):
        return (last.person if last else None), after[0].person
    if found["most"]:  # "the leftmost woman"
        return (after[0].person if after else None), None
    lead = text[start : found.start()]
    front = found["label"] or _FRONT.search(lead)
    following = re.match(r" ([\w'’-]+)", text[found.end() :])
    if following and noun_of(following[1].split("'")[0].split("’")[0]) and not front:  # "at the left-hand man's elbow"
        return None, None
    apposition = (
        last is not None and last.person not in placed and not text[last.end : found.start()].strip(" ,")
    )  # "a man, on the left, and ..."
    if after and not apposition and front:
        parts = _CLAUSE.split(text[found.end() : after[0].start].lstrip(" ,:"))
        thing = _THING.match(parts[0]) and any(
            _THING.match(part) for part in parts[1:]
        )  # "on the left a lamp, a man ..."
        return (None if thing else after[0].person), None
    if last is None or re.match(r"['’]s\b", text[last.end :]):  # "a man's dog on the left"
        return None, None
    parts = _CLAUSE.split(text[last.end : found.start()])
    thing = (
        len(parts) > 1 and _THING.match(parts[-1]) and not _LOOKS.search(parts[-1])
    )  # "a man and a woman, a lamp on the left"
    return (None if thing else last.person), None


def garment_colors_of(prompt: Prompt, persons: int) -> tuple[str, ...] | None:
    """The color that each person wears, one of `GARMENT_COLORS`, each another; None where the sentence does not say so.

    Whose clothes: of the person last named before them in the sentence, else of the first named after.
    """
    worn = [each[0] if each else "" for each in _worn(prompt, persons)]
    if "" in worn or len(set(worn)) < persons:
        return None
    return tuple(worn)


def _worn(prompt: Prompt, persons: int) -> list[list[str]]:
    """The colors of each person's clothes, in the order of the sentence."""
    said: list[list[str]] = [[] for _ in range(persons)]
    if not _is_readable(prompt.text):
        return said
    prompt = replace(prompt, text=fold(prompt.text))
    for start, end in _sentences(prompt.text):
        mentions = [
            mention for mention in prompt.mentions if start <= mention.start < end and mention.person <= persons
        ]
        for found in _WORN.finditer(prompt.text, start, end):
            before = [mention for mention in mentions if mention.end <= found.start()]
            near = before[-1:] or mentions[:1]
            if near:
                said[near[0].person - 1].append(garment_color(found[0]) or "")
    return said


def garment_color(words: str) -> str | None:
    """The color of the first garment that a few words name, one of `GARMENT_COLORS`: "a red wool coat, jeans" -> "red"."""
    found = _WORN.search(fold(words))
    if found is None:
        return None
    color = found["color"].lower()
    return _SAME.get(color, color)


def _sentences(text: str) -> list[tuple[int, int]]:
    ends = [*(found.end() for found in _SENTENCE.finditer(text)), len(text)]
    return [(start, end) for start, end in zip([0, *ends], ends, strict=False) if start < end]
