"""What a sentence says about people: which word names whom, and how that is shown."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import PromptError

__all__ = ["Mention", "Prompt", "Span", "check_length"]

MOST_MENTIONS = 2000
"""This project's choice: some 50 pieces of what CLIP reads at once, and a second or two of work."""


def check_length(named: int) -> None:
    """Refuse a sentence that names people so often that no text encoder can make use of it.

    Raises:
        PromptError: more than `MOST_MENTIONS` words.
    """
    if named > MOST_MENTIONS:
        raise PromptError(
            f"The prompt names people with {named} words, more than the {MOST_MENTIONS} that are read. CLIP takes 75 tokens at a "
            "time, so in a text of that length none of them says anything any more. Shorten it, and name each person "
            "once or twice.",
            code="too-many-mentions",
        )


@dataclass(frozen=True)
class Mention:
    """A word that names a person: `text[start:end] == word` of its Prompt; persons count from 1."""

    person: int
    start: int
    end: int
    word: str


@dataclass(frozen=True)
class Span:
    """A stretch of a sentence, to be shown.

    Attributes:
        text: the characters.
        person: whom it names, from 1 on; 0 for nobody.
        is_subject: whether this word carries the person's face.
    """

    text: str
    person: int = 0
    is_subject: bool = False


@dataclass(frozen=True)
class Prompt:
    """A sentence without its @-tags (weights and embeddings are still in it), and who is named where, in order."""

    text: str
    mentions: tuple[Mention, ...]

    def first_mentions(self) -> Prompt:
        """The same sentence with the first mention of each person alone."""
        first: dict[int, Mention] = {}
        for mention in self.mentions:
            first.setdefault(mention.person, mention)
        return Prompt(self.text, tuple(first.values()))

    def unnamed_persons(self, persons: int) -> tuple[int, ...]:
        """Those of persons 1..`persons` whom no word names: legal when others are tagged, and worth a note."""
        named = {mention.person for mention in self.mentions}
        return tuple(person for person in range(1, persons + 1) if person not in named)

    def spans(self, named: Iterable[Mention] = ()) -> tuple[Span, ...]:
        """The sentence cut at its mentions; together the texts are `text` again.

        Args:
            named: mentions of the same text that may carry no face, such as those that "all" finds beside "first".
        """
        found: list[Span] = []
        done = 0
        subjects = {mention.start: mention for mention in self.mentions}
        for start, mention in sorted(({m.start: m for m in named} | subjects).items()):
            if start < done:
                continue
            found += [Span(self.text[done:start]), Span(mention.word, mention.person, start in subjects)]
            done = mention.end
        return tuple(span for span in (*found, Span(self.text[done:])) if span.text)

    def notes(self, persons: int) -> tuple[str, ...]:
        """What a user should know of this sentence about persons 1..`persons`: who is not named, and who is named too early.

        The order matters since every person has key/value projections of their own, and what tells the picture which of
        them belong where is the order in which the sentence names people (docs/method.md); in weights trained with
        `augment.swap_order` it does not.
        """
        notes = [
            f"No word names person {person}: the face counts, but no word carries it. Write word@{person}."
            for person in self.unnamed_persons(persons)
        ]
        order = list(dict.fromkeys(m.person for m in sorted(self.mentions, key=lambda mention: mention.start)))
        for early, late in itertools.pairwise(order):
            if early > late:
                notes.append(
                    f"Person {early} is named before person {late}, and weights tell people apart by who is named first. If the "
                    "faces come out on the wrong people, exchange the two photos and the marks."
                )
                break
        return tuple(notes)
