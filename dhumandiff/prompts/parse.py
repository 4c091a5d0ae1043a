r"""From a sentence to who is who in it.

`word@1` tags the word for person 1; `\@` is a plain @, and so is an @ without a number behind it. Full-width signs and digits are
read like plain ones (typed.py). Without any tag, person nouns are looked for (person_nouns.py). That words are mapped is the method (docs/method.md, subject-augmented conditioning);
how they are found is this project's choice.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

from ..errors import PromptError
from .person_nouns import find_people
from .prompt import Mention, Prompt, check_length
from .typed import JOINERS, TAG, tag_number, without_hidden, without_wide_weights

__all__ = ["parse_prompt", "split_sentences", "try_parse_prompt", "without_tags"]


def parse_prompt(sentence: str, persons: int = 2, mentions: Literal["first", "all"] = "first") -> Prompt:
    """Read who is who in a sentence.

    With @-tags, only tagged words are mentions, and a person without one is legal (`Prompt.unnamed_persons`). The word
    is what stands directly before the tag: letters of any script, digits, inner hyphens ("bride-to-be@2"), the whole
    "embedding:name@1"; of "old man@1" it is "man", of "man's@1" and "man@1's" too. Tags stay inside weights:
    "(man@1:1.2)". Without tags, the rules of `person_nouns.find_people` hold.

    Args:
        sentence: as typed.
        persons: how many people there are (references), 1 or more.
        mentions: "first": the first mention of each person, as released; "all": every one.

    Raises:
        PromptError: empty sentence, a tag that is unclear or names nobody, or people who cannot be told apart.
    """
    if persons < 1:
        raise PromptError(f"A prompt needs at least 1 person to name, not {persons}.", code="no-person-to-name")
    if mentions not in ("first", "all"):
        raise PromptError(f'mentions is "first" or "all", not {mentions!r}.', code="unknown-mentions")
    _check_letters(sentence)
    sentence = without_hidden(sentence)
    if not sentence.strip():
        raise PromptError(
            'The prompt is empty. Write a sentence that names the people: "a man@1 and a woman@2 in a park".',
            code="empty-prompt",
        )
    text, found = _read_tags(without_wide_weights(sentence), persons)
    text = without_wide_weights(text)  # those that a tag stood in, too
    if not found:
        # What comes after all persons were found neither changes who they are nor is refused, so "first" is read out of "all".
        people = find_people(text, persons)
        found = [Mention(person, start, end, text[start:end]) for person, start, end in people]
    prompt = Prompt(text, tuple(found))
    return prompt if mentions == "all" else prompt.first_mentions()


def without_tags(sentence: str, persons: int) -> str:
    """The sentence as a text encoder reads it, where no word carries anybody.

    Raises:
        PromptError: a tag that is unclear or names nobody.
    """
    return _read_tags(without_wide_weights(without_hidden(sentence)), persons)[0]


def try_parse_prompt(sentence: str, persons: int) -> Prompt | None:
    """The sentence with every mention; None where it is not clear who is meant, so that it decides nothing."""
    try:
        return parse_prompt(sentence, persons=persons, mentions="all")
    except PromptError:
        return None


def split_sentences(text: str, before: str = "", after: str = "") -> list[str]:
    """One sentence a line, each with what all of them share before and behind it.

    Empty lines and lines that begin with # are left out.

    Raises:
        PromptError: no sentence is left.
    """
    lines = [line.strip() for line in without_hidden(text).splitlines()]
    kept = [line for line in lines if line and not line.startswith(("#", "\uff03"))]
    if not kept:
        said = "every line begins with #, which leaves it out" if any(lines) else "the text is empty"
        raise PromptError(
            f"There is no sentence: {said}. Write one sentence a line, such as: a man@1 and a woman@2 in a park",
            code="no-sentence",
        )
    return [" ".join(filter(None, (before.strip(), line, after.strip()))) for line in kept]


def _check_letters(sentence: str) -> None:
    lone = re.search("[\ud800-\udfff]", sentence)
    if lone:
        raise PromptError(
            f"Character {lone.start() + 1} of the prompt is none: it was typed or read in another encoding. Write the sentence "
            "in UTF-8, or type that word anew.",
            code="prompt-of-another-encoding",
        )


def _read_tags(sentence: str, persons: int) -> tuple[str, list[Mention]]:
    """The text without its @-tags, and the tagged words."""
    text, done, floor = "", 0, 0  # floor: where the last tag stood; a word never reaches behind it
    found: list[Mention] = []
    for match in TAG.finditer(sentence):
        text += sentence[done : match.start()]
        done = match.end()
        if match["number"] is None and match["apart"] is None:
            text += match[0][1:]
            continue
        if match["number"]:
            text = text.rstrip(JOINERS)
        near = " ".join(sentence[max(0, match.start() - 20) : match.end() + 10].split())
        start, end = _word_before(text, floor)
        number = tag_number(match["number"] or match["apart"])
        if match["number"] is None:
            if start < end and 1 <= number <= persons:
                raise PromptError(
                    f'"{near}" is not clear: write {text[start:end]}@{number} if it marks a person, or \\@ for a plain @.',
                    code="unclear-tag",
                )
            text += match[0]
            continue
        tag = f"@{match['number']}"
        if match["glued"]:
            raise PromptError(
                f'"{near}" is not clear: put a space behind {tag} if it marks a person, or write \\@ for a plain @.',
                code="unclear-tag",
            )
        if start == end:
            raise PromptError(
                f'In "{near}" no word stands directly before {tag}. Put the mark behind the word itself, inside '
                f"brackets and quotes: man{tag}, (man{tag}:1.2). For a plain @ write \\@.",
                code="tag-without-word",
            )
        if not 1 <= number <= persons:
            there = "there is 1 person, @1" if persons == 1 else f"there are {persons} people, @1 to @{persons}"
            raise PromptError(
                f'"{text[start:end]}{tag}" names person {number}, but {there}. Write \\@ for a plain @.',
                code="tag-of-nobody",
            )
        found.append(Mention(number, start, end, text[start:end]))
        floor = len(text)
    check_length(len(found))
    return text + sentence[done:], found


def _word_before(text: str, floor: int) -> tuple[int, int]:
    """Start and end of the word that ends the text; equal when there is none. An apostrophe parts words ("l'homme")."""
    run = len(text)
    while run > floor and text[run - 1] not in "()<>[]," and not text[run - 1].isspace():
        run -= 1
    embedding = re.search(r"(?<!\w)embedding:(?=.)", text[run:])
    if embedding:
        return run + embedding.start(), len(text)
    start, end = _run_before(text, floor, len(text))
    if text[start:end] in ("s", "S") and start > floor and text[start - 1] in "'’":
        owner = _run_before(text, floor, start - 1)  # "man's": the man
        if owner[0] < owner[1]:
            return owner
    return start, end


def _run_before(text: str, floor: int, end: int) -> tuple[int, int]:
    def in_word(i: int) -> bool:
        if i < floor:
            return False
        # Combining accents, vowel signs and joiners belong to words, which \w does not know.
        return text[i].isalnum() or text[i] in "_\u200c\u200d" or unicodedata.category(text[i]).startswith("M")

    start = end
    while in_word(start - 1) or (start < end and start > floor and text[start - 1] in "-‐‑" and in_word(start - 2)):
        start -= 1
    return start, end
