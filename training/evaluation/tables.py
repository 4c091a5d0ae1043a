"""Records in figures: means with intervals, by group, and pair by pair against another run.

    summaries = summarize_records(records)            # {"right": Summary, ...}
    print(markdown(records))

Two people of one picture are no independent evidence, so a picture counts with the mean over its people, and intervals come
from resampling pictures. What cannot be decided is counted, and in no mean; what failed is in every mean.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dhumandiff.evaluation.metrics import Summary, interval, summarize

from .cases import GROUPS

__all__ = [
    "FEW",
    "MEASURES",
    "Comparison",
    "Measure",
    "compare",
    "csv_text",
    "groups_of",
    "markdown",
    "measures_of",
    "summarize_records",
    "value_of",
]


@dataclass(frozen=True)
class Measure:
    """What a column means.

    Attributes:
        title: of the column.
        of: "person" or "picture".
        better: 1 when more is better, -1 when less is, 0 when neither.
        says: in words.
    """

    title: str
    of: str
    better: int
    says: str


MEASURES: dict[str, Measure] = {
    "present": Measure("present", "picture", 1, "as many faces as people"),
    "right": Measure(
        "right person", "person", 1, "the face that should be somebody is nearer to them than to the others"
    ),
    "all_right": Measure("everybody right", "picture", 1, "right person, for all people of a picture"),
    "margin": Measure("margin", "person", 1, "by how much: cosine to the own reference less the nearest other"),
    "sim_ref": Measure("Sim_Ref", "person", 0, "cosine to the reference; a copy of the photo has the most"),
    "sim_gt": Measure("Sim_GT", "person", 1, "cosine to the person in a real picture of the scene"),
    "copy_paste": Measure("Copy-Paste", "person", -1, "1: a copy of the reference, -1: the real picture"),
    "blending": Measure("Blending", "picture", -1, "what a face has of the others"),
    "clip_t": Measure("CLIP-T", "picture", 1, "the picture and its sentence"),
    "clip_i": Measure("CLIP-I", "picture", 1, "the picture and the real one"),
}

FEW = 5
"""Pictures below which no interval is told: resampling one picture always gives that picture. This project's choice."""

RANKED = {1: 0.40, 2: 0.35}
"""Sim_GT above which MultiID-Bench ranks by Copy-Paste, of one person and of several: nobody's copy is a good picture."""


def measures_of(records: Sequence[Mapping[str, Any]]) -> dict[str, Measure]:
    """The measures that the records have figures for; scores of others' models come last."""
    scored = [record for record in records if "problem" not in record]
    known = {
        name: measure
        for name, measure in MEASURES.items()
        if any(value_of(record, name) is not None for record in scored)
    }
    others = dict.fromkeys(name for record in scored for name in record["scores"] if name not in MEASURES)
    return known | {name: Measure(name, "picture", 1, "") for name in others}


def value_of(record: Mapping[str, Any], name: str, group: tuple[str, str] | None = None) -> float | None:
    """A picture's figure, the mean over its people where it is theirs; None where it has none or it is not decidable.

    group: a name of `GROUPS` and a value: over people of that group alone.
    """
    if "problem" in record:
        return None
    people = record["persons"]
    if group is not None:
        people = [person for person in people if person.get(group[0]) == group[1]]
        if not people:
            return None
    if name in MEASURES and MEASURES[name].of == "person":
        values = [person[name] for person in people if person.get(name) is not None]
        return float(np.mean(values)) if values else None
    value = record["scores"].get(name)
    return None if value is None else float(value)


def summarize_records(records: Iterable[Mapping[str, Any]], group: tuple[str, str] | None = None) -> dict[str, Summary]:
    """The summary of every measure over the pictures that could be scored."""
    scored = [record for record in records if "problem" not in record]
    if group is not None:
        scored = [record for record in scored if any(person.get(group[0]) == group[1] for person in record["persons"])]
    found = {name: summarize([value_of(record, name, group) for record in scored]) for name in measures_of(scored)}
    return {name: summary for name, summary in found.items() if summary is not None}


def groups_of(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[Mapping[str, Any]]]]:
    """{"topic": {"wedding": records}, "gender": {"female": ...}}, for what the cases tell; kinds with one value are left out."""
    found: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for record in records:
        if "problem" in record:
            continue
        if record["topic"]:
            found.setdefault("topic", {}).setdefault(record["topic"], []).append(record)
        for kind in GROUPS:
            for value in sorted({person[kind] for person in record["persons"] if person.get(kind)}):
                found.setdefault(kind, {}).setdefault(value, []).append(record)
    return {kind: dict(sorted(values.items())) for kind, values in sorted(found.items()) if len(values) > 1}


@dataclass(frozen=True)
class Comparison:
    """One run less another over the pictures that both scored: mean difference with its 95 % interval, and Wilcoxon's
    signed-rank p (1 where nothing differs)."""

    mean: float
    low: float
    high: float
    p: float
    pictures: int


