"""Numbers in sentences that people read."""

from __future__ import annotations

__all__ = ["counted"]


def counted(number: int, noun: str, plural: str = "") -> str:
    """How many of something: "1 shard", "2 shards", "1 person", "3 people".

    Args:
        number: how many.
        noun: for one.
        plural: for others; the noun with an s if left empty.
    """
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"
