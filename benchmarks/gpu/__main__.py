"""The command: runs the parts that are not done, each in a process of its own."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError

from dhumandiff.errors import DHumanDiffError, short_error

from ..comfyui import ROOT
from . import GpuBenchmarkError
from . import __doc__ as ABOUT
from .keeping import FOLDER, PartFile
from .measure import clear, out_of_memory
from .parts import PARTS
from .setup import Setup, find_setup

__all__ = ["main", "run_part"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status: 0, or 1 where something could not be measured."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=list(PARTS), metavar="NAME", help="only this one; see --list")
    parser.add_argument("--list", action="store_true", help="say which parts there are, and which are done here")
    parser.add_argument("--out", type=Path, help=f"folder of the results (default {FOLDER.relative_to(ROOT)})")
    parser.add_argument("--small", action="store_true", help="tiny models: tries the command; needs --out")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: with --small alone")
    parser.add_argument("--minutes", type=float, help="begin no case after so many minutes; the same command goes on")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path(tempfile.gettempdir()) / "dhumandiff_gpu_benchmark",
        help="folder for models and data that are made on the way, up to 18 GB (default %(default)s)",
    )
    given = parser.parse_args(arguments)
    try:
        if given.small and given.out is None:
            raise GpuBenchmarkError(
                "Figures of tiny models say nothing about a card, so they are not kept among the results: name a folder, --out small.",
                code="small-without-out",
            )
        setup = find_setup(given.device, given.small, given.work)
        out = given.out or FOLDER
        if given.list:
            print(_listed(out, setup))
            return 0
        if given.part:
            return run_part(given.part, setup, out, given.minutes)
    except DHumanDiffError as error:
        print(f"{error}", file=sys.stderr)
        return 1
    return _run_all(sys.argv[1:] if arguments is None else arguments)


def run_part(name: str, setup: Setup, out: Path, minutes: float | None = None) -> int:
    """Measure the cases of a part that are not done; 0 when all of them are.

    Raises:
        DHumanDiffError: something that the part needs is missing, or a result cannot be read or written.
    """
    part, file = PARTS[name], PartFile(out, setup, name)
    missing = [package for package in part.needs if importlib.util.find_spec(package) is None]
    if missing:
        raise GpuBenchmarkError(
            f"The part {name} needs {' and '.join(missing)}. Install: pip install -e '.[train]'.",
            code="benchmark-package-missing",
        )
    if "diffusers" in part.needs:
        importlib.import_module(
            "diffusers"
        ).utils.logging.set_verbosity_error()  # it warns of casts of what has no values yet
    cases = part.cases(setup)
    left = file.missing(list(cases))
    if not left:
        print(f"{name}: done before ({file.path}).")
        return 0
    _check_room(name, setup)
    began = time.monotonic()
    for number, case in enumerate(left):
        if minutes is not None and number and time.monotonic() - began > 60 * minutes:
            print(f"{name}: {len(left) - number} of {len(cases)} cases are left; the same command goes on.")
            return 1
        print(f"{name}: {case} ...", flush=True)
        failed = None
        started = time.monotonic()
        try:
            figures = cases[case]()
        except RuntimeError as error:
            if not _is_full(error):
                raise
            failed = {"out_of_memory": out_of_memory(error, setup.device)}
        except (OSError, SafetensorError) as error:
            raise GpuBenchmarkError(
                f"The part {name} cannot write what it needs into {setup.work} ({short_error(error)}). Make room there, or name "
                "another folder as --work.",
                code="work-not-written",
            ) from error
        figures = failed or figures
        clear(setup.device)
        file.add(case, {"took_seconds": round(time.monotonic() - started, 1), **figures})
    print(f"{name}: done, {file.path}")
    return 0


def _check_room(name: str, setup: Setup) -> None:
    """Refuse a disk that is too small for what the part makes, before it makes anything."""
    if setup.small:
        return
    there = next(folder for folder in (setup.work, *setup.work.absolute().parents) if folder.exists())
    made = sum(path.stat().st_size for path in setup.work.rglob("*") if path.is_file())  # stays from other parts
    free, needed = shutil.disk_usage(there).free + made, PARTS[name].gigabytes * 1e9
    if free < needed:
        raise GpuBenchmarkError(
            f"The part {name} writes about {needed / 1e9:.0f} GB of models and data into {setup.work}, where {free / 1e9:.1f} GB are "
            "free. Make room there, or name another folder as --work.",
            code="no-room-for-work",
        )


def _is_full(error: RuntimeError) -> bool:
    from dhumandiff.hosts.diffusers.memory import is_out_of_memory

    return is_out_of_memory(error)


def _listed(out: Path, setup: Setup) -> str:
    lines = [
        f"On {setup.facts['card']}, results in {out / setup.folder}. Minutes are estimates for a data-center card."
    ]
    for name, part in PARTS.items():
        path = out / setup.folder / f"{name}.json"
        state = (
            f"{len(PartFile(out, setup, name).cases)} cases done" if path.exists() else f"about {part.minutes:g} min"
        )
        lines.append(f"  {name:<28} {state:<14} {part.what}")
    return "\n".join(lines)


def _run_all(arguments: Sequence[str]) -> int:
    """Each part in a process of its own, so that none finds the memory or the mistakes of another."""
    failed = []
    for name in PARTS:
        command = [sys.executable, "-m", "benchmarks.gpu", "--part", name, *arguments]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"Not done: {', '.join(failed)}. The same command goes on with them.")
        return 1
    print("All parts are done. Next: python -m benchmarks.report, and send the files: docs/benchmarks.md says how.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
