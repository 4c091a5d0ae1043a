"""Checkpoints: everything a run needs to go on as if it had never been ended, written at once or not at all.

<run>/config.yaml                    the configuration last used
<run>/checkpoints/step-00001000/     adapter.safetensors (native format), average.safetensors (the same, averaged),
                                     state.pt (optimiser, random numbers), state.json (step, place in the data, sizes)
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dhumandiff import Adapter
from dhumandiff.errors import DHumanDiffError
from dhumandiff.formats import native

from .. import TrainingError

__all__ = ["RUN_FILE", "Checkpoint", "Run", "adapter_of_run", "random_state", "set_random_state"]

RUN_FILE = "config.yaml"
FORMAT, VERSION = "dhumandiff-checkpoint", 1
WEIGHTS, AVERAGE, STATE, TOLD = "adapter.safetensors", "average.safetensors", "state.pt", "state.json"


@dataclass
class Checkpoint:
    """A run at the end of a step.

    weights, average: the adapter's tensors; average is empty where none is kept. metadata: of the adapter.
    state: tensors and plain values (optimiser, schedule, scaler, random numbers). told: plain values (step, positions,
    sizes, config, score).
    """

    weights: dict[str, Tensor]
    average: dict[str, Tensor]
    metadata: dict[str, str]
    state: dict[str, Any]
    told: dict[str, Any]

    @property
    def size(self) -> int:
        """Bytes on the disk, nearly."""
        return sum(
            tensor.numel() * tensor.element_size() for tensor in _tensors([self.weights, self.average, self.state])
        )


class Run:
    """The folder of a run.

    Args:
        folder: made if need be.
        keep: how many of the last checkpoints stay; the best one (lowest `score`) stays besides.
    """

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        self.folder, self.keep = Path(folder), keep
        self.checkpoints = self.folder / "checkpoints"

    def clean(self) -> None:
        """Make the folder, and remove what a killed process left half written or half removed."""
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainingError(f"{self.folder}: the run's folder cannot be made ({error.strerror}).") from error
        for leftover in self.checkpoints.glob(".*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def steps(self) -> list[int]:
        """Steps of the checkpoints there are, in order."""
        found = (re.fullmatch(r"step-(\d+)", path.name) for path in self.checkpoints.glob("step-*"))
        return sorted(int(match[1]) for match in found if match)

    def path(self, step: int) -> Path:
        """The folder of a checkpoint."""
        return self.checkpoints / f"step-{step:08d}"

    def best(self) -> int | None:
        """Step of the checkpoint with the lowest score; None without any."""
        return min(self.steps(), key=lambda step: (_told(self.path(step))["score"], -step), default=None)

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint, and remove those that are past keeping. TrainingError when there is no room."""
        step = checkpoint.told["step"]
        final = self.path(step)
        if final.exists():
            return final
        part = self.checkpoints / f".{final.name}.part"
        with self._writing(part, checkpoint.size):
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            native.save(part / WEIGHTS, checkpoint.weights, checkpoint.metadata)
            if checkpoint.average:
                native.save(part / AVERAGE, checkpoint.average, checkpoint.metadata)
            torch.save(checkpoint.state, part / STATE)
            told = {"format": FORMAT, "version": VERSION, **checkpoint.told}
            (part / TOLD).write_text(json.dumps(told) + "\n", encoding="utf-8")
            for path in part.iterdir():
                _flush(path)
            os.replace(part, final)
            _flush(self.checkpoints)
        for old in self.steps()[: -self.keep]:
            if old != self.best():
                gone = self.checkpoints / f".{self.path(old).name}.gone"
                os.replace(self.path(old), gone)
                shutil.rmtree(gone, ignore_errors=True)
        return final

    def load(self, step: int) -> Checkpoint:
        """Read a checkpoint. TrainingError when it is damaged."""
        path = self.path(step)
        told = _told(path)
        try:
            weights = Adapter.from_tensors(load_file(path / WEIGHTS), _metadata(path / WEIGHTS))
            average = load_file(path / AVERAGE) if (path / AVERAGE).is_file() else {}
            state = torch.load(path / STATE, map_location="cpu", weights_only=True)
        except (OSError, SafetensorError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise TrainingError(
                f"The checkpoint {path} is damaged ({_first_line(error)}). Remove this folder; the run then goes on from the one before it."
            ) from error
        return Checkpoint(dict(weights.state_dict()), average, weights.info.metadata, state, told)

    @contextmanager
    def _writing(self, part: Path, needed: int) -> Iterator[None]:
        """Turn a disk that is full, or may not be written to, into a message; nothing half written stays."""
        try:
            if shutil.disk_usage(self.folder).free < needed * 1.02:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            yield
        except (OSError, RuntimeError, DHumanDiffError) as error:  # torch.save reports a full disk as a RuntimeError
            shutil.rmtree(part, ignore_errors=True)
            steps = self.steps()
            intact = f"The one of step {steps[-1]} is intact" if steps else "There is no earlier one"
            cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
            reason = str(error).rstrip(".")
            if getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                reason = "no space left on the disk"
            elif isinstance(cause, RuntimeError):
                reason = "writing broke off, most likely because the disk is full"
            raise TrainingError(
                f"{self.checkpoints}: the checkpoint of {needed / 2**30:.1f} GB cannot be written ({reason}). {intact}. "
                "Make room (checkpoints.keep says how many stay) and start the same command again."
            ) from error


def adapter_of_run(folder: Path) -> Adapter:
    """The averaged weights of a run's best checkpoint (or the weights, where none were averaged). TrainingError without any."""
    run = Run(folder)
    best = run.best()
    if best is None:
        raise TrainingError(f"{folder}: this run has no checkpoint yet. Train it first, or choose another one.")
    found = run.load(best)
    return Adapter.from_tensors(found.average or found.weights, found.metadata)


def random_state() -> dict[str, Any]:
    """The state of every generator of this process, as tensors and plain values."""
    kind, keys, place, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 (what other packages draw from)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), place, has_gauss, gauss],
        "python": random.getstate(),
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Go on from what `random_state` gave."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002 (as above)
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))


def _told(path: Path) -> dict[str, Any]:
    try:
        told = json.loads((path / TOLD).read_text(encoding="utf-8"))
        if (told["format"], told["version"]) != (FORMAT, VERSION):
            raise ValueError(f"its format is {told['format']} {told['version']}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path / TOLD} cannot be read ({error}). Remove this checkpoint's folder.") from error
    return told


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.metadata()


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from _tensors(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"


def _flush(path: Path) -> None:
    """Wait until a file or folder is really on the disk; a power cut after the renaming then finds it whole."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # folders cannot be opened on Windows
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
