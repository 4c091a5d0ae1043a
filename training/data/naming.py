"""Which words of the caption mean which of the two people in the picture.

In this order, each where it is certain (this project's choice throughout; PairHuman does not say in public how its
match_info is tied to its people):

1. the annotation names the person (object_id) beside the words;
2. the noun says it: of a man and a woman, "the groom" is the man; of a mother and a child, "the girl" is the child;
3. the same noun meant one of them before;
4. two undecided entries of a sentence are the people that its sides or clothes say, else the people in the order of their
   object_id, if nobody was named before.

Without usable match_info the library's prompt rules find the words (marks such as man@1 too), and nouns decide who is who;
then sides ("on the left") and colors of clothes, read as scores read them. People whom the caption does not tell apart at
all are named from left to right, as people read a picture: @1 is the one on the left.

Sides that contradict what the annotation or the nouns say, or that cannot be read, set a picture aside.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dhumandiff.errors import PromptError
from dhumandiff.evaluation.sentence_cues import garment_colors_of, mentions_colors, mentions_sides, sides_of
from dhumandiff.prompts import Mention, Prompt, parse_prompt
from dhumandiff.prompts.person_nouns import Noun, noun_of  # one list of person nouns for prompts and captions

from .annotation import CaptionWord

__all__ = ["Naming", "PersonAttributes", "default_caption", "name_people"]

Spans = list[list[tuple[int, int]]]
"""Where each of the two is named in the caption."""

ByClothes = Callable[[Sequence[str]], Sequence[int | None] | None]
"""Colors of two people's clothes -> whose of the two faces is above each of them; None where the picture does not show it."""

_CHILD = re.compile(r"child|kid|baby|toddler|infant|newborn|boy|girl")


@dataclass(frozen=True)
class PersonAttributes:
    """What is known of one of the two people.

    Attributes:
        gender: "male", "female" or "".
        age_group: in words, or "".
        x: center of the face, px.
    """

    gender: str = ""
    age_group: str = ""
    x: float = 0.0


@dataclass(frozen=True)
class Naming:
    """A caption tied to two people.

    Attributes:
        caption: with blanks put around words that were glued to others, as in scripts without blanks.
        order: the two people (indices) by first mention: order[0] is person 1.
        mentions: person 1 and 2 as numbers, by position in the caption.
        how: by what they were told apart: "object_id", "noun", "sides", "clothes", "order", "left_to_right".
    """

    caption: str
    order: tuple[int, int]
    mentions: tuple[Mention, ...]
    how: str


def name_people(
    caption: str,
    words: Sequence[CaptionWord],
    people: Sequence[PersonAttributes],
    unknown_gender: str = "set_aside",
    by_clothes: ByClothes | None = None,
) -> Naming:
    """Tie a caption to the two people.

    Args:
        caption: may hold marks (man@1) if there are no `words`.
        words: of match_info, located in the caption; may be empty.
        people: the two.
        unknown_gender: what to do when the caption tells them apart and nothing is known of the faces: "set_aside", or
            "left_to_right", the first named is the one on the left.
        by_clothes: looks at the picture for colors of clothes.

    Raises:
        PromptError: it is not clear who is who.
    """
    tied, how = _by_annotation(words, people)
    if not (tied[0] and tied[1]):
        caption, tied, how = _by_rules(caption, people)
    tied, how = _by_sentence(caption, tied, how, people, unknown_gender, by_clothes)
    first = [min(word[0] for word in spans) for spans in tied]
    order = (0, 1) if first[0] < first[1] else (1, 0)
    mentions = sorted(
        (
            Mention(number, start, end, caption[start:end])
            for number, person in enumerate(order, 1)
            for start, end in tied[person]
        ),
        key=lambda mention: mention.start,
    )
    caption, moved = _with_blanks(caption, mentions)
    return Naming(caption, order, moved, how)


def default_caption(people: Sequence[PersonAttributes]) -> str:
    """A caption for a picture that has none, from left to right: "A man and a woman"."""
    first, second = (_noun(person) for person in sorted(people, key=lambda person: person.x))
    return f"A {first} and {'another' if first == second else 'a'} {second}"


