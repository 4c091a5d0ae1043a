"""One folder a method, the same three parts in each; no method imports another.

weights             what a file holds, and what it makes of a reference     paired/adapter.py, projections.py
what they compute   the formula, pure                                       paired/attention.py, cascade.py
how they condition  on a host, by way of `conditioning/`                    paired/conditioning.py, cascade_modes.py, settings.py

Where a method builds on another's weights (the dual pathway on DHumanDiff's), they come in as an object. Reading them from a file
is the one thing that has to know which class that is: it stands here, above both.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from .paired.adapter import Adapter

__all__ = ["identity_from_pretrained", "identity_from_tensors"]


def identity_from_pretrained(path: str | os.PathLike[str], operations: Any) -> Adapter:
    """`Adapter.from_pretrained`, for a method that builds on DHumanDiff's weights."""
    from .paired.adapter import Adapter

    return Adapter.from_pretrained(path, operations=operations)


def identity_from_tensors(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], files: Mapping[str, str], operations: Any
) -> Adapter:
    """`Adapter.from_tensors`, for a method that builds on DHumanDiff's weights."""
    from .paired.adapter import Adapter

    return Adapter.from_tensors(tensors, metadata, files=files, operations=operations)
