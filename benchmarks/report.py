"""Tables and plot of docs/benchmarks.md: what the pack costs, from `results/*.json` alone.

python -m benchmarks.report

The tables of the CPU are printed; the part of the page about GPUs (`results/gpu/`) is written into it, between its two marks.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dhumandiff.io import atomic_write

from .comfyui import ROOT
from .gpu import GpuBenchmarkError
from .gpu.keeping import FOLDER as GPU_FOLDER
from .gpu.tables import section
from .results import FOLDER, load

TITLES = {
    "plain": "KSampler, nothing applied",
    "floor": "floor: two people, nothing else",
    "pair": "pair",
    "ip_adapters": "two chained IP-Adapters (ComfyUI_IPAdapter_plus)",
    "floor_masks": "floor with two masks",
    "pair_masks": "pair with two masks",
    "ip_adapters_masks": "two chained IP-Adapters with masks",
    "one_pass": "cascade `one_pass`",
    "one_pass_masks": "cascade `one_pass` with two masks",
    "two_strength": "cascade `two_strength`",
    "released": "cascade `released`",
}
"""Variants as people read them, in the order of the table."""


DUAL_TITLES = {
    "plain": "nobody on it",
    "pair": "DHumanDiff, one strength",
    "pair, masks": "DHumanDiff with two masks",
    "pair, one_pass": "DHumanDiff, `one_pass` (the default)",
    "untrained, given": "dual pathway untrained, regions given",
    "untrained, attention": "dual pathway untrained, regions found in the attention",
    "trained, given": "dual pathway with text path and gates, regions given",
    "trained, attention": "the same, regions found in the attention",
    "trained, router": "the same, regions from the router",
}


PAGE = ROOT / "docs" / "benchmarks.md"
MARKS = ("<!-- measured on GPUs: made by python -m benchmarks.report -->", "<!-- end -->")
"""Between these the page has what the GPU's result files say."""


