"""Chance that is the same on every machine: only `random.Random.random`, whose numbers Python promises to keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import TypeVar

__all__ = ["Dice"]

T = TypeVar("T")


class Dice:
    """A stream of chances named by words and numbers: `Dice("light", 7)` gives the same on every machine and day."""

    def __init__(self, *name: object) -> None:
        self._random = Random("/".join(map(str, name))).random

    def between(self, low: float, high: float) -> float:
        """Evenly from low to high."""
        return low + (high - low) * self._random()

    def near(self, middle: float, reach: float) -> float:
        """From middle - reach to middle + reach, the middle likeliest (a triangle)."""
        return middle + reach * (self._random() + self._random() - 1)

    def chance(self, share: float) -> bool:
        """True in `share` of all cases."""
        return self._random() < share

    def side(self) -> int:
        """-1 or 1."""
        return 1 if self._random() < 0.5 else -1

    def number(self, count: int) -> int:
        """0 to count - 1."""
        return min(int(self._random() * count), count - 1)

    def pick(self, choices: Sequence[T] | Mapping[T, float]) -> T:
        """One of several, alike; of a mapping, by weight."""
        if not isinstance(choices, Mapping):
            return choices[self.number(len(choices))]
        at = self._random() * sum(choices.values())
        for choice, weight in choices.items():
            at -= weight
            if at < 0:
                return choice
        return list(choices)[-1]
