"""Time of a whole sampling run, as a ratio to a plain KSampler's.

    python -m benchmarks.sampling                     # 512 px, 32 channels, 20 steps, 15 rounds: about 40 minutes
    python -m benchmarks.sampling --size 1024 --channels 96 --steps 4 --rounds 5
    python -m benchmarks.sampling --variants plain,floor,pair --rounds 3
    python -m benchmarks.sampling --ip-adapter-plus custom_nodes/ComfyUI_IPAdapter_plus     # the peer pack beside them

Every round runs all variants, in an order of its own; the ratio is taken inside a round, so that a slow minute of the machine
slows both sides. Told are median and quartiles over the rounds. Only the sampling call is timed: references are encoded before.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from . import comfyui
from .results import machine, save

_HELP = {
    "channels": "channels of the UNet's first level (SDXL has 320)",
    "size": "side of the picture in pixels",
    "steps": "steps of the sampler (euler, normal, CFG 5)",
    "rounds": "rounds; each runs every variant once",
    "threads": "threads of PyTorch",
}


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and keep its result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampling", description=__doc__.split("\n")[0])
    for name, default in (("size", 512), ("channels", 32), ("steps", 20), ("rounds", 15), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{_HELP[name]} (default {default})")
    parser.add_argument("--variants", help="names with commas between; all by default")
    parser.add_argument(
        "--ip-adapter-plus", type=Path, help="folder of ComfyUI_IPAdapter_plus, to have it beside the others"
    )
    parser.add_argument("--name", help="of the result; made of size and channels by default")
    given = parser.parse_args(arguments)

    comfyui.load(given.threads)
    from .variants import known

    variants = known(given.ip_adapter_plus)
    names = list(variants) if given.variants is None else given.variants.split(",")
    unknown = [name for name in names if name not in variants]
    if unknown:
        parser.error(f"unknown variants: {', '.join(unknown)}; there are {', '.join(variants)}")
    if "plain" not in names:
        names.insert(0, "plain")

    base = comfyui.Base(given.channels, given.size, given.steps)
    runs = {name: variants[name](base) for name in tqdm(names, desc="prepare")}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    order = random.Random(0)
    for number in tqdm(range(given.rounds + 1), desc="rounds"):
        for name in order.sample(names, len(names)):
            begin = time.perf_counter()
            runs[name]()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - begin)

    ratios = {name: np.divide(times, seconds["plain"]) for name, times in seconds.items()}
    save(
        given.name or f"sampling_{given.size}px_{given.channels}ch",
        {
            "settings": {**vars(given), "ip_adapter_plus": given.ip_adapter_plus is not None},
            "machine": machine(),
            "plain_seconds": float(np.median(seconds["plain"])),
            "ratios": {
                name: dict(zip(("q1", "median", "q3"), map(float, np.quantile(r, (0.25, 0.5, 0.75))), strict=True))
                for name, r in ratios.items()
            },
        },
    )
    for name, ratio in ratios.items():
        low, middle, high = np.quantile(ratio, (0.25, 0.5, 0.75))
        print(f"{name:20} {middle:6.3f}   {low:6.3f} to {high:6.3f}")


if __name__ == "__main__":
    main()
