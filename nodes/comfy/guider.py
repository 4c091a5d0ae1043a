"""Cascaded inference inside ComfyUI: a guider, so that any sampler and scheduler can run it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import comfy.samplers
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...dhumandiff.errors import HostError
from ...dhumandiff.methods.paired.attention_store import FocusListener, OnePass, ReleasedListener, fit_focus
from ...dhumandiff.methods.paired.cascade import FACE_STRENGTH, FOCUS_SHARE, SCENE_STRENGTH, blend, focus_mask
from .batch import STEP, with_step
from .pair import KEY, pairs_of
from .patch import checked_mask

MODES = ("one_pass", "two_strength", "released")
_SCENE, _FACES, _BOTH = "scene", "faces", "scene and faces"
_OWN_STEPS = ("dpm_fast_function", "dpm_adaptive_function")


class CascadeGuider(comfy.samplers.CFGGuider):
    """Classifier-free guidance at two strengths of the pair, each where the focus says.

    Modes:
        one_pass: one trajectory and one prediction a step, at a strength that varies over the picture by the focus gathered
            so far.
        two_strength: one trajectory; at every step the focus gathered so far joins both predictions. Two predictions
            a step.
        released: as published. One run at scene strength for the mask, then a second run from the same noise with both
            predictions. Three predictions a step; two where the mask is given.

    Attributes:
        focus: mask of the last run, bool [images, H, W] at the latent's size; a given one, float [images or 1, H, W].
        say: told what is being drawn whenever a step begins: "scene", "faces", "scene and faces"; at the end how much of the
            picture had the face strength.
    """

    say: Callable[[str], None] = staticmethod(lambda text: None)

    def set_cascade(
        self,
        scene_strength: float = SCENE_STRENGTH,
        face_strength: float = FACE_STRENGTH,
        focus_share: float = FOCUS_SHARE,
        mode: str = MODES[0],
        focus: Tensor | None = None,
    ) -> None:
        """Set the cascade's options. `focus`: MASK of where the faces are, in place of what is found while sampling.

        Raises:
            HostError: the model has no pair applied, or one with a cascade of its own, or the mode is unknown.
            ImageError: the focus is no mask.
        """
        pairs = pairs_of(self.model_patcher)
        if not pairs:
            raise HostError(
                "The cascade needs a MODEL with two people in it: connect the one that comes out of "
                "Apply Disparity-Aware Conditioning."
            )
        if any(pair.cascade is not None for pair in pairs):
            raise HostError(
                "The cascade is on in two places: switch it off in Apply Disparity-Aware Conditioning (`cascade` off), or sample "
                "with a plain KSampler or guider."
            )
        if mode not in MODES:
            raise HostError(f"The cascade knows the modes {', '.join(MODES)}, not {mode!r}.")
        self.scene_strength, self.face_strength = scene_strength, face_strength
        self.focus_share, self.mode = focus_share, mode
        self.given = None if focus is None else checked_mask(focus, "focus mask")
        self.focus: Tensor | None = None

    def sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Tensor | None = None,
        callback: Callable | None = None,
        disable_pbar: bool = False,
        seed: int | None = None,
    ) -> Tensor:
        """Sample as ComfyUI's guider does; in the mode `released` twice, with one progress from start to end."""
        sampled = self._sample(noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed)
        share = 0.0 if self.focus is None else float(self.focus.float().mean())
        self.say(f"faces: {share:.0%} of the picture")
        return sampled

    def _sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Tensor | None,
        callback: Callable | None,
        disable_pbar: bool,
        seed: int | None,
    ) -> Tensor:
        rest = (denoise_mask, callback, disable_pbar, seed)
        size, images = (noise.shape[-2], noise.shape[-1]), noise.shape[0]
        self.focus = None if self.given is None else fit_focus(self.given, size, images)
        if self.mode == "one_pass":
            one_pass = OnePass(self.scene_strength, self.face_strength, self.focus_share, self.given)
            self._listener = one_pass.listener
            self._begin_step = lambda: self._told(one_pass.strength(size, images))
            self._predict = self._predict_one_pass
            sampled = super().sample(noise, latent_image, sampler, sigmas, *rest)
            self.focus = one_pass.focus(size, images)
            return sampled
        if self.focus is not None:
            self._begin_step = lambda: self.say(_BOTH)
            self._predict = self._predict_both
            return super().sample(noise, latent_image, sampler, sigmas, *rest)
        if self.mode == "two_strength" or sigmas.shape[-1] < 2:
            self._listener = FocusListener()
            self._begin_step = lambda: self.say(_SCENE if self.focus is None else _BOTH)
            self._predict = self._predict_two_strength
            return super().sample(noise, latent_image, sampler, sigmas, *rest)

        self._check_last_step(float(sigmas[-2]))
        self._listener = ReleasedListener()
        # Some samplers choose their own steps and never visit the last one of the schedule: every call is heard then,
        # and the last one counts.
        name = getattr(getattr(sampler, "sampler_function", None), "__name__", "")
        self._last_sigma = math.inf if name in _OWN_STEPS else float(sigmas[-2])
        self._begin_step = lambda: self.say(_SCENE)
        self._predict = self._predict_scene
        rest = (denoise_mask, _part_of_two(callback, 0), disable_pbar, seed)
        super().sample(noise, latent_image, sampler, sigmas, *rest)
        self.focus = self._listener.mask(images, 100 * (1 - self.focus_share))
        self._listener = None
        self._begin_step = lambda: self.say(_FACES)
        self._predict = self._predict_both
        rest = (denoise_mask, _part_of_two(callback, 1), disable_pbar, seed)
        return super().sample(noise, latent_image, sampler, sigmas, *rest)

    def _told(self, strength: float | Tensor) -> float | Tensor:
        """The strength of a step of one_pass; it varies over the picture as soon as it is known where the faces are."""
        self.say(_BOTH if isinstance(strength, Tensor) else _SCENE)
        return strength

    def _check_last_step(self, sigma: float) -> None:
        """Refuse before sampling what the mode `released` could not make a mask of after a whole run."""
        sampling = self.model_patcher.get_model_object("model_sampling")
        for pair in pairs_of(self.model_patcher):
            pair.begin(sampling)
        acts = any(any(pair.person_strengths) and pair.acts_at(lambda: sigma) for pair in pairs_of(self.model_patcher))
        if self.scene_strength == 0 or not acts:
            raise HostError(
                "The cascade's mode `released` makes its mask from the last step of a run at scene strength, and the persons "
                "do not count there: it needs a scene strength above 0, person strengths above 0, and a pair that acts to "
                "the end (`end` 1.0). Choose the mode `two_strength` otherwise."
            )

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None
    ) -> Tensor:
        """One prediction of the cascade.

        The blend is made of what the model predicts for each prompt, before guidance joins them: guidance is linear, so
        that the outcome is the same, and whatever else looks at those predictions (CFG++ samplers, perturbed and
        self-attention guidance) sees the cascade's. ComfyUI's predictions are clean pictures; the blend is linear in
        them too.
        """
        self._own = True  # the first call is the guider's; guidance of other nodes may add calls
        self._now = self._begin_step()
        return super().predict_noise(x, timestep, self._with_blend(model_options or {}), seed)

    def _with_blend(self, model_options: dict[str, Any]) -> dict[str, Any]:
        options = model_options.get("transformer_options", {})
        wrappers = dict(options.get("wrappers", {}))
        kind = WrappersMP.CALC_COND_BATCH
        wrappers[kind] = {**wrappers.get(kind, {}), KEY: [*wrappers.get(kind, {}).get(KEY, ()), self._calculate]}
        return {**model_options, "transformer_options": {**options, "wrappers": wrappers}}

    def _calculate(
        self, executor: Any, model: Any, conds: list, x: Tensor, timestep: Tensor, model_options: dict[str, Any]
    ) -> list[Tensor]:
        """Around ComfyUI's prediction for a list of prompts."""
        own, self._own = self._own, False

        def at(strength: float | Tensor | tuple[float, float], observe: Any = None, heard: int = 0) -> list:
            """Predictions for each prompt; for each of two strengths, if there are two."""
            copies = len(strength) if isinstance(strength, tuple) else 1
            step = dataclasses.replace(
                model_options["transformer_options"][STEP],
                strength=strength,
                prompts=len(conds),
                observe=observe if own else None,
                heard=heard,
            )
            # ComfyUI batches the prompts as far as memory allows, and calls the model for each of them where it does not.
            made = executor(model, conds * copies, x, timestep, with_step(model_options, step))
            return [made[copy * len(conds) : (copy + 1) * len(conds)] for copy in range(copies)]

        return self._joined(self._predict(at, timestep))

    def _predict_one_pass(self, at: Callable[..., list], sigma: Tensor) -> list:
        return at(self._now, self._listener)

    def _predict_two_strength(self, at: Callable[..., list], sigma: Tensor) -> list:
        if not self._acts(sigma):
            return at(self.scene_strength)
        # Attention can be heard only where the persons count at all.
        made = at((self.scene_strength, self.face_strength), self._listener, int(self.scene_strength == 0))
        maps = self._listener.maps()
        if maps is None:  # all persons are at strength 0
            return made[:1]
        self.focus = focus_mask(maps, self.focus_share)
        return made

    def _predict_scene(self, at: Callable[..., list], sigma: Tensor) -> list:
        last = float(sigma.flatten()[0]) <= self._last_sigma * (1 + 1e-5)
        return at(self.scene_strength, self._listener if last else None)

    def _predict_both(self, at: Callable[..., list], sigma: Tensor) -> list:
        return at((self.scene_strength, self.face_strength) if self._acts(sigma) else self.scene_strength)

    def _acts(self, sigma: Tensor) -> bool:
        return any(pair.acts_at(lambda: float(sigma.flatten()[0])) for pair in pairs_of(self.model_patcher))

    def _joined(self, made: list[list[Tensor]]) -> list[Tensor]:
        """One prediction a prompt, of those at one strength or at two."""
        if len(made) == 1:
            return made[0]
        mask = self.focus.to(made[0][0].device)
        return [blend(scene, face, mask) for scene, face in zip(*made, strict=True)]


def _part_of_two(callback: Callable | None, part: int) -> Callable | None:
    """A callback for the first or second of two runs, so that progress goes once from start to end."""
    if callback is None:
        return None
    return lambda step, x0, x, total: callback(part * total + step, x0, x, 2 * total)
