"""The miniature built anew on the card, a stage a case: `python -m training mini`, which goes on by itself after a kill."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ..comfyui import ROOT
from . import GpuBenchmarkError
from .setup import Setup

__all__ = ["cases"]


def cases(setup: Setup) -> dict[str, Callable[[], dict[str, Any]]]:
    """Every stage that is no row of a table. Small: what there would be to do, and nothing done."""
    from training.miniature.build import MiniConfig

    stages = [name for name, stage in MiniConfig(out=str(_folder(setup))).stages.items() if not stage.for_rows]
    if setup.small:
        return {"plan": partial(_run, setup, "", "--dry_run")}
    return {name: partial(_run, setup, name) for name in stages}


def _folder(setup: Setup) -> Path:
    """Of the miniature that is made."""
    return setup.work / "mini"


def _run(setup: Setup, stage: str, *more: str) -> dict[str, Any]:
    """The stage and what it needs; seconds are in took_seconds."""
    out = _folder(setup)
    command = [sys.executable, "-m", "training", "mini", "--out", str(out), "--device", setup.device]
    command += [*(["--stage", stage] if stage else []), "--install", "false", *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise GpuBenchmarkError(
            f"The stage {stage or 'plan'} of the miniature failed: {(done.stdout + done.stderr).strip()[-600:]} Its logs are in "
            f"{out / 'logs'}; the same command goes on from there.",
            code="miniature-stage-failed",
        )
    return {"stage": stage or "plan", "lines": len(done.stdout.splitlines())}
