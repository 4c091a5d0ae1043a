"""The people who are connected to a node: references and masks by number, one to four."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..dhumandiff.errors import HostError

if TYPE_CHECKING:
    from torch import Tensor

    from ..dhumandiff.references import FaceReference


def of_persons(name: str, given: Mapping[str, Any], default: Any = None, first: int = 1) -> list[Any]:
    """What came for the inputs NAME_1 to NAME_4, or for those from `first` on."""
    return [given.get(f"{name}_{k}", default) for k in range(first, 5)]


def references_in_order(*references: FaceReference | None) -> list[FaceReference]:
    """The references that are connected, person 1 first.

    Raises:
        HostError: one is left out in between, so that everybody behind it would have another number.
    """
    there = [reference for reference in references if reference is not None]
    for number, reference in enumerate(references[: len(there)], 1):
        if reference is None:
            later = next(n for n, other in enumerate(references, 1) if n > number and other is not None)
            raise HostError(
                f"reference_{later} is connected, but reference_{number} is not: connect people without a gap, so that it is "
                "known whose mark, mask and box is whose.",
                code="reference-gap",
            )
    return there


def masks_in_order(masks: Sequence[Tensor | None], persons: int) -> list[Tensor | None]:
    """The masks of the persons who are there. Black ones of others, which Portrait Layout gives, count as none.

    Raises:
        HostError: a mask is somebody's who is not there.
    """
    for number, mask in enumerate(masks[persons:], persons + 1):
        if mask is not None and mask.any():
            raise HostError(
                f"mask_{number} is connected, but reference_{number} is not: connect person {number}, or take the mask away.",
                code="mask-without-person",
            )
    return list(masks[:persons])


def check_layout_masks(masks: Sequence[Tensor | None]) -> None:
    """Refuse black masks of person 3 and 4, which Portrait Layout gives for fewer people. For the first two black means nowhere.

    Raises:
        HostError: somebody would be nowhere.
    """
    for number, mask in enumerate(masks, 1):
        if number > 2 and mask is not None and not mask.any():
            raise HostError(
                f"mask_{number} is black all over, so person {number} would be nowhere. In Portrait Layout set people to "
                f"{len(masks)}; to leave the person out, take reference_{number} away.",
                code="person-nowhere",
            )
