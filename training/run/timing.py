"""Where the time of a step goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["StepTimer"]


class StepTimer:
    """Adds up the seconds of named spans: `with timer("forward"): ...`

    On a GPU a span holds what the process waited for, and there is one wait a step, at the end of "backward".
    """

    COMPUTE = ("forward", "backward", "optimizer")

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin anew, with no spans."""
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
    def seconds(self) -> float:
        """Seconds since the start; the span "pause" (checkpoints, sample grids) does not count."""
        return time.perf_counter() - self.started - self.spans.get("pause", 0.0)

    @property
    def data_wait_fraction(self) -> float:
        """Fraction of these seconds outside of forward, backward and optimizer: waiting for data, moving it, logging."""
        return max(0.0, 1 - sum(self.spans.get(name, 0.0) for name in self.COMPUTE) / max(self.seconds, 1e-9))
