"""Ending a run early: SIGTERM and Ctrl-C let it finish the step and save."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import Any

__all__ = ["SignalHandler"]


class SignalHandler:
    """While this is open, SIGTERM and the first Ctrl-C ask the run to save and end; a second Ctrl-C ends it at once.

    Attributes:
        requested: the signal's number, or 0.
    """

    def __init__(self) -> None:
        self.requested = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> SignalHandler:
        with suppress(ValueError):  # not in the main thread, where Python cannot handle signals
            self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.requested == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.requested = number
        again = " Ctrl-C again ends at once." if number == signal.SIGINT else ""
        print(f"\nFinishing this step, then saving.{again}", file=sys.stderr, flush=True)
