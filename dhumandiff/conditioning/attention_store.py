"""Recording attention while sampling: where people's faces are being drawn.

A host hands a store one `AttentionRecord` for every conditioned layer of every call of the UNet.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .batch_layout import BatchLayout, Tile
from .identity import IdentityConditioning

__all__ = ["AttentionRecord", "AttentionStore", "FocusMap", "last_layers", "token_contrast"]


@dataclass(frozen=True, eq=False)
class AttentionRecord:
    """What one conditioned layer saw in one call; see `kv_cache.KVCache` for the shapes.

    Attributes:
        conditioning: whose attention.
        layer: number of the layer in the adapter's order.
        shape: (height, width) of the layer.
        heads: attention heads of the layer.
        query: [B, Q, C].
        keys: a sample's keys, sample -> [P, T, C].
        probabilities: [B, heads, Q, P, T]; None where they were not made, which is so on a GPU in layers that are not `is_last`.
        layout: of the call.
        tiles: for each sample where it lies in the whole; None where that is not known, or the sample is not to be recorded.
        is_last: whether the layer is the last of its transformer, see `last_layers`.
        places: how much of each position is each person's, [B, P, Q], where the method knows that better than `token_contrast`.
    """

    conditioning: IdentityConditioning
    layer: int
    shape: tuple[int, int]
    heads: int
    query: Tensor
    keys: Callable[[int], Tensor]
    probabilities: Tensor | None
    layout: BatchLayout
    tiles: Sequence[Tile | None]
    is_last: bool = True
    places: Tensor | None = None


def last_layers(transformers: Sequence[Hashable]) -> frozenset[int]:
    """Which layers `AttentionStore` takes in: the last of each transformer.

    SDXL's transformers are up to ten layers deep, and all layers of one look at the same positions. One of them tells what the
    focus needs at a seventh of the price. This project's choice of which: on the miniature, with two layers at most, the first ones or
    all of them leave right person, recognition, words and both present within a point (docs/miniature.md).

    Args:
        transformers: which transformer each layer belongs to, in the adapter's order.
    """
    return frozenset({transformer: layer for layer, transformer in enumerate(transformers)}.values())


def token_contrast(probabilities: Tensor) -> Tensor:
    """How unlike the rest of the picture each position reads a person: [B, heads, Q, P, T] -> [B, P, Q], 0..1.

    A person's probabilities always sum to 1 over the tokens, so "how much" says nothing; *which* tokens a position reads
    does. Most of a portrait is not face, so a position whose choice of tokens is far (total variation distance) from the
    picture's average is one where the person's face is being drawn. Independent of the order of the tokens, which a
    resampler leaves arbitrary. This project's choice.
    """
    average = probabilities.mean(dim=2, keepdim=True)
    # Half the sum of differences is 1 less the sum of what both have, since both sum to 1: one pass less.
    common = torch.minimum(probabilities, average).sum(dim=(1, 4)) / probabilities.shape[1]
    return 1 - common.transpose(1, 2)


class FocusMap:
    """Where each person's face is being drawn, gathered over layers and steps.

    Args:
        images: pictures of the batch.
        persons: persons.
        size: (height, width) of the latent.
    """

    def __init__(self, images: int, persons: int, size: tuple[int, int], device: torch.device | str = "cpu") -> None:
        self.total = torch.zeros(images, persons, *size, device=device)
        self.count = torch.zeros(images, 1, *size, device=device)
        self._new: dict[tuple[tuple[int, int], tuple[Tile, ...], torch.device], tuple[Tensor, int]] = {}

    def add(self, probabilities: Tensor, shape: tuple[int, int], tiles: Sequence[Tile]) -> None:
        """Add one layer's attention of some samples.

        Args:
            probabilities: [B, heads, height * width, P, T] of `KVCache.attend`, conditional samples only.
            shape: (height, width) of the layer.
            tiles: where each sample lies; all of one size.
        """
        self.add_places(token_contrast(probabilities.detach()), shape, tiles)

    def add_places(self, places: Tensor, shape: tuple[int, int], tiles: Sequence[Tile]) -> None:
        """`add` for a layer of which it is known how much of each position is each person's, [B, P, height * width]."""
        # Laying out is linear: layers of one shape are summed first, and laid out together when somebody asks.
        # Several GPUs may work at once, each on its own samples.
        key = (shape, tuple(tiles), places.device)
        total, layers = self._new.get(key, (0, 0))
        self._new[key] = (total + places, layers + 1)

    def discard_pending(self) -> None:
        """Forget what was added since `maps` was asked for."""
        self._new.clear()

    def resize(self, size: tuple[int, int]) -> None:
        """Bring what was gathered to another size: the latent grew while it was sampled."""
        self.maps()
        self.total = F.interpolate(self.total, size=size, mode="bilinear", align_corners=False)
        self.count = F.interpolate(self.count, size=size, mode="bilinear", align_corners=False)

    def maps(self) -> Tensor:
        """Mean so far, [images, P, H, W]; 0 where nothing was gathered."""
        for ((height, _), tiles, _), (contrast, layers) in self._new.items():
            pictures = rearrange(contrast, "b p (h w) -> b p h w", h=height)
            size = (tiles[0].height, tiles[0].width)
            pictures = F.interpolate(pictures, size=size, mode="bilinear", align_corners=False).to(self.total)
            for picture, tile in zip(pictures, tiles, strict=True):
                rows = slice(tile.top, tile.top + tile.height)
                columns = slice(tile.left, tile.left + tile.width)
                self.total[tile.image, :, rows, columns] += picture
                self.count[tile.image, :, rows, columns] += layers
        self._new.clear()
        return self.total / self.count.clamp(min=1)