def _by_annotation(
    words: Sequence[CaptionWord], people: Sequence[PersonAttributes]
) -> tuple[list[list[tuple[int, int]]], str]:
    tied: list[list[tuple[int, int]]] = [[], []]
    meant: dict[str, set[int]] = {}  # noun -> whom it named in earlier sentences
    methods: set[str] = set()
    for sentence in sorted({word.sentence for word in words}):
        certain: list[tuple[CaptionWord, int]] = []
        undecided: list[CaptionWord] = []
        for word in (word for word in words if word.sentence == sentence):
            fitting = [i for i, person in enumerate(people) if not _contradictions([word.word], person)]
            known = meant.get(word.word.lower(), set())
            if word.person is not None:
                certain.append((word, word.person))
                methods.add("object_id")
            elif len(fitting) == 1:
                certain.append((word, fitting[0]))
                methods.add("noun")
            elif len(known) == 1:
                certain.append((word, *known))
            else:
                undecided.append(word)
        if len(undecided) == 2 and not certain and not all(tied):
            certain = [(word, person) for person, word in enumerate(undecided)]
            methods.add("order")
        for word, person in certain:
            if (word.start, word.end) not in tied[0] + tied[1]:
                tied[person].append((word.start, word.end))
            meant.setdefault(word.word.lower(), set()).add(person)
    return tied, next((method for method in ("order", "noun", "object_id") if method in methods), "")


def _by_rules(caption: str, people: Sequence[PersonAttributes]) -> tuple[str, Spans, str]:
    """The words by the prompt's rules, of person 0 and 1 if nouns tell them apart ("noun"), else in the prompt's order ("")."""
    prompt = parse_prompt(caption, persons=2, mentions="all")
    named = [[m for m in prompt.mentions if m.person == number] for number in (1, 2)]
    if not all(named):
        raise PromptError(
            "The caption does not name both people. Name them, or mark the words that mean them: man@1, woman@2.",
            code="people-not-named",
        )
    spans = [[(mention.start, mention.end) for mention in mentions] for mentions in named]
    nouns = [[mention.word for mention in mentions] for mentions in named]
    straight = sum(_contradictions(nouns[i], people[i]) for i in (0, 1))
    crossed = sum(_contradictions(nouns[i], people[1 - i]) for i in (0, 1))
    if straight and crossed:
        seen = " and ".join(" ".join(filter(None, (person.age_group, person.gender))) for person in people)
        raise PromptError(
            f"The caption speaks of {nouns[0][0]!r} and {nouns[1][0]!r}, the picture shows {seen}.",
            code="caption-contradicts-picture",
        )
    if straight != crossed:
        return prompt.text, spans if crossed else spans[::-1], "noun"
    return prompt.text, spans, ""


def _by_sentence(
    caption: str,
    tied: Spans,
    how: str,
    people: Sequence[PersonAttributes],
    unknown_gender: str,
    by_clothes: ByClothes | None,
) -> tuple[Spans, str]:
    """What sides and clothes in the caption say, where nothing better does; they may not contradict what does."""
    prompt = _prompt(caption, tied)
    sides, clothes = _order_by_sides(prompt, people), _order_by_clothes(prompt, by_clothes)
    decided = how in ("object_id", "noun")
    said = [order for order in ((0, 1) if decided else None, sides, None if decided else clothes) if order is not None]
    if len(set(said)) > 1:
        other = (
            "its own clothes" if not decided else "the annotation" if how == "object_id" else "who is a man or a woman"
        )
        raise PromptError(
            f"The sides that the caption names contradict {other}, as the picture shows them. Correct the caption.",
            code="sides-contradict",
        )
    if decided:
        return tied, how
    nouns = [[caption[start:end] for start, end in spans] for spans in tied]
    if said and not any(_contradictions(nouns[one], people[who]) for one, who in enumerate(said[0])):
        return (tied if said[0] == (0, 1) else tied[::-1]), "clothes" if sides is None else "sides"
    if mentions_sides(caption):
        raise PromptError(
            "The caption speaks of left or right, and it is not clear who of the two is where. Say it of each: "
            "a man on the left and a woman on the right.",
            code="sides-not-clear",
        )
    if unknown_gender == "set_aside" and mentions_colors(prompt, 2):
        raise PromptError(
            f"Nothing says which face is the {nouns[0][0]!r} and which the {nouns[1][0]!r}: they differ by the clothes the caption "
            "names, and the picture does not clearly show those. Say who is on the left, or set unknown_gender to left_to_right.",
            code="clothes-not-clear",
        )
    if how == "order":
        return tied, how
    if _told_apart(nouns) and unknown_gender == "set_aside":
        raise PromptError(
            f"Nothing says which face is the {nouns[0][0]!r} and which the {nouns[1][0]!r}: the annotation has no "
            "gender, and the face pack no genderage model. Use buffalo_l, say it in annotations, or set unknown_gender to left_to_right.",
            code="people-not-told-apart",
        )
    return (tied if people[0].x <= people[1].x else tied[::-1]), "left_to_right"


