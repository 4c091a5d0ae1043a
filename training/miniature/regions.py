"""Regions that a person would draw for a sentence of the miniature: a head on either side, without a look at any picture."""

from __future__ import annotations

import torch
from torch import Tensor

from dhumandiff.miniature.base import SIZE
from dhumandiff.miniature.world import Script

__all__ = ["HEAD", "head_regions"]

HEAD = (0.19, 0.28)
"""Half the width and half the height of an ellipse around a head with its hair, shares of the picture's sides."""
MIDDLE = 0.40
"""Of the heads, share of the picture's height."""


def head_regions(script: Script, size: tuple[int, int] = SIZE) -> Tensor:
    """Where the sentence puts each person's head, people in its order, [2, H, W] 0 or 1; size: width and height, px."""
    width, height = size
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    heads = []
    for person in (0, 1):
        middle = 0.25 if script.side(person) == "left" else 0.75
        heads.append((((x - middle) / HEAD[0]) ** 2 + ((y - MIDDLE) / HEAD[1]) ** 2 < 1).float())
    return torch.stack(heads)
