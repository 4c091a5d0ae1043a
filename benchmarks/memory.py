"""Peak memory of a sampling run, each variant in a process of its own. Linux only.

    python -m benchmarks.memory                       # 1024 px, 32 channels, fp32
    python -m benchmarks.memory --size 512 --channels 96 --variants plain,pair,two_strength

What is to be reached: 1.05 times what a plain run takes and the adapter's own bytes. Models, adapter and references are there
before the peak is counted, and what the allocator kept from building them is given back; what is told is the process's highest
resident memory during a run, the median of `--repeats` processes.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics
import subprocess
import sys

from tqdm import tqdm

from . import comfyui
from .peak import RESET, peak, reset_peak
from .results import machine, save

VARIANTS = "plain,pair,pair_masks,one_pass,two_strength,released"


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and keep its result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=1024, help="side of the picture in pixels (default 1024)")
    parser.add_argument("--channels", type=int, default=32, help="of the UNet's first level (default 32; SDXL has 320)")
    parser.add_argument("--steps", type=int, default=3, help="of the sampler (default 3)")
    parser.add_argument("--repeats", type=int, default=3, help="processes a variant (default 3)")
    parser.add_argument("--variants", default=VARIANTS, help=f"default {VARIANTS}")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if not RESET.exists():
        parser.error("peaks are read from /proc, which only Linux has")
    base = comfyui.Base(given.channels, given.size, given.steps)
    if given.one:
        print(json.dumps(_measure(base, given.one)))
        return

    seen: dict[str, list[dict[str, int]]] = {name: [] for name in given.variants.split(",")}
    for name in tqdm(list(seen) * given.repeats):
        command = [sys.executable, "-m", "benchmarks.memory", "--one", name]
        for option in ("size", "channels", "steps"):
            command += [f"--{option}", str(getattr(given, option))]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seen[name].append(json.loads(done.stdout.splitlines()[-1]))
    told = {
        name: {key: statistics.median(each[key] for each in all_) for key in all_[0]} for name, all_ in seen.items()
    }
    for name, numbers in told.items():
        allowed = told["plain"]["peak"] + numbers["adapter"]
        numbers["share"] = numbers["peak"] / allowed
        print(f"{name:14} {numbers['peak'] / 2**20:7.0f} MB   {numbers['share']:.3f} of plain and adapter")
    settings = {name: value for name, value in vars(given).items() if name != "one"}
    save(f"memory_{given.size}px_{given.channels}ch", {"settings": settings, "machine": machine(), "variants": told})


def _measure(base: comfyui.Base, name: str) -> dict[str, int]:
    """Bytes: the adapter's, and the process's highest resident memory during a run."""
    comfyui.load()
    from .variants import known

    run = known()[name](base)
    adapter = 0 if name == "plain" else sum(p.numel() * p.element_size() for p in base.adapter.model.parameters())
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what building left in the allocator is not the run's
    reset_peak()  # from here on the peak counts
    run()
    return {"adapter": adapter, "peak": peak()}


if __name__ == "__main__":
    main()
