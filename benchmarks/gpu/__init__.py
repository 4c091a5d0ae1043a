"""What only a GPU tells: one command that measures it, in parts.

    python -m benchmarks.gpu --list                              # the parts, what each measures, about how long it takes
    python -m benchmarks.gpu                                     # all of them that are not done
    python -m benchmarks.gpu --part inference-1024 --minutes 8   # one; the same command goes on where it stopped
    python -m benchmarks.gpu --small --device cpu --out small    # tiny models on a CPU: tries the command, not the card
    python -m benchmarks.report                                  # the section of docs/benchmarks.md, from the files

Every part writes a JSON file into `results/gpu/`, in a folder of the card, driver and PyTorch, after each case that is done; a part or
case that is done is not done again. Sizes are real, weights random: how long a step takes does not depend on what is drawn.
"""

from __future__ import annotations

from dhumandiff.errors import DHumanDiffError

__all__ = ["GpuBenchmarkError"]


class GpuBenchmarkError(DHumanDiffError):
    """The benchmark cannot run, or a result file cannot be used; the message says what to change."""
