"""Does it work alike for everybody? Scores by what people look like: gender, age and skin tone.

found = summarize_people(scores)                  # in `scoring.summarize`, for JSON
print("\\n".join(people_table(summary["people"])))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dhumandiff.evaluation.metrics import interval
from dhumandiff.miniature.world import Identity

if TYPE_CHECKING:
    from .scoring import PairCase

__all__ = ["PERSON_MEASURES", "looks_like", "people_table", "summarize_people"]

PERSON_MEASURES: dict[str, str] = {"right": "right person", "recognition": "recognition", "words": "words"}
"""Those of `scoring.MEASURES` that a single person has; words are the person's clothing color and the scene."""

SKIN = ("light", "medium", "dark")
"""Thirds of the world's scale."""


def looks_like(who: Identity) -> dict[str, str]:
    """The groups that a person belongs to, under the names of training/evaluation/cases.py."""
    return {
        "gender": who.gender,
        "age_group": who.age,
        "skin_tone": SKIN[min(int(who.skin * len(SKIN)), len(SKIN) - 1)],
    }


def summarize_people(cases: Sequence[PairCase], values: Mapping[str, np.ndarray], draws: int) -> dict[str, Any]:
    """Means and 95 % intervals of every group.

    Args:
        cases: one a picture.
        values: of `PERSON_MEASURES`, [pictures, 2], person 1 first.
        draws: of the resampling. Pairs are resampled, each with the mean of those of its people that are of the group.

    Returns:
        {"gender": {"woman": {"people": how many, "measures": {name: {"mean", "low", "high"}}}}, ...}
    """
    kinds: dict[str, dict[str, dict[int, list[tuple[int, int]]]]] = {}
    for picture, case in enumerate(cases):
        for place, who in enumerate(case.script.people):
            for kind, group in looks_like(who).items():
                pairs = kinds.setdefault(kind, {}).setdefault(group, {})
                pairs.setdefault(case.number, []).append((picture, place))
    found: dict[str, Any] = {}
    for kind, groups in kinds.items():
        for group, pairs in sorted(groups.items()):
            people = {cases[picture].script.people[place] for each in pairs.values() for picture, place in each}
            measures = {
                name: interval(np.array([np.mean([value[at] for at in each]) for each in pairs.values()]), draws)
                for name, value in values.items()
            }
            found.setdefault(kind, {})[group] = {"people": len(people), "measures": measures}
    return found


def people_table(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Markdown of what `summarize_people` found: a line a group. Percent, with 95 % intervals."""
    lines = [
        f"| people | how many | {' | '.join(PERSON_MEASURES.values())} |",
        f"| --- | --- |{' --- |' * len(PERSON_MEASURES)}",
    ]
    for kind, groups in found.items():
        for group, each in groups.items():
            shares = [
                [100 * each["measures"][name][end] for end in ("mean", "low", "high")] for name in PERSON_MEASURES
            ]
            cells = [f"{mean:.1f} % ({low:.1f} to {high:.1f})" for mean, low, high in shares]
            lines.append(f"| {kind.replace('_', ' ')}: {group} | {each['people']} | {' | '.join(cells)} |")
    return lines
