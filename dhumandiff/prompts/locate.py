"""Which tokens a person's words became, whatever the host's tokenizer is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral
from typing import Any
from weakref import WeakKeyDictionary

from ..errors import PromptError
from .prompt import Mention, Prompt

__all__ = ["SubjectToken", "Tokenize", "locate_tokens"]

Tokenize = Callable[[str], Sequence[Any]]
"""Text -> its tokens in one flat list, without start, end and padding. A token is an int, or any other object for an embedding's
vector."""

_SENTINELS = ("qzxv", "zjqk", "xqwj", "vvqxx", "kzjwq", "※", "☃", "§", "¶", "◊")
"""Words that hardly anybody types; several, because none may share a token with the prompt. The last are for tokenizers that
know single letters only."""

_known_sentinels: WeakKeyDictionary[Any, dict[str, list[Any]]] = WeakKeyDictionary()
"""Tokenizer -> its tokens of each sentinel asked for so far. Should they ever change, `_find` finds none of them: a refusal, never
a wrong word."""


@dataclass(frozen=True)
class SubjectToken:
    """One token that carries a person's face.

    Attributes:
        person: from 1 on.
        index: in the host's flat token list (no start, end or padding), from 0 on.
        word: the mention's.
        mention_index: in `Prompt.mentions`.
    """

    person: int
    index: int
    word: str
    mention_index: int


def locate_tokens(prompt: Prompt, tokenize: Tokenize, tokenizer: Any = None) -> tuple[SubjectToken, ...]:
    """Find the tokens of every mention.

    Each word is put between two sentinels, rare words, the text tokenized again, and the sentinels found in the result: what
    stands between them are the word's tokens. Taking the sentinels out must give the plain text's tokens, else a word was
    glued to its neighbors. All words go at once, so that time grows with the text; only where that shows nothing, halves of
    them, down to the word that cannot be found. A word of several tokens gives one SubjectToken for each.

    Args:
        prompt: from `parse_prompt`.
        tokenize: the host's, under its own rules for weights and embeddings.
        tokenizer: what `tokenize` asks. As long as it lives its tokens of the sentinels are kept, so that the next prompt costs two
            calls; None keeps nothing.

    Returns:
        The tokens in order of `prompt.mentions`.

    Raises:
        PromptError: a word could not be located, or has no token.
    """
    plain = list(tokenize(prompt.text))
    known = {} if tokenizer is None else _known_sentinels.setdefault(tokenizer, {})
    located: list[SubjectToken] = []
    spans = _spans(prompt.text, prompt.mentions, plain, tokenize, known)
    for number, (mention, indices) in enumerate(zip(prompt.mentions, spans, strict=True)):
        word = f'"{mention.word}" (person {mention.person}, character {mention.start + 1} of the prompt)'
        if indices is None:
            raise PromptError(
                f"The word {word} could not be located among the text encoder's tokens. Put a space before and "
                f"behind it, or choose another word for this person.",
                code="word-not-located",
            )
        if not indices:
            raise PromptError(
                f"The word {word} has no token, so no face can be bound to it. If it is an embedding, check that its "
                f"file is there and fits the text encoder; else choose another word.",
                code="word-without-token",
            )
        located += [SubjectToken(mention.person, index, mention.word, number) for index in indices]
    return tuple(located)


def _usable(plain: Sequence[Any], tokenize: Tokenize, known: dict[str, list[Any]]) -> Iterator[tuple[str, list[Any]]]:
    """Sentinels that share no token with the text, each with its tokens; asked for one at a time, since the first mostly does."""
    taken = {int(token) for token in plain if isinstance(token, Integral)}
    for sentinel in _SENTINELS:
        if sentinel not in known:
            known[sentinel] = list(tokenize(sentinel))
        tokens = known[sentinel]
        if tokens and all(isinstance(token, Integral) and int(token) not in taken for token in tokens):
            yield sentinel, tokens


def _spans(
    text: str, mentions: Sequence[Mention], plain: Sequence[Any], tokenize: Tokenize, known: dict[str, list[Any]]
) -> Iterator[range | None]:
    """The indices in `plain` of each mention in turn; None for one that no sentinel shows."""
    found = None
    if mentions and all(one.end <= other.start for one, other in pairwise(mentions)):
        tried = (_find(text, mentions, plain, *each, tokenize) for each in _usable(plain, tokenize, known))
        found = next((spans for spans in tried if spans is not None), None)
    if found is not None:
        yield from found
    elif len(mentions) == 1:
        yield None
    elif mentions:
        half = len(mentions) // 2
        yield from _spans(text, mentions[:half], plain, tokenize, known)
        yield from _spans(text, mentions[half:], plain, tokenize, known)


def _find(
    text: str,
    mentions: Sequence[Mention],
    plain: Sequence[Any],
    sentinel: str,
    sentinel_tokens: Sequence[Any],
    tokenize: Tokenize,
) -> list[range] | None:
    """The indices in `plain` of mentions that follow one another; None when this sentinel does not show them all."""
    pieces, done = [], 0
    for mention in mentions:
        word = text[mention.start : mention.end]
        pieces.append(f"{text[done : mention.start]} {sentinel} {word} {sentinel} ")
        done = mention.end
    marked = list(tokenize("".join([*pieces, text[done:]])))
    width = len(sentinel_tokens)
    if len(marked) != len(plain) + 2 * len(mentions) * width:
        return None
    starts = [i for i in range(len(marked) - width + 1) if _same(marked[i : i + width], sentinel_tokens)]
    if len(starts) != 2 * len(mentions) or any(other < one + width for one, other in pairwise(starts)):
        return None
    parted = [slice(one, other) for one, other in zip([0, *(i + width for i in starts)], [*starts, None], strict=True)]
    if not _same([token for part in parted for token in marked[part]], plain):
        return None
    return [
        range(opening - 2 * k * width, closing - (2 * k + 1) * width)
        for k, (opening, closing) in enumerate(zip(starts[::2], starts[1::2], strict=True))
    ]


def _same(ours: Sequence[Any], theirs: Sequence[Any]) -> bool:
    """Equal ids at equal places; two embedding vectors count as equal (hosts may read them anew each time)."""

    def equal(a: Any, b: Any) -> bool:
        ids = isinstance(a, Integral), isinstance(b, Integral)
        return int(a) == int(b) if all(ids) else not any(ids)

    return len(ours) == len(theirs) and all(map(equal, ours, theirs))
