"""One training run: its config, loop, checkpoints, resume, and log."""

from __future__ import annotations
