"""What one call of ComfyUI's UNet is made of: which rows belong to a positive, and where in the picture they lie.

ComfyUI batches as it sees fit: positive and negative together or apart, several positives, areas cut out of the
picture, tiles of a tiling pack. ``cond_or_uncond`` gives a chunk's place in the list that a guider passed on, which is
not the same as "positive" for every guider. So nothing here is assumed: a guider's step is noted once (`Step`), and
every call is read against it (`Call`). Both ride in ``transformer_options`` and end with the call.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...dhumandiff.errors import HostError
from ...dhumandiff.methods.paired.attention import person_weights
from ...dhumandiff.methods.paired.attention_store import Observation, Place

log = logging.getLogger(__name__)

Kind = tuple[int, int]
"""What a row is: its role (1 positive, 0 negative), and which of several strengths it is predicted at."""

STEP = "dhumandiff_step"
CALL = "dhumandiff_call"


@dataclasses.dataclass(frozen=True)
class Step:
    """One prediction of a guider.

    Attributes:
        picture: what the guider was asked about, [images, channels, H, W]; None when no guider told.
        positives: uuids of the conditionings that are the guider's positive; None when no guider told.
        areas: uuid -> (height, width, top, left) in latent pixels, for conditionings with an area.
        strength: takes the place of the pair's own strength (the cascade sets it): a number; one for every place of the whole
            latent, [images or 1, 1, H, W]; or several, where the guider's list of prompts is predicted once for each.
        prompts: length of that list; it matters where there are several strengths.
        observe: called for every patched layer with `Observation` (the cascade's focus mask listens).
        heard: which of several strengths `observe` hears.
    """

    picture: Tensor | None = None
    positives: frozenset | None = None
    areas: dict[Any, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    strength: float | Tensor | tuple[float, ...] | None = None
    prompts: int = 1
    observe: Callable[[Observation], None] | None = None
    heard: int = 0

    @classmethod
    def of_guider(cls, guider: Any, picture: Tensor) -> Step:
        """Note a guider's positives. Anything that is not under its key "positive" counts as negative.

        ComfyUI's own guiders with three conditionings (dual CFG, perp-neg) mark the third as a negative as well.
        """
        conds = guider.conds
        if "positive" in conds:
            positives = conds["positive"] or ()
        else:  # a guider of another pack with names of its own
            names = [name for name in conds if "neg" not in name and "uncond" not in name]
            positives = [c for name in names for c in conds[name] or ()]
            _log_once(f"the guider {type(guider).__name__} names no positive; taking {' and '.join(names)} for it.")
        areas = {c["uuid"]: tuple(c["area"]) for group in conds.values() for c in group or () if c.get("area")}
        return cls(picture, frozenset(c["uuid"] for c in positives), areas)


class Call:
    """One call of the UNet, row by row.

    Attributes:
        step: the guider's step that this call belongs to.
        roles: for each row, 1 where it belongs to a positive, else 0.
        copies: for each row, which of several strengths it is predicted at.
        places: for each row where its picture lies in the whole; None where that cannot be told.
        size: (height, width) of the whole latent.
        sigma: noise level, a number; read once, since reading it waits for the device.
    """

    def __init__(self, step: Step, picture: Tensor, sigma: Tensor, options: dict[str, Any]) -> None:
        self.step = step
        whole = picture if step.picture is None else step.picture
        self.size = (whole.shape[-2], whole.shape[-1])
        kinds = list(zip(_chunk_roles(step, options), _chunk_copies(step, options), strict=True))
        self.images = whole.shape[0] if step.picture is not None else max(1, picture.shape[0] // len(kinds))
        self._indices = [index % step.prompts for index in options.get("cond_or_uncond", ())]
        self.sigma_tensor = sigma
        self._cache: dict[Any, Any] = {}
        self.hit: set[tuple[int, int]] = set()

        rows, chunks = picture.shape[0], len(kinds)
        if rows == chunks * self.images:
            row_kinds = [kind for kind in kinds for _ in range(self.images)]
            self.places = _known_places(step, picture, self.size, self.images, chunks, options)
        else:
            self.places = [None] * rows
        if None in self.places:
            self.places = [_find(row, whole, number % self.images) for number, row in enumerate(picture)]
            row_kinds = _tiled(self.places, kinds, self.images)
        self.roles = tuple(role for role, _ in row_kinds)
        self.copies = tuple(copy for _, copy in row_kinds)

    @property
    def sigma(self) -> float:
        """The call's noise level."""
        return self._once("sigma", lambda: float(self.sigma_tensor.flatten()[0]))

    @property
    def for_others(self) -> dict[str, Any]:
        """Options as other packs know them: a list of prompts that is there twice looks like one, by their indices."""
        if not isinstance(self.step.strength, tuple):
            return {}
        return {"cond_or_uncond": self._indices}

    @property
    def heard(self) -> list[Place | None]:
        """`places` of the rows that `Step.observe` hears, None for the others."""
        if not isinstance(self.step.strength, tuple):
            return self.places
        return [
            place if copy == self.step.heard else None for place, copy in zip(self.places, self.copies, strict=True)
        ]

    def weights(self, pair: Any, shape: tuple[int, int], places: int, device: torch.device) -> Tensor | float:
        """Strength of each person at each place of a layer, [rows or 1, P, places or 1] float32; a number where they are all
        the same.

        Raises:
            HostError: a person has a mask, or the strength varies over the picture, and it cannot be told where in the picture the
                rows lie.
        """
        return self._once((id(pair), shape, places, device), lambda: self._weights(pair, shape, places, device))

    def _weights(self, pair: Any, shape: tuple[int, int], places: int, device: torch.device) -> Tensor | float:
        strength = pair.strength_in(self.step)
        varying = isinstance(strength, Tensor)
        if isinstance(strength, tuple):
            strength = torch.tensor([strength[copy] for copy in self.copies], device=device)[:, None, None]
        elif varying:
            what = ("focus", "choose the mode two_strength")
            strength = self._lay(strength.to(device), shape, places, *what)
        elif pair.masks is None and len(set(pair.person_strengths)) == 1:
            return strength * pair.person_strengths[0]
        weights = torch.tensor(pair.person_strengths, device=device)[None, :, None] * strength
        if pair.masks is not None:
            weights = weights * self._laid_masks(pair, shape, places, device)
        return weights

    def _laid_masks(self, pair: Any, shape: tuple[int, int], places: int, device: torch.device) -> Tensor:
        """The pair's masks at the places of a layer, [rows or 1, P, places]; made once a run and way of cutting the picture."""
        key = (shape, places, device, self.size, tuple(self.places))
        if key not in pair.laid_masks:
            masks = pair.latent_masks(self.size, self.images).to(device)
            pair.laid_masks[key] = self._lay(masks, shape, places, "person masks", "leave the masks out")
        return pair.laid_masks[key]

    def _lay(self, field: Tensor, shape: tuple[int, int], places: int, what: str, instead: str) -> Tensor:
        """What varies over the whole picture, [images or 1, n, *size], at the places of a layer: [rows or 1, n, places]."""
        if shape[0] * shape[1] != places:
            raise HostError(
                f"A layer of {shape[0]} x {shape[1]} places came with {places}: another node merges places (token "
                f"merging, for instance), so the {what} cannot be laid over them. Remove that node, or {instead}."
            )
        if None in self.places:
            raise HostError(
                "The sampler cut the picture into pieces that cannot be found again in the whole, so it is not known "
                f"where the {what} belong{'s' if what == 'focus' else ''}. Sample without tiles, or {instead}."
            )
        parts = [dataclasses.replace(place, image=place.image if len(field) > 1 else 0) for place in self.places]
        if len(set(parts)) == 1:  # every row alike
            parts = parts[:1]
        return person_weights(torch.stack([_cut(field[part.image], part) for part in parts]), shape)

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]


