"""Watching the layers while sampling: what the cascade makes its focus mask from.

A host calls a listener with one `Observation` for every patched layer of every call of the UNet. Both hosts use the same
two listeners, one for each way of making the mask (cascade.py).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ...errors import HostError
from .attention import fit_masks, released_attention_map
from .cascade import first_strength, focus_mask, released_layer_map, released_threshold, strength_map

__all__ = [
    "FocusListener",
    "FocusMap",
    "Observation",
    "OnePass",
    "Place",
    "ReleasedListener",
    "fit_focus",
    "last_layers",
    "token_contrast",
]


class PairLike(Protocol):
    """What a listener asks of the pair whose attention it hears: its persons' masks."""

    masks: Tensor | None

    def latent_masks(self, size: tuple[int, int], images: int) -> Tensor:
        """[images or 1, P, *size]."""
        ...


@dataclass(frozen=True)
class Place:
    """Where a call's picture lies in the whole: image of the batch, and its corner and size in latent pixels."""

    image: int
    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Observation:
    """What one patched layer saw in one call; see `attention.ReadyKeysValues` for the shapes.

    Attributes:
        pair: whose attention.
        layer: number of the layer in the adapter's order.
        shape: (height, width) of the layer.
        heads: attention heads of the layer.
        query: [rows, Q, C].
        keys: a row's keys, row -> [P, T, C].
        probabilities: [rows, heads, Q, P, T].
        roles: for each row, 1 where it belongs to the positive prompt, else 0.
        places: for each row where its picture lies in the whole; None where that is not known, or the row is not to be heard.
        size: (height, width) of the whole latent.
        images: pictures of the batch.
        last: whether the layer is the last of its transformer, see `last_layers`.
    """

    pair: PairLike
    layer: int
    shape: tuple[int, int]
    heads: int
    query: Tensor
    keys: Callable[[int], Tensor]
    probabilities: Tensor
    roles: Sequence[int]
    places: Sequence[Place | None]
    size: tuple[int, int]
    images: int
    last: bool = True


def last_layers(transformers: Sequence[Hashable]) -> frozenset[int]:
    """Which layers `FocusListener` hears: the last of each transformer.

    SDXL's transformers are up to ten layers deep, and all layers of one look at the same places. One of them tells what the
    focus needs at a seventh of the price. This project's choice of which: the miniature, whose transformers have one layer each,
    says nothing about it.

    Args:
        transformers: which transformer each layer belongs to, in the adapter's order.
    """
    return frozenset({transformer: layer for layer, transformer in enumerate(transformers)}.values())


