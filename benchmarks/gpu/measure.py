"""Seconds, ratios and memory of runs that take turns."""

from __future__ import annotations

import gc
import random
import re
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from dhumandiff.evaluation.metrics import interval
from dhumandiff.hosts.diffusers.memory import is_out_of_memory

from ..peak import peak, reset_peak

__all__ = ["Run", "by_turns", "clear", "guarded", "out_of_memory", "seconds_of", "wait"]

Run = Callable[[], Any]
"""One run of what is measured."""

GIB = 2**30


def by_turns(
    makers: Mapping[str, Callable[[], Run]],
    device: str,
    *,
    rounds: int,
    steps: int = 1,
    seconds: float = 90.0,
    first: str = "plain",
) -> dict[str, Any]:
    """Run all of them once a round, in an order of its own, and compare inside of a round: a slow minute slows all.

    Args:
        makers: of what is measured, made one after the other: the peak of one does not hold what the next ones need.
        device: cuda or cpu.
        rounds: how many, after one that warms up and tells the peak.
        steps: of a run; seconds are told of one.
        seconds: after which no new round begins, if there were three.
        first: whose time is 1.

    Returns:
        For each run seconds a step (median), ratio to the first (mean with 95 % of the resampled means), highest memory in bytes; or
        "out_of_memory" in words.
    """
    told: dict[str, Any] = {}
    runs: dict[str, Run] = {}
    for name, make in makers.items():

        def begin(name: str = name, make: Callable[[], Run] = make) -> None:
            runs[name] = make()
            clear(device)
            reset_peak(device)
            runs[name]()

        told[name] = guarded(begin, device) or {"peak": peak(device)}
    alive = [name for name in makers if "peak" in told[name]]
    times: dict[str, list[float]] = {name: [] for name in alive}
    order, began = random.Random(0), time.monotonic()
    for number in range(rounds):
        if number >= 3 and time.monotonic() - began > seconds:
            break
        for name in order.sample(alive, len(alive)):
            times[name].append(seconds_of(runs[name], device) / steps)
    for name in alive:
        told[name] |= {"seconds": statistics.median(times[name]), "rounds": len(times[name])}
        if first in alive:
            ratio = interval(np.divide(times[name], times[first]))
            told[name] |= {"ratio": ratio["mean"], "low": ratio["low"], "high": ratio["high"]}
    return told


def seconds_of(run: Run, device: str) -> float:
    """Seconds of a run, until the device is done."""
    wait(device)
    begin = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - begin


def guarded(run: Run, device: str) -> dict[str, str] | None:
    """Run it; what is to be told if there was not enough memory."""
    try:
        run()
        wait(device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        told = out_of_memory(error, device)
    else:
        return None
    clear(device)  # outside of `except`, whose traceback holds the tensors
    return {"out_of_memory": told}


def out_of_memory(error: RuntimeError, device: str) -> str:
    """ "out of memory at 12.1 of 12.0 GiB": what was there and what was asked for besides, of the card's memory."""
    if device != "cuda":
        return "out of memory"
    wanted = re.search(r"allocate ([\d.]+) (MiB|GiB)", str(error))
    more = float(wanted[1]) / (1024 if wanted[2] == "MiB" else 1) if wanted else 0.0
    total = torch.cuda.get_device_properties(0).total_memory / GIB
    return f"out of memory at {torch.cuda.memory_allocated() / GIB + more:.1f} of {total:.1f} GiB"


def wait(device: str) -> None:
    """Until the device has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def clear(device: str) -> None:
    """Give back what nobody holds."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
