"""How much memory something takes at its peak, as Linux counts it: pages that were touched, those of a mapped file too."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["peak_growth"]

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


@contextmanager
def peak_growth() -> Iterator[list[int]]:
    """Bytes by which the process grows inside of the block, at most; they are in the list behind it, which is empty where the
    system does not say.

    with peak_growth() as grown:
        load()
    assert max(grown, default=0) < limit
    """
    grown: list[int] = []
    try:
        _CLEAR.write_text("5")  # the peak begins anew
        before = _bytes("VmRSS")
    except OSError:
        yield grown
        return
    try:
        yield grown
    finally:
        grown.append(_bytes("VmHWM") - before)


def _bytes(name: str) -> int:
    return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", _STATUS.read_text())[1])
