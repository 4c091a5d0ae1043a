"""Batches in which somebody repeated samples on the way to a layer, as regional prompts inside of the attention do."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..errors import HostError
from .batch_layout import BatchLayout, Sample

__all__ = ["repeated_layout"]


def repeated_layout(layout: BatchLayout, query: Tensor, prompts: int) -> BatchLayout:
    """The layout of a query in which another node repeated samples, as regional prompts inside of the attention do.

    Copies are equal: tried are the positive prompts alone, the others alone, and all of them, prompt by prompt or all in a row.

    Args:
        layout: of the call.
        query: [B, Q, C] of a layer.
        prompts: of the call.

    Raises:
        HostError: none of these fits, or several that differ in what is positive.
    """
    size = len(layout.samples) // prompts
    chunks = [list(range(start, start + size)) for start in range(0, size * prompts, size or 1)]
    conds = [{layout.samples[number].is_cond for number in chunk} == {True} for chunk in chunks]
    found: dict[tuple[Sample, ...], None] = {}
    for repeats in (lambda is_cond: is_cond, lambda is_cond: not is_cond, lambda _: True):
        many = size * sum(map(repeats, conds))
        times, rest = divmod(len(query) - size * prompts + many, many or 1)
        if many == 0 or rest or times < 2:
            continue
        rows = [n for chunk, c in zip(chunks, conds, strict=True) for n in chunk * (times if repeats(c) else 1)]
        ways = [rows, [n for chunk in chunks for n in chunk] * times] if many == size * prompts else [rows]
        for way in ways:
            first = {number: row for row, number in reversed(list(enumerate(way)))}
            if len(way) == len(query) and torch.equal(query, query[[first[number] for number in way]]):
                found[tuple(layout.samples[number] for number in way)] = None
    if len(found) != 1:
        raise HostError(
            f"Another node repeats samples inside of the attention ({len(query)} in place of {len(layout.samples)}; regional prompts "
            "do), and it cannot be told which of them belong to the positive prompt. Use areas or masks of the conditioning in its "
            "place.",
            code="repeated-attention",
        )
    return dataclasses.replace(layout, samples=next(iter(found)))
