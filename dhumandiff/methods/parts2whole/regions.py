"""Where each person may be, so that nobody's clothes are read for somebody else (this project's; upstream draws one person).

One position belongs to one person or to nobody. Where regions overlap, the person with the lower number has the position; a
person without a region has what the others leave.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...conditioning.masks import stack_masks
from ...errors import HostError

__all__ = ["NOBODY", "owners_of", "part_regions"]

NOBODY = -1


def part_regions(regions: Sequence[Tensor | None] | None, persons: int) -> tuple[Tensor | None, list[str]]:
    """Regions that do not overlap.

    Args:
        regions: of person 1, 2, ...: a mask [H, W] or [N, H, W] 0..1, or None for what the others leave.
        persons: how many people have parts.

    Returns:
        [P, N, H, W], or None where there is one person, anywhere; and what is to be said of them.

    Raises:
        HostError: several people and nothing that tells them apart, another number of regions, or one in which nothing is left.
        ImageError: a region is no mask, or they differ in size.
    """
    given = list(regions or ())
    if len(given) < persons and (given or persons > 1):
        raise HostError(
            f"There are parts of {persons} people, but {len(given) or 'no'} region{'s' * (len(given) != 1)}: give each of them "
            "a region (all but one at least), so that it is clear whose clothes belong where.",
            code="people-without-regions",
        )
    stacked = stack_masks([None if region is None else region.float().cpu() for region in given])
    if stacked is None:
        if persons > 1:
            raise HostError(
                f"There are parts of {persons} people, but none of them has a region. Give all but one of them a mask, so that "
                "it is clear whose clothes belong where.",
                code="people-without-regions",
            )
        return None, []
    notes = _overlaps(stacked, given)
    left = torch.ones_like(stacked[0])
    result = torch.zeros_like(stacked)
    for person in sorted(range(len(given)), key=lambda p: (given[p] is None, p)):
        result[person] = torch.minimum(stacked[person], left)
        left = left - result[person]
        if not bool(torch.any(result[person] >= 0.5)):
            raise HostError(
                f"Nothing of the picture is person {person + 1}'s: the region is empty, lies outside of the picture, or "
                "belongs to people before. Draw it where the person shall be.",
                code="region-empty",
            )
    return result, notes


def _overlaps(masks: Tensor, given: Sequence[Tensor | None]) -> list[str]:
    notes = []
    for second in range(len(given)):
        for first in range(second):
            if given[first] is None or given[second] is None:
                continue
            share = float(torch.minimum(masks[first], masks[second]).mean())
            if share > 0:
                notes.append(
                    f"The regions of person {first + 1} and person {second + 1} overlap on {share:.1%} of the picture: "
                    f"there person {first + 1} is drawn."
                )
    return notes


def owners_of(masks: Tensor) -> Tensor:
    """Whose each position is.

    Args:
        masks: how much of a position lies in each person's region, [B, P, Q].

    Returns:
        [B, Q]: the person from 0 who has most of it, if that is at least half; else `NOBODY`.
    """
    most, owner = masks.max(dim=1)
    return torch.where(most >= 0.5, owner, NOBODY)
