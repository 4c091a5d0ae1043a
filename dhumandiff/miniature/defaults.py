"""How the miniature's pictures are drawn where nothing else is asked for: as its world was trained and is measured."""

from __future__ import annotations

from typing import Any

from .design import DESIGN, Design

__all__ = ["MINI", "defaults_of"]


def defaults_of(design: Design) -> dict[str, Any]:
    """Options of `generate` with the base "mini", by their names on the command line."""
    size = "{}x{}".format(*design.size)
    return {"size": size, "steps": design.steps, "cfg": 2.0, "sampler": "euler_ancestral", "negative": ""}


MINI = defaults_of(DESIGN)
"""Of the weights that are used."""
