"""People on a UNet, whatever the host and the method: how much each of them counts, at every position of every sample.

    conditioning = IdentityConditioning(persons=2, masks=masks)
    conditioning.weights(layout, shape, positions, device, strength=0.7)      # [B or 1, P, Q or 1], or a number

A method adds what its people do with these weights: `methods.paired.conditioning.PairedConditioning` gives them keys and values.
A host adds how its calls are batched (`BatchLayout`) and which strength holds in a step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import HostError
from .batch_layout import BatchLayout, crop
from .masks import downsample_masks, resize_masks

__all__ = ["IdentityConditioning", "LayerConditioning", "Strength", "at_layer", "is_off"]

Strength = float | Tensor | tuple[float, ...]
"""Of all persons: a number; one for every position of the latent, [images or 1, 1, H, W]; or several, of which each sample has
the one of its `strength_index`."""


_Weights = tuple[BatchLayout | None, Strength, dict[Any, Tensor | float]]
"""Weights of every layer, and the layout and strength that they were made for."""


class LayerConditioning(Protocol):
    """What a cross-attention layer asks of whoever conditions it: the two hosts', the trainer's, a test's."""

    def residual(self, layer: int, query: Tensor, heads: int) -> Tensor | None:
        """What the persons add to a layer before its `to_out`, [B, Q, C]; None for nothing."""
        ...


def is_off(strength: Strength) -> bool:
    """Whether a strength is 0 for certain, without a look at the values of a map."""
    return not isinstance(strength, Tensor) and strength in (0, (0, 0))


class IdentityConditioning:
    """Strengths and masks of the people on a UNet.

    Args:
        persons: P.
        person_strengths: one a person, multiplied with the strength of a step; None: 1 each.
        masks: where each person may be, [P, N, H, W] 0..1, N pictures or 1 for all; None: anywhere.

    Raises:
        HostError: nobody is there, or strengths or masks are those of another number of persons.
    """

    patch = 1
    """Side of the square of latent pixels that a position of the first layer stands for."""

    def __init__(
        self, persons: int, person_strengths: Sequence[float] | None = None, masks: Tensor | None = None
    ) -> None:
        if persons == 0:
            raise HostError("There is no reference to draw: give one for each person.", code="no-reference")
        self.persons = persons
        self.person_strengths = (1.0,) * persons if person_strengths is None else tuple(person_strengths)
        self.masks = masks
        if len(self.person_strengths) != persons:
            raise HostError(
                f"There are {len(self.person_strengths)} person strengths for {persons} references: give one a person.",
                code="person-strength-count",
            )
        if masks is not None and (masks.ndim != 4 or len(masks) != persons):
            raise HostError(
                f"The person masks have the shape {list(masks.shape)}: [{persons}, pictures or 1, height, width] is "
                "needed, one mask a person.",
                code="person-mask-shape",
            )
        self._masks_at: dict[Any, Tensor] = {}
        self._constant: dict[Any, Tensor] = {}
        self._made_of: dict[Any, tuple[Tensor, Tensor]] = {}
        self._weights: _Weights = (None, 0.0, {})

    def clear_cache(self) -> None:
        """Let go of what a run computed."""
        for cache in (self._masks_at, self._constant, self._made_of):
            cache.clear()
        self._weights = (None, 0.0, {})

    def counts(self, strength: Strength) -> bool:
        """Whether anybody adds anything at this strength."""
        return not is_off(strength) and any(self.person_strengths)

    @property
    def has_regions(self) -> bool:
        """Whether anybody is kept to a part of the picture."""
        return self.masks is not None

    def latent_masks(self, size: tuple[int, int], images: int) -> Tensor:
        """Masks at the latent's size, [N, P, *size]; all ones where nobody has one."""
        if self.masks is None:
            return torch.ones(1, self.persons, *size)
        return resize_masks(self.masks, size, images)

    def weights(
        self,
        layout: BatchLayout,
        shape: tuple[int, int],
        positions: int,
        device: torch.device,
        strength: Strength,
    ) -> Tensor | float:
        """Strength of each person at each position of a layer.

        Args:
            layout: of the call.
            shape: (height, width) of the layer.
            positions: how many it has; another number than `shape` says where a node merges them.
            device: of the layer.
            strength: of the step.

        Returns:
            [B or 1, P, Q or 1] float32; a number where they are all the same.

        Raises:
            HostError: a person has a mask, or the strength varies over the picture, and it cannot be told where in the picture
                the samples or the positions lie.
        """
        kept = self._weights
        if kept[0] is not layout or kept[1] is not strength:
            # Never emptied, only replaced: ComfyUI calls several GPUs at once, each with a layout of its own.
            kept = self._weights = (layout, strength, {})
        made, key = kept[2], (shape, positions, device)
        if key not in made:
            made[key] = self._make_weights(layout, shape, positions, device, strength)
        return made[key]

    def _make_weights(
        self, layout: BatchLayout, shape: tuple[int, int], positions: int, device: torch.device, strength: Strength
    ) -> Tensor | float:
        if isinstance(strength, Tensor):
            advice = "choose the mode two_strength"
            field = self._once(("focus", device), strength, lambda: strength.to(device))
            per_sample = at_layer(field, layout, shape, positions, self.patch, "focus", advice)
            weights = self._everywhere(1.0, layout, device) * per_sample
        elif isinstance(strength, float | int) and not self.has_regions and len(set(self.person_strengths)) == 1:
            return strength * self.person_strengths[0]
        else:
            weights = self._everywhere(strength, layout, device)
        if not self.has_regions:
            return weights
        return weights * self._masks_of_layer(layout, shape, positions, device)

    def _everywhere(self, strength: float | tuple[float, ...], layout: BatchLayout, device: torch.device) -> Tensor:
        """What does not vary over the picture, [B or 1, P, 1]; made once a run, and without a copy that a GPU would wait for."""
        key = (strength, layout.strength_indices if isinstance(strength, tuple) else (), device)
        if key not in self._constant:
            weights = _column(self.person_strengths, device)[None]
            if isinstance(strength, tuple):
                of_samples = [strength[index] for index in layout.strength_indices]
                self._constant[key] = weights * _column(of_samples, device)[:, None]
            else:
                self._constant[key] = weights * strength
        return self._constant[key]

    def _once(self, key: Any, source: Tensor, make: Callable[[], Tensor]) -> Tensor:
        """What is made of a tensor, for as long as it is the same one that comes under this key."""
        there = self._made_of.get(key)
        if there is None or there[0] is not source:
            there = self._made_of[key] = (source, make())
        return there[1]

    def masks_on(self, size: tuple[int, int], images: int, device: torch.device) -> Tensor:
        """`latent_masks` on a device; made once a run."""
        key = (size, images, device)
        if key not in self._masks_at:
            self._masks_at[key] = self.latent_masks(size, images).to(device)
        return self._masks_at[key]

    def _masks_of_layer(
        self, layout: BatchLayout, shape: tuple[int, int], positions: int, device: torch.device
    ) -> Tensor:
        """Masks at the positions of a layer, [B or 1, P, Q]; made once a run and way of cutting the picture."""
        key = (shape, positions, device, layout.size, layout.tiles)
        if key not in self._masks_at:
            masks = self.masks_on(layout.size, layout.images, device)
            what = ("person masks", "leave the masks out")
            self._masks_at[key] = at_layer(masks, layout, shape, positions, self.patch, *what)
        return self._masks_at[key]


