"""What a run tells: a console line, log.jsonl, tensorboard, and a plot of the loss at the end."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from tqdm import tqdm

from .. import TrainingError

__all__ = ["Clock", "Stop", "Watch"]

LOG = "log.jsonl"


class Clock:
    """Where the time of the steps goes: `with clock("forward"): ...`

    `outside` is the share of the time that was neither forward, backward nor optimiser: reading, moving, telling. On a GPU
    the spans hold what the process waited for, and there is one wait a step, at the end of "backward".
    """

    WORK = ("forward", "backward", "optimiser")

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin anew."""
        self.spans: dict[str, float] = {}
        self.started = time.perf_counter()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the time that this is open to a span."""
        before = time.perf_counter()
        try:
            yield
        finally:
            self.spans[name] = self.spans.get(name, 0.0) + time.perf_counter() - before

    @property
    def total(self) -> float:
        """Seconds since the start; a span "pause" (checkpoints, sample grids) does not count."""
        return time.perf_counter() - self.started - self.spans.get("pause", 0.0)

    @property
    def outside(self) -> float:
        """Share of the time outside of forward, backward and optimiser."""
        return max(0.0, 1 - sum(self.spans.get(name, 0.0) for name in self.WORK) / max(self.total, 1e-9))


class Stop:
    """SIGTERM and the first Ctrl-C ask the run to save and end; the second Ctrl-C ends it at once.

    Attributes:
        asked: the signal's number, or 0.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        with suppress(ValueError):  # not in the main thread, where Python cannot hear signals
            self._before = {number: signal.signal(number, self._hear) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, _: FrameType | None) -> None:
        if self.asked == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.asked = number
        again = " Ctrl-C again ends at once." if number == signal.SIGINT else ""
        print(f"\nFinishing this step, then saving.{again}", file=sys.stderr, flush=True)


class Watch:
    """Writes down the numbers of a run; only the main process has one.

    Args:
        folder: of the run.
        steps: how many there will be.
        tensorboard: write event files.
        step: of the checkpoint the run goes on from; what the log says about later ones is removed.
    """

    def __init__(self, folder: Path, steps: int, tensorboard: bool, step: int = 0) -> None:
        self.folder, self.steps = folder, steps
        self.log = folder / LOG
        _forget_after(self.log, step)
        self.board = _board(folder / "tensorboard", step) if tensorboard else None
        # A bar where somebody looks at a terminal; lines alone in a file.
        self.bar = tqdm(total=steps, initial=step, unit="step", dynamic_ncols=True, disable=None)

    def tick(self) -> None:
        """A step is done."""
        self.bar.update()

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self.bar.write(line)
        sys.stdout.flush()

    def numbers(self, step: int, losses: Mapping[str, float], speed: float, **more: float) -> None:
        """Tell the numbers of a step. speed: seconds a step. more: rate, samples_per_second, outside, gradient, ..."""
        entry = {"step": step, **losses, **more}
        _append(self.log, entry)
        parts = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
        memory, left = memory_in_use() / 2**30, _duration((self.steps - step) * speed)
        self.say(
            f"step {step}/{self.steps}  {parts}  rate {more['rate']:.1e}  {more['samples_per_second']:.2f} samples/s  "
            f"{memory:.1f} GB  waiting {more['outside']:.1%}  {left} left"
        )
        if self.board is not None:
            for name, value in entry.items():
                self.board.add_scalar(("loss/" if name in losses else "run/") + name, value, step)

    def validation(self, step: int, loss: float) -> None:
        """Tell the loss on people that nothing was trained on."""
        _append(self.log, {"step": step, "validation": loss})
        self.say(f"step {step}/{self.steps}  validation {loss:.4f}")
        if self.board is not None:
            self.board.add_scalar("loss/validation", loss, step)

    def picture(self, step: int, picture: Any) -> Path:
        """Keep a sample grid, a Pillow image."""
        import numpy as np

        path = self.folder / "samples" / f"step-{step:08d}.png"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
        except OSError as error:
            raise TrainingError(f"{path} cannot be written ({error.strerror or error}). Make room.") from error
        if self.board is not None:
            self.board.add_image("samples", np.asarray(picture), step, dataformats="HWC")
        return path

    def plot(self) -> Path | None:
        """Draw the losses of the whole run to loss.png; None when there is nothing to draw, or matplotlib is missing."""
        entries = read_log(self.log)
        names = [
            name for name in dict.fromkeys(name for entry in entries for name in entry) if name in _loss_names(entries)
        ]
        if not names:
            return None
        try:
            from matplotlib.figure import Figure
        except ImportError:
            print("No loss.png: matplotlib is not installed (pip install matplotlib).", file=sys.stderr)
            return None
        figure = Figure(figsize=(8, 2.2 * len(names)), layout="constrained")
        for axes, name in zip(figure.subplots(len(names), squeeze=False)[:, 0], names, strict=True):
            points = [(entry["step"], entry[name]) for entry in entries if name in entry]
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, color="0.75", linewidth=0.8)
            axes.plot(steps, _smooth(values), color="C0")
            axes.set_ylabel(name)
            axes.grid(alpha=0.3)
        axes.set_xlabel("step")
        path = self.folder / "loss.png"
        figure.savefig(path, dpi=110)
        return path

    def close(self) -> None:
        """Finish the bar and the event files."""
        self.bar.close()
        if self.board is not None:
            self.board.close()


def read_log(path: Path) -> list[dict[str, float]]:
    """The entries of a log; a line that a killed process left half written is passed over."""
    if not path.is_file():
        return []
    entries = (_entry(line) for line in path.read_text(encoding="utf-8").splitlines())
    return [entry for entry in entries if entry]


def _entry(line: str) -> dict[str, float]:
    try:
        return json.loads(line)
    except ValueError:
        return {}


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
        raise TrainingError(
            f"{path} cannot be written ({error.strerror}). Make room; the last checkpoint is intact."
        ) from error


def _forget_after(path: Path, step: int) -> None:
    entries = [entry for entry in read_log(path) if entry["step"] <= step]
    part = path.with_name(path.name + ".part")
    part.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    os.replace(part, path)


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise TrainingError(
            f"tensorboard cannot be imported ({error}). Install it with: pip install tensorboard; or set watch.tensorboard to false."
        ) from error
    return SummaryWriter(str(folder), purge_step=step + 1)


def _loss_names(entries: list[dict[str, float]]) -> set[str]:
    others = {"step", "rate", "samples_per_second", "outside", "gradient"}
    return {name for entry in entries for name in entry} - others


def _smooth(values: tuple[float, ...], share: float = 0.05) -> list[float]:
    smooth, out = values[0], []
    for value in values:
        smooth += share * (value - smooth)
        out.append(smooth)
    return out


def _duration(seconds: float) -> str:
    minutes = int(seconds // 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {int(seconds % 60):02d} s"
