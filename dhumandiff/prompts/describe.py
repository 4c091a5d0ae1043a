"""Which words, and which tokens, stand for whom, in words for the person who wrote the sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .locate import SubjectToken
from .prompt import Mention, Prompt

__all__ = ["describe_tokens"]


def describe_tokens(
    prompt: Prompt, tokens: Sequence[SubjectToken], token_text: Callable[[int], str] | None = None
) -> str:
    """Which words and tokens stand for whom: one line a mention, by person.

    Args:
        prompt: from `parse_prompt`.
        tokens: from `locate_tokens` of the same prompt.
        token_text: turns a SubjectToken's `index` into the token's text; without it only numbers are given.

    Returns:
        Lines in which tokens are numbered from 1, which is the position that the released script wants (it counts the start
        token as 0).
    """
    if not prompt.mentions:
        return "No word is bound to a person."
    lines = []
    places: dict[int, list[int]] = {}
    for token in tokens:
        places.setdefault(token.mention_index, []).append(token.index)
    for number, mention in sorted(enumerate(prompt.mentions), key=lambda item: (item[1].person, item[1].start)):
        indices = places.get(number, [])
        names = [f"{index + 1} {token_text(index)!r}" if token_text else str(index + 1) for index in indices]
        plural = "s" if len(names) > 1 else ""
        where = f"token{plural} {', '.join(names)}" if names else "no token"
        lines.append(f"Person {mention.person}: {_in_context(prompt.text, mention)}, {where}")
    return "\n".join(lines)


def _in_context(text: str, mention: Mention, reach: int = 20) -> str:
    left = text[max(0, mention.start - reach) : mention.start]
    right = text[mention.end : mention.end + reach]
    before = "..." + left if mention.start > reach else left
    behind = right + "..." if len(text) > mention.end + reach else right
    return " ".join(f"{before}[{mention.word}]{behind}".split())
