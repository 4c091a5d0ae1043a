"""Whether two face recognizers are one: by a hash of the file, else by the pack's name.

    recognizer_name(analyzer), recognizer_hash(analyzer)            # "antelopev2/glintr100", "9f2c...": "" without a file
    is_recognizer(adapter.info.recognizer, analyzer)                # True, False, or None: cannot be told
    compare(adapter.info.recognizer, reference.recognizer, reference.recognizer_hash)    # "same", "other", "unsure", "unknown"

Embeddings of two recognizers have one width and nothing else in common, so no number would tell.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from ..catalogue import AURAFACE_RECOGNIZER

__all__ = [
    "Comparison",
    "compare",
    "compare_analyzer",
    "file_hash",
    "has_hash",
    "is_published",
    "is_recognizer",
    "pack_of",
    "recognizer_hash",
    "recognizer_name",
    "recognizer_note",
    "same_recognizer",
]

_HASH = re.compile(r"\bsha256 ([0-9a-f]{16})\b")

Comparison = Literal["same", "other", "unsure", "unknown"]
""""other": certainly another. "unsure": another name, which a renamed pack has, too. "unknown": one of them is not known."""

_RECOGNIZERS = {
    "buffalo_l": "w600k_r50",
    "buffalo_m": "w600k_r50",
    "buffalo_s": "w600k_mbf",
    "buffalo_sc": "w600k_mbf",
    "antelopev2": "glintr100",
    "auraface": "glintr100",
    "sface": "face_recognition_sface_2021dec",
}
"""Packs and the recognizers in them. Another pack may hold another recognizer under a name of these, as AuraFace's
does, so names that are alike prove nothing."""


def recognizer_name(analyzer: Any) -> str:
    """The name that a reference keeps: that of the pack, and of the recognizer's file where it has one; "" without a name."""
    name, file = getattr(analyzer, "name", ""), getattr(getattr(analyzer, "recognizer", None), "model_file", None)
    return f"{name}/{Path(file).stem}" if isinstance(file, str) and file else str(name)


def recognizer_hash(analyzer: Any) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the recognizer's file; "" where it has none (a plugin, the miniature)."""
    path = getattr(getattr(analyzer, "recognizer", None), "model_file", None)
    try:
        return file_hash(path) if path else ""
    except TypeError:
        return ""


def file_hash(path: str | Path) -> str:
    """The first 16 hexadecimal digits of a file's SHA-256; "" where it cannot be read."""
    try:
        return _file_hash(str(path), Path(path).stat().st_mtime_ns)
    except OSError:
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
    found = compare_analyzer(said, analyzer)
    return None if found == "unknown" else found == "same"


def pack_of(said: str) -> str:
    """What a person chooses to get the recognizer that an adapter's metadata names; AuraFace is in the pack `open`."""
    return "the pack `open`" if _names(said, AURAFACE_RECOGNIZER[0].partition("/")[0]) else "that pack"


def compare_analyzer(said: str, analyzer: Any) -> Comparison:
    """`compare` with an analyzer's recognizer."""
    return compare(said, recognizer_name(analyzer), recognizer_hash(analyzer))


def compare(said: str, name: str, digest: str) -> Comparison:
    """Whether what an adapter's metadata says of its recognizer means another.

    Args:
        said: a pack's name in whatever words, with or without a hash (`recognizer_note`); "" where nothing is known.
        name: of the other, as `recognizer_name` gives it; "" where it is not known.
        digest: of the other's file; "" for one without a file.
    """
    if not said.strip() or not (name or digest):
        return "unknown"
    if known := _HASH.search(said):  # a recognizer without a file is another one
        return "same" if known[1] == digest else "other"
    pack, _, file = name.partition("/")
    if pack and _names(said, pack):
        return "same"
    ours = next((own for other, own in _RECOGNIZERS.items() if _names(said, other)), None)
    return "other" if ours and file in {*_RECOGNIZERS.values()} - {ours} else "unsure"


def same_recognizer(first: tuple[str, str], second: tuple[str, str]) -> bool | None:
    """Whether two recognizers are one, each as name and hash; None where one of them is not known."""
    if not any(first) or not any(second):
        return None
    return first[1] == second[1] if first[1] or second[1] else first[0] == second[0]


def is_published(made_by: tuple[str, str], published: tuple[str, str]) -> bool | None:
    """`same_recognizer` of somebody's and a published one, whose hash is known: where the other has none, its name is believed, the
    pack's alone as well (who makes references by hand may know no more)."""
    name, digest = published
    if made_by == (name.partition("/")[0], ""):
        return True
    return same_recognizer(made_by, (name, digest if made_by[1] else ""))


def _names(said: str, pack: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(pack)}(?![\w-])", said, re.IGNORECASE) is not None
