"""What a sentence says of people by which their faces can be told apart: sides and colors of clothes, never likeness.

    sides_of(prompt, 2)              # ("left", "right")
    garment_colors_of(prompt, 2)     # ("black", "white")

Everything here is this project's choice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..prompts import Mention, Prompt

__all__ = ["GARMENT_COLORS", "garment_color", "garment_colors_of", "sides_of"]

_OF_PICTURE = r"of (?:the |this |a )?(?:picture|image|photo\w*|frame|portrait|shot|scene|composition)"
_SIDE = re.compile(
    rf"""(?:(?:on|at|to|in)\ (?:the\ )?(?:far\ |very\ )?(?P<side>left|right|middle|cent(?:er|re))
        (?:-?\ ?hand)?(?:\ (?:side|half|part|edge))?(?![\w-]|\ (?:hand|arm|leg|foot|shoulder|ear|eye|cheek|knee)\b)
        (?:\ {_OF_PICTURE})?
      | (?P<most>left|right)-?most
      | (?<![\w])(?P<label>left|right):)""",
    re.VERBOSE | re.IGNORECASE,
)
_OF_PERSON = re.compile(r"\ of\b|\ from\b", re.IGNORECASE)
_SENTENCE = re.compile(r"[.!?;\n]+")
_FRONT = re.compile(r"(?:^|[,:;.!?\n]|\b(?:and|while|with|where|but))\s*(?:the\s+)?$", re.IGNORECASE)

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
_GARMENT_WORDS = """suit tuxedo jacket blazer coat shirt t-shirt tee top blouse sweater jumper pullover hoodie cardigan vest
dress gown robe kimono hanfu qipao cheongsam sari uniform outfit costume attire clothes clothing"""
_WORN = re.compile(
    rf"\b(?P<color>{'|'.join((*GARMENT_COLORS, *_SAME))})(?:[ -][\w-]+){{0,2}}?[ -](?:{'|'.join(_GARMENT_WORDS.split())})\b",
    re.IGNORECASE,
)


def sides_of(prompt: Prompt, persons: int) -> tuple[str, ...] | None:
    """For each person "left", "middle" or "right", as the viewer sees it, or None where the sentence does not say so.

    Of two people, one side is enough. What contradicts itself says nothing.
    """
    said: list[set[str]] = [set() for _ in range(persons)]
    for start, end in _sentences(prompt.text):
        mentions = [
            mention for mention in prompt.mentions if start <= mention.start < end and mention.person <= persons
        ]
        sides = list(_SIDE.finditer(prompt.text, start, end))
        for number, found in enumerate(sides):
            side = (
                (found["side"] or found["most"] or found["label"])
                .lower()
                .replace("center", "middle")
                .replace("centre", "middle")
            )
            until = sides[number + 1].start() if number + 1 < len(sides) else end
            who, other = _persons_at(prompt.text, found, mentions, start, until)
            if who is not None:
                said[who - 1].add(side)
            if other is not None and other != who:
                said[other - 1].add({"left": "right", "right": "left"}.get(side, side))
    if any(len(each) > 1 for each in said):
        return None
    known = [next(iter(each), "") for each in said]
    if persons == 2 and known.count("") == 1:
        other = {"left": "right", "right": "left"}.get(known[0] or known[1])
        known = [side or other or "" for side in known]
    if "" in known or len(set(known)) < persons:
        return None
    return tuple(known)


def _persons_at(
    text: str, found: re.Match, mentions: Sequence[Mention], start: int, until: int
) -> tuple[int | None, int | None]:
    """Who stands on the side that a phrase names, and who is on the other ("to the left of the woman")."""
    before = [mention for mention in mentions if mention.end <= found.start()]
    after = [mention for mention in mentions if found.end() <= mention.start < until]
    last = before[-1] if before else None
    if after and _OF_PERSON.match(text, found.end()) and len(text[found.end() : after[0].start].split()) <= 4:
        return (last.person if last else None), after[0].person
    if found["most"]:  # "the leftmost woman"
        return (after[0].person if after else None), None
    lead = text[start : found.start()]
    apposition = last is not None and not text[last.end : found.start()].strip(" ,")  # "a man, on the left, and ..."
    if after and not apposition and (found["label"] or _FRONT.search(lead)):
        return after[0].person, None
    return (last.person if last else None), None


def garment_colors_of(prompt: Prompt, persons: int) -> tuple[str, ...] | None:
    """The color that each person wears, one of `GARMENT_COLORS`, each another; None where the sentence does not say so.

    Whose clothes: of the person last named before them in the sentence, else of the first named after.
    """
    said: list[list[str]] = [[] for _ in range(persons)]
    for start, end in _sentences(prompt.text):
        mentions = [
            mention for mention in prompt.mentions if start <= mention.start < end and mention.person <= persons
        ]
        for found in _WORN.finditer(prompt.text, start, end):
            before = [mention for mention in mentions if mention.end <= found.start()]
            near = before[-1:] or mentions[:1]
            if near:
                said[near[0].person - 1].append(garment_color(found[0]) or "")
    worn = [each[0] if each else "" for each in said]
    if "" in worn or len(set(worn)) < persons:
        return None
    return tuple(worn)


def garment_color(words: str) -> str | None:
    """The color of the first garment that a few words name, one of `GARMENT_COLORS`: "a red wool coat, jeans" -> "red"."""
    found = _WORN.search(words)
    if found is None:
        return None
    color = found["color"].lower()
    return _SAME.get(color, color)


def _sentences(text: str) -> list[tuple[int, int]]:
    ends = [*(found.end() for found in _SENTENCE.finditer(text)), len(text)]
    return [(start, end) for start, end in zip([0, *ends], ends, strict=False) if start < end]
