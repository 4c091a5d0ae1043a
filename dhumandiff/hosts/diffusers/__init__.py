"""diffusers as the host: a pair on a UNet, and whole portraits."""

from .attention import Attached, attach

__all__ = ["Attached", "attach"]
