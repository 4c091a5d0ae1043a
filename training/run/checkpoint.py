"""Checkpoints: everything a run needs to resume as if it had never ended, written at once or not at all.

<run>/config.yaml                    the configuration last used
<run>/checkpoints/step-00001000/     adapter.safetensors (native format), average.safetensors (the same, averaged: EMA),
                                     state.pt (optimizer, random numbers), state.json (step, position in the data, sizes)
"""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from dhumandiff.errors import DHumanDiffError, short_error
from dhumandiff.formats import low_rank
from dhumandiff.io import expand_user

from .. import TrainingError
from ..renamed import current_config
from .checkpoint_checks import check_config, check_info, check_state, damaged_checkpoint, tensors_in
from .low_rank import is_low_rank, merged_adapter
from .weights import Weights, build_weights, metadata_of, save_weights

__all__ = ["CONFIG_FILE", "Checkpoint", "RunFolder", "adapter_of", "adapter_of_run", "random_state", "set_random_state"]

# Names on the disk. They stay as the first version wrote them, so that every run can be resumed; a test pins them.
CONFIG_FILE = "config.yaml"
FORMAT, VERSION = "dhumandiff-checkpoint", 1
WEIGHTS, EMA_WEIGHTS, TENSORS, INFO = "adapter.safetensors", "average.safetensors", "state.pt", "state.json"
TENSOR_KEYS = {
    "optimizer": "optimiser",
    "scheduler": "scheduled",
    "ema_steps": "averaged",
    "scaler": "scaler",
    "random": "random",
}
"""Part of the state -> its key in state.pt."""
GROUPS_KEY = "optimiser_groups"
"""Of state.pt: what some optimizers keep for a group of weights; not there for others, and before 0.2."""
INFO_KEYS = {"step": "step", "smoothed_loss": "smoothed", "stream_positions": "positions"}
"""Part of the state -> its key in state.json."""
FINGERPRINT_KEYS = {
    "trained_parts": "learning",
    "data.batch_size": "data.batch",
    "data.micro_batch_size": "data.micro_batch",
    "data.shuffle_buffer": "data.shuffle",
    "optimizer.name": "optimiser.kind",
}
"""Part of the fingerprint -> its key in "agree" of state.json, where they differ."""


@dataclass
class Checkpoint:
    """A run at the end of a step.

    Attributes:
        state: `TrainState.state_dict()`.
        metadata: of the adapter's files.
        score: of the weights that are exported; the lowest is the best checkpoint.
        config: the run's configuration as plain values.
        fingerprint: what a run that resumes from here must have in common with it (resume.resume_fingerprint).
        contents: checksums of data and base (contents.contents_of); empty in checkpoints before 0.2.
    """

    state: dict[str, Any]
    metadata: dict[str, str]
    score: float
    config: dict[str, Any]
    fingerprint: dict[str, Any]
    contents: dict[str, Any] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """How many steps the run had done."""
        return self.state["step"]

    @property
    def weights(self) -> dict[str, Tensor]:
        """The adapter's tensors, as after the last step."""
        return self.state["adapter"]

    @property
    def ema_weights(self) -> dict[str, Tensor]:
        """The adapter's tensors, averaged; empty where no EMA is kept."""
        return self.state["ema"]

    @property
    def size(self) -> int:
        """Bytes on the disk, nearly."""
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors_in(self.state))

    def info(self) -> dict[str, Any]:
        """The content of state.json."""
        fingerprint = {FINGERPRINT_KEYS.get(name, name): value for name, value in self.fingerprint.items()}
        return {
            "format": FORMAT,
            "version": VERSION,
            **{key: self.state[name] for name, key in INFO_KEYS.items()},
            "score": self.score,
            "config": self.config,
            "agree": fingerprint,
            "contents": self.contents,
        }


