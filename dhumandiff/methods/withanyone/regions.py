"""Where each person may be on a picture of FLUX: boxes or soft masks -> the picture tokens that see somebody.

    weights = box_weights(boxes, size=(1024, 1024), tokens=4096)      # [P, 4096], 0 or 1
    regions = regions_of(weights)                                     # only the rows in which anybody counts

As published: a token stands for 16 x 16 px; a token in person k's box sees person k's tokens, in an overlap both people's, and
one in no box gets exactly 0. Such rows are never computed: an attention whose row is masked altogether is 0 in some
implementations and somebody's face all over the picture in others.

This project's choice: soft masks and strengths of a person. A weight w of person p in a row multiplies p's share of the
softmax there, and the result is multiplied by the largest weight of the row. So weights of 0 and 1 are boxes, a weight of 0 is
as if p were not there, and what one person alone adds is multiplied by w.

Letters in shapes: P persons, L picture tokens, R of them in a region.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...conditioning.masks import check_mask, check_shape, downsample_masks
from ...errors import HostError, LayoutError

__all__ = [
    "MAX_PEOPLE",
    "TOKEN",
    "Group",
    "PixelBox",
    "Regions",
    "box_weights",
    "check_boxes",
    "check_people",
    "mask_weights",
    "region_weights",
    "regions_of",
    "token_grid",
]

TOKEN = 16
"""Side of the square of pixels that a picture token stands for: 8 px a latent pixel, 2 latent pixels a token."""
MAX_PEOPLE = 4
"""The most people that the weights were trained with."""

PixelBox = Sequence[float]
"""Left, top, right and bottom, px."""


@dataclass(frozen=True)
class Group:
    """Rows in which the same people count.

    Attributes:
        people: their numbers from 0, in order.
        start, stop: which of `Regions.rows`.
        bias: log of each one's share, [R of the group, people]; None where they count alike.
    """

    people: tuple[int, ...]
    start: int
    stop: int
    bias: Tensor | None = None


@dataclass(frozen=True)
class Regions:
    """The picture tokens that see somebody.

    Attributes:
        rows: [R] their numbers, group after group.
        groups: who counts in which of them.
        scale: [R, 1] the largest weight of each row; None: 1 in all.
        persons: P.
        tokens: L.
    """

    rows: Tensor
    groups: tuple[Group, ...]
    scale: Tensor | None
    persons: int
    tokens: int

    def to(self, device: torch.device) -> Regions:
        """The same on a device."""
        groups = tuple(
            group if group.bias is None else Group(group.people, group.start, group.stop, group.bias.to(device))
            for group in self.groups
        )
        scale = None if self.scale is None else self.scale.to(device)
        return Regions(self.rows.to(device), groups, scale, self.persons, self.tokens)


def token_grid(size: tuple[int, int], tokens: int) -> tuple[int, int]:
    """(columns, rows) of a picture's tokens.

    Where a side is no multiple of 16 px, the published code leaves the rest of the picture out, and ComfyUI fills the last
    token up; the number of tokens says which it was.

    Args:
        size: (width, height) of the picture, px.
        tokens: how many there are.

    Raises:
        HostError: no picture of this size has so many.
    """
    width, height = size
    if not all(math.isfinite(side) and side >= TOKEN for side in size):
        raise HostError(
            f"The picture is {width} x {height} px: FLUX draws pictures of {TOKEN} px and more each way.",
            code="withanyone-picture-size",
        )
    down = (int(width) // TOKEN, int(height) // TOKEN)
    up = (math.ceil(width / TOKEN), math.ceil(height / TOKEN))
    for grid in (down, up):
        if grid[0] * grid[1] == tokens:
            return grid
    raise HostError(
        f"A picture of {width} x {height} px has {up[0]} x {up[1]} tokens of {TOKEN} px, but {tokens} came. Another node merges or "
        "adds tokens, or the size is another picture's.",
        code="withanyone-token-count",
    )


def check_people(persons: int, boxes: int | None = None) -> None:
    """Refuse too many people, none, and another number of boxes.

    Raises:
        HostError: there are none, or more than `MAX_PEOPLE`.
        LayoutError: not every person has one box.
    """
    if not 1 <= persons <= MAX_PEOPLE:
        raise HostError(
            f"{persons} people were given: WithAnyone was trained with 1 to {MAX_PEOPLE}. Leave somebody out, or draw the others in a "
            "second pass.",
            code="withanyone-people-count",
        )
    if boxes is not None and boxes != persons:
        what = f"person {boxes + 1} has no box" if boxes < persons else f"{boxes - persons} more than there are people"
        raise LayoutError(
            f"There are {boxes} boxes for {persons} people ({what}). Draw one box a person in Portrait Layout: without one it "
            "is not known whose face belongs where.",
            code="withanyone-box-count",
        )


def box_weights(boxes: Sequence[PixelBox | None], size: tuple[int, int], tokens: int) -> Tensor:
    """Which tokens each person's box covers: columns x1 // 16 to ceil(x2 / 16), rows alike, cut at the picture's border.

    Args:
        boxes: one a person, px of the picture; None for one without, whose weights are 0.
        size: (width, height) of the picture, px.
        tokens: L.

    Returns:
        [P, L] float32 of 0 and 1.

    Raises:
        HostError: as for `token_grid`, or too many people.
        LayoutError: a box is none, lies outside of the picture, is thinner than a token, or is another person's too.
    """
    check_people(len(boxes))
    columns, rows = token_grid(size, tokens)
    weights = torch.zeros(len(boxes), rows, columns)
    seen: dict[tuple[float, ...], int] = {}
    for person, box in enumerate(boxes, 1):
        if box is None:
            continue
        x1, y1, x2, y2 = _checked(box, person, size)
        twin = seen.setdefault((x1, y1, x2, y2), person)
        if twin != person:
            raise LayoutError(
                f"Person {twin} and person {person} have the same box ({_written(box)}), so both faces would be drawn into one. Draw a "
                "box for each.",
                code="withanyone-box-twice",
            )
        across = slice(max(0, int(x1) // TOKEN), min(columns, math.ceil(x2 / TOKEN)))
        down = slice(max(0, int(y1) // TOKEN), min(rows, math.ceil(y2 / TOKEN)))
        weights[person - 1, down, across] = 1
        if not weights[person - 1].any():  # in what a size that is no multiple of 16 leaves out
            raise _outside(box, person, size)
    return weights.flatten(1)


def check_boxes(boxes: Sequence[PixelBox | None]) -> None:
    """Refuse a person without a box, where there are no masks.

    Raises:
        LayoutError: naming the person.
    """
    for person, box in enumerate(boxes, 1):
        if box is None:
            raise _no_box(box, person)


def _no_box(box: object, person: int) -> LayoutError:
    return LayoutError(
        f"The box of person {person} is {box!r}: four numbers are needed, left, top, right and bottom in px.",
        code="withanyone-no-box",
    )


def _checked(box: PixelBox, person: int, size: tuple[int, int]) -> tuple[float, float, float, float]:
    try:
        edges = [float(edge) for edge in box]
    except (TypeError, ValueError):
        edges = []
    if len(edges) != 4 or not all(map(math.isfinite, edges)):
        raise _no_box(box, person)
    x1, y1, x2, y2 = edges
    if x2 <= x1 or y2 <= y1:
        raise LayoutError(
            f"The box of person {person} ({_written(box)}) is empty: the order is left, top, right, bottom.",
            code="withanyone-box-empty",
        )
    width, height = size
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        raise _outside(box, person, size)
    inside = (min(x2, width) - max(x1, 0), min(y2, height) - max(y1, 0))
    if min(inside) < TOKEN:
        raise LayoutError(
            f"The box of person {person} ({_written(box)}) has {inside[0]:g} x {inside[1]:g} px of the picture; at least "
            f"{TOKEN} px each way are needed for anything of a face. Draw a larger one.",
            code="withanyone-box-thin",
        )
    return x1, y1, x2, y2


def _outside(box: PixelBox, person: int, size: tuple[int, int]) -> LayoutError:
    return LayoutError(
        f"The box of person {person} ({_written(box)}) lies outside of the picture, which is {size[0]} x {size[1]} px. Draw it "
        "inside, or on a canvas of the picture's size.",
        code="withanyone-box-outside",
    )


def _written(box: PixelBox) -> str:
    return " ".join(f"{float(edge):g}" for edge in box)


def mask_weights(masks: Tensor, size: tuple[int, int], tokens: int) -> Tensor:
    """How much of each token each person's mask covers. Masks of 0 and 1 along the tokens' borders are boxes.

    Args:
        masks: [P, H, W] 0..1, of the picture's shape, one a person.
        size: (width, height) of the picture, px.
        tokens: L.

    Returns:
        [P, L] float32.

    Raises:
        HostError: as for `token_grid`; too many people; a mask of another shape than the picture.
        ImageError: a mask is none, or has values outside of 0..1.
        LayoutError: a mask is empty.
    """
    check_people(len(masks))
    masks = check_mask(masks, "person masks").float()
    columns, rows = token_grid(size, tokens)
    check_shape((masks.shape[-2], masks.shape[-1]), (int(size[1]), int(size[0])), "person mask")
    for person, mask in enumerate(masks, 1):
        if not mask.any():
            raise LayoutError(
                f"The mask of person {person} is empty, so nobody would be drawn there. Paint where the face belongs.",
                code="withanyone-mask-empty",
            )
    return downsample_masks(masks[None], (rows, columns))[0]


def region_weights(
    boxes: Sequence[PixelBox] | None,
    masks: Tensor | None,
    size: tuple[int, int],
    tokens: int,
    people: Iterable[int] = (),
) -> Tensor:
    """`box_weights` or `mask_weights` of everybody, [P, L].

    Args:
        boxes, masks: one of them, each with one a person.
        size: (width, height) of the picture, px.
        tokens: L.
        people: how many there are; several numbers where they are told in several ways.

    Raises:
        HostError, LayoutError, ImageError: as for those; neither is given, or both; not everybody has one.
    """
    if (boxes is None) == (masks is None):
        raise LayoutError(
            "WithAnyone has to be told where each person is: give boxes or masks, one of the two.",
            code="withanyone-boxes-or-masks",
        )
    if boxes is None and masks is not None:
        for persons in people:
            check_people(persons)
            if persons != len(masks):
                raise LayoutError(
                    f"There are {len(masks)} masks for {persons} people: give one a person.",
                    code="withanyone-mask-count",
                )
        return mask_weights(masks, size, tokens)
    boxes = () if boxes is None else boxes  # a tensor or an array has no truth
    check_boxes(boxes)
    for persons in people:
        check_people(persons, len(boxes))
    return box_weights(boxes, size, tokens)


def regions_of(weights: Tensor) -> Regions:
    """Sort tokens by who counts in them.

    Args:
        weights: [P, L], how much each person counts in each token; 0 and more.
    """
    weights = weights.detach().float().cpu()
    persons, tokens = weights.shape
    counts = weights > 0
    codes = (counts * 2 ** torch.arange(persons)[:, None]).sum(0)
    rows, groups, start = [], [], 0
    for code in codes.unique().tolist():
        if not code:
            continue
        people = tuple(person for person in range(persons) if code >> person & 1)
        of_group = (codes == code).nonzero()[:, 0]
        shares = weights[list(people)][:, of_group].T  # [R, people]
        bias = (shares / shares.amax(1, keepdim=True)).log()
        stop = start + len(of_group)
        groups.append(Group(people, start, stop, bias if bias.any() else None))
        rows.append(of_group)
        start = stop
    chosen = torch.cat(rows) if rows else torch.zeros(0, dtype=torch.long)
    scale = weights.amax(0)[chosen, None]
    return Regions(chosen, tuple(groups), None if bool((scale == 1).all()) else scale, persons, tokens)