def compare(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> dict[str, Comparison]:
    """Ours less theirs, measure by measure, over pictures of the same id that are decided in both."""
    from scipy.stats import wilcoxon

    others = {record["id"]: record for record in theirs}
    found = {}
    for name in measures_of(ours):
        both = [
            (value_of(record, name), value_of(others[record["id"]], name)) for record in ours if record["id"] in others
        ]
        apart = np.array([one - other for one, other in both if one is not None and other is not None])
        if len(apart):
            p = float(wilcoxon(apart).pvalue) if np.any(apart) else 1.0
            found[name] = Comparison(**interval(apart), p=p, pictures=len(apart))
    return found


def markdown(
    records: Sequence[Mapping[str, Any]], against: Sequence[Mapping[str, Any]] | None = None, other: str = "the other"
) -> str:
    """The table for people, with what was set aside and why; against: another run's records, `other` its name."""
    scored = [record for record in records if "problem" not in record]
    aside = [record for record in records if "problem" in record]
    lines = [f"{len(scored)} pictures scored" + (f", {len(aside)} set aside (below)." if aside else ".")]
    if scored:
        lines[0] += f" Recogniser: {scored[0]['measured_with']}."
        lines += ["", *_summary_table(summarize_records(scored), scored), "", *_failures(scored)]
    for kind, values in groups_of(records).items():
        lines += ["", f"By {kind.replace('_', ' ')}:", "", *_group_table(kind, values)]
    if against is not None:
        lines += ["", f"Against {other}, picture by picture:", "", *_compare_table(compare(records, against))]
    if aside:
        lines += ["", "Set aside:", "", *(f"- {record['id']}: {record['problem']}" for record in aside)]
    return "\n".join(lines) + "\n"


def _summary_table(summaries: Mapping[str, Summary], scored: Sequence[Mapping[str, Any]]) -> list[str]:
    measures = measures_of(scored)
    lines = [
        "| measure | mean (95 %) | median | trimmed mean | pictures | not decidable |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, summary in summaries.items():
        arrow = {1: " ↑", -1: " ↓", 0: ""}[measures[name].better]
        lines.append(
            f"| {measures[name].title}{arrow} | {_spread(summary)} | {summary.median:.3f} | {summary.trimmed:.3f} "
            f"| {summary.count} | {summary.undecided} |"
        )
    if "right" not in summaries and any(record["asked"] > 1 for record in scored):
        lines.append(f"| {MEASURES['right'].title} ↑ | nothing says who should be where | | | 0 | {len(scored)} |")
    return lines


def _failures(scored: Sequence[Mapping[str, Any]]) -> list[str]:
    few = sum(record["found"] < record["asked"] for record in scored)
    many = sum(record["found"] > record["asked"] for record in scored)
    lines = [
        "The trimmed mean drops outliers, as MultiID-Bench's tool does. A person without a face counts 0 in Sim_*, 1 in "
        f"Copy-Paste and Blending. Too few faces: {few} pictures, too many: {many}."
    ]
    truths = [value for record in scored if (value := value_of(record, "sim_gt")) is not None]
    if truths:
        least = RANKED[min(max(record["asked"] for record in scored), 2)]
        if np.mean(truths) <= least:
            lines.append(f"Copy-Paste is not to be ranked: Sim_GT is {np.mean(truths):.2f}, not above {least:g}.")
    return lines


def _group_table(kind: str, values: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    found = {
        value: summarize_records(records, None if kind == "topic" else (kind, value))
        for value, records in values.items()
    }
    measures = measures_of([record for records in values.values() for record in records])
    if kind != "topic":  # a person of one group may be beside one of another
        measures = {name: measure for name, measure in measures.items() if measure.of == "person"}
    lines = [
        f"| {kind.replace('_', ' ')} | pictures | {' | '.join(measure.title for measure in measures.values())} |",
        f"| --- | --- |{' --- |' * len(measures)}",
    ]
    for value, summaries in found.items():
        cells = (_spread(summaries[name]) if name in summaries else "" for name in measures)
        lines.append(f"| {value} | {len(values[value])} | {' | '.join(cells)} |")
    return lines


def _compare_table(found: Mapping[str, Comparison]) -> list[str]:
    lines = ["| measure | difference (95 %) | p | pictures |", "| --- | --- | --- | --- |"]
    for name, one in found.items():
        title = MEASURES[name].title if name in MEASURES else name
        known = one.pictures >= FEW
        spread = f" ({one.low:+.3f} to {one.high:+.3f})" if known else ""
        lines.append(f"| {title} | {one.mean:+.3f}{spread} | {f'{one.p:.2g}' if known else ''} | {one.pictures} |")
    return lines


def _spread(summary: Summary) -> str:
    if summary.count < FEW:
        return f"{summary.mean:.3f}"
    return f"{summary.mean:.3f} ({summary.low:.3f} to {summary.high:.3f})"


def csv_text(records: Sequence[Mapping[str, Any]]) -> str:
    """A row a person, pictures' figures repeated in each; a row for what was set aside, with its problem."""
    measures = measures_of(records)
    persons = [name for name, measure in measures.items() if measure.of == "person"]
    pictures = [name for name in measures if name not in persons]
    head = ["id", "person", "picture", "found", "asked", "said_by", *pictures, *persons, *GROUPS, "topic", "problem"]
    text = io.StringIO()
    writer = csv.DictWriter(text, head, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for record in records:
        for number, person in enumerate(record.get("persons") or [{}], 1):
            own = {name: person.get(name) for name in (*persons, *GROUPS)}
            writer.writerow({**record, **record.get("scores", {}), **own, "person": number if person else ""})
    return text.getvalue()
