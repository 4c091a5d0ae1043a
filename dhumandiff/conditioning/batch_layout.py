"""What a batch that reaches the UNet is made of, sample by sample.

A host says it once a call; whatever conditions a layer reads it, and so needs to know nothing of hosts. ComfyUI batches as it
sees fit (nodes/comfy/batch.py finds out how); diffusers always lays out all unconditional samples, then all conditional ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

__all__ = ["BatchLayout", "Sample", "Tile", "crop"]


@dataclass(frozen=True)
class Tile:
    """Where a sample lies in the whole: image of the batch, and its corner and size in latent pixels."""

    image: int
    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Sample:
    """One sample of a batch.

    Attributes:
        is_cond: whether it belongs to the positive prompt.
        tile: where it lies in the whole; None where that cannot be told.
        strength_index: which of several strengths it is predicted at.
        couple: whose face tokens it gets, where a batch draws several couples.
    """

    is_cond: bool
    tile: Tile | None = None
    strength_index: int = 0
    couple: int = 0


@dataclass(frozen=True, eq=False)
class BatchLayout:
    """The samples of one call of the UNet.

    Attributes:
        samples: in the order of the batch.
        size: (height, width) of the whole latent.
        images: pictures of the batch.
    """

    samples: tuple[Sample, ...]
    size: tuple[int, int]
    images: int

    @classmethod
    def of_whole_pictures(
        cls, images: int, size: tuple[int, int], guidance: bool = True, strengths: int = 1, couples: int = 1
    ) -> BatchLayout:
        """Whole pictures as diffusers batches them: each half of [unconditional; conditional] holds all images at the first
        strength, then at the second. `couples`: 1 for all images, or one an image."""
        samples = (
            Sample(is_cond, Tile(image, 0, 0, *size), index, image % couples)
            for is_cond in ((False, True) if guidance else (True,))
            for index in range(strengths)
            for image in range(images)
        )
        return cls(tuple(samples), size, images)

    # Properties that are made anew each time: before Python 3.12 a cached one has a lock, at which torch.compile breaks its graph.

    @property
    def token_sets(self) -> tuple[tuple[int, int], ...]:
        """For each sample (is_cond, couple): which face tokens it gets."""
        return tuple((int(sample.is_cond), sample.couple) for sample in self.samples)

    @property
    def tiles(self) -> tuple[Tile | None, ...]:
        """For each sample where it lies."""
        return tuple(sample.tile for sample in self.samples)

    @property
    def strength_indices(self) -> tuple[int, ...]:
        """For each sample which of several strengths it is predicted at."""
        return tuple(sample.strength_index for sample in self.samples)

    def recorded(self, strength_index: int) -> Sequence[Tile | None]:
        """`tiles` of the samples at one of several strengths, None for the others."""
        return [sample.tile if sample.strength_index == strength_index else None for sample in self.samples]


def crop(field: Tensor, tile: Tile) -> Tensor:
    """A tile of what covers a whole latent, [..., H, W] -> [..., tile.height, tile.width]."""
    return field[..., tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]
