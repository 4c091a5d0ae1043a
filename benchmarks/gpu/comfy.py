"""ComfyUI on the card: what a run costs beside a plain one, what its options for memory and precision do, and the host tests there.

python -m benchmarks.gpu.comfy --device cuda --size 1024 --flags=--lowvram      one run, as JSON
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .. import comfyui
from ..peak import peak, reset_peak
from . import GpuBenchmarkError
from .bases import fill
from .measure import by_turns, guarded, seconds_of
from .setup import Setup

__all__ = ["flag_cases", "main", "sampling_cases", "test_cases"]

Cases = dict[str, Callable[[], dict[str, Any]]]

VARIANTS = ("plain", "floor", "pair", "pair_masks", "one_pass", "two_strength", "released")

FLAGS = (
    "--reserve-vram 16",
    "--reserve-vram 8",
    "--lowvram",
    "--novram",
    "--highvram",
    "--gpu-only",
    "--fp8_e4m3fn-unet",
    "--bf16-unet",
    "--force-channels-last",
    "--use-split-cross-attention",
    "--use-quad-cross-attention",
    "--use-sage-attention",
    "--use-flash-attention",
    "--fast",
    "--deterministic",
    "--async-offload 2",
    "--disable-pinned-memory",
)
"""Options of ComfyUI, one a case; `pair` and `one_pass` run with each."""

TESTS = (
    "test_pair.py",
    "test_pair_masks.py",
    "test_cascade_host.py",
    "test_beside_stock.py",
    "test_compiled.py",
    "test_batch_layout.py",
    "test_dual_pathway_node.py",
    "test_parts2whole_nodes.py",
    "test_withanyone_parity.py",
    "test_server.py",
    "test_workflow_twins.py",
)
"""Files of tests/host that say something on a card; the last two start a server."""


def sampling_cases(setup: Setup) -> Cases:
    """Whole runs of KSampler and the cascade, by turns."""

    def measure(size: int) -> dict[str, Any]:
        comfyui.load(0, setup.device)
        from ..variants import known

        base = _base(setup.small, size)
        makers = {name: partial(known()[name], base) for name in VARIANTS}
        told = by_turns(makers, setup.device, rounds=1 if setup.small else 6, steps=base.steps)
        return {"steps": base.steps, "variants": told}

    return {f"{size}px_fp16": partial(measure, size) for size in (512, 1024)}


def flag_cases(setup: Setup) -> Cases:
    """A process for each option: it is read once, when ComfyUI is loaded."""
    flags = ("", "--force-channels-last") if setup.small else ("", *FLAGS)
    return {flag or "no option": partial(_with_flags, setup, flag) for flag in flags}


def test_cases(setup: Setup) -> Cases:
    """Files of tests/host with the device at hand."""
    files = TESTS[:1] if setup.small else TESTS
    return {name.removesuffix(".py"): partial(_tested, setup, name) for name in files}


def main(arguments: Sequence[str] | None = None) -> None:
    """One process of `flag_cases`: figures as JSON in the last line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.comfy", description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--flags", default="", help="of ComfyUI, in one word")
    given = parser.parse_args(arguments)
    notes: list[str] = []
    logging.getLogger().addHandler(_Noting(notes))
    logging.getLogger().setLevel(logging.INFO)
    comfyui.load(0, given.device, shlex.split(given.flags))
    from ..variants import known

    base, told = _base(given.small, given.size, *_dtypes()), {}
    for name in ("plain", "pair", "one_pass"):
        reset_peak(given.device)
        run, seen = known()[name](base), {}
        failed = guarded(lambda run=run, seen=seen: seen.update(made=run()), given.device)
        if failed:
            told[name] = failed
            continue
        seconds = seconds_of(run, given.device) / base.steps
        finite = bool(torch.isfinite(seen["made"]).all())
        told[name] = {"seconds": seconds, "peak": peak(given.device), "finite": finite}
    told["loaded_partially"] = sum("partially" in note for note in notes)
    told["pin_errors"] = sum("Pin error" in note for note in notes)
    print(json.dumps(told))


class _Noting(logging.Handler):
    def __init__(self, notes: list[str]) -> None:
        super().__init__()
        self.notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        self.notes.append(record.getMessage())


def _base(small: bool, size: int, dtype: torch.dtype = torch.float16, cast: torch.dtype | None = None) -> comfyui.Base:
    if small:
        return comfyui.Base(channels=32, size=64, steps=1, dtype=dtype, cast=cast, fill=fill)
    return comfyui.Base(channels=320, size=size, steps=4, dtype=dtype, cast=cast, fill=fill)


def _dtypes() -> tuple[torch.dtype, torch.dtype | None]:
    """In what ComfyUI would keep SDXL's UNet here by its options, and in what it would compute."""
    import comfy.model_management as management

    supported = [torch.float16, torch.bfloat16, torch.float32]
    dtype = management.unet_dtype(model_params=2_567_463_684, supported_dtypes=supported)
    return dtype, management.unet_manual_cast(dtype, management.get_torch_device(), supported)


def _with_flags(setup: Setup, flags: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.gpu.comfy", "--device", setup.device, f"--flags={flags}"]
    done = subprocess.run(
        [*command, *(["--small"] if setup.small else [])], cwd=comfyui.ROOT, capture_output=True, text=True, check=False
    )
    if "There is no ComfyUI" in done.stderr:
        raise GpuBenchmarkError(done.stderr.strip().splitlines()[-1], code="benchmark-without-comfyui")
    if done.returncode and not flags:
        raise GpuBenchmarkError(
            f"ComfyUI did not run without any option: {(done.stderr.strip().splitlines() or ['no output'])[-1][:300]}. Install its "
            "requirements into this environment.",
            code="comfyui-did-not-run",
        )
    if done.returncode:  # an option that this card or this ComfyUI does not take is what is to be known
        return {"failed": (done.stderr.strip().splitlines() or ["no output"])[-1][:300]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def _tested(setup: Setup, name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            f"tests/host/{name}",
            f"--junitxml={report}",
        ]
        environment = {**os.environ, "DHUMANDIFF_TEST_DEVICE": setup.device}
        done = subprocess.run(command, cwd=comfyui.ROOT, env=environment, capture_output=True, text=True, check=False)
        if not report.exists():
            raise GpuBenchmarkError(
                f"The tests of ComfyUI did not start: {(done.stdout + done.stderr).strip()[-400:]} Install: pip install pytest, and "
                "ComfyUI's requirements.",
                code="host-tests-did-not-start",
            )
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    if not cases:
        raise GpuBenchmarkError(
            f"No test of tests/host/{name} ran: there is no ComfyUI. Set COMFYUI_PATH to the folder that has main.py.",
            code="benchmark-without-comfyui",
        )
    failed = [one.get("name", "") for one in cases if one.find("failure") is not None or one.find("error") is not None]
    skipped = sum(one.find("skipped") is not None for one in cases)
    return {"passed": len(cases) - len(failed) - skipped, "failed": len(failed), "skipped": skipped, "failures": failed}


if __name__ == "__main__":
    main()
