"""Whether a face recognizer is the one that an adapter was trained with: by a hash of its file, else by its pack's name.

    recognizer_hash(analyzer)                                       # "9f2c...", 16 letters; "" for one without a file
    is_recognizer(adapter.info.recognizer, analyzer)                # True, False, or None: cannot be told

Embeddings of two recognizers have one width and nothing else in common, so no number would tell.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

__all__ = ["has_hash", "is_recognizer", "recognizer_hash", "recognizer_note"]

_HASH = re.compile(r"\bsha256 ([0-9a-f]{16})\b")


def recognizer_hash(analyzer: Any) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the recognizer's file; "" where it has none (a plugin, the miniature)."""
    path = getattr(getattr(analyzer, "recognizer", None), "model_file", None)
    try:
        return _file_hash(str(path), Path(path).stat().st_mtime_ns) if path else ""
    except (OSError, TypeError):
        return ""


@lru_cache(8)
def _file_hash(path: str, _changed: int) -> str:
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()[:16]


def recognizer_note(name: str, digest: str) -> str:
    """What an adapter's metadata says of its recognizer: "buffalo_l (sha256 4c06341c33c2ca1f)"."""
    return f"{name} (sha256 {digest})" if digest else name


def has_hash(said: str) -> bool:
    """Whether an adapter's metadata knows its recognizer's file, so that another one is certainly another."""
    return _HASH.search(said) is not None


def is_recognizer(said: str, analyzer: Any) -> bool | None:
    """Whether what an adapter's metadata says means this analyzer's recognizer; None where nothing is said.

    A hash decides where there is one, since packs are renamed and share their files; else the pack's name.
    """
    if not said.strip():
        return None
    known, own = _HASH.search(said), recognizer_hash(analyzer)
    if known:  # a recognizer without a file is another one
        return known[1] == own
    return re.search(rf"(?<![\w-]){re.escape(analyzer.name)}(?![\w-])", said, re.IGNORECASE) is not None
