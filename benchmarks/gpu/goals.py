"""What is to be reached on a GPU, as data; whether it was, the figures say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["GOALS", "Goal", "judge"]

Figures = Mapping[str, Mapping[str, Any]]
"""Name of a part -> its cases."""


@dataclass(frozen=True)
class Goal:
    """A number that is not to be passed.

    Attributes:
        says: it, in words.
        limit: the number.
        at_most: whether it is the highest that is wanted, or the lowest.
        parts: beginning of the names of the parts that measure it.
        cases: what the name of a case has in it.
        path: keys inside of a case that lead to the number; `low` and `high` beside it are its interval.
        card: what the card's name has in it; others are not asked.
        without: what the name of a case has not in it.
    """

    says: str
    limit: float
    at_most: bool
    parts: str
    cases: str
    path: tuple[str, ...]
    card: str = ""
    without: str = "\n"


GOALS = (
    Goal(
        "the pair at most 1.03 times plain at 1024 px", 1.03, True, "inference-1024", "", ("variants", "pair", "ratio")
    ),
    Goal(
        "`one_pass` at most 1.05 times plain at 1024 px",
        1.05,
        True,
        "inference-1024",
        "",
        ("variants", "one_pass", "ratio"),
    ),
    Goal("no graph break by us when compiled", 0, True, "compiled", "", ("breaks_by_us",)),
    Goal(
        "training at 512 px: 60 samples a second on an H100",
        60,
        False,
        "training",
        "512px",
        ("samples_per_second",),
        "H100",
    ),
    Goal(
        "training: 95 % of a step inside of the UNet", 0.95, False, "training", "", ("unet_share",), without="identity"
    ),
)


def judge(goal: Goal, figures: Figures, card: str) -> tuple[str, str]:
    """The range of what was measured over all cases, and: reached, not reached, reached in 3 of 8 cases, not decided, not measured.

    A ratio is below a limit when its whole interval is.
    """
    if goal.card not in card:
        return "", f"asked of an {goal.card}"
    values, verdicts = [], []
    for part, cases in sorted(figures.items()):
        for name, case in cases.items():
            if not part.startswith(goal.parts) or goal.cases not in name or goal.without in name:
                continue
            holder: Any = case
            for key in goal.path[:-1]:
                holder = holder.get(key, {})
            value = holder.get(goal.path[-1])
            if value is not None:
                values.append(value)
                verdicts.append(_verdict(goal, holder, value))
    if not values:
        return "", "not measured"
    form = "{:.3g}" if goal.limit != int(goal.limit) or goal.limit == 0 else "{:.1f}"
    span = form.format(min(values)) + (f" to {form.format(max(values))}" if len(values) > 1 else "")
    reached = verdicts.count("reached")
    if len(set(verdicts)) == 1:
        return span, verdicts[0]
    return span, f"reached in {reached} of {len(verdicts)} cases"


def _verdict(goal: Goal, holder: Mapping[str, Any], value: float) -> str:
    low, high = holder.get("low", value), holder.get("high", value)
    if not goal.at_most:
        low, high = -high, -low
    limit = goal.limit if goal.at_most else -goal.limit
    if high <= limit:
        return "reached"
    return "not reached" if low > limit else "not decided"
