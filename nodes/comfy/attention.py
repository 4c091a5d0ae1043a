"""What the people of a MODEL add to its cross-attention while ComfyUI samples (patch.py puts them there)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...dhumandiff.conditioning.batch_layout import Tile
from ...dhumandiff.conditioning.identity import Strength
from ...dhumandiff.errors import HostError
from ...dhumandiff.methods.paired.cascade_modes import OnePass
from ...dhumandiff.methods.paired.conditioning import PairedConditioning
from ...dhumandiff.methods.paired.settings import CascadeSettings
from .batch import CALL, GuiderStep, UNetCall

PEOPLE = "dhumandiff_pairs"
"""Where transformer_options hold the people of a MODEL."""


@dataclasses.dataclass(eq=False)
class AppliedPeople:
    """People on one MODEL: when they act, and at which strength.

    Attributes:
        people: what they add to a layer.
        adapter: ModelPatcher around the `Adapter`.
        layers: number of cross-attention layers.
        strength: of all persons.
        start, end: share of sampling in which they act.
        cascade: that of the mode one_pass, where their strength shall vary over the picture by itself. focus: provided for it.
        mode: that of the run that is on.
        current_strength: in its present step; None: `strength`.
        should_record: whether the step is recorded. recorded: those of its pictures that were (None: all).
        coverage_checked: whether the run's first call was seen to go through every layer. finite_checked: to give numbers.
        sigma_range: noise levels of start and end.
    """

    people: PairedConditioning
    adapter: Any
    layers: int
    strength: float
    start: float = 0.0
    end: float = 1.0
    cascade: CascadeSettings | None = None
    focus: Tensor | None = None
    mode: OnePass | None = None
    current_strength: Strength | None = None
    should_record: bool = False
    recorded: set[Tile | None] = dataclasses.field(default_factory=set)
    coverage_checked: bool = False
    finite_checked: bool = False
    sigma_range: tuple[float, float] = (float("inf"), 0.0)

    def strength_in(self, step: GuiderStep) -> Strength:
        """The strength in a step: the guider's cascade's, their own cascade's, or theirs."""
        if step.strength is not None:
            return step.strength
        return self.strength if self.current_strength is None else self.current_strength

    def act_in(self, call: UNetCall) -> bool:
        """Whether they add anything in this call."""
        return self.people.counts(self.strength_in(call.step)) and self.act_at(lambda: call.sigma)

    def act_at(self, sigma: Callable[[], float]) -> bool:
        """Whether a noise level lies between `start` and `end`; it is asked for only where it matters."""
        if self.start <= 0 and self.end >= 1:
            return True
        highest, lowest = self.sigma_range
        return lowest <= sigma() <= highest

    def on_run_start(self, sampling: Any) -> None:
        """Before a run, when it is known which sampling the model ended up with: note the noise levels of `start` and `end`."""
        self.sigma_range = (float(sampling.percent_to_sigma(self.start)), float(sampling.percent_to_sigma(self.end)))
        self.mode = None if self.cascade is None else OnePass(self.cascade, self.focus)

    def on_step_start(self, picture: Tensor) -> None:
        """Before a step of a run: the strength in it, and that its first prediction is recorded."""
        if self.mode is not None:
            size = (picture.shape[-2], picture.shape[-1])
            self.mode.resize(size)
            self.mode.begin(size, picture.shape[0])
            step = self.mode.begin_step()
            self.current_strength, self.should_record = step.strength, step.store is not None
            self.recorded.clear()

    def check_coverage(self, call: UNetCall, options: dict[str, Any]) -> None:
        """See that the first call of a run went through every layer of the people (packs may skip layers later on).

        Args:
            call: as it went.
            options: its transformer_options.

        Raises:
            HostError: another node put its own attention in place of this one, or the model passed it over.
        """
        if self.coverage_checked:
            return
        missed = self.layers - sum((id(self), layer) in call.visited for layer in range(self.layers))
        placed = options.get("patches_replace", {}).get("attn2", {}).values()
        if missed > self.layers - sum(map(self._is_in, placed)):
            raise HostError(
                f"The model passed over the two people's attention in {missed} of {self.layers} layers, although it is in place, so "
                "they would be missing from the picture. Another node compiles the model, or caches or skips its layers: take that "
                "node away. The order of the nodes changes nothing.",
                code="attention-passed-over",
            )
        if missed:
            raise HostError(
                f"Another node replaced the two people's attention in {missed} of {self.layers} layers, so they would "
                "be missing from the picture. Put Apply Disparity-Aware Conditioning after that node.",
                code="attention-replaced",
            )
        self.coverage_checked = True

    def _is_in(self, patch: Any) -> bool:
        """Whether a layer's patch, or one below it, is of these people."""
        while isinstance(patch, PairedAttentionPatch):
            if patch.applied is self:
                return True
            patch = patch.previous
        return False

    def clear_cache(self) -> None:
        """Let go of what a run computed."""
        self.people.clear_cache()
        self.coverage_checked = self.finite_checked = self.should_record = False
        self.mode = self.current_strength = None
        self.recorded.clear()