def _prompt(caption: str, tied: Spans) -> Prompt:
    mentions = [Mention(who, *span, caption[slice(*span)]) for who, spans in enumerate(tied, 1) for span in spans]
    return Prompt(caption, tuple(sorted(mentions, key=lambda mention: mention.start)))


def _order_by_sides(prompt: Prompt, people: Sequence[PersonAttributes]) -> tuple[int, int] | None:
    """Whose words are the first, whose the second of `prompt`; None where no sides are said."""
    sides = sides_of(prompt, 2)
    if sides is None:
        return None
    left, right = sorted((0, 1), key=lambda one: people[one].x)
    ranks = [("left", "middle", "right").index(side) for side in sides]
    return (left, right) if ranks[0] < ranks[1] else (right, left)


def _order_by_clothes(prompt: Prompt, by_clothes: ByClothes | None) -> tuple[int, int] | None:
    colors = garment_colors_of(prompt, 2) if by_clothes is not None else None
    found = by_clothes(colors) if colors is not None and by_clothes is not None else None
    return {(0, 1): (0, 1), (1, 0): (1, 0)}.get(tuple(found)) if found is not None else None


def _contradictions(nouns: Sequence[str], person: PersonAttributes) -> int:
    """How many of the nouns this person cannot be."""
    return sum(_contradicts(noun_of(noun), person) for noun in nouns)


def _contradicts(noun: Noun | None, person: PersonAttributes) -> bool:
    if noun is None:
        return False
    if noun.gender and person.gender and (noun.gender == "f") != (person.gender == "female"):
        return True
    if not noun.age or not person.age_group or noun.role == "descendant":  # a grown daughter is a daughter
        return False
    young = bool(_CHILD.search(person.age_group))
    # "girl" and "boy" are said of young adults too; nobody calls a child a woman.
    return noun.age == "adult" and young


def _told_apart(nouns: Sequence[Sequence[str]]) -> bool:
    """Whether the caption gives the two people different genders or ages, so that a wrong order would be a lie."""
    described = [noun_of(mentions[0]) for mentions in nouns]
    return None not in described and not described[0].fits(described[1])


def _noun(person: PersonAttributes) -> str:
    child = bool(_CHILD.search(person.age_group))
    if not person.gender:
        return "child" if child else "person"
    return {("male", False): "man", ("male", True): "boy", ("female", False): "woman", ("female", True): "girl"}[
        person.gender, child
    ]


def _with_blanks(caption: str, mentions: Sequence[Mention]) -> tuple[str, tuple[Mention, ...]]:
    """Part mentions from letters they touch, so that they have tokens of their own: "男人和女人"."""
    text, done, moved = "", 0, []
    for mention in mentions:
        if mention.start < done:  # two mentions in one word
            continue
        text += caption[done : mention.start]
        if text and text[-1].isalnum():
            text += " "
        start = len(text)
        text += mention.word
        moved.append(replace(mention, start=start, end=len(text)))
        done = mention.end
        if caption[done : done + 1].isalnum():
            text += " "
    return text + caption[done:], tuple(moved)
