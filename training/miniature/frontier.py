"""Identity against words: DHumanDiff over its strengths, and the dual pathway. Made from the rows' JSON files alone.

    print(frontier_table(load_results()))       # what docs/miniature.md shows
    plot_frontier(load_results(), "ablation_results/frontier.png")

Two rows with other words are hard to compare. So a row is held against what its rival has at the same words: the rival's rows that
nobody beats in both measures make a line, and between two of them lies what drawing now with the one, now with the other gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dhumandiff.errors import short_error
from dhumandiff.evaluation.metrics import interval

from .. import TrainingError
from .scoring import RESAMPLES
from .table import draw_points, percent

__all__ = ["RIVALS", "at_equal", "frontier_table", "plot_frontier", "unbeaten"]

Rows = Mapping[str, Mapping[str, Any]]

RIVALS: dict[str, tuple[str, ...]] = {
    "one_pass": (
        "one_pass_0.4_0.7",
        "one_pass_0.4_1",
        "full",
        "one_pass_0.7_1.3",
        "one_pass_1_1.3",
    ),
    "one strength": ("off_0.4", "off_0.7", "off_1", "off_1.3"),
}
"""DHumanDiff's rows, a line each."""

_SHOWN = {"right": "right person", "recognition": "recognition", "words": "words", "present": "both present"}


def unbeaten(rows: Sequence[Mapping[str, Any]], x: str = "words", y: str = "recognition") -> list[Mapping[str, Any]]:
    """The rows that no other has both more x and more y than, from little x to much."""
    kept: list[Mapping[str, Any]] = []
    for row in sorted(rows, key=lambda row: (-_mean(row, x), -_mean(row, y))):
        if not kept or _mean(row, y) > _mean(kept[-1], y):
            kept.append(row)
    return kept[::-1]


def at_equal(
    row: Mapping[str, Any], rivals: Sequence[Mapping[str, Any]], x: str = "words", y: str = "recognition"
) -> dict[str, float] | None:
    """A row's y less what its rivals have at the row's x, pair by pair, with a 95 % interval.

    Beyond the rivals' ends it is held against the end. None where rows are of other pairs.
    """
    line, at = unbeaten(rivals, x, y), _mean(row, x)
    above = next((place for place, rival in enumerate(line) if _mean(rival, x) >= at), len(line) - 1)
    below = max(above - 1, 0)
    first, second = line[below], line[above]
    wide = _mean(second, x) - _mean(first, x)
    share = min(max((at - _mean(first, x)) / wide, 0.0), 1.0) if wide > 0 else 1.0
    own, low, high = (np.array(each["held_out"]["by_pair"][y]) for each in (row, first, second))
    if not own.shape == low.shape == high.shape:
        return None
    return interval(own - (1 - share) * low - share * high, RESAMPLES)


def frontier_table(rows: Rows) -> str:
    """Markdown: all rows of both methods, then each of the dual pathway beside its rivals at equal words and at equal recognition."""
    duals = _duals(rows)
    names = [name for line in RIVALS.values() for name in line if name in rows]
    lines = [f"| row | {' | '.join(_SHOWN.values())} |", f"| --- |{' --- |' * len(_SHOWN)}"]
    for row in [*(rows[name] for name in names), *duals]:
        cells = [percent(row["held_out"]["measures"][measure]) for measure in _SHOWN]
        lines.append(f"| {row['title']} | {' | '.join(cells)} |")
    lines += [
        "",
        "| row | less | recognition at equal words | words at equal recognition |",
        "| --- | --- | --- | --- |",
    ]
    for row in duals:
        for title, line in RIVALS.items():
            rivals = [rows[name] for name in line if name in rows]
            if rivals:
                found = (at_equal(row, rivals), at_equal(row, rivals, "recognition", "words"))
                cells = ["" if one is None else percent(one, " points") for one in found]
                lines.append(f"| {row['title']} | {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot_frontier(rows: Rows, path: str | Path) -> Path:
    """Draw recognition against words: a line a rival, a point a row of the dual pathway. A PNG.

    Raises:
        TrainingError: matplotlib is missing, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TrainingError(
            "The plot needs matplotlib. Install it with: pip install matplotlib", code="no-matplotlib-for-frontier"
        ) from error
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    for number, (title, line) in enumerate(RIVALS.items()):
        found = sorted((rows[name] for name in line if name in rows), key=lambda row: _mean(row, "words"))
        if found:
            draw_points(axes, found, "recognition", color=f"C{number}", label=f"DHumanDiff, {title}", marker="o")
    markers = "sD^v<>Pp*X"
    for number, row in enumerate(_duals(rows)):
        label = row["title"].replace("dual pathway, ", "dual: ")
        draw_points(axes, [row], "recognition", color=f"C{2 + number % 8}", label=label, marker=markers[number % 10])
    axes.set_xlabel("words as written, %")
    axes.set_ylabel("recognition, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="lower left")
    try:
        figure.savefig(path, dpi=130)
    except OSError as error:
        raise TrainingError(
            f"{path} cannot be written ({short_error(error)}). Choose another folder.", code="frontier-not-written"
        ) from error
    return Path(path)


def _duals(rows: Rows) -> list[Mapping[str, Any]]:
    return [row for row in rows.values() if "dual" in (row["sampling"] or {})]


def _mean(row: Mapping[str, Any], measure: str) -> float:
    return float(row["held_out"]["measures"][measure]["mean"])