class RunFolder:
    """The folder of a run.

    Args:
        folder: made if need be.
        keep: how many of the last checkpoints stay; the best one (lowest `score`) stays besides.
    """

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        self.folder, self.keep = expand_user(folder), keep
        self.checkpoints = self.folder / "checkpoints"

    def clean(self) -> None:
        """Make the folder, and remove what a killed process left half written or half removed."""
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainingError(
                f"{self.folder}: the run's folder cannot be made ({error.strerror}).", code="run-folder-not-made"
            ) from error
        for leftover in self.checkpoints.glob(".*"):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)

    def steps(self) -> list[int]:
        """Steps of the checkpoints there are, in order."""
        found = (re.fullmatch(r"step-(\d+)", path.name) for path in self.checkpoints.glob("step-*"))
        return sorted(int(match[1]) for match in found if match)

    def path(self, step: int) -> Path:
        """The folder of a checkpoint."""
        return self.checkpoints / f"step-{step:08d}"

    def best(self) -> int | None:
        """Step of the checkpoint with the lowest score; None without any."""
        return min(self.steps(), key=lambda step: (_read_info(self.path(step))["score"], -step), default=None)

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint, and remove those that are past keeping.

        Raises:
            TrainingError: there is no room; the earlier checkpoints are intact.
        """
        final = self.path(checkpoint.step)
        if final.exists():
            return final
        part = self.checkpoints / f".{final.name}.part"
        with self._writing(part, checkpoint.size):
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            save = low_rank.save if is_low_rank(checkpoint.metadata) else save_weights
            save(part / WEIGHTS, checkpoint.weights, checkpoint.metadata)
            if checkpoint.ema_weights:
                save(part / EMA_WEIGHTS, checkpoint.ema_weights, checkpoint.metadata)
            kept = {key: checkpoint.state[name] for name, key in TENSOR_KEYS.items()}
            groups = checkpoint.state.get("optimizer_groups")
            torch.save(kept | ({GROUPS_KEY: groups} if any(groups or []) else {}), part / TENSORS)
            (part / INFO).write_text(json.dumps(checkpoint.info()) + "\n", encoding="utf-8")
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
        """Read a checkpoint of this or an earlier version.

        Raises:
            TrainingError: it is damaged.
        """
        path = self.path(step)
        info = _read_info(path)
        with damaged_checkpoint(path):
            weights, metadata = _weights(path / WEIGHTS)
            ema = load_file(path / EMA_WEIGHTS) if (path / EMA_WEIGHTS).exists() else {}
            tensors = torch.load(path / TENSORS, map_location="cpu", weights_only=True)
            state = {"adapter": weights, "ema": ema}
            state |= {name: tensors[key] for name, key in TENSOR_KEYS.items()}
            state["optimizer_groups"] = tensors.get(GROUPS_KEY, [])
            state |= {name: info[key] for name, key in INFO_KEYS.items()}
            names = {key: name for name, key in FINGERPRINT_KEYS.items()}
            fingerprint = {names.get(key, key): value for key, value in info["agree"].items()}
            config = current_config("train", info["config"])
            check_config(config)
            check_state(state, config)
            contents = dict(info.get("contents", {}))
            return Checkpoint(state, metadata, info["score"], config, fingerprint, contents)

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
                "Make room (checkpoints.keep says how many stay) and start the same command again.",
                code="checkpoint-not-written",
            ) from error


def adapter_of_run(folder: Path) -> Weights:
    """The EMA weights of a run's best checkpoint (or the weights, where no EMA is kept), of whatever it trains.

    Raises:
        TrainingError: there is no checkpoint, or it is damaged.
    """
    run = RunFolder(folder)
    best = run.best()
    if best is None:
        raise TrainingError(
            f"{folder}: this run has no checkpoint yet. Train it first, or choose another one.",
            code="run-without-checkpoint",
        )
    found = run.load(best)
    return adapter_of(found)


def adapter_of(checkpoint: Checkpoint, ema: bool = True) -> Weights:
    """What a checkpoint holds, an adapter of a low-rank run with the changes in it. ema: averaged, where an EMA is kept.

    Raises:
        TrainingError: the full adapter of a low-rank run has changed.
    """
    tensors = (checkpoint.ema_weights if ema else {}) or checkpoint.weights
    if is_low_rank(checkpoint.metadata):
        return merged_adapter(tensors, checkpoint.metadata, checkpoint.config["init"]["weights"])
    return build_weights(tensors, checkpoint.metadata)


def random_state() -> dict[str, Any]:
    """The state of every generator of this process, as tensors and plain values."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 (what other packages draw from)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        "python": random.getstate(),
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Continue with what `random_state` gave."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002 (as above)
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))


def _read_info(path: Path) -> dict[str, Any]:
    try:
        info = json.loads((path / INFO).read_text(encoding="utf-8"))
        if (info["format"], info["version"]) != (FORMAT, VERSION):
            raise ValueError(f"its format is {info['format']} {info['version']}")
        check_info(info, int(path.name.rpartition("-")[2]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise TrainingError(
            f"{path / INFO} cannot be read ({short_error(error, kind=True)}). Remove this checkpoint's folder.",
            code="checkpoint-damaged",
        ) from error
    return info


def _weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of adapter.safetensors and what they need beside; of a low-rank run only what was trained."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    if is_low_rank(metadata):
        return load_file(path), {name: value for name, value in metadata.items() if not name.startswith("format")}
    weights = build_weights(load_file(path), metadata)
    return dict(weights.state_dict()), metadata_of(weights)


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
