"""The table of ablations in Markdown, and a plot, made from the JSON files alone.

rows = load_results()
print(brief(rows))                                # what docs/miniature.md shows
report(rows, "ablation_results/README.md")                # all of it
plot(rows, "ablation_results/strengths.png")                # identity against words, over strengths
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dhumandiff.errors import short_error

from .. import TrainingError
from .fairness import people_table
from .scoring import difference

__all__ = ["brief", "draw_points", "percent", "plot", "report", "table"]

Rows = Mapping[str, Mapping[str, Any]]

_GOALS: tuple[tuple[str, str, str, str, str], ...] = (
    ("right person", "held_out", "right", "50 %", "98 %"),
    ("right person, {hardest} hardest pairs of one gender", "hardest", "right", "50 %", "88 %"),
    ("recognition: own reference first among 20 strangers", "held_out", "recognition", "5 %", "90 %"),
    ("words: clothing colour of each and scene", "held_out", "words", "12.5 %", ""),
    ("all three words at once", "held_out", "joint", "0.2 %", "97 %, and within a point of the base"),
    ("both people present", "held_out", "present", "", "99.5 %"),
    ("Sim_GT: cosine to the world's own drawing", "held_out", "sim_gt", "", "0.60"),
)  # fmt: skip
"""What is told, of which list of pairs, which measure, chance, and what was to be reached."""


_SHORT = (
    "shared",
    "order_swapping",
    "no_subject_prompt",
    "no_localisation",
    "reconstruction_only",
    "light_augmentation",
    "unequal",
)
_CHANGES = {
    **dict.fromkeys(_SHORT, "short"),
    "identity": "longer",
    "identity_no_pairs": "identity",
    "identity_no_alignment": "identity",
    "identity_no_negatives": "identity",
    "late_first_swapping": "order_swapping",
    "few_one_pass": "few_off",
    "few_two_strength": "few_off",
    "unequal_balanced": "unequal",
    **{f"light_{light}": "light_even" for light in ("side", "dark", "tinted", "old_photo")},
    **{
        f"light_{light}_{way}": f"light_{light}"
        for light in ("even", "side", "dark", "tinted", "old_photo")
        for way in ("normalised", "trained")
    },
}
"""Rows that change another one than the whole method."""

_BRIEF = (
    "full",
    "no_identity",
    "short",
    "shared",
    "no_subject_prompt",
    "no_localisation",
    "reconstruction_only",
    "order_swapping",
    "identity",
    "off_1",
    "two_strength_0.7_1",
    "released_0.7_1",
    "ceiling",
    "base",
)
"""Rows that docs/miniature.md shows: the method without each of its parts, and the cascade's modes."""

_COLUMNS = (
    ("right person", "held_out", "right"),
    ("hardest pairs", "hardest", "right"),
    ("recognition", "held_out", "recognition"),
    ("words", "held_out", "words"),
    ("all words", "held_out", "joint"),
    ("both present", "held_out", "present"),
)


def brief(rows: Rows, of: str = "full", before: Rows | None = None) -> str:
    """Markdown of what docs/miniature.md shows: row `of` beside its goals, and a row for each part of the method. Percent, with 95 %
    intervals. before: the rows of the miniature before this one, for a column."""
    shown = {name: rows[name] for name in _BRIEF if name in rows}
    columns = [column for column in _COLUMNS if column[0] not in ("hardest pairs", "all words")]
    return "\n".join([*_goals(rows, of, before), "", *_row_table(shown, columns)]) + "\n"


def table(rows: Rows, of: str = "full", before: Rows | None = None) -> str:
    """Markdown: row `of` beside its goals, base and ceiling; then all rows; then what each row changes, pair by pair. Percent, with
    95 % intervals. before: as in `brief`."""
    lines = [*_goals(rows, of, before), "", *_row_table(rows, _COLUMNS)]
    alike = [row for row in rows.values() if "sim_gt" in row["held_out"]["measures"]]
    if alike:
        names = {"sim_gt": "Sim_GT", "sim_ref": "Sim_Ref", "copy_paste": "Copy-Paste", "blending": "Blending"}
        lines += ["", f"| row | {' | '.join(names.values())} |", f"| --- |{' --- |' * len(names)}"]
        for row in alike:
            cells = [_plain(row["held_out"]["measures"][name]) for name in names]
            lines.append(f"| {row['title']} | {' | '.join(cells)} |")
    if of in rows:
        lines += _differences(rows, of)
    for name in (of, "unequal", "unequal_balanced"):
        if name in rows and "people" in rows[name]["held_out"]:
            lines += ["", f"{rows[name]['title']}, by what people look like:", ""]
            lines += people_table(rows[name]["held_out"]["people"])
    return "\n".join(lines).lstrip("\n") + "\n"


