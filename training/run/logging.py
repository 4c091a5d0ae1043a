"""What a run writes down: a console line, log.jsonl, tensorboard, sample grids, and a plot of the losses at the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from dhumandiff.io import atomic_write, why_not_written

from .. import TrainingError
from .config import TrainConfig
from .timing import StepTimer

if TYPE_CHECKING:
    from .prompts import PromptDrawing
    from .trackers import Trackers

__all__ = ["Logger", "NoLogger", "duration", "memory_in_use", "read_log"]

LOG = "log.jsonl"
METRICS = ("learning_rate", "samples_per_second", "data_wait_fraction", "grad_norm", "memory_gb")
"""What an entry of the log holds beside the step and the losses."""
RENAMED = {
    "rate": "learning_rate",
    "outside": "data_wait_fraction",
    "gradient": "grad_norm",
    "localisation": "localization",
    "localisation_words": "localization_words",
    "contrast": "infonce",
}
"""Keys in logs of version 0.1 -> present ones; runs that began then are read and resumed."""


class Logger:
    """Writes down the numbers of a run; for the main process. The others have a `NoLogger`.

    Args:
        folder: of the run.
        config: how often what is written.
        loss_names: one per objective.
        step: of the checkpoint the run resumes from; what the log says about later ones is removed.
        trackers: get all numbers and pictures, too; None for none.
    """

    def __init__(
        self,
        folder: Path,
        config: TrainConfig,
        loss_names: Sequence[str],
        step: int = 0,
        trackers: Trackers | None = None,
    ) -> None:
        self.trackers = trackers
        self.folder, self.config, self.log = folder, config, folder / LOG
        self.loss_names = ["loss", *loss_names]
        self._sums, self._steps = torch.zeros(len(self.loss_names)), 0
        _forget_after(self.log, step)
        self.board = _board(folder / "tensorboard", step) if config.logging.tensorboard else None
        # A progress bar on a terminal; only lines in a file.
        self.bar = tqdm(total=config.steps, initial=step, unit="step", dynamic_ncols=True, disable=None)

    def step(
        self, step: int, losses: Sequence[float], learning_rate: float, grad_norm: float, timer: StepTimer
    ) -> None:
        """Count a step; every `logging.every` steps write their mean losses down.

        Args:
            step: number of the step that is done.
            losses: the total, then one per objective.
            learning_rate: of the next step.
            grad_norm: norm of this step's gradient before clipping.
            timer: restarted when its times were written down.
        """
        self.bar.update()
        self._sums, self._steps = self._sums + torch.tensor(losses), self._steps + 1
        if step % self.config.logging.every and step != self.config.steps:
            return
        seconds, waited = timer.seconds / self._steps, timer.data_wait_fraction
        timer.restart()
        means = (self._sums / self._steps).tolist()
        self._sums, self._steps = self._sums * 0, 0
        memory = memory_in_use() / 2**30
        values = (learning_rate, self.config.data.batch_size / seconds, waited, grad_norm, memory)
        self._write(
            step,
            dict(zip(self.loss_names, means, strict=True)),
            dict(zip(METRICS, values, strict=True)),
            seconds,
        )

    def _write(self, step: int, losses: Mapping[str, float], metrics: Mapping[str, float], seconds: float) -> None:
        entry = {"step": step, **losses, **metrics}
        _append(self.log, entry)
        parts = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
        left = duration((self.config.steps - step) * seconds)
        self.print(
            f"step {step}/{self.config.steps}  {parts}  lr {metrics['learning_rate']:.1e}  "
            f"{metrics['samples_per_second']:.2f} samples/s  {metrics['memory_gb']:.1f} GB  "
            f"waiting {metrics['data_wait_fraction']:.1%}  {left} left"
        )
        self._scalars({("loss/" if name in losses else "run/") + name: value for name, value in entry.items()}, step)

    def print(self, line: str) -> None:
        """Print a line above the bar."""
        self.bar.write(line)
        sys.stdout.flush()

    def validation(self, step: int, loss: float) -> None:
        """Write down the validation loss."""
        _append(self.log, {"step": step, "validation": loss})
        self.print(f"step {step}/{self.config.steps}  validation {loss:.4f}")
        self._scalars({"loss/validation": loss}, step)

    def samples(self, step: int, grid: Any) -> Path:
        """Keep a sample grid, a Pillow image; its path."""
        return self._picture("samples", f"step-{step:08d}.png", grid, step)

    def prompts(self, step: int, drawing: PromptDrawing) -> None:
        """Write down what the prompts of one's own came out as."""
        for group, sheet in drawing.sheets.items():
            self._picture("prompts", f"step-{step:08d}-{group}.png", sheet, step)
        _append(self.log, {"step": step, **drawing.scores})
        told = "  ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in drawing.scores.items())
        self.print(f"step {step}/{self.config.steps}  {told}")
        self._scalars({f"prompts/{name}": value for name, value in drawing.scores.items()}, step)

    def _picture(self, kind: str, name: str, picture: Any, step: int) -> Path:
        import numpy as np

        path = self.folder / kind / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
        except OSError as error:
            raise _not_written(path, error) from error
        tag = kind if kind == "samples" else f"{kind}/{path.stem.rpartition('-')[2]}"
        if self.board is not None:
            self.board.add_image(tag, np.asarray(picture), step, dataformats="HWC")
        if self.trackers is not None:
            self.trackers.picture(tag, picture, step)
        return path

    def _scalars(self, values: Mapping[str, float], step: int) -> None:
        """To every tracker."""
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)
        if self.trackers is not None:
            self.trackers.scalars(values, step)

    def plot(self) -> Path | None:
        """Draw the losses of the whole run to loss.png; None when there is nothing to draw, or matplotlib is missing."""
        entries = read_log(self.log)
        others = {"step", *METRICS}
        names = [name for name in dict.fromkeys(name for entry in entries for name in entry) if name not in others]
        if not names:
            return None
        try:
            from matplotlib.figure import Figure
        except ImportError:
            print("No loss.png: matplotlib is not installed (pip install matplotlib).", file=sys.stderr)
            return None
        figure = Figure(figsize=(8, 2.2 * len(names)), layout="constrained")
        for axes, name in zip(figure.subplots(len(names), squeeze=False, sharex=True)[:, 0], names, strict=True):
            points = [(entry["step"], entry[name]) for entry in entries if name in entry]
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, color="0.75", linewidth=0.8)
            axes.plot(steps, _smooth(values), color="C0")
            axes.set_ylabel(name)
            axes.grid(alpha=0.3)
        axes.set_xlabel("step")
        path = self.folder / "loss.png"
        try:
            figure.savefig(path, dpi=110)
        except OSError as error:  # all is trained and saved, so that a picture is no reason to fail
            print(f"No loss.png: it cannot be written ({why_not_written(error)}).", file=sys.stderr)
            return None
        return path

    def close(self) -> None:
        """Finish the bar and the event files."""
        self.bar.close()
        if self.board is not None:
            self.board.close()
        if self.trackers is not None:
            self.trackers.close()


