"""The other methods, each beside its plain base: the dual pathway, Parts2Whole, and WithAnyone on FLUX."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from .. import dual, flux, parts
from ..comfyui import load
from .bases import adapter_for, fill, sdxl_unet
from .inference import DTYPES
from .measure import Run, by_turns
from .setup import Setup

__all__ = ["dual_cases", "flux_cases", "parts_cases"]

Cases = dict[str, Callable[[], dict[str, Any]]]

FLUX_WIDTH = 3072
SMALL_PARTS = {"WIDTHS": (32, 32, 64, 64), "CONTEXT": 24, "POSE": (*parts.POSE[:-1], (256, 32))}
SMALL_FLUX = {"DOUBLE": 1, "SINGLE": 2}
CALLS = 4


def dual_cases(setup: Setup) -> Cases:
    """Calls of SDXL's UNet in fp16, at both sizes."""

    def measure(size: int) -> dict[str, Any]:
        unet = sdxl_unet(setup, torch.float16)
        side = 64 if setup.small else size
        with torch.no_grad():
            calls = dual.variants(unet, adapter_for(unet), f"{side}x{side}")
            return {"variants": by_turns(_made(calls), setup.device, rounds=1 if setup.small else 20)}

    return {f"{size}px_fp16": partial(measure, size) for size in (512, 1024)}


def parts_cases(setup: Setup) -> Cases:
    """Calls of Stable Diffusion 1.5's UNet with up to four parts, with masks, and with what they exclude left out."""

    def measure(size: int, dtype: str) -> dict[str, Any]:
        from dhumandiff.methods.parts2whole import Parts2Whole

        if setup.small:
            for name, value in SMALL_PARTS.items():
                setattr(parts, name, value)
        folder, side = (
            setup.work / ("small" if setup.small else "real") / "parts2whole",
            (64 if setup.small else size) // 8,
        )
        if not (folder / "whole").exists():
            shutil.rmtree(folder, ignore_errors=True)  # what a run that was killed left
            folder.mkdir(parents=True)
            parts.write_random(folder)
            (folder / "whole").touch()
        precision = DTYPES[dtype]
        weights = Parts2Whole.from_pretrained(folder).to(setup.device, precision)
        unet = parts.random_unet(1).to(setup.device, precision)
        where = {"device": setup.device, "dtype": precision}
        inputs = (torch.randn(2, 4, side, side, **where), 500, torch.randn(2, 77, parts.CONTEXT, **where))
        pose = torch.rand(1, 3, 8 * side, 8 * side)

        def calls() -> None:
            for _ in range(CALLS):
                unet(*inputs)

        def with_parts(count: int, kind: str) -> Run:
            given = [parts.random_part((side, side), number, kind != "parts") for number in range(count)]
            weights.bank(given)  # the encoder's work is once for a part, and no call's

            def run() -> None:
                with weights.attach(unet, given, pose, drop_masked=kind == "dropped"):
                    calls()

            return run

        makers: dict[str, Callable[[], Run]] = {"plain": lambda: calls}
        for count, kind in ((1, "parts"), (2, "parts"), (4, "parts"), (4, "masks"), (4, "dropped")):
            makers[f"{count} {kind}"] = partial(with_parts, count, kind)
        with torch.no_grad():
            told = by_turns(makers, setup.device, rounds=1 if setup.small else 10, steps=CALLS)
        return {"steps": CALLS, "variants": told}

    return {f"{size}px_{dtype}": partial(measure, size, dtype) for size in (512, 768) for dtype in DTYPES}


def flux_cases(setup: Setup) -> Cases:
    """Whole runs in ComfyUI of FLUX.1's own size in bf16, with two and four people; 34 GB of weights, which ComfyUI moves where a card
    is too small for them."""

    def measure(size: int) -> dict[str, Any]:
        load(0, setup.device)
        if setup.small:
            for name, value in SMALL_FLUX.items():
                setattr(flux, name, value)
        width, side, steps = (128, 128, 1) if setup.small else (FLUX_WIDTH, size, 4)
        runs = flux.variants(side, width, steps, torch.bfloat16, fill)
        told = by_turns(_made(runs), setup.device, rounds=1 if setup.small else 6, steps=steps)
        return {"steps": steps, "variants": told}

    return {f"{size}px_bf16": partial(measure, size) for size in (512, 1024)}


def _made(runs: dict[str, Run]) -> dict[str, Callable[[], Run]]:
    """Makers of runs that are there already."""
    return {name: partial(lambda run: run, run) for name, run in runs.items()}
