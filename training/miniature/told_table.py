"""Expressions and turns of heads as asked, against recognition, in Markdown and as a plot. Made from the rows' JSON files alone.

print(told_table(load_told_results()))      # what docs/miniature.md shows
plot_told(load_told_results(), "ablation_results/expressions.png")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dhumandiff.errors import short_error

from .. import TrainingError
from .frontier import at_equal
from .scoring import difference
from .table import draw_points, percent
from .told_scoring import MEASURES, ONE_PASS, ONE_STRENGTH

__all__ = ["plot_told", "told_table"]

Rows = Mapping[str, Mapping[str, Any]]

RIVALS = {"one_pass": ONE_PASS, "one strength": ONE_STRENGTH}
"""DHumanDiff's rows, a line each."""
COPYING = "told_copying_"
"""How names of rows begin whose adapter saw no paired references."""
COMPARED = ("expression", "head", "words")
BESIDE = ("told_ceiling", "told_base", "told_shipped")
"""Rows of neither method as it is meant."""


def told_table(rows: Rows) -> str:
    """Markdown: every row; then each of the dual pathway beside what DHumanDiff's lines have at equal recognition or expression, pair by
    pair; then what each row loses to the base."""
    if not rows:
        return ""
    lines = [f"| row | {' | '.join(MEASURES.values())} |", f"| --- |{' --- |' * len(MEASURES)}"]
    for row in rows.values():
        cells = [percent(row["held_out"]["measures"][name]) for name in MEASURES]
        lines.append(f"| {row['title']} | {' | '.join(cells)} |")
    lines += [
        "",
        "| row | less | expression, at equal recognition | turn, at equal recognition | words, at equal recognition | recognition, at equal expression |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in _others(rows).items():
        for title, line in RIVALS.items():
            rivals = _line(rows, line, _start(name))
            if rivals:
                found = [at_equal(row, rivals, "recognition", measure) for measure in COMPARED]
                found.append(at_equal(row, rivals, "expression", "recognition"))
                cells = ["" if one is None else percent(one, " points") for one in found]
                lines.append(f"| {row['title']} | {title} | {' | '.join(cells)} |")
    if "told_base" in rows:
        lines += ["", "| row less the base | expression | turn of the head | words |", "| --- | --- | --- | --- |"]
        for name, row in rows.items():
            if name not in BESIDE:
                apart = [difference(row["held_out"], rows["told_base"]["held_out"], measure) for measure in COMPARED]
                cells = ["" if one is None else percent(one, " points") for one in apart]
                lines.append(f"| {row['title']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot_told(rows: Rows, path: str | Path) -> Path:
    """Draw recognition against expressions as asked: a line a rival, a point any other row. A PNG.

    Raises:
        TrainingError: matplotlib is missing, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TrainingError(
            "The plot needs matplotlib. Install it with: pip install matplotlib", code="no-matplotlib-for-expressions"
        ) from error
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    for number, (title, line) in enumerate(RIVALS.items()):
        found = _line(rows, line)
        if found:
            label = f"DHumanDiff, {title}"
            draw_points(axes, found, "recognition", x="expression", color=f"C{number}", label=label, marker="o")
    markers = "sD^v<>Pp*X"
    shown = {**_others(rows), **{name: rows[name] for name in BESIDE if name in rows}}
    for number, row in enumerate(shown.values()):
        style = {"color": f"C{2 + number % 8}", "label": row["title"], "marker": markers[number % 10]}
        draw_points(axes, [row], "recognition", x="expression", **style)
    axes.set_xlabel("expression as asked, %")
    axes.set_ylabel("recognition, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    try:
        figure.savefig(path, dpi=130)
    except OSError as error:
        raise TrainingError(
            f"{path} cannot be written ({short_error(error)}). Choose another folder.", code="expressions-not-written"
        ) from error
    return Path(path)


def _start(name: str) -> str:
    """How names of rows begin that have the same weights."""
    return COPYING if name.startswith(COPYING) else "told_"


def _line(rows: Rows, line: Sequence[str], start: str = "told_") -> list[Mapping[str, Any]]:
    return [rows[start + name] for name in line if start + name in rows]


def _others(rows: Rows) -> dict[str, Mapping[str, Any]]:
    lines = {start + name for line in RIVALS.values() for name in line for start in ("told_", COPYING)}
    return {name: row for name, row in rows.items() if name not in lines and name not in BESIDE}