class PairedAttentionPatch:
    """Cross-attention of one layer: whatever was there before, plus what the people add."""

    def __init__(
        self, applied: AppliedPeople, layer: int, previous: Any = None, chained: Sequence[tuple[Any, dict]] = ()
    ) -> None:
        self.applied, self.layer, self.previous = applied, layer, previous
        self.chained = list(chained)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
        heads = extra_options["n_heads"]
        if self.previous is not None:
            out = self.previous(q, k, v, extra_options)
        else:
            precision = extra_options["attn_precision"]
            out = optimized_attention(q, k, v, heads, attn_precision=precision, transformer_options=extra_options)
        call: UNetCall = extra_options[CALL]
        call.visited.add((id(self.applied), self.layer))
        if self.applied.act_in(call):
            shape = tuple(extra_options["activations_shape"][-2:])
            step = call.step
            where = (self.layer, q, heads, call.layout_of(q), shape)
            strength = self.applied.strength_in(step)
            out = out + self.applied.people.residual(*where, strength, step.record, step.recorded)
        for function, options in self.chained:
            if options["sigma_end"] <= call.sigma <= options["sigma_start"]:
                out = (out + function(out, q, k, v, extra_options, **options)).to(q.dtype)
        return out

    def models(self) -> list[Any]:
        """ModelPatchers that ComfyUI shall load along with the model."""
        return [self.applied.adapter, *(self.previous.models() if hasattr(self.previous, "models") else ())]

    def to(self, device_or_dtype: Any) -> PairedAttentionPatch:
        """Called when the model moves or is cast; what is ours follows the query, so this is for the patch below."""
        if hasattr(self.previous, "to"):
            self.previous = self.previous.to(device_or_dtype)
        return self

    def cleanup(self) -> None:
        """Called at the end of a run."""
        self.applied.clear_cache()
        if hasattr(self.previous, "cleanup"):
            self.previous.cleanup()

    def add(self, function: Any, **options: Any) -> None:
        """Chain what an IP-Adapter pack adds that was applied after this one.

        ComfyUI_IPAdapter_plus looks up what stands at a layer and calls ``add(function, sigma_start=, ...)`` on it
        instead of replacing it; without this method it would fail.
        """
        self.chained.append((function, options))

    def copy(self) -> PairedAttentionPatch:
        """A patch for a clone of the model, so that what is chained there does not leak back."""
        return PairedAttentionPatch(self.applied, self.layer, self.previous, self.chained)


def people_of(model: Any) -> tuple[AppliedPeople, ...]:
    """The people applied to a MODEL, or to the model of a guider."""
    return model.model_options["transformer_options"].get(PEOPLE, ())
