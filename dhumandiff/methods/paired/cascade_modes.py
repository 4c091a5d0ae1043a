"""The cascade's modes: which strengths each step predicts at, and how the predictions are joined.

    mode = make_mode(settings, focus)
    mode.begin(size, images)
    for _ in range(mode.passes):                       # runs of the sampler from the same noise
        for each step:
            step = mode.begin_step(acts, is_last)      # CascadeStep: strengths, and who records the attention
            made = [host.predict(strength) for strength in step.strengths]
            prediction = mode.combine(made)
        mode.end_pass()
    mode.focus                                         # where the face strength was used

ComfyUI's guider, the diffusers host, `evaluate` and the command line all run these. How a host predicts, in one call or in
several, is its own business.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...conditioning.batch_layout import Tile, crop
from ...conditioning.masks import resize_masks
from ...conditioning.steps import BOTH, FACES, SCENE, CascadeStep, Store
from ...errors import HostError
from .attention_store import AttentionStore, ReleasedAttentionStore
from .cascade import blend, focus_mask, initial_strength, strength_map
from .settings import CascadeSettings

__all__ = ["CascadeMode", "CascadeStep", "Constant", "OnePass", "Released", "TwoStrength", "make_mode", "resize_focus"]


class CascadeMode:
    """A mode's state during one picture (or batch).

    Args:
        settings: the strengths.
        provided_focus: where the faces are, [N, H, W] 0..1, one mask for all pictures or one each, in place of what is found while
            sampling.

    Attributes:
        passes: runs of the sampler, from the same noise.
        focus: where the face strength was used, [images or 1, H, W]: bool, or float where it was provided; None before it is known,
            and where the persons never counted.
    """

    passes = 1

    def __init__(self, settings: CascadeSettings, provided_focus: Tensor | None = None) -> None:
        self.settings, self.provided_focus = settings, provided_focus
        self.size, self.images = (0, 0), 1
        self.focus: Tensor | None = None
        self._resized: tuple[Tensor | None, Tensor | None] = (None, None)  # a focus, and what it was made from

    def begin(self, size: tuple[int, int], images: int) -> None:
        """Before a run: for pictures with latents of (height, width).

        Raises:
            HostError: the provided focus has another shape or count than the pictures.
        """
        self.size, self.images = size, images
        self.focus = None if self.provided_focus is None else resize_focus(self.provided_focus, size, images)

    def resize(self, size: tuple[int, int]) -> None:
        """Before a step whose latents have another (height, width): some samplers let them grow.

        Raises:
            HostError: the provided focus has another shape than the pictures.
        """
        if size == self.size:
            return
        self.size = size
        store: Store | None = getattr(self, "store", None)
        if store is not None:
            store.resize(size)
        if self.provided_focus is not None:
            self.focus = resize_focus(self.provided_focus, size, self.images)
        elif self.focus is not None:
            made, source = self._resized
            source = source if made is self.focus and source is not None else self.focus
            self.focus = F.interpolate(source[:, None].float(), size=size, mode="nearest-exact")[:, 0].bool()
            self._resized = (self.focus, source)

    def begin_step(self, acts: bool = True, is_last: bool = False) -> CascadeStep:
        """What the step predicts at.

        Args:
            acts: whether the people act in it at all.
            is_last: whether it is the last of its pass.
        """
        raise NotImplementedError

    def combine(self, made: Sequence[Sequence[Tensor]], tiles: Sequence[Tile] | None = None) -> list[Tensor]:
        """One prediction for each prompt.

        Args:
            made: for each strength of the step the predictions for each prompt, [images, c, H, W] each.
            tiles: where each predicted picture lies in the run's, where a window of them is predicted at a time.

        Raises:
            HostError: what was predicted is no part of the run's pictures that is known.
        """
        return list(made[0])

    def _blend(self, made: Sequence[Sequence[Tensor]], tiles: Sequence[Tile] | None) -> list[Tensor]:
        if self.focus is not None:  # a given one waits on the CPU, and goes to where it is needed once
            self.focus = self.focus.to(made[0][0].device)
        return _blended(made, self.focus, tiles)

    def end_pass(self) -> None:
        """After a run of the sampler."""


class Constant(CascadeMode):
    """The mode none: one strength everywhere."""

    def begin_step(self, acts: bool = True, is_last: bool = False) -> CascadeStep:
        return CascadeStep((self.settings.strength,))


class OnePass(CascadeMode):
    """One prediction a step, at a strength that varies over the picture: the scene's, until it is known where the faces are.

    Attributes:
        store: what the attention of the steps so far tells.
    """

    def __init__(self, settings: CascadeSettings, provided_focus: Tensor | None = None) -> None:
        super().__init__(settings, provided_focus)
        self.store = AttentionStore()
        self._strength_of: tuple[Tensor | None, float | Tensor] = (None, 0.0)

    def begin_step(self, acts: bool = True, is_last: bool = False) -> CascadeStep:
        strength = self.strength()
        drawing = BOTH if isinstance(strength, Tensor) else SCENE
        return CascadeStep((strength,), None if self.focus is not None else self.store, drawing=drawing)

    def strength(self) -> float | Tensor:
        """In the present step: a number, or one for every position, [images or 1, 1, *size]."""
        settings = self.settings
        if self.focus is not None:
            if self._strength_of[0] is not self.focus:  # the same tensor in every step, which goes to a GPU once
                span = settings.face_strength - settings.scene_strength
                self._strength_of = (self.focus, settings.scene_strength + span * self.focus[:, None])
            return self._strength_of[1]
        maps, strengths = self.store.maps(), (settings.scene_strength, settings.face_strength, settings.focus_fraction)
        return initial_strength(*strengths) if maps is None else strength_map(maps, *strengths)

    def end_pass(self) -> None:
        if self.focus is None and (maps := self.store.maps()) is not None:
            self.focus = focus_mask(maps, self.settings.focus_fraction)


class TwoStrength(CascadeMode):
    """Two predictions a step; the focus gathered so far (or the provided one) joins them.

    Attributes:
        store: what the attention of the steps so far tells.
    """

    def __init__(self, settings: CascadeSettings, provided_focus: Tensor | None = None) -> None:
        super().__init__(settings, provided_focus)
        self.store = AttentionStore()

    def begin_step(self, acts: bool = True, is_last: bool = False) -> CascadeStep:
        drawing = SCENE if self.focus is None else BOTH
        if not acts:
            return CascadeStep((self.settings.scene_strength,), drawing=drawing)
        strengths = (self.settings.scene_strength, self.settings.face_strength)
        if self.provided_focus is not None:
            return CascadeStep(strengths, drawing=drawing)
        # Attention can be recorded only where the persons count at all.
        return CascadeStep(strengths, self.store, int(self.settings.scene_strength == 0), drawing)

    def combine(self, made: Sequence[Sequence[Tensor]], tiles: Sequence[Tile] | None = None) -> list[Tensor]:
        if len(made) > 1 and self.provided_focus is None and (maps := self.store.maps()) is not None:
            self.focus = focus_mask(maps, self.settings.focus_fraction)
        return self._blend(made, tiles)


class Released(CascadeMode):
    """As published: a run at scene strength, whose last step gives the mask; then a second one from the same noise, with both
    predictions. With a provided focus there is no first run."""

    def __init__(self, settings: CascadeSettings, provided_focus: Tensor | None = None) -> None:
        super().__init__(settings, provided_focus)
        self.store = ReleasedAttentionStore()
        self.passes = 2 if provided_focus is None else 1

    def begin_step(self, acts: bool = True, is_last: bool = False) -> CascadeStep:
        settings = self.settings
        if self.focus is None:
            return CascadeStep((settings.scene_strength,), self.store if is_last else None, drawing=SCENE)
        drawing = FACES if self.provided_focus is None else BOTH
        strengths = (settings.scene_strength, settings.face_strength) if acts else (settings.scene_strength,)
        return CascadeStep(strengths, drawing=drawing)

    def combine(self, made: Sequence[Sequence[Tensor]], tiles: Sequence[Tile] | None = None) -> list[Tensor]:
        return self._blend(made, tiles)

    def end_pass(self) -> None:
        """Make the mask of the first run. HostError where there is nothing to make it from."""
        if self.focus is None:
            self.focus = self.store.mask(self.images, 100 * (1 - self.settings.focus_fraction))


_MODES = {"none": Constant, "one_pass": OnePass, "two_strength": TwoStrength, "released": Released}


def make_mode(settings: CascadeSettings, provided_focus: Tensor | None = None) -> CascadeMode:
    """The mode of these settings, at its beginning. HostError for settings that make no picture."""
    settings.check()
    return _MODES[settings.mode](settings, provided_focus)


def resize_focus(focus: Tensor, size: tuple[int, int], images: int) -> Tensor:
    """Bring a provided focus [N, H, W] to the latent's size, [N or 1, *size] float32. HostError, see `resize_masks`."""
    return resize_masks(focus[None], size, images, "focus mask")[:, 0]


def _blended(
    made: Sequence[Sequence[Tensor]], focus: Tensor | None, tiles: Sequence[Tile] | None = None
) -> list[Tensor]:
    """The predictions at scene and face strength, joined by the focus; those at scene strength where there is none."""
    if len(made) == 1 or focus is None:
        return list(made[0])
    mask = focus.to(made[0][0].device)
    if tiles is not None:
        mask = torch.stack([crop(mask[tile.image if len(mask) > 1 else 0], tile) for tile in tiles])
    shape = made[0][0].shape
    if mask.shape[-2:] != shape[-2:] or len(mask) not in (1, shape[0]):
        raise HostError(
            f"Another node predicts a part of the pictures ({shape[0]} of {shape[-1]} x {shape[-2]}; the cascade's focus is of "
            f"{len(mask)} of {mask.shape[-1]} x {mask.shape[-2]}) that is found nowhere in them. Sample without that node, or "
            "choose the mode one_pass.",
            code="unknown-window",
        )
    return [blend(scene, face, mask) for scene, face in zip(*made, strict=True)]
