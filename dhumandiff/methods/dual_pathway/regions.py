"""The people's regions as they are given: checked before anything heavy is done, and what is to be said of them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...conditioning.masks import stack_masks
from ...errors import HostError
from .settings import DualPathwaySettings

__all__ = ["regions_of"]


def regions_of(
    regions: Sequence[Tensor | None] | None, persons: int, settings: DualPathwaySettings
) -> tuple[Tensor | None, list[str]]:
    """Regions of all people, and what is to be said of them.

    Args:
        regions: of person 1, 2, ...: a mask [H, W] or [N, H, W] 0..1, or None for a person who may be anywhere.
        persons: how many people there are.
        settings: with regions "given" everybody needs one; else they narrow down what is found.

    Returns:
        [P, N, H, W], or None where nobody has one; and sentences for people.

    Raises:
        HostError: another number of regions than of people, or a region in which there is nothing.
        ImageError: a region is no mask, or they differ in size.
    """
    given = list(regions or ())
    there = [number for number, region in enumerate(given, 1) if region is not None]
    wrong = len(there) != persons if settings.regions == "given" else len(given) > persons
    if wrong or any(number > persons for number in there):
        people = "1 person" if persons == 1 else f"{persons} people"
        raise HostError(
            f"There are {people} and {len(there) or 'no'} region{'s' * (len(there) != 1)}: give each of them a region (Portrait Layout "
            "draws them), or choose regions from attention.",
            code="dual-region-count",
        )
    stacked = stack_masks([None if region is None else region.float() for region in given])
    if stacked is None:
        return None, []
    for person, masks in enumerate(stacked, 1):
        if not bool(masks.flatten(1).amax(dim=1).gt(0).all()):
            raise HostError(
                f"There is nothing in the region of person {person}, so their face would count nowhere. Draw it where the person shall "
                "be.",
                code="dual-region-empty",
            )
    notes = []
    whole = [person for person, masks in enumerate(stacked, 1) if bool(masks.eq(1).all())]
    if whole and settings.regions == "given":
        who = "The region" if persons == 1 else f"The region of person {' and '.join(map(str, whole))}"
        notes.append(
            f"{who} covers the whole picture, so the text-consistency path acts nowhere: this is DHumanDiff at the identity strength."
        )
    return stacked, notes
