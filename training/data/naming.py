"""Which words of the caption mean which of the two people in the picture.

In this order, each where it is certain (this project's choice throughout; PairHuman does not say in public how its
match_info is tied to its people):

1. the annotation names the person (object_id) beside the words;
2. the noun says it: of a man and a woman, "the groom" is the man; of a mother and a child, "the girl" is the child;
3. the same noun meant one of them before;
4. two undecided entries of a sentence are the people in the order of their object_id, if nobody was named before.

Without usable match_info the library's prompt rules find the words (marks such as man@1 too), nouns decide who is who,
and people whom the caption does not tell apart are named from left to right, as people read a picture.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dhumandiff.errors import PromptError
from dhumandiff.prompts import Mention, parse_prompt
from dhumandiff.prompts.person_nouns import Noun, noun_of  # one list of person nouns for prompts and captions

from .annotation import CaptionWord

__all__ = ["Naming", "PersonAttributes", "default_caption", "name_people"]

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
        how: by what they were told apart: "object_id", "noun", "order", "left_to_right".
    """

    caption: str
    order: tuple[int, int]
    mentions: tuple[Mention, ...]
    how: str


def name_people(
    caption: str, words: Sequence[CaptionWord], people: Sequence[PersonAttributes], unknown_gender: str = "set_aside"
) -> Naming:
    """Tie a caption to the two people.

    Args:
        caption: may hold marks (man@1) if there are no `words`.
        words: of match_info, located in the caption; may be empty.
        people: the two.
        unknown_gender: what to do when the caption tells them apart and nothing is known of the faces: "set_aside", or
            "left_to_right", the first named is the one on the left.

    Raises:
        PromptError: it is not clear who is who.
    """
    tied, how = _by_annotation(words, people)
    if not (tied[0] and tied[1]):
        caption, tied, how = _by_rules(caption, people, unknown_gender)
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


def _by_rules(
    caption: str, people: Sequence[PersonAttributes], unknown_gender: str
) -> tuple[str, list[list[tuple[int, int]]], str]:
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
    if _told_apart(nouns) and unknown_gender == "set_aside":
        raise PromptError(
            f"Nothing says which face is the {nouns[0][0]!r} and which the {nouns[1][0]!r}: the annotation has no "
            "gender, and the face pack no genderage model. Use buffalo_l, or set unknown_gender to left_to_right.",
            code="people-not-told-apart",
        )
    left_first = people[0].x <= people[1].x
    return prompt.text, spans if left_first else spans[::-1], "left_to_right"


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
