"""On what is measured: the device, and what has to be the same for two figures to belong together."""

from __future__ import annotations

import datetime
import importlib.metadata
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..results import machine
from . import GpuBenchmarkError

__all__ = ["SAME", "Setup", "find_setup", "today"]

SAME = ("card", "driver", "torch", "size")
"""Facts that name a setup's folder. What was measured with others is another result."""


@dataclass(frozen=True)
class Setup:
    """A device, and how large the models are.

    Attributes:
        device: cuda, or cpu.
        small: tiny models, for trying the command.
        facts: what a result file says of it.
        work: folder for models and data that are made on the way.
    """

    device: str
    small: bool
    facts: dict[str, Any]
    work: Path

    @property
    def folder(self) -> str:
        """Name of the folder of its results."""
        words = [str(self.facts[name]) for name in SAME if self.facts[name] not in ("", "real")]
        return "_".join(re.sub(r"[^\w.+]+", "-", word).strip("-") for word in words)

    @property
    def memory(self) -> int:
        """Bytes of the card; 0 on a CPU."""
        return self.facts["memory"]


def find_setup(device: str, small: bool, work: Path) -> Setup:
    """Look at the device.

    Raises:
        GpuBenchmarkError: there is no such device, or real sizes are asked of a CPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise GpuBenchmarkError(
            f"PyTorch {torch.__version__} finds no CUDA device, so there is nothing to measure. Install the build of PyTorch for your "
            "driver (https://pytorch.org/get-started); or try the command on tiny models: --small --device cpu --out small.",
            code="no-cuda-device",
        )
    if device == "cpu" and not small:
        raise GpuBenchmarkError(
            "SDXL's real sizes would take a CPU days. Add --small to try the command, or leave --device away to measure a card.",
            code="real-sizes-on-a-cpu",
        )
    facts: dict[str, Any] = {"card": "CPU", "memory": 0, "driver": "", "cuda": "", "capability": ""}
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        facts = {
            "card": card.name,
            "memory": card.total_memory,
            "driver": _driver(),
            "cuda": torch.version.cuda or torch.version.hip or "",
            "capability": f"{card.major}.{card.minor}",
        }
    facts |= {"torch": torch.__version__, **{name: _version(name) for name in ("diffusers", "transformers")}}
    facts |= {"size": "small" if small else "real", "machine": machine()}
    return Setup(device, small, facts, work)


def today() -> str:
    """The date, as result files have it."""
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _driver() -> str:
    """The driver's version, as the card's own tool says it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "unknown"
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return said[0] if said else "unknown"
