"""What one call of ComfyUI's UNet is made of: which samples belong to a positive, and where in the picture they lie.

ComfyUI batches as it sees fit: positive and negative together or apart, several positives, areas cut out of the
picture, tiles of a tiling pack. ``cond_or_uncond`` gives a chunk's place in the list that a guider passed on, which is
not the same as "positive" for every guider. So nothing here is assumed: a guider's step is noted once (`GuiderStep`), and
every call is read against it (`UNetCall`), which gives a `BatchLayout`. Both ride in ``transformer_options`` and end with it.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...dhumandiff.conditioning.batch_layout import BatchLayout, Sample, Tile
from ...dhumandiff.conditioning.identity import Strength
from ...dhumandiff.conditioning.repeated import repeated_layout
from ...dhumandiff.errors import HostError
from ...dhumandiff.methods.paired.attention_store import AttentionRecord
from ...dhumandiff.methods.paired.conditioning import Recorder
from .ids import give_own_ids

log = logging.getLogger(__name__)

STEP = "dhumandiff_step"
CALL = "dhumandiff_call"


@dataclasses.dataclass(frozen=True)
class Window:
    """The part of a run's pictures that is predicted at a time (context windows, over the batch or over the picture).

    Attributes:
        tiles: where each of its pictures lies in the run's.
        size: (height, width) of the run's latent.
        images: pictures of the run.
    """

    tiles: tuple[Tile, ...]
    size: tuple[int, int]
    images: int

    def in_run(self, tile: Tile | None) -> Tile | None:
        """A tile of one of the window's pictures as one of the run's."""
        if tile is None:
            return None
        place = self.tiles[tile.image]
        return dataclasses.replace(tile, image=place.image, top=place.top + tile.top, left=place.left + tile.left)


@dataclasses.dataclass(frozen=True)
class GuiderStep:
    """One prediction of a guider.

    Attributes:
        picture: what is predicted, [images, channels, H, W]: what the guider was asked about, or its part in a window; None when no
            guider told.
        window: where `picture` lies in what the guider was asked about; None where it is the same.
        positives: uuids of the conditionings that are the guider's positive; None when no guider told.
        kinds: for each prompt of the guider's list whether it is positive; None for one that is both.
        areas: uuid -> (height, width, top, left) in latent pixels, for conditionings with an area.
        strength: takes the place of the people's own strength (the cascade sets it), see `conditioning.identity.Strength`. Where
            there are several, the guider's list of prompts is predicted once for each.
        prompts: length of that list; it matters where there are several strengths.
        record: called for every conditioned layer with what it saw (the cascade's attention store).
        recorded: which of several strengths `record` is called for.
        seen: ids of the conditionings that the UNet was called with.
    """

    picture: Tensor | None = None
    window: Window | None = None
    positives: frozenset | None = None
    kinds: tuple[bool | None, ...] = ()
    areas: dict[Any, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    strength: Strength | None = None
    prompts: int = 1
    record: Recorder | None = None
    recorded: int = 0
    seen: set[Any] = dataclasses.field(default_factory=set)

    @classmethod
    def of_guider(cls, guider: Any, picture: Tensor) -> GuiderStep:
        """Note a guider's positives. Anything that is not under its key "positive" counts as negative.

        ComfyUI's own guiders with three conditionings (dual CFG, perp-neg) mark the third as a negative as well.
        """
        conds = guider.conds
        give_own_ids(conds)
        if "positive" in conds:
            positives = conds["positive"] or ()
        else:  # a guider of another pack with names of its own
            names = [name for name in conds if "neg" not in name and "uncond" not in name]
            positives = [c for name in names for c in conds[name] or ()]
            _log_once(f"the guider {type(guider).__name__} names no positive; taking {' and '.join(names)} for it.")
        areas = {c["uuid"]: tuple(c["area"]) for group in conds.values() for c in group or () if c.get("area")}
        return cls(picture, positives=frozenset(c["uuid"] for c in positives), areas=areas)

    def asked(self, prompts: Sequence[list | None]) -> GuiderStep:
        """The step, knowing the guider's list of prompts."""
        positives = self.positives or ()
        roles = [{cond["uuid"] in positives for cond in prompt or ()} for prompt in prompts]
        return dataclasses.replace(self, kinds=tuple(role.pop() if len(role) == 1 else None for role in roles))

    def recording(self, record: Recorder | None, recorded: set[Tile | None]) -> Recorder | None:
        """`record` for the pictures that it was not called for in this step yet, which are noted in `recorded`.

        Windows overlap, and guidance of other nodes asks again for what the guider asked for; each picture counts once.
        """
        pictures = self.part or (None,)
        again = {tile for tile in pictures if tile in recorded}
        recorded.update(pictures)
        if record is None or not again:
            return record
        images = {tile.image for tile in again if tile}
        if len(images) == 0 or again.issuperset(pictures):
            return None

        def new_only(seen: AttentionRecord) -> None:
            tiles = [None if tile is None or tile.image in images else tile for tile in seen.tiles]
            record(dataclasses.replace(seen, tiles=tiles))

        return new_only

    @property
    def part(self) -> tuple[Tile, ...] | None:
        """Which part of the guider's pictures is predicted; None: all of them."""
        return None if self.window is None else self.window.tiles

    def predicting(self, picture: Tensor, options: dict[str, Any]) -> GuiderStep:
        """The step where ComfyUI predicts for a list of prompts: the same, or a window of it.

        Args:
            picture: what is predicted.
            options: transformer_options.
        """
        whole = self.picture
        if whole is None or whole.shape == picture.shape or whole.ndim != 4 or picture.ndim != 4:
            return self
        tiles = _window_tiles(whole, picture, options)
        if None in tiles:
            return self  # another node changed it
        window = Window(tuple(tile for tile in tiles if tile), (whole.shape[-2], whole.shape[-1]), whole.shape[0])
        return dataclasses.replace(self, picture=picture, window=window)


class UNetCall:
    """One call of the UNet.

    Attributes:
        step: the guider's step that this call belongs to.
        size: (height, width) of the latents that the model is called with.
        layout: what its batch is made of.
        visited: (id of the conditioning, layer) of the layers that the call went through so far.
        in_compiled: whether one of them was reached in compiled code.
        text_tokens: how many tokens of text stand before the picture's, in a FLUX that has come to a block.
    """

    def __init__(self, step: GuiderStep, picture: Tensor, sigma: Tensor, options: dict[str, Any]) -> None:
        self.step = step
        step.seen.update(options.get("uuids", ()))
        self.size: tuple[int, int] = (picture.shape[-2], picture.shape[-1])
        self.layout = read_layout(step, picture, options)
        self.visited: set[tuple[int, int]] = set()
        self.in_compiled, self.text_tokens = False, 0
        self._prompts = max(1, len(options.get("cond_or_uncond", ())))
        self._repeated: dict[int, BatchLayout] = {}
        self._sigma_tensor = sigma
        self._indices = [index % step.prompts for index in options.get("cond_or_uncond", ())]

    @functools.cached_property
    def sigma(self) -> float:
        """The call's noise level; read once, since reading it waits for the device."""
        return float(self._sigma_tensor.flatten()[0])

    def layout_of(self, query: Tensor) -> BatchLayout:
        """The layout of a layer's query [B, Q, C]: the call's, unless another node repeated samples for its regions.

        Raises:
            HostError: it cannot be told which sample was repeated.
        """
        rows = len(query)
        if rows == len(self.layout.samples):
            return self.layout
        if rows not in self._repeated:
            self._repeated[rows] = repeated_layout(self.layout, query, self._prompts)
        return self._repeated[rows]

    @property
    def for_others(self) -> dict[str, Any]:
        """Options as other packs know them: a list of prompts that is there twice looks like one, by their indices."""
        if not isinstance(self.step.strength, tuple):
            return {}
        return {"cond_or_uncond": self._indices}


def read_layout(step: GuiderStep, picture: Tensor, options: dict[str, Any]) -> BatchLayout:
    """What the batch of one call is made of.

    Args:
        step: the guider's step.
        picture: [B, channels, H, W], what the UNet is called with.
        options: transformer_options of the call.

    Raises:
        HostError: it cannot be told which sample belongs to the positive prompt.
    """
    whole = picture if step.picture is None else step.picture.to(picture.device)  # one of several GPUs' may call
    size = (whole.shape[-2], whole.shape[-1])
    chunks = [
        Sample(is_cond, strength_index=index)
        for is_cond, index in zip(_chunk_is_cond(step, options), _chunk_strengths(step, options), strict=True)
    ]
    images = whole.shape[0] if step.picture is not None else max(1, picture.shape[0] // len(chunks))
    batch = picture.shape[0]
    samples = [chunk for chunk in chunks for _ in range(images)]
    tiles: list[Tile | None] = [None] * batch
    if batch == len(samples):
        tiles = _known_tiles(step, picture, size, images, len(chunks), options)
    if None in tiles:
        samples = _samples_by_content(picture, whole, chunks, images)
        all_pictures = batch % (len(chunks) * images) == 0
        tiles = [
            _locate_tile(piece, whole, number % images if all_pictures else None)
            for number, piece in enumerate(picture)
        ]
    run = step.window or Window((), size, images)
    if step.window is not None:
        tiles = [run.in_run(tile) for tile in tiles]
    laid = (dataclasses.replace(sample, tile=tile) for sample, tile in zip(samples, tiles, strict=True))
    return BatchLayout(tuple(laid), run.size, run.images)


def with_step(model_options: dict[str, Any], step: GuiderStep) -> dict[str, Any]:
    """Model options that carry a step."""
    return {**model_options, "transformer_options": {**model_options.get("transformer_options", {}), STEP: step}}


@functools.lru_cache(maxsize=64)
def _log_once(text: str) -> None:
    log.warning("DHumanDiff: %s", text)


def _chunk_is_cond(step: GuiderStep, options: dict[str, Any]) -> list[bool]:
    if step.positives is None or "uuids" not in options:
        # Someone calls the model without a guider. ComfyUI's convention for a plain call is 0 = positive.
        _log_once("no guider named its positive; taking index 0 of the batch for it.")
        return [index == 0 for index in options.get("cond_or_uncond", [0])]
    indices = options.get("cond_or_uncond", [0])
    if len(options["uuids"]) == len(indices):
        return [uuid in step.positives for uuid in options["uuids"]]
    # Another node calls the model for some of the prompts, and says so in one of the two lists only.
    kinds = [kind for kind in (step.kinds[i] if i < len(step.kinds) else None for i in indices) if kind is not None]
    if len(kinds) < len(indices):
        raise HostError(
            f"Another node calls the model with {len(indices)} prompts and the ids of {len(options['uuids'])}, so it is not known "
            "which of them are positive. Sample without that node.",
            code="cut-call",
        )
    return kinds


def _chunk_strengths(step: GuiderStep, options: dict[str, Any]) -> list[int]:
    """Which of several strengths each chunk is predicted at: the guider's list of prompts is there once for each."""
    indices = options.get("cond_or_uncond", [0])
    return [index // step.prompts if isinstance(step.strength, tuple) else 0 for index in indices]


def _known_tiles(
    step: GuiderStep, picture: Tensor, size: tuple[int, int], images: int, chunks: int, options: dict[str, Any]
) -> list[Tile | None]:
    """Tiles of samples that are the whole picture or a conditioning's area; None for any other."""
    height, width = picture.shape[-2:]
    corners: list[tuple[int, int] | None]
    if (height, width) == size:
        corners = [(0, 0)] * chunks
    else:
        uuids = options.get("uuids", ())
        areas = [step.areas.get(uuid) for uuid in (uuids if len(uuids) == chunks else [None] * chunks)]
        corners = [_area_corner(area, (height, width), size) for area in areas]
    return [
        None if corner is None else Tile(image, corner[0], corner[1], height, width)
        for corner in corners
        for image in range(images)
    ]


def _area_corner(area: tuple[int, ...] | None, shape: tuple[int, int], size: tuple[int, int]) -> tuple[int, int] | None:
    if area is None or len(area) != 4:
        return None
    height, width, top, left = area
    clipped = (min(size[0] - top, height), min(size[1] - left, width))
    return (top, left) if clipped == shape else None


def _locate_tile(piece: Tensor, whole: Tensor, likely: int | None = None) -> Tile | None:
    """Find a tile in the whole by its content; None where that is ambiguous.

    Noise repeats nowhere within a picture. Pictures of a batch may share it; then the order of the samples decides, in which
    images come innermost (`likely`), where the batch holds all of them.
    """
    height, width = piece.shape[-2:]
    if height > whole.shape[-2] or width > whole.shape[-1]:
        return None
    corner = piece[0, 0, 0]
    candidates = whole[:, 0, : whole.shape[-2] - height + 1, : whole.shape[-1] - width + 1] == corner
    found: list[Tile] = []
    for image, top, left in candidates.nonzero().tolist():
        if torch.equal(whole[image, :, top : top + height, left : left + width], piece):
            found.append(Tile(image, top, left, height, width))
            if (top, left) != (found[0].top, found[0].left):
                return None
    if len(found) > 1 and likely is None:
        return None
    return next((tile for tile in found if tile.image == likely), found[0] if found else None)


def _window_tiles(whole: Tensor, picture: Tensor, options: dict[str, Any]) -> list[Tile | None]:
    """Where each picture of a window lies in the whole; None where that cannot be told.

    ComfyUI and AnimateDiff Evolved say which indices their windows take; those of others are found by their content.
    """
    (images, _, height, width), shape = whole.shape, picture.shape
    window = options.get("context_window")
    indices, dim = list(getattr(window, "index_list", ())), getattr(window, "dim", None)
    if window is None:
        indices, dim = list((options.get("ad_params") or {}).get("sub_idxs") or ()), 0
    anchor = getattr(window, "causal_anchor_index", None)
    if anchor is not None and anchor >= 0:
        indices.insert(0, anchor)
    told = dim in (0, 2, 3) and shape == (*whole.shape[:dim], len(indices), *whole.shape[dim + 1 :])
    if told and dim == 0:
        return [Tile(image, 0, 0, height, width) for image in indices]
    first = indices[0] if indices else 0
    if told and indices == list(range(first, first + len(indices))):
        top, left = (first, 0) if dim == 2 else (0, first)
        return [Tile(image, top, left, shape[2], shape[3]) for image in range(images)]
    return [_locate_tile(piece, whole) for piece in picture]


def _samples_by_content(picture: Tensor, whole: Tensor, chunks: list[Sample], images: int) -> list[Sample]:
    """What each sample of a batch is that is not made of all pictures once for each chunk: tiles, or a part of the pictures.

    Every chunk is predicted for the same pieces. Tiling packs repeat the batch once a tile, so that the samples run
    [tile][chunk][image]; a pack may also keep the chunks outermost, as ComfyUI itself does. What is the same tells which.

    Raises:
        HostError: it fits neither, or both.
    """
    batch, count = len(picture), len(chunks)
    if len(set(chunks)) == 1:
        return [chunks[0]] * batch
    outermost = [chunks[number // max(1, batch // count)] for number in range(batch // count * count)]
    if batch == count * images:
        return outermost
    told = []
    if batch % count == 0 and _all_alike(picture.unflatten(0, (count, -1)).unbind(0)):
        told.append(outermost)
    if batch % (count * images) == 0 and _all_alike(picture.unflatten(0, (-1, count, images)).unbind(1)):
        told.append([chunks[number // images % count] for number in range(batch)])
    if len(told) == 1 and (batch % (count * images) == 0 or not _repeats(whole)):
        return told[0]
    raise HostError(
        f"The model was called with {batch} pictures for {count} prompts, so it is not known which picture belongs "
        "to which. Another node splits, cuts or reorders the batch: set its batch or tile batch size to 1, or sample without it.",
        code="unknown-batch",
    )


def _all_alike(parts: Sequence[Tensor]) -> bool:
    return all(torch.equal(part, parts[0]) for part in parts[1:])


def _repeats(whole: Tensor) -> bool:
    """Whether two pictures of a batch are the same: then a part of one prompt's looks like one picture of two prompts."""
    return any(torch.equal(one, other) for number, one in enumerate(whole) for other in whole[:number])
