"""The parts of the loss, one file each. What they have in common is in protocol.py, their settings in config.py."""

from __future__ import annotations
