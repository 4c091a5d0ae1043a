"""The section of docs/benchmarks.md about GPUs, from the result files alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import GpuBenchmarkError
from .goals import GOALS, judge
from .keeping import FOLDER, read
from .parts import PARTS
from .setup import SAME

__all__ = ["section"]

GIB = 2**30

TITLES = {
    "plain": "nobody",
    "pair": "pair",
    "pair_masks": "pair with two masks",
    "one_pass": "cascade `one_pass`",
    "two_strength": "cascade `two_strength`",
    "released": "cascade `released`",
    "floor": "floor: two people, nothing else",
    "two_spirit": "two people, `form` 0",
    "two": "two people, `form` 0.5",
    "four": "four people, `form` 0.5",
    "1 parts": "1 part",
    "4 masks": "4 parts with masks",
    "4 dropped": "4 parts, masked areas left out",
    "ip_adapters": "diffusers' two IP-Adapters",
    "ip_adapters_masks": "diffusers' two IP-Adapters with masks",
}
"""Variants as people read them; others by their own names."""

NOTHING = "**Nothing was measured on a GPU yet.** The tables come here as soon as somebody sends figures."


def section(folder: Path = FOLDER) -> str:
    """What was measured, a heading a card; what there is to run where nothing was.

    Raises:
        GpuBenchmarkError: a file cannot be read, or a folder holds figures of several setups.
    """
    found = [(setup, _load(setup)) for setup in sorted(folder.glob("*")) if any(setup.glob("*.json"))]
    told = [_card(files) for _, files in found] or [NOTHING]
    return "\n\n".join([*told, _parts_table()])


def _load(folder: Path) -> dict[str, dict[str, Any]]:
    files = {path.stem: read(path) for path in sorted(folder.glob("*.json"))}
    setups = {tuple(file["setup"].get(name) for name in SAME) for file in files.values()}
    if len(setups) > 1:
        raise GpuBenchmarkError(
            f"{folder} holds figures of several setups: {'; '.join(', '.join(map(str, setup)) for setup in sorted(setups))}. Move each "
            "into a folder of its own.",
            code="results-of-several-setups",
        )
    return files


def _card(files: Mapping[str, dict[str, Any]]) -> str:
    facts = next(iter(files.values()))["setup"]
    dates = sorted(case["date"] for file in files.values() for case in file["cases"].values())
    memory = f", {facts['memory'] / GIB:.0f} GiB" if facts["memory"] else ""
    size = " (tiny models: figures of the command, not of a card)" if facts["size"] == "small" else ""
    driver = f"driver {facts['driver']}, CUDA {facts['cuda']}, " if facts["driver"] else ""
    lines = [
        f"### {facts['card']}{size}",
        f"{facts['card']}{memory}, {driver}PyTorch {facts['torch']}, diffusers {facts['diffusers']}; {facts['machine']['cpu']}, "
        f"{facts['machine']['system']}; {dates[0]}{f' to {dates[-1]}' if dates[-1] != dates[0] else ''}. "
        f"{len(files)} of {len(PARTS)} parts: `python -m benchmarks.gpu`.",
    ]
    figures = {name: file["cases"] for name, file in files.items()}
    lines.append(_goals_table(figures, facts["card"]))
    for name, cases in sorted(figures.items(), key=lambda item: list(PARTS).index(item[0]) if item[0] in PARTS else 99):
        lines += _tables_of(name, cases)
    return "\n\n".join(lines)


def _goals_table(figures: Mapping[str, Mapping[str, Any]], card: str) -> str:
    rows = [[goal.says, *judge(goal, figures, card)] for goal in GOALS]
    return _table(["to reach", "measured", ""], rows)


def _tables_of(part: str, cases: Mapping[str, Any]) -> list[str]:
    """Tables of a part: of what takes turns a column a case; of everything else a row a case."""
    turns = {name: case for name, case in cases.items() if "variants" in case}
    others = {name: case for name, case in cases.items() if "variants" not in case}
    made = [f"`{part}`: {PARTS[part].what if part in PARTS else ''}".rstrip(": ")]
    if turns:
        names = dict.fromkeys(variant for case in turns.values() for variant in case["variants"])
        heads = ["ratio, seconds a step, memory", *(name.replace("_", ", ") for name in turns)]
        rows = [
            [TITLES.get(variant, variant), *(_cell(case["variants"].get(variant)) for case in turns.values())]
            for variant in names
        ]
        rows += [
            [title, *(str(case.get(key, "")) for case in turns.values())]
            for key, title in (
                ("graphs", "graphs"),
                ("compilations", "compilations, the plain run's with them"),
                ("breaks", "graph breaks"),
                ("breaks_by_us", "of these in our files"),
            )
            if any(key in case for case in turns.values())
        ]
        made.append(_table(heads, rows))
    if others:
        made.append(_table(["", "figures"], [[name, _told(case)] for name, case in others.items()]))
    return made


def _cell(figures: Mapping[str, Any] | None) -> str:
    if figures is None:
        return ""
    if "out_of_memory" in figures:
        return figures["out_of_memory"]
    ratio = f"{figures['ratio']:.3f} ({figures['low']:.3f} to {figures['high']:.3f}), " if "ratio" in figures else ""
    return f"{ratio}{figures['seconds']:.3g} s, {figures['peak'] / GIB:.1f} GiB"


def _told(case: Mapping[str, Any]) -> str:
    """Figures in words: `bytes` as GiB, numbers short."""
    told = []
    for name, value in case.items():
        if name in ("date", "took_seconds", "command"):
            continue
        if isinstance(value, Mapping):
            value = f"({_told(value)})"
        elif isinstance(value, bool) or value is None:
            value = {True: "yes", False: "no", None: "not told"}[value]
        elif isinstance(value, list):
            value = ", ".join(map(str, value)) or "none"
        elif name.endswith("bytes") or name == "peak":
            name, value = name.removesuffix("_bytes"), f"{value / GIB:.1f} GiB"
        elif isinstance(value, float):
            value = f"{value:.3g}"
        told.append(f"{name.replace('_', ' ')} {value}")
    return "; ".join(told)


def _parts_table() -> str:
    rows = [[f"`{name}`", part.what, f"{part.minutes:g}"] for name, part in PARTS.items()]
    return _table(["part", "what it measures", "minutes, estimated"], rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines)
