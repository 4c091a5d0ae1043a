"""Which tokens a person's words became, whatever the host's tokenizer is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
    stands between them are the word's tokens. Taking the sentinels out must give the plain text's tokens, else the word was
    glued to its neighbors. A word of several tokens gives one SubjectToken for each.

    Args:
        prompt: from `parse_prompt`.
        tokenize: the host's, under its own rules for weights and embeddings.
        tokenizer: what `tokenize` asks. As long as it lives its tokens of the sentinels are kept, so that the next prompt costs one
            call a mention and one more; None keeps nothing.

    Returns:
        The tokens in order of `prompt.mentions`.

    Raises:
        PromptError: a word could not be located, or has no token.
    """
    plain = list(tokenize(prompt.text))
    known = {} if tokenizer is None else _known_sentinels.setdefault(tokenizer, {})
    located: list[SubjectToken] = []
    for number, mention in enumerate(prompt.mentions):
        found = (_find(prompt.text, mention, plain, *each, tokenize) for each in _usable(plain, tokenize, known))
        indices = next((span for span in found if span is not None), None)
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


def _find(
    text: str,
    mention: Mention,
    plain: Sequence[Any],
    sentinel: str,
    sentinel_tokens: Sequence[Any],
    tokenize: Tokenize,
) -> range | None:
    """The mention's indices in `plain`; None when this sentinel does not show them."""
    before, word, behind = text[: mention.start], text[mention.start : mention.end], text[mention.end :]
    marked = list(tokenize(f"{before} {sentinel} {word} {sentinel} {behind}"))
    width = len(sentinel_tokens)
    if len(marked) != len(plain) + 2 * width:
        return None
    starts = [i for i in range(len(marked) - width + 1) if _same(marked[i : i + width], sentinel_tokens)]
    if len(starts) != 2 or starts[1] < starts[0] + width:
        return None
    opening, closing = starts
    if not _same(marked[:opening] + marked[opening + width : closing] + marked[closing + width :], plain):
        return None
    return range(opening, closing - width)


def _same(ours: Sequence[Any], theirs: Sequence[Any]) -> bool:
    """Equal ids at equal places; two embedding vectors count as equal (hosts may read them anew each time)."""

    def equal(a: Any, b: Any) -> bool:
        ids = isinstance(a, Integral), isinstance(b, Integral)
        return int(a) == int(b) if all(ids) else not any(ids)

    return len(ours) == len(theirs) and all(map(equal, ours, theirs))