def report(rows: Rows, path: str | Path, before: Rows | None = None) -> Path:
    """Write all of it as a page; before: as in `brief`.

    Raises:
        TrainingError: the file cannot be written.
    """
    text = (
        "# What each part of the method is worth on the miniature\n\nMade by `python -m training mini --row table` from the JSON "
        "files beside this page; `python -m training mini --row NAME` trains and judges one of them. What the measures are: "
        "[the miniature](../../../docs/miniature.md#how-well-it-keeps-two-people-apart).\n\n![Identity against words, by strength](strengths.png)\n\n"
    )
    try:
        Path(path).write_text(text + table(rows, before=before), encoding="utf-8")
    except OSError as error:
        raise TrainingError(
            f"{path} cannot be written ({short_error(error)}). Choose another folder.", code="cannot-write"
        ) from error
    return Path(path)


def _goals(rows: Rows, of: str, before: Rows | None) -> list[str]:
    """Row `of` beside what was to be reached, the ceiling, the base, and the same row of the miniature before."""
    lines: list[str] = []
    if of in rows:
        row = rows[of]
        hardest = row.get("hardest", {}).get("pairs", 0)
        names = {"reached": of, "ceiling": "ceiling", "base without adapter": "base"}
        beside = {title: rows[name] for title, name in names.items() if name in rows}
        if before and of in before:
            beside["first miniature"] = before[of]
        lines += [
            f"{row['pairs']} held-out pairs, {row['seeds']} seeds; in brackets 95 % intervals from resampling pairs.",
            "",
            f"| measure | chance | to reach | {' | '.join(beside)} |",
            f"| --- | --- | --- |{' --- |' * len(beside)}",
        ]
        for what, part, measure, chance, goal in _GOALS:
            if part in row:
                cells = [_cell(each, part, measure) for each in beside.values()]
                lines.append(f"| {what.format(hardest=hardest)} | {chance} | {goal} | {' | '.join(cells)} |")
        if "base" in rows and (apart := difference(row["held_out"], rows["base"]["held_out"], "words")):
            joint = difference(row["held_out"], rows["base"]["held_out"], "joint")
            at_once = f"; all three at once: {percent(joint, ' points')}" if joint else ""
            lines += ["", f"Words less those of the base: {percent(apart, ' points')}{at_once}."]
    return lines


def _row_table(rows: Rows, columns: Sequence[tuple[str, str, str]]) -> list[str]:
    """A line a row, a column a measure. Rows of fewer pictures say so."""
    most = max((row["seeds"] for row in rows.values()), default=0)
    return [
        f"| row | {' | '.join(title for title, _, _ in columns)} |",
        f"| --- |{' --- |' * len(columns)}",
        *(
            f"| {row['title']}{_fewer(row['seeds'], most)} | {' | '.join(_cell(row, part, measure) for _, part, measure in columns)} |"
            for row in rows.values()
        ),
    ]


def _fewer(seeds: int, most: int) -> str:
    return f"; {seeds} seed{'s' * (seeds > 1)}" if seeds < most else ""


def _differences(rows: Rows, of: str) -> list[str]:
    """Every row less the one that it changes, pair by pair, in points (hundredths of Sim_GT)."""
    names = {
        "right": "right person",
        "recognition": "recognition",
        "words": "words",
        "present": "both present",
        "sim_gt": "Sim_GT",
    }
    lines = []
    for name, row in rows.items():
        other = rows.get(_CHANGES.get(name, of), rows.get(of))
        if other is None or other is row or name in ("base", "ceiling"):
            continue
        summaries = row["held_out"], other["held_out"]
        if any(measure not in summary.get("by_pair", {}) for measure in names for summary in summaries):
            continue
        apart = [difference(*summaries, measure) for measure in names]
        cells = ["" if each is None else percent(each, "") for each in apart]
        lines.append(f"| {row['title']} | {other['title']} | {' | '.join(cells)} |")
    head = [f"| row | less | {' | '.join(names.values())} |", f"| --- | --- |{' --- |' * len(names)}"]
    return ["", *head, *lines] if lines else []


