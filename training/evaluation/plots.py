"""Plots of scores: identity against words over strength, Copy-Paste against Sim_GT, and how each measure is spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dhumandiff.errors import short_error

from .. import TrainingError
from .tables import RANKED, measures_of, summarize_records, value_of

__all__ = ["plot_copying", "plot_distributions", "plot_strengths"]


def plot_strengths(records: Sequence[Mapping[str, Any]], path: Path) -> Path | None:
    """Sim_Ref and right person against CLIP-T, a point a strength, with 95 % intervals. None where there is one strength or no
    CLIP-T."""
    strengths = sorted({record["strength"] for record in records if record.get("strength") is not None})
    found = {
        strength: summarize_records([record for record in records if record.get("strength") == strength])
        for strength in strengths
    }
    if len(strengths) < 2 or not all("clip_t" in summaries for summaries in found.values()):
        return None
    figure = _figure(10, 4.5)
    for axes, (name, title) in zip(
        figure.subplots(1, 2), (("sim_ref", "Sim_Ref"), ("right", "right person")), strict=True
    ):
        line = [
            (summaries["clip_t"], summaries[name], strength)
            for strength, summaries in found.items()
            if name in summaries
        ]
        if line:
            x, y = ([point[k].mean for point in line] for k in (0, 1))
            bars = [[[p[k].mean - p[k].low for p in line], [p[k].high - p[k].mean for p in line]] for k in (0, 1)]
            axes.errorbar(x, y, xerr=bars[0], yerr=bars[1], marker="o", elinewidth=0.7, capsize=2)
            for words, identity, strength in line:
                axes.annotate(f"{strength:g}", (words.mean, identity.mean), xytext=(4, 4), textcoords="offset points")
        axes.set(xlabel="words: CLIP-T", ylabel=title)
        axes.grid(alpha=0.3)
    return _save(figure, path)


def plot_copying(records: Sequence[Mapping[str, Any]], path: Path) -> Path | None:
    """Copy-Paste against Sim_GT, a point a picture and the mean. None without real pictures."""
    points = [(value_of(record, "sim_gt"), value_of(record, "copy_paste")) for record in records]
    points = [(x, y) for x, y in points if x is not None and y is not None]
    if not points:
        return None
    figure = _figure(6, 4.5)
    axes = figure.subplots()
    x, y = zip(*points, strict=True)
    axes.scatter(x, y, s=10, alpha=0.5, label=f"{len(points)} pictures")
    axes.scatter([sum(x) / len(x)], [sum(y) / len(y)], marker="*", s=160, color="C3", label="mean")
    least = RANKED[2 if any(record["asked"] > 1 for record in records) else 1]
    axes.axvline(least, color="0.5", linestyle=":", label=f"ranked from Sim_GT {least:g} on")
    axes.axhline(0, color="0.8", linewidth=0.8)
    axes.set(xlabel="Sim_GT (the person)", ylabel="Copy-Paste (1: the photo, -1: the real picture)")
    axes.legend(fontsize=8)
    return _save(figure, path)


def plot_distributions(records: Sequence[Mapping[str, Any]], path: Path) -> Path | None:
    """A histogram a measure, with its mean. None without scores."""
    values = {
        measure.title: [value for record in records if (value := value_of(record, name)) is not None]
        for name, measure in measures_of(records).items()
    }
    if not values:
        return None
    columns = min(len(values), 4)
    rows = -(-len(values) // columns)
    figure = _figure(3 * columns, 2.4 * rows)
    for axes, (title, each) in zip(figure.subplots(rows, columns, squeeze=False).flat, values.items(), strict=False):
        axes.hist(each, bins=24, color="C0")
        axes.axvline(sum(each) / len(each), color="C3")
        axes.set_title(f"{title}: {sum(each) / len(each):.3f}", fontsize=9)
    for axes in figure.axes[len(values) :]:
        axes.set_axis_off()
    return _save(figure, path)


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TrainingError(
            "Plots need matplotlib. Install it with: pip install '.[train]'", code="no-matplotlib"
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: Path) -> Path:
    try:
        figure.savefig(path, dpi=130)
    except OSError as error:
        raise TrainingError(
            f"{path} cannot be written ({short_error(error)}). Choose another folder.", code="cannot-write"
        ) from error
    return path