def with_step(model_options: dict[str, Any], step: Step) -> dict[str, Any]:
    """Model options that carry a step."""
    return {**model_options, "transformer_options": {**model_options.get("transformer_options", {}), STEP: step}}


@functools.lru_cache(maxsize=64)
def _log_once(text: str) -> None:
    log.warning("DHumanDiff: %s", text)


def _chunk_roles(step: Step, options: dict[str, Any]) -> list[int]:
    if step.positives is None or "uuids" not in options:
        # Someone calls the model without a guider. ComfyUI's convention for a plain call is 0 = positive.
        _log_once("no guider named its positive; taking index 0 of the batch for it.")
        return [int(index == 0) for index in options.get("cond_or_uncond", [0])]
    return [int(uuid in step.positives) for uuid in options["uuids"]]


def _chunk_copies(step: Step, options: dict[str, Any]) -> list[int]:
    """Which of several strengths each chunk is predicted at: the guider's list of prompts is there once for each."""
    indices = options.get("cond_or_uncond", [0])
    return [index // step.prompts if isinstance(step.strength, tuple) else 0 for index in indices]


def _known_places(
    step: Step, picture: Tensor, size: tuple[int, int], images: int, chunks: int, options: dict[str, Any]
) -> list[Place | None]:
    """Places of rows that are the whole picture or a conditioning's area; None for any other."""
    height, width = picture.shape[-2:]
    corners: list[tuple[int, int] | None]
    if (height, width) == size:
        corners = [(0, 0)] * chunks
    else:
        areas = [step.areas.get(uuid) for uuid in options.get("uuids", [None] * chunks)]
        corners = [_area_corner(area, (height, width), size) for area in areas]
    return [
        None if corner is None else Place(image, corner[0], corner[1], height, width)
        for corner in corners
        for image in range(images)
    ]


def _area_corner(area: tuple[int, ...] | None, shape: tuple[int, int], size: tuple[int, int]) -> tuple[int, int] | None:
    if area is None or len(area) != 4:
        return None
    height, width, top, left = area
    clipped = (min(size[0] - top, height), min(size[1] - left, width))
    return (top, left) if clipped == shape else None


def _find(piece: Tensor, whole: Tensor, likely: int) -> Place | None:
    """Find a tile in the whole by its content; None where that is ambiguous.

    Noise repeats nowhere within a picture. Pictures of a batch may share it; then the order of the rows decides, in which
    images come innermost (`likely`).
    """
    height, width = piece.shape[-2:]
    if height > whole.shape[-2] or width > whole.shape[-1]:
        return None
    corner = piece[0, 0, 0]
    candidates = whole[:, 0, : whole.shape[-2] - height + 1, : whole.shape[-1] - width + 1] == corner
    found: list[Place] = []
    for image, top, left in candidates.nonzero().tolist():
        if torch.equal(whole[image, :, top : top + height, left : left + width], piece):
            found.append(Place(image, top, left, height, width))
            if (top, left) != (found[0].top, found[0].left):
                return None
    return next((place for place in found if place.image == likely), found[0] if found else None)


def _tiled(places: list[Place | None], chunks: list[Kind], images: int) -> list[Kind]:
    """What each row is when each chunk of the batch became several tiles.

    Tiling packs repeat the batch once per tile, so that the rows run [tile][chunk][image]; a pack may also keep the
    chunks outermost. The places tell which.
    """
    rows, count = len(places), len(chunks)
    if len(set(chunks)) == 1:
        return [chunks[0]] * rows
    if rows % count:
        raise HostError(
            f"The model was called with {rows} pictures for {count} prompts, so it is not known which picture belongs "
            "to which. Another node reorders the batch: sample without it."
        )
    if rows == count * images:
        return [chunk for chunk in chunks for _ in range(images)]
    group = places[: count * images]
    corners = {None if place is None else (place.top, place.left) for place in group}
    if None in corners:
        raise HostError(
            "The sampler cut the picture into pieces that cannot be found again in the whole, so it is not known which "
            "piece belongs to the positive prompt. Set the tile batch size to 1, or sample without tiles."
        )
    if len(corners) == 1:
        return [chunks[(row // images) % count] for row in range(rows)]
    return [chunks[row // (rows // count)] for row in range(rows)]


def _cut(masks: Tensor, place: Place) -> Tensor:
    """[P, H, W] -> [P, place.height, place.width]."""
    return masks[:, place.top : place.top + place.height, place.left : place.left + place.width]
