"""DHumanDiff: portraits of two people that keep both of them, with SDXL.

from dhumandiff import Adapter, FaceReference
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["Adapter", "FaceReference", "__version__"]

__version__ = "0.1.0"

_ROOMS = {"Adapter": ".methods.paired.adapter", "FaceReference": ".references"}


def __getattr__(name: str) -> Any:
    """Import on first use, so that `python -m dhumandiff --help` does not wait for torch."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ROOMS[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
