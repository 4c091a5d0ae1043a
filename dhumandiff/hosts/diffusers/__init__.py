"""diffusers as the host: people on a UNet, and whole portraits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .attention import Attached, attach

if TYPE_CHECKING:
    from .pipeline import PortraitPipeline

__all__ = ["Attached", "PortraitPipeline", "attach"]


def __getattr__(name: str) -> Any:
    """`PortraitPipeline` on first use: the loop does not need what it needs."""
    if name != "PortraitPipeline":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .pipeline import PortraitPipeline

    return PortraitPipeline
