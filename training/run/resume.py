"""Resuming a run: what it must have in common with its checkpoint, and loading that."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import TrainingError
from ..data.dataset import PreparedDataset
from ..parsing import as_dict, differences
from .base import BaseModel
from .checkpoint import CONFIG_FILE, Checkpoint
from .config import TrainConfig
from .weights import Weights

__all__ = ["check_fingerprint", "report_changes", "resume_fingerprint"]


def resume_fingerprint(
    config: TrainConfig, base: BaseModel, adapter: Weights, folders: Sequence[PreparedDataset]
) -> dict[str, Any]:
    """What must be the same to resume: sizes, data, and the settings that say what a position in the data means."""
    fingerprint = {
        "base": base.sizes,
        "adapter": {name: list(value.shape) for name, value in adapter.state_dict().items()},
        "trained_parts": _trained(config),
        "shards": [folder.shards for folder in folders],
        "seed": config.seed,
        "data.batch_size": config.data.batch_size,
        "data.micro_batch_size": config.data.micro_batch_size,
        "data.shuffle_buffer": config.data.shuffle_buffer,
        "optimizer.name": config.optimizer.name,
    }
    held_out = [[folder.part, folder.held_out if folder.part == "train" else {}] for folder in folders]
    if any(part != "all" for part, _ in held_out):
        fingerprint["held_out"] = held_out
    if config.checkpoints.best_by != "loss":  # scores of two kinds cannot be compared
        fingerprint["checkpoints.best_by"] = f"{config.checkpoints.best_by} of {config.checkpoints.best_of}"
    return _as_read_back(fingerprint)


def _trained(config: TrainConfig) -> list[str]:
    if config.method == "paired":
        return config.init.train
    return [*config.dual.train, *(config.init.train if config.dual.train_identity else [])]


def check_fingerprint(run: Path, found: Checkpoint, fingerprint: Mapping[str, Any]) -> None:
    """Refuse the checkpoint of another base, adapter or data.

    Raises:
        TrainingError: names what differs.
    """
    differing = differences(found.fingerprint, fingerprint)
    if differing:
        more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
        raise TrainingError(
            f"{run} holds a run of another configuration: {'; '.join(differing[:4])}{more}. Resume with the one it was "
            f"started with ({run / CONFIG_FILE}), or choose another folder (--run); init.weights: {run} would start from its "
            "weights.",
            code="run-of-another-configuration",
        )


def report_changes(found: Checkpoint, config: TrainConfig, report: Callable[[str], None]) -> None:
    """Say which settings have changed since the checkpoint; they may."""
    changed = differences(found.config, _as_read_back(as_dict(config)))
    if changed:
        report(f"Changed since the checkpoint: {'; '.join(changed)}.")


def _as_read_back(values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values as a JSON file gives them back: tuples as lists, keys as text."""
    return json.loads(json.dumps(values))