def token_contrast(probabilities: Tensor) -> Tensor:
    """How unlike the rest of the picture each place reads a person: [rows, heads, Q, P, T] -> [rows, P, Q], 0..1.

    A person's probabilities always sum to 1 over the tokens, so "how much" says nothing; *which* tokens a place reads
    does. Most of a portrait is not face, so a place whose choice of tokens is far (total variation distance) from the
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
        self._new: dict[tuple[tuple[int, int], tuple[Place, ...]], tuple[Tensor, int]] = {}

    def add(self, probabilities: Tensor, shape: tuple[int, int], places: Sequence[Place]) -> None:
        """Add one layer's attention of some rows.

        Args:
            probabilities: [rows, heads, height * width, P, T] of `ReadyKeysValues.attend`, rows of the conditional half.
            shape: (height, width) of the layer.
            places: where each row's picture lies; all of one size.
        """
        # Laying out is linear: layers of one shape are summed first, and laid out together when somebody asks.
        key, contrast = (shape, tuple(places)), token_contrast(probabilities.detach())
        total, layers = self._new.get(key, (0, 0))
        self._new[key] = (total + contrast, layers + 1)

    def drop(self) -> None:
        """Forget what was added since `maps` was asked for."""
        self._new.clear()

    def maps(self) -> Tensor:
        """Mean so far, [images, P, H, W]; 0 where nothing was gathered."""
        for ((height, _), places), (contrast, layers) in self._new.items():
            pictures = rearrange(contrast, "rows p (h w) -> rows p h w", h=height)
            size = (places[0].height, places[0].width)
            pictures = F.interpolate(pictures, size=size, mode="bilinear", align_corners=False).to(self.total)
            for picture, place in zip(pictures, places, strict=True):
                rows = slice(place.top, place.top + place.height)
                columns = slice(place.left, place.left + place.width)
                self.total[place.image, :, rows, columns] += picture
                self.count[place.image, :, rows, columns] += layers
        self._new.clear()
        return self.total / self.count.clamp(min=1)


class FocusListener:
    """Gathers the focus map while sampling: real probabilities, all persons, conditional rows, any picture shape; of each
    transformer the last layer."""

    def __init__(self) -> None:
        self._maps: dict[PairLike, FocusMap] = {}

    def __call__(self, seen: Observation) -> None:
        """Take in one layer of one call."""
        if not seen.last:
            return
        if seen.pair not in self._maps:
            persons = seen.probabilities.shape[3]
            self._maps[seen.pair] = FocusMap(seen.images, persons, seen.size, seen.query.device)
        if seen.shape[0] * seen.shape[1] != seen.query.shape[1]:
            return  # another pack merged places here; the other layers tell enough
        known = zip(seen.roles, seen.places, strict=True)
        rows = [row for row, (role, place) in enumerate(known) if role == 1 and place is not None]
        if not rows:
            return
        together = rows == list(range(rows[0], rows[-1] + 1))  # then no copy
        heard = seen.probabilities[rows[0] : rows[-1] + 1] if together else seen.probabilities[rows]
        self._maps[seen.pair].add(heard, seen.shape, [seen.places[row] for row in rows])

    def drop(self) -> None:
        """Forget what was heard since `maps` was asked for: a call that failed half-way is made again."""
        for focus in self._maps.values():
            focus.drop()

    def maps(self) -> Tensor | None:
        """Focus of every person of every pair, inside their masks, [images, P, H, W]; None before anything was seen."""
        if not self._maps:
            return None
        return torch.cat([self._masked(pair, focus.maps()) for pair, focus in self._maps.items()], dim=1)

    @staticmethod
    def _masked(pair: PairLike, maps: Tensor) -> Tensor:
        if pair.masks is None:
            return maps
        return maps * pair.latent_masks(tuple(maps.shape[-2:]), maps.shape[0]).to(maps)


class OnePass:
    """The strength of every step in the mode one_pass: the scene's, until it is known where the faces are.

    Args:
        scene, face, share: strengths and share of the picture that is face, see `cascade.strength_map`.
        given: where the faces are, [N, H, W] 0..1, one mask for all pictures or one each, in place of what is heard.

    Attributes:
        listener: to be called with what the layers see in every step.
    """

    def __init__(self, scene: float, face: float, share: float, given: Tensor | None = None) -> None:
        self.scene, self.face, self.share, self.given = scene, face, share, given
        self.listener = FocusListener()

    def strength(self, size: tuple[int, int], images: int) -> float | Tensor:
        """For pictures with latents of that size: a number, or one for every place, [images or 1, 1, *size]."""
        if self.given is not None:
            return self.scene + (self.face - self.scene) * fit_focus(self.given, size, images)[:, None]
        maps, strengths = self.listener.maps(), (self.scene, self.face, self.share)
        return first_strength(*strengths) if maps is None else strength_map(maps, *strengths)

    def focus(self, size: tuple[int, int], images: int) -> Tensor | None:
        """The focus mask at the end, [images or 1, *size]; None where the persons never counted."""
        if self.given is not None:
            return fit_focus(self.given, size, images)
        maps = self.listener.maps()
        return None if maps is None else focus_mask(maps, self.share)


def fit_focus(given: Tensor, size: tuple[int, int], images: int) -> Tensor:
    """Bring a given focus [N, H, W] to the latent's size, [N or 1, *size] float32. HostError, see `attention.fit_masks`."""
    return fit_masks(given[None], size, images, "focus mask")[:, 0]


class ReleasedListener:
    """Gathers what the released script makes its mask from: person 1's maps of the unconditional half, last step."""

    def __init__(self) -> None:
        self._layers: dict[tuple[int, int], dict[tuple[PairLike, int], Tensor]] = {}

    def __call__(self, seen: Observation) -> None:
        """Take in one layer of one call; later calls replace earlier ones, several pairs count alike."""
        for row, (role, place) in enumerate(zip(seen.roles, seen.places, strict=True)):
            if place is not None and (place.height, place.width) == seen.size:
                attention = released_attention_map(seen.query[row : row + 1], seen.keys(row)[:1], seen.heads)[0]
                layers = self._layers.setdefault((role, place.image), {})
                layers[seen.pair, seen.layer] = released_layer_map(attention, seen.shape, seen.size)

    def mask(self, images: int, percentile: float) -> Tensor:
        """The released focus mask of each picture, bool [images, H, W].

        Raises:
            HostError: the pair did not act in the last step, or no prompt covers the whole picture.
        """
        # Without guidance (CFG 1) there is no unconditional half; the script's first chunk is then the conditional one.
        role = 0 if (0, 0) in self._layers else 1
        if (role, 0) not in self._layers:
            raise HostError(
                "The cascade's mode `released` found nothing to make its mask from: it reads the last step of a run at scene "
                "strength, from prompts that cover the whole picture. It needs a scene strength above 0, a pair that acts to "
                "the end (`end` 1.0), and a prompt without an area, not in tiles. Choose the mode `two_strength`."
            )
        masks = []
        for image in range(images):
            layers = self._layers[(role, image)]
            # In the adapter's order, since a sum of floats depends on it; ComfyUI runs the middle block before the upper ones.
            mean = torch.stack([layers[key] for key in sorted(layers, key=lambda key: key[1])]).mean(dim=0)
            masks.append(released_threshold(mean[0], percentile))
        return torch.stack(masks)
