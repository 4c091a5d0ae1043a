"""Training throughput on the miniature: from prepared shards, and if every sample were encoded whenever it is drawn.

    python -m benchmarks.training                     # about 3 minutes

`prepare` and `train` run as a user runs them, in one process each. Loading is taken out by running both at two lengths and taking
the difference. Without prepared data a sample costs what it costs to prepare, each time that training comes to it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from training.miniature.stages import configs_of

from .comfyui import ROOT
from .results import machine, save

BATCH = 32


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and keep its result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=192, help="pictures that are prepared (default 192)")
    parser.add_argument("--steps", type=int, default=12, help=f"of {BATCH} samples (default 12)")
    given = parser.parse_args(arguments)
    from dhumandiff.miniature.base import SIZE
    from dhumandiff.miniature.world import people, write_dataset

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        known = people("train", 64)
        few = given.samples // 4
        for count in (few, given.samples):
            seeds = range(20_000_000, 20_000_000 + count)
            write_dataset(folder / f"data_{count}", seeds, known, references=2, size=SIZE)
        short, long = (_prepare(folder, count) for count in (few, given.samples))
        preparing = (given.samples - few) / (long - short)
        short, long = (_train(folder, given.samples, steps) for steps in (2, 2 + given.steps))
        training = given.steps * BATCH / (long - short)
    both = 1 / (1 / preparing + 1 / training)
    told = {"prepare": preparing, "train_prepared": training, "train_unprepared": both}
    for what, rate in told.items():
        print(f"{what:18} {rate:7.2f} samples/s")
    save("training", {"settings": vars(given), "machine": machine(), "samples_per_second": told})


def _prepare(folder: Path, count: int) -> float:
    config = [*configs_of("prepare"), "--workers", "1"]
    return _run("prepare", *config, "--data", str(folder / f"data_{count}"), "--out", str(folder / f"shards_{count}"))


def _train(folder: Path, count: int, steps: int) -> float:
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    data = json.dumps([{"path": str(folder / f"shards_{count}")}])
    config = [*configs_of("train"), "--data.folders", data, "--run", str(run)]
    return _run(
        "train", *config, "--steps", str(steps), "--data.batch_size", str(BATCH), "--logging.samples_every", "0"
    )


def _run(*words: str) -> float:
    """Seconds of a command of `python -m training`."""
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "training", *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"python -m training {' '.join(words)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
