"""Numbers and lists in what people read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["FEW", "counted", "note_lines", "some"]

FEW = 10
"""Notes that are read; a mistake in a table makes one for each row."""


def counted(number: int, noun: str, plural: str = "") -> str:
    """How many of something: "1 shard", "2 shards", "1 person", "3 people".

    Args:
        number: how many.
        noun: for one.
        plural: for others; the noun with an s if left empty.
    """
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def note_lines(notes: Sequence[str], front: str, all_of_them: str) -> list[str]:
    """The first notes, a line each, and how many more there are.

    Args:
        notes: any number.
        front: what each line begins with.
        all_of_them: where the others are.
    """
    more = len(notes) - FEW
    return [f"{front}{note}" for note in notes[:FEW]] + ([f"{front}{more} more ({all_of_them})"] if more > 0 else [])


def some(names: Iterable[str], most: int = 5) -> str:
    """The first of them, and how many more: "a, b and 7 more"."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
