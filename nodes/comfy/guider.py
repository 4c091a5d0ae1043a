"""Cascaded inference inside ComfyUI: a guider, so that any sampler and scheduler can run it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import comfy.samplers
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...dhumandiff.conditioning.batch_layout import Tile
from ...dhumandiff.conditioning.masks import check_mask
from ...dhumandiff.errors import HostError
from ...dhumandiff.methods.dual_pathway.conditioning import DualConditioning
from ...dhumandiff.methods.paired.cascade_modes import CascadeMode, CascadeStep, make_mode
from ...dhumandiff.methods.paired.settings import CascadeSettings, check_released, released_without_mask
from ...dhumandiff.methods.parts2whole.conditioning import PartsConditioning
from .attention import people_of
from .batch import STEP, with_step
from .flux import flux_people_of
from .ids import repeat_prompts
from .patch import KEY

_OWN_STEPS = ("dpm_fast_function", "dpm_adaptive_function")


class CascadeGuider(comfy.samplers.CFGGuider):
    """Classifier-free guidance at two strengths of the people, each where the focus says.

    What happens in a step is the mode's (`cascade_modes`); this class asks ComfyUI for the predictions and hands them back.

    Attributes:
        focus: mask of the last run, bool [images, H, W] at the latent's size; a provided one, float [images or 1, H, W].
        report: told what is being drawn whenever a step begins: "scene", "faces", "scene and faces"; at the end how much of the
            picture had the face strength.
    """

    report: Callable[[str], None] = staticmethod(lambda text: None)

    def set_cascade(self, settings: CascadeSettings | None = None, focus: Tensor | None = None) -> None:
        """Set the cascade's options. `focus`: MASK of where the faces are, in place of what is found while sampling.

        Raises:
            HostError: the model has nobody applied, or people with a cascade of their own, or the settings make no picture.
            ImageError: the focus is no mask.
        """
        applied = people_of(self.model_patcher)
        if flux_people_of(self.model_patcher):
            raise HostError(
                "The cascade is for people on SDXL, but this MODEL comes from Apply WithAnyone. Sample it with KSampler or any other "
                "sampler.",
                code="cascade-on-flux",
            )
        if not applied:
            raise HostError(
                "The cascade needs a MODEL with two people in it: connect the one that comes out of "
                "Apply Disparity-Aware Conditioning.",
                code="cascade-without-people",
            )
        if any(isinstance(people.people, PartsConditioning) for people in applied):
            raise HostError(
                "The cascade is for faces, but this MODEL comes from Apply Parts. Sample it with KSampler or any other sampler.",
                code="cascade-on-parts",
            )
        if any(isinstance(people.people, DualConditioning) for people in applied):
            raise HostError(
                "The dual pathway has strengths of its own, inside and outside of the faces, and this MODEL comes from Apply Dual Pathway. "
                "Sample it with KSampler or any other sampler.",
                code="cascade-on-dual-pathway",
            )
        if any(people.cascade is not None for people in applied):
            raise HostError(
                "The cascade is on in two places: switch it off in Apply Disparity-Aware Conditioning (`cascade` off), or sample "
                "with a plain KSampler or guider.",
                code="cascade-twice",
            )
        self.settings = settings or CascadeSettings()
        self.settings.check()
        self.provided_focus = None if focus is None else check_mask(focus, "focus mask")
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
        """Sample as ComfyUI's guider does; in the mode released twice, with one progress from start to end."""
        self.mode = self._begin(noise, sampler, sigmas)
        for number in range(self.mode.passes):
            shown = callback if self.mode.passes == 1 else _part_of_two(callback, number)
            sampled = super().sample(noise, latent_image, sampler, sigmas, denoise_mask, shown, disable_pbar, seed)
            self.mode.end_pass()
        self.focus = self.mode.focus
        fraction = 0.0 if self.focus is None else float(self.focus.float().mean())
        self.report(f"faces: {fraction:.0%} of the picture")
        return sampled

    def _begin(self, noise: Tensor, sampler: Any, sigmas: Tensor) -> CascadeMode:
        """The mode at its beginning; what it could not draw is refused before sampling."""
        settings = self.settings
        if settings.mode == "released" and sigmas.shape[-1] < 2:  # no step has a last one
            settings = dataclasses.replace(settings, mode="two_strength")
        mode = make_mode(settings, self.provided_focus)
        mode.begin((noise.shape[-2], noise.shape[-1]), noise.shape[0])
        self._last_sigma = math.inf
        if mode.passes == 2:
            handler = self.model_patcher.model_options.get("context_handler")
            dim, length = getattr(handler, "dim", 0), getattr(handler, "context_length", 0)
            if dim >= 2 and noise.shape[dim] > length:
                reason = "It needs whole pictures, and context windows cut them (`dim` 2 or 3)."
                raise HostError(released_without_mask(reason), code="released-without-mask")
            last_sigma = float(sigmas[-2])
            self._check_last_step(last_sigma)
            # Some samplers choose their own steps and never visit the last one of the schedule: every call is recorded then,
            # and the last one counts.
            name = getattr(getattr(sampler, "sampler_function", None), "__name__", "")
            self._last_sigma = math.inf if name in _OWN_STEPS else last_sigma
        return mode

    def _check_last_step(self, sigma: float) -> None:
        """Refuse before sampling what the mode released could not make a mask of after a whole run."""
        sampling = self.model_patcher.get_model_object("model_sampling")
        applied = people_of(self.model_patcher)
        for people in applied:
            people.on_run_start(sampling)
        acting = [people for people in applied if people.act_at(lambda: sigma)]
        strengths = [strength for people in acting for strength in people.people.person_strengths] or None
        check_released(self.settings.scene_strength, strengths, acts_to_the_end=bool(acting))

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None
    ) -> Tensor:
        """One prediction of the cascade.

        The blend is made of what the model predicts for each prompt, before guidance joins them: guidance is linear, so
        that the outcome is the same, and whatever else looks at those predictions (CFG++ samplers, perturbed and
        self-attention guidance) sees the cascade's. ComfyUI's predictions are clean pictures; the blend is linear in
        them too.
        """
        sigma = timestep.flatten()[0]
        self.mode.resize((x.shape[-2], x.shape[-1]))
        looks = (
            self.mode.passes == 2 and self.mode.focus is None
        )  # in the second run nothing is looked for, and nothing waits
        is_last = looks and float(sigma) <= self._last_sigma * (1 + 1e-5)
        step = self.mode.begin_step(self._people_act(sigma), is_last)
        self.report(step.drawing)
        self._recorded: set[Tile | None] = set()
        return super().predict_noise(x, timestep, self._with_cascade(model_options or {}, step), seed)

    def _with_cascade(self, model_options: dict[str, Any], step: CascadeStep) -> dict[str, Any]:
        """Model options in which every prediction of the step is the cascade's."""

        def calculate(executor: Any, *args: Any) -> list[Tensor]:
            return self._calculate(step, executor, *args)

        options = model_options.get("transformer_options", {})
        wrappers = dict(options.get("wrappers", {}))
        kind = WrappersMP.CALC_COND_BATCH
        wrappers[kind] = {**wrappers.get(kind, {}), KEY: [*wrappers.get(kind, {}).get(KEY, ()), calculate]}
        return {**model_options, "transformer_options": {**options, "wrappers": wrappers}}

    def _calculate(
        self,
        cascade_step: CascadeStep,
        executor: Any,
        model: Any,
        conds: list,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any],
    ) -> list[Tensor]:
        """Around ComfyUI's prediction for a list of prompts: for each of the step's strengths, joined by the mode."""
        copies = len(cascade_step.strengths)
        step, repeated = repeat_prompts(model_options["transformer_options"][STEP], conds, copies)
        store = step.recording(cascade_step.store, self._recorded)
        step = dataclasses.replace(step, strength=cascade_step.strength, record=store, recorded=cascade_step.recorded)
        # ComfyUI batches the prompts as far as memory allows, and calls the model for each of them where it does not.
        made = executor(model, repeated, x, timestep, with_step(model_options, step))
        return self.mode.combine(
            [made[copy * len(conds) : (copy + 1) * len(conds)] for copy in range(copies)], step.part
        )

    def _people_act(self, sigma: Tensor) -> bool:
        return any(people.act_at(lambda: float(sigma)) for people in people_of(self.model_patcher))


def _part_of_two(callback: Callable | None, part: int) -> Callable | None:
    """A callback for the first or second of two runs, so that progress goes once from start to end."""
    if callback is None:
        return None
    return lambda step, x0, x, total: callback(part * total + step, x0, x, 2 * total)