def _column(numbers: Sequence[float], device: torch.device) -> Tensor:
    """Numbers on a device, [n, 1]."""
    return torch.cat([torch.full((1, 1), number, dtype=torch.float32, device=device) for number in numbers])


def at_layer(
    field: Tensor, layout: BatchLayout, shape: tuple[int, int], positions: int, patch: int, what: str, advice: str
) -> Tensor:
    """What varies over the whole latent, [images or 1, n, *size], at the positions of a layer: [B or 1, n, Q].

    Raises:
        HostError: as for `IdentityConditioning.weights`; `what` and `advice` are the message's words.
    """
    if shape[0] * shape[1] != positions:
        raise HostError(
            f"A layer of {shape[0]} x {shape[1]} positions came with {positions}: another node merges positions (token "
            f"merging, for instance), so the {what} cannot be laid over them. Remove that node, or {advice}.",
            code="merged-positions",
        )
    tiles = [tile for tile in layout.tiles if tile is not None]
    if len(tiles) < len(layout.tiles):
        raise HostError(
            "The sampler cut the picture into pieces that cannot be found again in the whole, so it is not known "
            f"where the {what} belong{'s' if what == 'focus' else ''}. Sample without tiles, or {advice}.",
            code="unknown-tiles",
        )
    parts = [dataclasses.replace(tile, image=tile.image if len(field) > 1 else 0) for tile in tiles]
    if len(set(parts)) == 1:  # every sample alike
        parts = parts[:1]
    cropped = torch.stack([crop(field[part.image], part) for part in parts])
    beyond = [-side % patch for side in cropped.shape[-2:]]
    if any(beyond):  # the model fills its last patch up
        cropped = F.pad(cropped, (0, beyond[1], 0, beyond[0]), mode="replicate")
    return downsample_masks(cropped, shape)