def main(arguments: list[str] | None = None) -> None:
    """Print the tables, draw the plot, and write the page's part about GPUs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.split("\n")[0])
    parser.add_argument("--gpu", type=Path, default=GPU_FOLDER, help="results of python -m benchmarks.gpu")
    parser.add_argument("--page", type=Path, default=PAGE, help="whose part about GPUs is made anew")
    parser.add_argument("--gpu-only", action="store_true", help="leave the tables and the plot of the CPU alone")
    given = parser.parse_args(arguments)
    try:
        write_gpu_section(given.page, given.gpu)
    except GpuBenchmarkError as error:
        raise SystemExit(str(error)) from error
    if given.gpu_only:
        return
    found = results("sampling")
    if not found:
        raise SystemExit(f"There is nothing in {FOLDER} yet: run python -m benchmarks.sampling first.")
    print(*tables(), sep="\n\n")
    plot(found)


def write_gpu_section(page: Path = PAGE, folder: Path = GPU_FOLDER) -> None:
    """Put what was measured on GPUs between the page's marks.

    Raises:
        GpuBenchmarkError: a result cannot be read, or the page has no marks.
    """
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not begin or not end:
        raise GpuBenchmarkError(
            f"{page} has no lines {MARKS[0]} and {MARKS[1]}: put them in.", code="page-without-marks"
        )
    with atomic_write(page) as part:
        part.write_text(f"{before}{begin}\n\n{section(folder)}\n\n{end}{after}", encoding="utf-8")


def tables() -> list[str]:
    """A table for each kind of result there is."""
    makers = {
        "sampling": sampling_table,
        "memory": memory_table,
        "encode": encode_table,
        "training": training_table,
        "parts": parts_table,
        "flux": flux_table,
        "dual": dual_table,
        "cards": cards_table,
    }
    return [make(found) for kind, make in makers.items() if (found := results(kind))]


def results(kind: str) -> list[dict[str, Any]]:
    """What was written by one command, small settings first."""
    found = [load(path.stem) for path in sorted(FOLDER.glob(f"{kind}*.json"))]
    return sorted(found, key=lambda one: (one["settings"].get("size", 0), one["settings"].get("channels", 0)))


def sampling_table(results: list[dict[str, Any]]) -> str:
    """Ratios to a plain run: a row a variant, a column a setting."""
    heads = [
        f"{s['size']} px, {s['channels']} channels,<br>{s['steps']} steps, {s['rounds']} rounds"
        for s in (result["settings"] for result in results)
    ]
    rows = [[title, *(_ratio(r["ratios"].get(name)) for r in results)] for name, title in TITLES.items()]
    return _table(["whole run", *heads], rows)


def memory_table(results: list[dict[str, Any]]) -> str:
    """Peak memory: a row a variant, a column a setting."""
    heads = [f"{r['settings']['size']} px, {r['settings']['channels']} channels" for r in results]
    rows = [[title, *(_memory(r["variants"].get(name)) for r in results)] for name, title in TITLES.items()]
    return _table(["peak memory", *heads], rows)


def flux_table(results: list[dict[str, Any]]) -> str:
    """Ratios to a plain run of a FLUX: a row a variant, a column a setting."""
    titles = {
        "plain": "KSampler, nothing applied",
        "two_spirit": "two people, `form` 0",
        "two": "two people, `form` 0.5",
        "four": "four people, `form` 0.5",
    }
    heads = [
        f"{s['size']} px, {s['width']} wide,<br>{s['steps']} step{'s' * (s['steps'] > 1)}, {s['rounds']} rounds"
        for s in (result["settings"] for result in results)
    ]
    rows = [[title, *(_ratio(result["ratios"].get(name)) for result in results)] for name, title in titles.items()]
    return _table(["whole run on FLUX", *heads], rows)


def encode_table(results: list[dict[str, Any]]) -> str:
    """Seconds from a photo to a reference, a person."""
    titles = {
        "load_models": "models are loaded",
        "first": "first photo",
        "second": "any other photo",
        "saved": "a reference saved before",
    }
    return _two_columns("encoding a person", "seconds", titles, results[-1]["seconds"], "{:.2g}")


def training_table(results: list[dict[str, Any]]) -> str:
    """Samples a second on the miniature."""
    titles = {
        "prepare": "`training prepare`",
        "train_prepared": "`training train` from prepared data",
        "train_unprepared": "if every sample were prepared whenever it is drawn (computed from these two)",
    }
    return _two_columns("training", "samples a second", titles, results[-1]["samples_per_second"], "{:.1f}")


def parts_table(results: list[dict[str, Any]]) -> str:
    """Parts2Whole: seconds of a call, ratio to a plain one, and peak memory; a row a variant, a column a setting."""
    kinds = {"parts": "{} parts", "masks": "{} parts with masks", "dropped": "{} parts, masked areas left out"}
    names = dict.fromkeys(name for result in results for name in result["calls"])
    heads: list[str] = []
    for result in results:
        head = f"{result['settings']['size']} px"
        heads.append(f"{head}, another run" if head in heads else head)
    rows = []
    for name in sorted(names, key=lambda name: int(name.partition(" ")[0])):
        count, _, kind = name.partition(" ")
        title = {"0": "plain", "1": kinds[kind].format(1).replace("parts", "part", 1)}.get(
            count, kinds[kind].format(count)
        )
        rows.append([title, *(_call(r["calls"].get(name)) for r in results)])
    rows.append(["highest, encoding included", *(f"{r['highest'] / 2**30:.1f} GiB" for r in results)])
    return _table(["a call of the UNet", *heads], rows)


def dual_table(results: list[dict[str, Any]]) -> str:
    """The dual pathway: ratio of a call to one with the pair, with quartiles; a row a variant, a column a setting."""
    bases = {"mini": "the miniature", "sdxl": "SDXL's widths"}
    names = max((result["calls"] for result in results), key=len)
    heads = [f"{bases[s['base']]}, {s['size']} px,<br>{s['rounds']} rounds" for s in (r["settings"] for r in results)]
    rows = []
    for name in names:
        cells = [result["calls"].get(name) for result in results]
        told = ["" if c is None else f"{c['ratio']:.2f} ({c['q1']:.2f} to {c['q3']:.2f})" for c in cells]
        rows.append([DUAL_TITLES[name], *told])
    return _table(["a call of the UNet", *heads], rows)


def cards_table(results: list[dict[str, Any]]) -> str:
    """Memory of a training, estimated: a row a preset, a column a size of the pictures."""
    found = results[-1]
    heads = [f"{size} x {size} px, {batch} at a time" for size, batch in found["settings"]["pictures"].values()]
    rows = []
    for row, columns in found["gigabytes"].items():
        preset, _, way = row.partition(", ")
        title = f"`{found['settings']['presets'][preset]}`{f', {way}' if way else ''}"
        cells = []
        for sizes in columns.values():
            parts = " / ".join(f"{size:.1f}" for processes, size in sizes.items() if processes != "1")
            cells.append(f"{sizes['1']:.1f} GB{f'; FSDP {parts}' if parts else ''}")
        rows.append([title, *cells])
    return _table(["estimated", *heads], rows)


def _call(numbers: dict[str, Any] | None) -> str:
    if numbers is None:
        return ""
    ratio = "" if numbers["ratio"] is None else f", {numbers['ratio']:.2f} x"
    return f"{numbers['seconds']:.1f} s{ratio}, {numbers['peak'] / 2**30:.1f} GiB"


def plot(results: list[dict[str, Any]]) -> None:
    """Bars of the ratios with their quartiles, `results/sampling.png`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = [name for name in reversed(TITLES) if any(name in result["ratios"] for result in results)]
    figure, axes = plt.subplots(figsize=(9, (0.25 + 0.2 * len(results)) * len(names) + 1.2), layout="constrained")
    height = 0.8 / len(results)
    for number, result in enumerate(results):
        kept = [(place, result["ratios"][name]) for place, name in enumerate(names) if name in result["ratios"]]
        middle = [ratio["median"] for _, ratio in kept]
        spread = [[r["median"] - r["q1"] for _, r in kept], [r["q3"] - r["median"] for _, r in kept]]
        places = [place + (len(results) / 2 - number - 0.5) * height for place, _ in kept]
        settings = result["settings"]
        label = f"{settings['size']} px, {settings['channels']} channels, {settings['steps']} steps"
        axes.barh(places, middle, height, xerr=spread, label=label, error_kw={"lw": 1})
    axes.set_yticks(range(len(names)), [TITLES[name].replace("`", "") for name in names])
    axes.axvline(1, color="black", lw=0.8)
    axes.set_xlabel("time of a whole run, plain KSampler = 1 (median, quartiles)")
    axes.margins(y=0.01)
    axes.legend(loc="upper right")
    figure.savefig(FOLDER / "sampling.png", dpi=110)
    plt.close(figure)


def _two_columns(left: str, right: str, titles: dict[str, str], numbers: dict[str, float], form: str) -> str:
    return _table([left, right], [[title, form.format(numbers[name])] for name, title in titles.items()])


def _table(heads: list[str], rows: list[list[str]]) -> str:
    """Of the rows that have a number."""
    lines = [heads, ["---"] * len(heads), *(row for row in rows if any(row[1:]))]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _ratio(ratio: dict[str, float] | None) -> str:
    return "" if ratio is None else f"{ratio['median']:.3f} ({ratio['q1']:.3f} to {ratio['q3']:.3f})"


def _memory(numbers: dict[str, float] | None) -> str:
    if numbers is None:
        return ""
    return f"{numbers['peak'] / 2**20:.0f} MB, {numbers['share']:.3f} of plain and adapter"


if __name__ == "__main__":
    main()
