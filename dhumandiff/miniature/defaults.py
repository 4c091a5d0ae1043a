"""How the miniature's pictures are drawn where nothing else is asked for: as its world was trained and is measured."""

from __future__ import annotations

from typing import Any

from .design import DESIGN

__all__ = ["MINI"]

MINI: dict[str, Any] = {"size": DESIGN.name, "steps": 10, "cfg": 2.0, "sampler": "euler_ancestral", "negative": ""}
"""Options of `generate` with the base "mini", by their names on the command line."""
