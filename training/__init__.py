"""Train the adapter: `python -m training` lists the commands.

Knows `dhumandiff` and diffusers, never ComfyUI.
"""

from __future__ import annotations

from dhumandiff.errors import DHumanDiffError

__all__ = ["TrainingError"]


class TrainingError(DHumanDiffError):
    """Settings, data or a folder that training cannot use; the message says what to change."""
