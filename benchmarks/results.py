"""Where results are kept: one JSON a command and setting, in `results/`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"


def save(name: str, result: dict[str, Any]) -> Path:
    """Write a result."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(result, indent=1, default=str) + "\n", encoding="utf-8")
    print(f"Wrote {path}")
    return path


def load(name: str) -> dict[str, Any]:
    """A result that was written.

    Raises:
        FileNotFoundError: it was not.
    """
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    import os
    import platform

    import torch

    return {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.system(), "torch": torch.__version__}


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in path.read_text().splitlines() if line.startswith("model name")]
        if path.is_file()
        else []
    )
    return names[0] if names else "unknown"
