"""Weights & Biases and others beside TensorBoard, by Accelerate's trackers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dhumandiff.errors import short_error

from .. import TrainingError

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Trackers", "check_trackers"]

PROJECT = "dhumandiff"


def check_trackers(names: Sequence[str]) -> None:
    """Refuse what is not installed; Accelerate itself would only leave it out.

    Raises:
        TrainingError: names the package.
    """
    for name in names:
        if find_spec(name) is None:
            raise TrainingError(
                f"logging.trackers names {name}, which is not installed. Install it with: pip install {name}; or leave it out: "
                "TensorBoard's files and log.jsonl are written in any case.",
                code="tracker-missing",
            )


class Trackers:
    """All numbers and pictures of a run, to every tracker that the configuration names.

    Args:
        accelerator: made with `log_with`.
        folder: of the run; a run that is resumed goes on in the same one of Weights & Biases.
        config: as plain values.

    Raises:
        TrainingError: a tracker does not start: no login, no network.
    """

    def __init__(self, accelerator: Accelerator, folder: Path, config: Mapping[str, Any]) -> None:
        self.accelerator = accelerator
        started = {str(getattr(each, "value", each)) for each in accelerator.log_with}
        lacking = [name for name in config["logging"]["trackers"] if name not in started]
        if lacking:
            raise TrainingError(
                f"logging.trackers names {', '.join(lacking)}, which this version of Accelerate cannot use. Update both (pip install "
                f"-U accelerate {' '.join(lacking)}), or leave it out.",
                code="tracker-not-started",
            )
        run = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
        settings = {"wandb": {"name": folder.name, "id": run, "resume": "allow", "dir": str(folder)}}
        try:
            accelerator.init_trackers(PROJECT, dict(_flat(config)), settings)
        except Exception as error:  # each tracker has a family of its own
            raise TrainingError(
                f"A tracker of logging.trackers does not start ({short_error(error, kind=True)}). Log in to it first, or leave it out.",
                code="tracker-not-started",
            ) from error

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers."""
        self.accelerator.log(dict(values), step=step)

    def picture(self, name: str, picture: Any, step: int) -> None:
        """Log a Pillow image, where a tracker takes pictures."""
        for tracker in self.accelerator.trackers:
            if hasattr(tracker, "log_images"):
                tracker.log_images({name: [np.asarray(picture)]}, step=step)

    def close(self) -> None:
        """Send what is left. Not `accelerator.end_training`, which would end the processes' group, too."""
        for tracker in self.accelerator.trackers:
            tracker.finish()


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in config.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value if isinstance(value, bool | int | float | str) else str(value)))
    return found
