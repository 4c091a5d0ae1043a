"""A re-weighted sampler: people of all groups are seen as often as each other, whatever the data holds more of.

A group is what some fields of a person's annotation say, such as gender and age_group. Every group has a factor; a sample's weight
is the product of its two people's, since a picture brings both. The factors are those with which all groups come out alike, found
by iterative proportional fitting (Deming and Stephan 1940) on the counts of dataset.json. Where pictures always show the same two
groups together, the two can only rise together; the fit then ends as near as it gets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .. import TrainingError

__all__ = ["FIELDS", "Balance", "count_couples"]

FIELDS = ("gender", "age_group")
"""What `prepare` knows of a person."""

Group = tuple[str, ...]

_ROUNDS = 200


def count_couples(couples: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """How many samples show which two people, as dataset.json keeps it; the order of the two says nothing."""
    counted = Counter(tuple(sorted(tuple(person[name] for name in FIELDS) for person in couple)) for couple in couples)
    return [
        {"people": [dict(zip(FIELDS, person, strict=True)) for person in couple], "samples": count}
        for couple, count in sorted(counted.items())
    ]


class Balance:
    """The weights of samples.

    Args:
        headers: each folder's dataset.json.
        paths: of the folders, for messages.
        weights: the share of each folder.
        fields: of `FIELDS`, that make a group; without any every sample weighs alike.
        most: how much more often than another a sample may be drawn. People of whom there are very few would be learnt by heart.

    Raises:
        TrainingError: a folder does not count its couples.
    """

    def __init__(
        self,
        headers: Sequence[Mapping[str, Any]],
        paths: Sequence[str],
        weights: Sequence[float],
        fields: Sequence[str],
        most: float,
    ) -> None:
        self.fields = tuple(fields)
        self.shares: Counter[tuple[Group, ...]] = Counter()
        for header, path, weight in zip(headers, paths, weights, strict=True) if fields else ():
            if "couples" not in header:
                raise TrainingError(
                    f"{path}: dataset.json does not count who is on the pictures, which data.balance needs. Bring it up to date "
                    f"with `python -m training prepare --merge {path}`, or take data.balance away.",
                    code="couples-not-counted",
                )
            samples = sum(couple["samples"] for couple in header["couples"])
            for couple in header["couples"]:
                self.shares[self._groups(couple["people"])] += weight * couple["samples"] / max(samples, 1)
        self.factors = self._fit()
        products = {groups: self._product(groups) for groups in self.shares}
        self._highest = max(products.values(), default=1.0)
        self._least = self._highest / most

    def weight(self, people: Sequence[Mapping[str, Any]]) -> float:
        """How often a sample of these people is drawn, next to one that is drawn most often (1)."""
        if not self.fields:
            return 1.0
        return min(max(self._product(self._groups(people)), self._least) / self._highest, 1.0)

    def describe(self) -> list[str]:
        """A line a group: how many of all people are of it, in the data and as drawn."""
        before, after = self._people(dict(self.shares)), self._people(self._drawn())
        return [
            f"{' '.join(filter(None, group)) or 'unknown'}: {before[group]:.1%} of the people, drawn as {after[group]:.1%}"
            for group in sorted(before)
        ]

    def _groups(self, people: Sequence[Mapping[str, Any]]) -> tuple[Group, ...]:
        return tuple(sorted(tuple(str(person.get(name, "")) for name in self.fields) for person in people))

    def _product(self, groups: tuple[Group, ...]) -> float:
        product = 1.0
        for group in groups:
            product *= self.factors.get(group, 1.0)
        return product

    def _drawn(self) -> dict[tuple[Group, ...], float]:
        return {groups: share * max(self._product(groups), self._least) for groups, share in self.shares.items()}

    @staticmethod
    def _people(shares: Mapping[tuple[Group, ...], float]) -> Counter[Group]:
        """The share of each group among all people of samples that are drawn as often as `shares` says."""
        found: Counter[Group] = Counter()
        for groups, share in shares.items():
            for group in groups:
                found[group] += share
        total = sum(found.values())
        return Counter({group: share / total for group, share in found.items()})

    def _fit(self) -> dict[Group, float]:
        """The factor of every group of whom something is known; of the others nobody can say who is missing."""
        known = sorted({group for groups in self.shares for group in groups if any(group)})
        factors = self.factors = dict.fromkeys(known, 1.0)
        for _ in range(_ROUNDS):
            drawn = self._people({groups: share * self._product(groups) for groups, share in self.shares.items()})
            wanted = sum(drawn[group] for group in known) / max(len(known), 1)
            for group in known:
                factors[group] *= (wanted / drawn[group]) ** 0.5
        return factors
