"""Several systems in one table: evaluations of the same cases, over the pictures that all of them have.

    print(ranking_table({"ours": records, "other": records}))

A picture that one of them lacks counts for none, so that nobody wins by leaving hard cases out; how many that are is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dhumandiff.evaluation.metrics import Summary

from .. import TrainingError
from .tables import FEW, MEASURES, Measure, compare, measures_of, summarize_records

__all__ = ["RankedSystem", "rank", "ranking_table"]

Records = Sequence[Mapping[str, Any]]

RankedSystem = tuple[str, dict[str, Summary]]
"""Name of a system, and its summaries."""


def rank(systems: Mapping[str, Records], by: str = "right") -> tuple[list[RankedSystem], set[str]]:
    """The systems, best first, and the ids of the pictures that they have in common.

    Args:
        systems: name -> records of the same cases.
        by: the measure; where it is decided for nobody, nobody is ranked above another.

    Raises:
        TrainingError: they have no scored picture in common, an unknown measure, or other recognizers.
    """
    scored = {
        name: {record["id"]: record for record in records if "problem" not in record}
        for name, records in systems.items()
    }
    common = set.intersection(*(set(records) for records in scored.values()))
    if not common:
        raise TrainingError(
            f"The evaluations {', '.join(systems)} have no picture of the same id that all could score, so they cannot be ranked. "
            "Score all of them with the same cases and seeds.",
            code="nothing-to-rank",
        )
    judges = {name: {str(one["measured_with"]) for one in records.values()} for name, records in scored.items()}
    if len(set(map(frozenset, judges.values()))) > 1:
        told = "; ".join(f"{name}: {', '.join(sorted(found))}" for name, found in judges.items())
        raise TrainingError(
            f"The evaluations were measured with different recognizers ({told}), whose figures cannot be compared. Score all of them "
            "with one (--faces.pack).",
            code="ranked-by-other-recognizers",
        )
    shared = {name: [records[each] for each in sorted(common)] for name, records in scored.items()}
    known = {key for records in shared.values() for key in measures_of(records)}
    if by not in known:
        raise TrainingError(
            f"rank_by is {by!r}; these evaluations have {', '.join(sorted(known))}.", code="unknown-measure"
        )
    sign = -1 if MEASURES.get(by, Measure(by, "picture", 1, "")).better < 0 else 1
    summaries = [(name, summarize_records(records)) for name, records in shared.items()]

    def place(system: RankedSystem) -> float:
        found = system[1].get(by)
        return -sign * found.mean if found is not None else float("inf")

    return sorted(summaries, key=place), common


def ranking_table(systems: Mapping[str, Records], by: str = "right") -> str:
    """The table for people, in Markdown: best first, with what separates each from the one above it.

    Raises:
        TrainingError: as `rank`.
    """
    ranked, common = rank(systems, by)
    pictures = len(common)
    shared = {name: [record for record in records if record["id"] in common] for name, records in systems.items()}
    names = list(dict.fromkeys(name for _, summaries in ranked for name in summaries))
    titles = {name: MEASURES[name].title if name in MEASURES else name for name in names}
    arrows = {name: {1: " ↑", -1: " ↓", 0: ""}[MEASURES[name].better if name in MEASURES else 1] for name in names}
    chosen = titles.get(by, by)
    left = {name: len(records) - pictures for name, records in systems.items()}
    lines = [
        f"{pictures} pictures that all {len(ranked)} have, ranked by {chosen}. 95 % intervals"
        f"{'' if pictures >= FEW else ' are not told below ' + str(FEW) + ' pictures'}; p is Wilcoxon's, of {chosen} beside the "
        "one above, picture by picture.",
        "",
        "| | system | " + " | ".join(titles[name] + arrows[name] for name in names) + " | p |",
        "| --- | --- |" + " --- |" * (len(names) + 1),
    ]
    for number, (name, summaries) in enumerate(ranked, 1):
        cells = [_cell(summaries.get(measure)) for measure in names]
        above = ranked[number - 2][0] if number > 1 else None
        found = compare(shared[name], shared[above]).get(by) if above is not None else None
        p = f"{found.p:.2g}" if found is not None and found.pictures >= FEW else ""
        lines.append(f"| {number} | {name} | {' | '.join(cells)} | {p} |")
    lacking = [f"{name} {count}" for name, count in left.items() if count]
    if lacking:
        lines += ["", f"Not counted, since not all have them: {', '.join(lacking)}."]
    return "\n".join(lines) + "\n"


def _cell(summary: Summary | None) -> str:
    if summary is None:
        return ""
    if summary.count < FEW:
        return f"{summary.mean:.3f}"
    return f"{summary.mean:.3f} ({summary.low:.3f} to {summary.high:.3f})"
