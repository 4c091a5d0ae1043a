"""Whether a tensor is a view of a file that is mapped into memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor


def is_mapped(path: Path, tensor: Tensor) -> bool:
    """Whether the tensor's memory is the file's, or that of a file in this folder."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("looks into /proc to see which files are mapped")
    regions = [line.split()[0].split("-") for line in maps.read_text().splitlines() if str(path) in line]
    return any(int(start, 16) <= tensor.data_ptr() < int(end, 16) for start, end in regions)
