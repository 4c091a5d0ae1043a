"""Parts on a UNet, whatever the host: what each person's parts add to self-attention and cross-attention.

    conditioning = PartsConditioning(parts, bank, image_projections, masks)
    out = conditioning.self_attention(layer, query, key, value, project, heads, layout, shape)
    out = text + conditioning.residual(layer, query, heads, layout, shape)

Layers count in the order down, mid, up. Unconditional samples are plain: their image tokens are zeros, which add nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...conditioning.batch_layout import BatchLayout
from ...conditioning.identity import IdentityConditioning
from .attention import attend, bias_of, feature_mask
from .part import IMAGE_ROWS, Part, check_image_embed
from .regions import NOBODY, owners_of

__all__ = ["PartsConditioning", "Project"]

Project = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Keys and values of features: [1, M, C] -> two of [1, M, C]."""

_Job = tuple[Tensor, int | None, Tensor | None]
"""Samples, whose parts they read, and at which positions."""


class PartsConditioning(IdentityConditioning):
    """Features of parts, ready for every layer.

    Args:
        parts: in any order; it changes nothing but rounding.
        bank: of each layer [N, L, C], as `Parts2Whole.bank` gives them.
        image_projections: of each layer, from image tokens [1, 6, E].
        image_width: E.
        masks: each person's own region, [P, N, H, W] 0..1 without overlap (`regions.part_regions`); None: one person, anywhere.
        scale: of what the image tokens add.
        drop_masked: leave out the features that a mask zeroes. As published they stay, with a logit of 0, and take their share
            of the attention.

    Raises:
        HostError: image embeddings of another width, or more persons than regions.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        bank: Sequence[Tensor],
        image_projections: Sequence[Project],
        image_width: int,
        masks: Tensor | None = None,
        scale: float = 1.0,
        drop_masked: bool = False,
    ) -> None:
        persons = max(part.person for part in parts)
        super().__init__(persons if masks is None else len(masks), masks=masks)
        for part in parts:
            check_image_embed(part, image_width)
        self.parts, self.bank, self.image_projections = list(parts), list(bank), list(image_projections)
        self.image_width, self.scale, self.drop_masked = image_width, scale, drop_masked
        self._reference: dict[Any, list[tuple[Tensor, Tensor, Tensor | None] | None]] = {}
        self._image: dict[Any, list[tuple[Tensor, Tensor]]] = {}
        self._jobs_at: dict[Any, list[_Job]] = {}

    def clear_cache(self) -> None:
        """Let go of what a run computed."""
        super().clear_cache()
        for cache in (self._reference, self._image, self._jobs_at):
            cache.clear()

    def self_attention(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        project: Project,
        heads: int,
        layout: BatchLayout,
        shape: tuple[int, int],
    ) -> Tensor:
        """Self-attention of a layer in which each person's positions also read that person's parts.

        Args:
            layer: its number.
            query, key, value: [B, Q, C], the layer's own.
            project: the layer's own keys and values of other features.
            heads: of the layer.
            layout: of the call.
            shape: (height, width) of the layer.

        Returns:
            [B, Q, C], before the layer's `to_out`.
        """
        references = self._references(layer, query, project)
        out = torch.empty_like(query)
        for rows, person, places in self._jobs(layout, shape, query):
            q, k, v = query[rows], key[rows], value[rows]
            reference = None if person is None else references[person]
            bias = None
            if reference is not None:
                more_k, more_v, bias = reference
                k = torch.cat([k, more_k.expand(len(k), -1, -1)], dim=1)
                v = torch.cat([v, more_v.expand(len(v), -1, -1)], dim=1)
                bias = None if bias is None else torch.cat([bias.new_zeros(key.shape[1]), bias])
            if places is None:
                out[rows] = attend(q, k, v, heads, bias)
            else:
                out[rows[:, None], places] = attend(q[:, places], k, v, heads, bias)
        return out

    def residual(
        self, layer: int, query: Tensor, heads: int, layout: BatchLayout, shape: tuple[int, int], *_: Any
    ) -> Tensor:
        """What the parts' image tokens add to a cross-attention layer before its `to_out`, [B, Q, C].

        A step's strength and a recorder, which hosts hand on, are for people whose strength varies while sampling; parts have
        strengths of their own.
        """
        images = self._images(layer, query)
        out = torch.zeros_like(query)
        for rows, person, places in self._jobs(layout, shape, query):
            if person is None:
                continue
            k, v = (tensor.expand(len(rows), -1, -1) for tensor in images[person])
            if places is None:
                out[rows] = self.scale * attend(query[rows], k, v, heads)
            else:
                out[rows[:, None], places] = self.scale * attend(query[rows][:, places], k, v, heads)
        return out

    def _jobs(self, layout: BatchLayout, shape: tuple[int, int], query: Tensor) -> list[_Job]:
        """Which samples at which positions (None: all) read whose parts (None: nobody's); every position is named once. Made once a
        run and way of cutting the picture."""
        key = (shape, query.shape[1], query.device, layout.size, layout.samples)
        if key not in self._jobs_at:
            found = self._find_jobs(layout, shape, query.shape[1])
            self._jobs_at[key] = [
                (rows.to(query.device), person, None if places is None else places.to(query.device))
                for rows, person, places in found
            ]
        return self._jobs_at[key]

    def _find_jobs(self, layout: BatchLayout, shape: tuple[int, int], positions: int) -> list[_Job]:
        """`_jobs` on the CPU, where a look at numbers makes no GPU wait."""
        plain = [row for row, sample in enumerate(layout.samples) if not sample.is_cond]
        drawn = [row for row, sample in enumerate(layout.samples) if sample.is_cond]
        jobs: list[_Job] = [(torch.tensor(plain), None, None)] if plain else []
        if self.masks is None:
            return [*jobs, (torch.tensor(drawn), 0, None)] if drawn else jobs
        owners = owners_of(self._masks_of_layer(layout, shape, positions, torch.device("cpu")))
        groups = [(drawn, owners[0])] if len(owners) == 1 and drawn else [([row], owners[row]) for row in drawn]
        for rows, owner in groups:
            for person in (NOBODY, *range(self.persons)):
                places = (owner == person).nonzero()[:, 0]
                if len(places):
                    everywhere = len(places) == len(owner)
                    someone = None if person == NOBODY else person
                    jobs.append((torch.tensor(rows), someone, None if everywhere else places))
        return jobs

    def _references(
        self, layer: int, query: Tensor, project: Project
    ) -> list[tuple[Tensor, Tensor, Tensor | None] | None]:
        """For each person keys and values [1, M, C] of their parts, and the bias of strengths [M]; None for nobody's."""
        key = (layer, query.device, query.dtype)
        if key not in self._reference:
            self._reference[key] = [self._reference_of(person, layer, query, project) for person in range(self.persons)]
        return self._reference[key]

    def _reference_of(
        self, person: int, layer: int, query: Tensor, project: Project
    ) -> tuple[Tensor, Tensor, Tensor | None] | None:
        features, strengths = [], []
        for number, part in enumerate(self.parts):
            if part.person != person + 1 or part.strength == 0:
                continue
            own = self.bank[layer][number].to(query)
            if part.mask is not None:
                weight = feature_mask(part.mask, len(own)).to(own)
                own = own * weight
                if self.drop_masked:
                    own = own[weight[:, 0] > 0]
            features.append(own)
            strengths.append(torch.full((len(own),), part.strength, device=query.device))
        if not sum(map(len, features)):
            return None
        return *project(torch.cat(features)[None]), bias_of(torch.cat(strengths))

    def _images(self, layer: int, query: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each person keys and values [1, 6, C] of their image tokens. The rows of zeros stay: they take their share of the
        attention, as trained."""
        key = (layer, query.device, query.dtype)
        if key not in self._image:
            made = []
            for person in range(self.persons):
                rows = query.new_zeros(1, IMAGE_ROWS, self.image_width)
                own = [part for part in self.parts if part.person == person + 1]
                for row, part in enumerate(own):
                    rows[0, row] = part.strength * part.image_embed[0].to(rows)
                k, v = self.image_projections[layer](rows)
                made.append((k.to(query), v.to(query)))
            self._image[key] = made
        return self._image[key]
