"""Sentences about people, and who is named in them."""

from __future__ import annotations

from dhumandiff.prompts import parse_prompt

CAPTION = (
    "A man and a woman are seated on a weathered wooden bench in a sunlit garden, surrounded by tall hydrangeas and a low "
    "stone wall. The man is dressed in a tailored black tuxedo with a satin lapel, a white shirt and a bow tie, and rests "
    "one arm behind her. The groom looks at her with a gentle smile. The bride wears a long lace gown with a sweeping "
    "train, a pearl necklace and a veil, and holds a bouquet of white roses and baby's breath. The woman leans her head "
    "on his shoulder while petals drift across the path in front of them."
)
"""As long as PairHuman's, which pass 77 tokens."""


def named(marked: str, persons: int = 2, mentions: str = "first") -> list[tuple[int, str]]:
    """(person, word) of every mention; each must be where it says it is."""
    prompt = parse_prompt(marked, persons, mentions)
    assert all(prompt.text[m.start : m.end] == m.word for m in prompt.mentions)
    return [(m.person, m.word) for m in prompt.mentions]