class NoLogger:
    """The logger of processes that write nothing."""

    def step(self, *_: Any) -> None:
        """See `Logger`."""

    def validation(self, *_: Any) -> None:
        """See `Logger`."""

    def samples(self, *_: Any) -> None:
        """See `Logger`."""

    def prompts(self, *_: Any) -> None:
        """See `Logger`."""

    def plot(self) -> None:
        """See `Logger`."""

    def close(self) -> None:
        """See `Logger`."""


def read_log(path: Path) -> list[dict[str, float]]:
    """The entries of a log, of earlier versions too; what is no entry, such as a line half written, is skipped."""
    if not path.is_file():
        return []
    entries = (_entry(line) for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    return [entry for entry in entries if entry]


def _entry(line: str) -> dict[str, float]:
    try:
        entry = {RENAMED.get(name, name): value for name, value in json.loads(line).items()}
    except (ValueError, AttributeError, RecursionError):
        return {}
    numbers = all(isinstance(value, (int, float)) for value in entry.values())
    return entry if numbers and type(entry.get("step")) is int else {}


def memory_in_use() -> int:
    """The most memory this process has used, bytes: on the GPU, or in all without one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _append(path: Path, entry: Mapping[str, Any]) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
    except OSError as error:
        raise _not_written(path, error) from error


def _forget_after(path: Path, step: int) -> None:
    try:
        entries = [entry for entry in read_log(path) if entry["step"] <= step]
        with atomic_write(path) as part:
            part.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(path: Path, error: OSError) -> TrainingError:
    return TrainingError(
        f"{path} cannot be written ({why_not_written(error)}). The last checkpoint is intact.", code="log-not-written"
    )


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise TrainingError(
            f"tensorboard cannot be imported ({error}). Install it with: pip install tensorboard; or set logging.tensorboard to false.",
            code="tensorboard-missing",
        ) from error
    try:
        return SummaryWriter(str(folder), purge_step=step + 1)
    except OSError as error:
        raise _not_written(folder, error) from error


def _smooth(values: tuple[float, ...], weight: float = 0.05) -> list[float]:
    """A moving average that counts what it has seen so far: the first value alone weighs no more than any other."""
    total, seen, out = 0.0, 0.0, []
    for value in values:
        total, seen = (1 - weight) * total + weight * value, (1 - weight) * seen + weight
        out.append(total / seen)
    return out


def duration(seconds: float) -> str:
    """For people: "2 h 05 min", or "3 min 20 s"."""
    minutes = int(seconds // 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {int(seconds % 60):02d} s"
