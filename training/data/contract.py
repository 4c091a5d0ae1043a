"""What `prepare` writes and `train` reads have to agree in; a new version is another number here."""

from __future__ import annotations

__all__ = ["FORMAT", "FORMAT_VERSION"]

FORMAT, FORMAT_VERSION = "dhumandiff-shards", "1"