class AttentionStore:
    """Gathers the focus map while sampling: real probabilities, all persons, conditional samples, any picture shape; of each
    transformer the last layer."""

    def __init__(self) -> None:
        self._maps: dict[IdentityConditioning, FocusMap] = {}

    def __call__(self, record: AttentionRecord) -> None:
        """Take in one layer of one call."""
        if not record.is_last or record.probabilities is None:
            return
        layout = record.layout
        if record.conditioning not in self._maps:
            persons = record.probabilities.shape[3]
            new = FocusMap(layout.images, persons, layout.size, record.query.device)
            self._maps.setdefault(record.conditioning, new)
        if record.shape[0] * record.shape[1] != record.query.shape[1]:
            return  # another pack merged positions here; the other layers tell enough
        known = zip(layout.samples, record.tiles, strict=True)
        wanted = {number: tile for number, (sample, tile) in enumerate(known) if sample.is_cond and tile is not None}
        if not wanted:
            return
        numbers = list(wanted)
        together = numbers == list(range(numbers[0], numbers[-1] + 1))  # then no copy
        rows = slice(numbers[0], numbers[-1] + 1) if together else numbers
        focus, where = self._maps[record.conditioning], (record.shape, list(wanted.values()))
        if record.places is None:
            focus.add(record.probabilities[rows], *where)
        else:
            focus.add_places(record.places[rows].detach(), *where)

    def resize(self, size: tuple[int, int]) -> None:
        """Bring what was gathered to another size of the latent."""
        for focus in self._maps.values():
            focus.resize(size)

    def discard_pending(self) -> None:
        """Forget what was recorded since `maps` was asked for: a call that failed half-way is made again."""
        for focus in self._maps.values():
            focus.discard_pending()

    def maps(self) -> Tensor | None:
        """Focus of every person of every conditioning, inside their masks, [images, P, H, W]; None before anything was recorded."""
        if not self._maps:
            return None
        return torch.cat([_masked(people, focus.maps()) for people, focus in self._maps.items()], dim=1)


def _masked(people: IdentityConditioning, maps: Tensor) -> Tensor:
    if people.masks is None:
        return maps
    return maps * people.masks_on((maps.shape[-2], maps.shape[-1]), maps.shape[0], maps.device).to(maps.dtype)
