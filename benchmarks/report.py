"""The README's tables and plot of what the pack costs, from `results/*.json` alone.

python -m benchmarks.report
"""

from __future__ import annotations

from typing import Any

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


def main() -> None:
    """Print the tables and draw the plot."""
    sampling, memory = (
        [load(path.stem) for path in sorted(FOLDER.glob(f"{kind}_*.json"))] for kind in ("sampling", "memory")
    )
    if not sampling:
        raise SystemExit(f"There is nothing in {FOLDER} yet: run python -m benchmarks.sampling first.")
    print(sampling_table(sampling), end="\n\n")
    if memory:
        print(memory_table(memory))
    plot(sampling)


def sampling_table(results: list[dict[str, Any]]) -> str:
    """Ratios to a plain run: a row a variant, a column a setting."""
    heads = [
        f"{s['size']} px, {s['channels']} channels, {s['steps']} steps, {s['rounds']} rounds"
        for s in (result["settings"] for result in results)
    ]
    lines = ["| whole run | " + " | ".join(heads) + " |", "| --- |" + " --- |" * len(heads)]
    for name, title in TITLES.items():
        cells = [_ratio(result["ratios"].get(name)) for result in results]
        if any(cells):
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def memory_table(results: list[dict[str, Any]]) -> str:
    """Peak memory: a row a variant, a column a setting."""
    heads = [f"{r['settings']['size']} px, {r['settings']['channels']} channels" for r in results]
    lines = ["| peak memory | " + " | ".join(heads) + " |", "| --- |" + " --- |" * len(heads)]
    for name, title in TITLES.items():
        cells = [_memory(result["variants"].get(name)) for result in results]
        if any(cells):
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(results: list[dict[str, Any]]) -> None:
    """Bars of the ratios with their quartiles, `results/sampling.png`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = [name for name in reversed(TITLES) if any(name in result["ratios"] for result in results)]
    figure, axes = plt.subplots(figsize=(9, 0.45 * len(names) + 1.2), layout="constrained")
    height = 0.8 / len(results)
    for number, result in enumerate(results):
        kept = [(place, result["ratios"][name]) for place, name in enumerate(names) if name in result["ratios"]]
        middle = [ratio["median"] for _, ratio in kept]
        spread = [[r["median"] - r["q1"] for _, r in kept], [r["q3"] - r["median"] for _, r in kept]]
        places = [place + (len(results) / 2 - number - 0.5) * height for place, _ in kept]
        settings = result["settings"]
        label = f"{settings['size']} px, {settings['channels']} channels"
        axes.barh(places, middle, height, xerr=spread, label=label, error_kw={"lw": 1})
    axes.set_yticks(range(len(names)), [TITLES[name].replace("`", "") for name in names])
    axes.axvline(1, color="black", lw=0.8)
    axes.set_xlabel("time of a whole run, plain KSampler = 1 (median, quartiles)")
    axes.legend(loc="lower right")
    figure.savefig(FOLDER / "sampling.png", dpi=110)
    plt.close(figure)


def _ratio(ratio: dict[str, float] | None) -> str:
    return "" if ratio is None else f"{ratio['median']:.3f} ({ratio['q1']:.3f} to {ratio['q3']:.3f})"


def _memory(numbers: dict[str, float] | None) -> str:
    if numbers is None:
        return ""
    return f"{numbers['peak'] / 2**20:.0f} MB, {numbers['share']:.3f} of plain and adapter"


if __name__ == "__main__":
    main()
