"""Random numbers that depend on names alone, so that they need no state in a checkpoint and are the same everywhere."""

from __future__ import annotations

import hashlib
import random

__all__ = ["named_rng", "seeded_rng"]


def seeded_rng(*names: object) -> random.Random:
    """A generator that depends on `names` alone, alike on every machine and in every version of Python.

    Args:
        names: what the numbers are for, such as a seed, a purpose and a draw's number.
    """
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "little"))


def named_rng(*names: object) -> random.Random:
    """The generator of `prepare`: the bytes of every shard that was ever made depend on it, so it stays as it is.

    Python seeds it from the text itself; everything newer uses `seeded_rng`.

    Args:
        names: the seed, and which picture and person the numbers are for.
    """
    return random.Random("/".join(map(str, names)))
