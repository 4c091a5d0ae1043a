"""The parts: what each measures, about how long it takes on a data-center card, and what it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from .setup import Setup

__all__ = ["PARTS", "Part"]

Cases = Mapping[str, Callable[[], dict[str, Any]]]
"""Name of a case -> what measures it."""


@dataclass(frozen=True)
class Part:
    """What can be run by itself.

    Attributes:
        what: it measures, in words.
        minutes: an estimate for a data-center card; not measured.
        cases: of a setup, in order.
        needs: packages besides PyTorch.
    """

    what: str
    minutes: float
    cases: Callable[[Setup], Cases]
    needs: tuple[str, ...] = ("diffusers", "transformers")


def _inference(setup: Setup, size: int) -> Cases:
    from . import inference

    return inference.cases(setup, size)


def _compiled(setup: Setup, size: int, images: int, dtype: str) -> Cases:
    from . import compiled

    return compiled.cases(setup, size, images, dtype)


PARTS: dict[str, Part] = {
    **{
        f"inference-{size}": Part(
            f"SDXL at {size} px with and without people, and two IP-Adapters: 1 and 4 pictures, fp16 and bf16",
            minutes,
            partial(_inference, size=size),
        )
        for size, minutes in ((512, 3), (1024, 6))
    },
    **{
        f"compiled-{size}-batch{images}-{dtype}": Part(
            f"the same compiled: {size} px, {images} picture{'s' * (images > 1)}, {dtype}; graph breaks",
            8,
            partial(_compiled, size=size, images=images, dtype=dtype),
        )
        for size in (512, 1024)
        for dtype in ("fp16", "bf16")
        for images in (1, 4)
    },
}
"""By name, in the order in which they run."""
