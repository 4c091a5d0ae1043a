"""Packages that only a part of the project needs."""

from __future__ import annotations

import importlib
from typing import Any

from .errors import HostError

__all__ = ["require"]


def require(name: str) -> Any:
    """Import diffusers or transformers.

    Raises:
        HostError: it is not installed, or cannot be imported ("package-missing"); the message says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise HostError(
            f"Portraits without ComfyUI need {name} ({error}). "
            "Install it with: pip install diffusers transformers accelerate",
            code="package-missing",
        ) from error
