"""The people of WithAnyone on a FLUX: keys and values once a run, and where each of them counts in every sample.

    people = WithAnyoneConditioning(adapter.keys_values, {"arc": arc, "sig": sig}, persons=2, boxes=boxes, size=(1024, 1024))
    for rows, samples, added in people.residual(block, picture, adapter, layout, shape, strength): ...

Negative prompts get nobody: whatever guidance adds to the positive then holds who is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...conditioning.batch_layout import BatchLayout
from ...conditioning.identity import IdentityConditioning, Strength
from ...conditioning.masks import SHAPE_TOLERANCE
from ...errors import HostError, LayoutError
from .adapter import WithAnyone
from .regions import TOKEN, PixelBox, Regions, box_weights, check_people, regions_of

__all__ = ["WithAnyoneConditioning"]

LATENT = 8
"""Side of the square of pixels that a latent pixel stands for."""
PATCH = TOKEN // LATENT
"""Side of the square of latent pixels that a token stands for. Where the latent's side is odd, the last token is filled up."""


class WithAnyoneConditioning(IdentityConditioning):
    """People in their regions, ready for every block.

    Args:
        adapter: the weights.
        tokens: branch -> [P, T, D] of `WithAnyone.arc_tokens` and `sig_tokens`; a branch of weight 0 may be left out.
        id_weight, siglip_weight: of the branches.
        boxes: one a person, px of a picture of `size`; scaled where another size is sampled. None for those who have a mask.
        masks: [P, N, H, W] 0..1, see `IdentityConditioning`, for those who have no box.
        size: (width, height) px that `boxes` are drawn on; None: of the picture that is sampled.
        person_strengths: one a person.
        kept: for each block branch -> keys and values that were made before; the tokens are not read then.

    Raises:
        HostError: see `IdentityConditioning`; more people than the weights know; neither boxes nor masks.
        LayoutError: not every person has one box.
    """

    patch = PATCH

    def __init__(
        self,
        adapter: WithAnyone,
        tokens: Mapping[str, Tensor],
        id_weight: float,
        siglip_weight: float,
        *,
        boxes: Sequence[PixelBox | None] | None = None,
        masks: Tensor | None = None,
        size: tuple[int, int] | None = None,
        person_strengths: Sequence[float] | None = None,
        kept: Sequence[Mapping[str, tuple[Tensor, Tensor]]] | None = None,
    ) -> None:
        counted = [len(of_branch) for of_branch in tokens.values()]
        counted += [len(keys) for keys, _ in kept[0].values()] if kept else []
        persons = max(counted, default=0)
        super().__init__(persons, person_strengths, masks)
        check_people(persons, None if boxes is None else len(boxes))
        if masks is None and (boxes is None or None in boxes):
            raise HostError(
                "WithAnyone needs to know where each person is: give everybody a box or a mask. Draw boxes in Portrait Layout.",
                code="withanyone-no-regions",
            )
        self.adapter, self.tokens, self.boxes, self.size = adapter, dict(tokens), boxes, size
        self.kept = kept
        self.id_weight, self.siglip_weight = id_weight, siglip_weight
        self._kv: dict[Any, dict[str, tuple[Tensor, Tensor]]] = {}
        self._regions: dict[Any, list[tuple[list[int], Regions]]] = {}

    def clear_cache(self) -> None:
        """Let go of what a run computed."""
        super().clear_cache()
        self._kv.clear()
        self._regions.clear()

    def counts(self, strength: Strength) -> bool:
        """Whether anybody adds anything at this strength."""
        return super().counts(strength) and bool(self.id_weight or self.siglip_weight)

    @property
    def has_regions(self) -> bool:
        """Everybody is kept to a part of the picture."""
        return True

    def latent_masks(self, size: tuple[int, int], images: int) -> Tensor:
        """Where each person may be at the latent's size, [N, P, *size]: boxes along the borders of tokens."""
        boxed = [person for person, box in enumerate(self.boxes or ()) if box is not None]
        if not boxed:
            return super().latent_masks(size, images)
        covered = self._latent_boxes(self.boxes or (), size)
        if len(boxed) == self.persons:
            return covered[None]
        masks = super().latent_masks(size, images).clone()
        masks[:, boxed] = covered[boxed]
        return masks

    def _latent_boxes(self, boxes: Sequence[PixelBox | None], size: tuple[int, int]) -> Tensor:
        """Which pixels of the latent lie in tokens of each person's box, [P, *size] of 0 and 1."""
        height, width = size
        picture = (width * LATENT, height * LATENT)
        drawn_on = self.size or picture
        across, down = picture[0] / drawn_on[0], picture[1] / drawn_on[1]
        if abs(across / down - 1) >= SHAPE_TOLERANCE:
            raise LayoutError(
                f"The boxes were drawn on a canvas of {drawn_on[0]} x {drawn_on[1]} px, but the picture is {picture[0]} x {picture[1]} "
                "px, which is another shape. Connect the latent to Portrait Layout, or give it the picture's sides.",
                code="withanyone-boxes-of-another-shape",
            )
        # Rounded to a millionth: 512 px on a canvas twice as large are 256 px, not a token more.
        boxes = [
            box and [round(edge * scale, 6) for edge, scale in zip(box, (across, down, across, down), strict=True)]
            for box in boxes
        ]
        grid = (-(-height // PATCH), -(-width // PATCH))
        weights = box_weights(boxes, (grid[1] * TOKEN, grid[0] * TOKEN), grid[0] * grid[1])
        whole = weights.view(len(boxes), *grid).repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)
        return whole[:, :height, :width]

    def residual(
        self,
        block: int,
        picture: Tensor,
        layout: BatchLayout,
        shape: tuple[int, int],
        strength: float = 1.0,
    ) -> list[tuple[list[int], Tensor, Tensor]]:
        """What the people add to a block's picture tokens.

        Args:
            block: its number from 0, the double ones first.
            picture: [B, L, D] after the block.
            layout: of the call.
            shape: (rows, columns) of the tokens.
            strength: of the step.

        Returns:
            For each kind of sample: which samples, the rows [R] of their tokens, and what to add there, [samples, R, D].
        """
        found = []
        keys_values = self._keys_values(block, picture)
        for samples, regions in self.regions(layout, shape, picture, strength):
            of_samples = picture if len(samples) == len(picture) else picture[samples]
            added = self.adapter.residual_rows(
                block, of_samples, keys_values, regions, self.id_weight, self.siglip_weight
            )
            if added is not None:
                found.append((samples, regions.rows, added))
        return found

    def regions(
        self, layout: BatchLayout, shape: tuple[int, int], picture: Tensor, strength: float
    ) -> list[tuple[list[int], Regions]]:
        """(samples, where the people are in them) for those samples of a call that read the positive prompt."""
        key = (layout.samples, layout.size, shape, picture.shape[1], picture.device, strength)
        if key not in self._regions:
            found = self._find_regions(layout, shape, picture.shape[1], strength)
            self._regions[key] = [(samples, regions.to(picture.device)) for samples, regions in found]
        return self._regions[key]

    def _find_regions(
        self, layout: BatchLayout, shape: tuple[int, int], positions: int, strength: float
    ) -> list[tuple[list[int], Regions]]:
        """`regions` on the CPU, where a look at numbers makes no GPU wait."""
        weights = self.weights(layout, shape, positions, torch.device("cpu"), strength)
        assert isinstance(weights, Tensor)  # since there are regions
        alike: dict[bytes, list[int]] = {}
        for index, sample in enumerate(layout.samples):
            if sample.is_cond:
                alike.setdefault(weights[index % len(weights)].numpy().tobytes(), []).append(index)
        return [(samples, regions_of(weights[samples[0] % len(weights)])) for samples in alike.values()]

    def _keys_values(self, block: int, picture: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Keys and values of a block, for each branch that counts; made once a run."""
        key = (block, picture.device, picture.dtype)
        if key not in self._kv and self.kept is not None:
            self._kv[key] = {branch: (k.to(picture), v.to(picture)) for branch, (k, v) in self.kept[block].items()}
        elif key not in self._kv:
            weights = {"arc": self.id_weight, "sig": self.siglip_weight}
            self._kv[key] = {
                branch: self.adapter.keys_values(block, branch, tokens.to(picture))
                for branch, tokens in self.tokens.items()
                if weights[branch] != 0
            }
        return self._kv[key]
