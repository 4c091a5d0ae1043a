"""Ids of conditionings: what ComfyUI hands to a call of the UNet tells by them which prompt each sample belongs to."""

from __future__ import annotations

import dataclasses
import math
import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...dhumandiff.errors import HostError

if TYPE_CHECKING:
    from .batch import GuiderStep

__all__ = ["check_seen", "give_own_ids", "repeat_prompts"]


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
                cond["uuid"] = _derived_id(cond["uuid"], name)


def repeat_prompts(step: GuiderStep, prompts: Sequence[list | None], copies: int) -> tuple[GuiderStep, list]:
    """A guider's list of prompts once for each of several strengths, and a step that knows all of them.

    Each copy has ids of its own: other nodes keep something for each id (EasyCache what the last step changed), and would give all
    copies what the last of them left there.
    """

    def id_of(name: Any, copy: int) -> Any:
        return _derived_id(name, copy) if copy else name

    numbers = range(copies)
    repeated = [
        prompt and [{**cond, "uuid": id_of(cond["uuid"], copy)} for cond in prompt]
        for copy in numbers
        for prompt in prompts
    ]
    positives = step.positives and frozenset(id_of(name, copy) for name in step.positives for copy in numbers)
    areas = {id_of(name, copy): area for name, area in step.areas.items() for copy in numbers}
    step = dataclasses.replace(step, positives=positives, areas=areas, prompts=len(prompts))
    return step.asked(repeated), repeated


def check_seen(
    groups: Mapping[str, Sequence[dict[str, Any]] | None],
    positives: Collection[Any],
    seen: Collection[Any],
    sigma: float,
) -> None:
    """See that it was the guider's own prompts that a step was drawn with.

    Args:
        groups: name -> conditionings of the guider.
        positives: ids of those that are positive.
        seen: ids that the UNet was called with.
        sigma: noise level of the step.

    Raises:
        HostError: another node put prompts of its own in the place of the positive, which would be drawn without faces.
    """
    conds = {cond["uuid"]: cond for group in groups.values() for cond in group or ()}
    acting = any(
        sigma <= conds[name].get("timestep_start", math.inf) and sigma >= conds[name].get("timestep_end", 0.0)
        for name in positives
    )
    unknown = any(name not in conds for name in seen)
    if acting and unknown and not any(name in positives for name in seen):
        raise HostError(
            "Another node puts prompts of its own in the place of the positive while sampling, so it is not known which of them are "
            "positive, and the people would be missing from the picture. Sample without that node.",
            code="prompts-replaced",
        )


def _derived_id(of: Any, name: Any) -> Any:
    """The id of a copy: always the same for the same original and name."""
    return uuid.uuid5(of, str(name)) if isinstance(of, uuid.UUID) else (of, name)