def percent(interval: Mapping[str, float], unit: str = " %") -> str:
    """ "97.2 % (95.9 to 98.3)"."""
    mean, low, high = (100 * interval[name] for name in ("mean", "low", "high"))
    return f"{mean:.1f}{unit} ({low:.1f} to {high:.1f})"


def _of_cascade(row: Mapping[str, Any]) -> bool:
    """Whether it is the cascade's, with faces that counted from the first step to the last."""
    sampling = row["sampling"] or {}
    return not sampling.keys() & {"dual", "heard"} and (sampling.get("start", 0.0), sampling.get("end", 1.0)) == (
        0.0,
        1.0,
    )


def _plain(interval: Mapping[str, float]) -> str:
    """ "0.412 (0.401 to 0.423)"."""
    return "{mean:.3f} ({low:.3f} to {high:.3f})".format(**interval)


def _cell(row: Mapping[str, Any], part: str, measure: str) -> str:
    found = row[part]["measures"].get(measure) if part in row else None
    if found is None:
        return ""
    return _plain(found) if measure == "sim_gt" else percent(found)


def plot(rows: Rows, path: str | Path) -> Path:
    """Draw identity against words, a line a mode of the cascade and a point a strength, with base and ceiling. A PNG.

    Raises:
        TrainingError: matplotlib is missing, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TrainingError(
            "The plot needs matplotlib. Install it with: pip install matplotlib", code="no-matplotlib"
        ) from error
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    shipped = [
        row
        for row in rows.values()
        if not row["training"] and not row.keys() & {"light", "data", "late_first"} and _of_cascade(row)
    ]
    for axes, (measure, title) in zip(
        figure.subplots(1, 2), (("right", "right person"), ("recognition", "recognition")), strict=True
    ):
        for number, mode in enumerate(("none", "two_strength", "released", "one_pass")):
            line = sorted(
                (row for row in shipped if row["name"] != "base" and (row["sampling"] or {}).get("mode") == mode),
                key=_strengths,
            )
            if not line:
                continue
            label = {"none": "cascade off"}.get(mode, mode)
            draw_points(axes, line, measure, color=f"C{number}", label=label, marker="o", linestyle="-")
            for row in line:
                at = [100 * row["held_out"]["measures"][name]["mean"] for name in ("words", measure)]
                strengths = " / ".join(f"{value:g}" for value in _strengths(row))
                axes.annotate(strengths, at, xytext=(4, 4), textcoords="offset points", fontsize=7, color=f"C{number}")
        for name, marker, label in (("base", "s", "base without adapter"), ("ceiling", "*", "ceiling")):
            if name in rows:
                draw_points(axes, [rows[name]], measure, color="0.3", label=label, marker=marker, linestyle="none")
        axes.set_xlabel("words as written, %")
        axes.set_ylabel(f"{title}, %")
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    try:
        figure.savefig(path, dpi=130)
    except OSError as error:
        raise TrainingError(
            f"{path} cannot be written ({short_error(error)}). Choose another folder.", code="cannot-write"
        ) from error
    return Path(path)


def _strengths(row: Mapping[str, Any]) -> tuple[float, ...]:
    sampling = row["sampling"]
    names = ("strength",) if sampling["mode"] == "none" else ("scene_strength", "face_strength")
    return tuple(sampling[name] for name in names)


def draw_points(axes: Any, rows: Sequence[Mapping[str, Any]], measure: str, x: str = "words", **style: Any) -> None:
    """Rows as points with their intervals on matplotlib's axes, the measure upwards and x to the right."""
    found = [
        [row["held_out"]["measures"][name][end] * 100 for row in rows]
        for name in (x, measure)
        for end in ("mean", "low", "high")
    ]
    (across, x_low, x_high), (up, y_low, y_high) = (np.array(found[:3]), np.array(found[3:]))
    errors = {"xerr": (across - x_low, x_high - across), "yerr": (up - y_low, y_high - up)}
    axes.errorbar(across, up, **errors, elinewidth=0.7, capsize=2, **style)
