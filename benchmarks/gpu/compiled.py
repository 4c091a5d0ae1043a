"""The same runs with the UNet compiled: seconds and memory beside a compiled plain run, and what the compiler could not take."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .bases import sdxl_unet
from .inference import DTYPES, ROUNDS, Sampler, name_of
from .measure import Run, by_turns, clear, guarded, seconds_of
from .setup import Setup

__all__ = ["COMPILED", "cases"]

COMPILED = ("pair", "pair_masks", "one_pass", "two_strength", "ip_adapters")
"""Variants that are compiled; `released` calls what `pair` and `two_strength` call."""

OURS = f"{Path(__file__).parents[2] / 'dhumandiff'}"


def cases(setup: Setup, size: int, images: int, dtype: str) -> dict[str, Callable[[], dict[str, Any]]]:
    """A case a variant: it and the plain run are compiled by themselves, and then take turns."""
    kept: dict[str, Any] = {}

    def measure(name: str) -> dict[str, Any]:
        if not kept:
            kept["unet"] = sdxl_unet(setup, DTYPES[dtype])
        return _measured(setup, Sampler(setup, kept["unet"], size, images), name)

    names = COMPILED[:1] if setup.small else COMPILED
    return {f"{name_of(size, images, dtype)}_{name}": partial(measure, name) for name in names}


def _measured(setup: Setup, sampler: Sampler, name: str) -> dict[str, Any]:
    torch._dynamo.reset()
    looked = _Explained(sampler.unet)
    failed = guarded(sampler.run(name, looked), setup.device)
    if failed:
        return failed
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    clear(setup.device)
    backend = "eager" if setup.small else "inductor"
    compiled = torch.compile(sampler.unet, backend=backend)
    first: dict[str, float] = {}

    def make(variant: str) -> Run:
        run = sampler.run(variant, compiled)
        first[variant] = seconds_of(run, setup.device)  # compiles
        return run

    makers = {variant: partial(make, variant) for variant in ("plain", name)}
    told = by_turns(makers, setup.device, rounds=1 if setup.small else ROUNDS, steps=sampler.steps)
    return {
        "steps": sampler.steps,
        "backend": backend,
        "variants": told,
        "first_run_seconds": first,
        "graphs": looked.graphs,
        "compilations": int(torch._dynamo.utils.counters["stats"]["unique_graphs"]),  # the plain run's with it
        "breaks": len(looked.breaks),
        "breaks_by_us": sum(ours for _, ours in looked.breaks),
        "reasons": sorted({reason for reason, _ in looked.breaks}),
    }


class _Explained(nn.Module):
    """A UNet whose second call is looked at by the compiler: what it breaks at, and in whose file."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet, self.calls, self.graphs = unet, 0, 0
        self.breaks: list[tuple[str, bool]] = []

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.calls == 2:
            seen = torch._dynamo.explain(self.unet)(*args, **kwargs)
            self.graphs = seen.graph_count
            for found in seen.break_reasons:
                ours = any(frame.filename.startswith(OURS) for frame in found.user_stack)
                self.breaks.append((str(found.reason).splitlines()[0], ours))
        return self.unet(*args, **kwargs)
