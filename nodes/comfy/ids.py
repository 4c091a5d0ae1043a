"""Ids of conditionings: what ComfyUI hands to a call of the UNet tells by them which prompt each sample belongs to."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["derived_id", "give_own_ids"]


def derived_id(of: Any, name: Any) -> Any:
    """The id of a copy: always the same for the same original and name."""
    return uuid.uuid5(of, str(name)) if isinstance(of, uuid.UUID) else (of, name)


def give_own_ids(groups: Mapping[str, Sequence[dict[str, Any]] | None]) -> None:
    """See that no id stands in two groups of a guider's conditionings.

    Where a prompt has an area, ComfyUI adds the same area to the others that lack it: a copy of the prompt with the words of the
    other, and with the id of the prompt. A negative would be taken for the positive that its area came from.

    Args:
        groups: name, such as "positive", -> conditionings; those of a run that is on. Copies are changed in place.
    """
    owners: dict[Any, tuple[str, dict[str, Any]]] = {}
    for name, group in groups.items():
        for cond in group or ():
            owner, original = owners.setdefault(cond["uuid"], (name, cond))
            if owner != name and original is not cond:
                cond["uuid"] = derived_id(cond["uuid"], name)
