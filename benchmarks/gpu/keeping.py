"""Where a part's figures are kept: one JSON file, written anew after each case, so that a kill loses one case at most."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dhumandiff.errors import short_error
from dhumandiff.io import atomic_write, why_not_written

from ..results import FOLDER as RESULTS
from . import GpuBenchmarkError
from .setup import SAME, Setup, today

__all__ = ["FOLDER", "PartFile", "read"]

FOLDER = RESULTS / "gpu"
"""Results of cards that people have."""

FORMAT = "dhumandiff-gpu-benchmark"


class PartFile:
    """The results of one part on one setup.

    Args:
        out: folder of all results.
        setup: on what is measured.
        part: its name.

    Attributes:
        cases: name -> figures, of those that are done.

    Raises:
        GpuBenchmarkError: a file is there that cannot be read, or holds another setup's figures.
    """

    def __init__(self, out: Path, setup: Setup, part: str) -> None:
        self.path, self.setup, self.part = out / setup.folder / f"{part}.json", setup, part
        self.cases: dict[str, Any] = {}
        if self.path.exists():
            found = read(self.path)
            differing = [name for name in SAME if found["setup"].get(name) != setup.facts[name]]
            if differing or found["part"] != part:
                told = (
                    ", ".join(f"{name} {found['setup'].get(name)!r}" for name in differing) or f"part {found['part']!r}"
                )
                raise GpuBenchmarkError(
                    f"{self.path} holds figures of something else ({told}). Move it where it belongs, or name another folder as --out.",
                    code="result-of-another-setup",
                )
            self.cases = found["cases"]

    def missing(self, wanted: Sequence[str]) -> list[str]:
        """Those of these cases that are not done."""
        return [name for name in wanted if name not in self.cases]

    def add(self, case: str, figures: dict[str, Any]) -> None:
        """Keep a case's figures.

        Raises:
            GpuBenchmarkError: the disk says no.
        """
        self.cases[case] = {"date": today(), **figures}
        told = {
            "format": FORMAT,
            "part": self.part,
            "setup": self.setup.facts,
            "command": f"python -m benchmarks.gpu --part {self.part}{' --small' if self.setup.small else ''}",
            "python": sys.version.split()[0],
            "cases": self.cases,
        }
        text = json.dumps(told, indent=1) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self.path, needed=len(text)) as part:
                part.write_text(text, encoding="utf-8")
        except OSError as error:
            raise GpuBenchmarkError(
                f"{self.path} cannot be written ({why_not_written(error)}). What was measured before this case is kept; make room, or "
                "name another folder as --out.",
                code="result-not-written",
            ) from error


def read(path: Path) -> dict[str, Any]:
    """A part's file as it was written.

    Raises:
        GpuBenchmarkError: it is damaged, or no such file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        whole = found["format"] == FORMAT and isinstance(found["part"], str)
        whole = whole and all(isinstance(found[name], dict) for name in ("setup", "cases"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GpuBenchmarkError(
            f"{path} cannot be read ({short_error(error, kind=True)}). Delete it, and the part is measured anew.",
            code="result-not-read",
        ) from error
    if not whole:
        raise GpuBenchmarkError(
            f"{path} is no result of python -m benchmarks.gpu. Delete it, and the part is measured anew.",
            code="not-a-gpu-result",
        )
    return found
