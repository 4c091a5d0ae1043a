"""What the people of a MODEL add to its cross-attention while ComfyUI samples (patch.py puts them there)."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...dhumandiff.conditioning.batch_layout import Tile
from ...dhumandiff.conditioning.finished_keys_values import FinishedKeysValues
from ...dhumandiff.conditioning.identity import Strength
from ...dhumandiff.errors import HostError
from ...dhumandiff.methods.dual_pathway.conditioning import DualConditioning
from ...dhumandiff.methods.dual_pathway.finding import FindRegions
from ...dhumandiff.methods.paired.cascade_modes import OnePass
from ...dhumandiff.methods.paired.conditioning import PairedConditioning
from ...dhumandiff.methods.paired.settings import CascadeSettings
from ...dhumandiff.methods.parts2whole.conditioning import PartsConditioning
from .applied import Applied
from .batch import CALL, GuiderStep, UNetCall
from .compiled import residual_in_compiled

PEOPLE = "dhumandiff_pairs"
"""Where transformer_options hold the people of a MODEL."""


@dataclasses.dataclass(eq=False)
class AppliedPeople(Applied):
    """People on one MODEL: when they act, and at which strength.

    Attributes:
        people: what they add to a layer.
        adapter: ModelPatcher of weights that are read while sampling; None: all of it was done before.
        make_keys_values: for a model that computes in a dtype; None where `people` make theirs.
        layers: number of cross-attention layers.
        strength: of all persons.
        start, end: share of sampling in which they act.
        cascade: that of the mode one_pass, where their strength shall vary over the picture by itself. focus: provided for it.
        mode: that of the run that is on.
        current_strength: in its present step; None: `strength`.
        should_record: whether the step is recorded. recorded: those of its pictures that were (None: all).
        coverage_checked: whether the run's first call was seen to go through every layer. finite_checked: to give numbers.
        sigma_range: noise levels of start and end.
        number: their place among the people of the MODEL.
        compiled: whether the run's UNet is compiled.
    """

    NODE = "Apply Disparity-Aware Conditioning"

    people: PairedConditioning | PartsConditioning | DualConditioning
    adapter: Any
    layers: int
    strength: float
    make_keys_values: Callable[[torch.dtype], FinishedKeysValues] | None = None
    start: float = 0.0
    end: float = 1.0
    cascade: CascadeSettings | None = None
    focus: Tensor | None = None
    mode: OnePass | FindRegions | None = None
    current_strength: Strength | None = None
    should_record: bool = False
    recorded: set[Tile | None] = dataclasses.field(default_factory=set)
    coverage_checked: bool = False
    finite_checked: bool = False
    sigma_range: tuple[float, float] = (float("inf"), 0.0)
    number: int = 0
    compiled: bool = False

    def strength_in(self, step: GuiderStep) -> Strength:
        """The strength in a step: the guider's cascade's, their own cascade's, or theirs."""
        if step.strength is not None:
            return step.strength
        return self.strength if self.current_strength is None else self.current_strength

    def residual(
        self,
        call: UNetCall,
        layer: int,
        query: Tensor,
        heads: int,
        shape: tuple[int, int],
        onto: Tensor | None = None,
    ) -> Tensor | None:
        """What they add to a layer's output in a call; None for nothing. Notes that the call went through the layer.

        Args:
            call: which call of the UNet.
            layer: its number in the adapter's order.
            query: [B, Q, C], the layer's own.
            heads: of the layer.
            shape: (height, width) of the layer.
            onto: the layer's output so far: the sum is given back then.
        """
        call.visited.add((id(self), layer))
        if not self.act_in(call):
            return onto
        where = (layer, query, heads, call.layout_of(query), shape, self.strength_in(call.step))
        recording = (call.step.record, call.step.recorded)
        if isinstance(self.people, PairedConditioning | DualConditioning):
            return self.people.residual(*where, *recording, onto)
        residual = self.people.residual(*where, *recording)
        return residual if onto is None else onto + residual

    def act_in(self, call: UNetCall) -> bool:
        """Whether they add anything in this call."""
        return self.people.counts(self.strength_in(call.step)) and self.act_at(lambda: call.sigma)

    def prepare(self, dtype: torch.dtype) -> None:
        """Before a run, while the weights that are needed for it may still be on the device: make keys and values.

        Args:
            dtype: what the model computes in. Those that were made for it before are kept.
        """
        people = self.people
        if self.make_keys_values is None or not isinstance(people, PairedConditioning):
            return
        made = people.keys_values
        if not isinstance(made, FinishedKeysValues) or made.dtype != dtype:
            people.keys_values = self.make_keys_values(dtype)

    def on_run_start(self, sampling: Any) -> None:
        """Before a run, when it is known which sampling the model ended up with: note the noise levels of `start` and `end`."""
        self.note_sigmas(sampling)
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
        """See that the first call of a run went through every layer of the people (packs may skip layers later on; but compiled
        code that another MODEL left behind may pass over some at any time).

        Args:
            call: as it went.
            options: its transformer_options.

        Raises:
            HostError: another node put its own attention in place of this one, or the model passed it over.
        """
        if self.coverage_checked and not call.in_compiled:
            return
        placed = options.get("patches_replace", {}).get("attn2", {}).values()
        missed, passed_over = self.missed_layers(self.layers, call, placed)
        if passed_over:
            raise HostError(
                f"The model passed over the people's attention in {missed} of {self.layers} layers, although it is in place, so "
                "they would be missing from the picture. Another node compiles the model, or caches or skips its layers: take that "
                "node away. The order of the nodes changes nothing.",
                code="attention-passed-over",
            )
        if missed:
            raise HostError(
                f"Another node replaced the people's attention in {missed} of {self.layers} layers, so they would be missing from "
                f"the picture. Put {self.NODE} after that node.",
                code="attention-replaced",
            )
        self.coverage_checked = True

    def clear_cache(self) -> None:
        """Let go of what a run computed."""
        self.people.clear_cache()
        self.coverage_checked = self.finite_checked = self.should_record = self.compiled = False
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
        height, width = extra_options["activations_shape"][-2:]
        if torch.compiler.is_dynamo_compiling():
            out = out + residual_in_compiled(q.contiguous(), self.applied.number, self.layer, heads, height, width)
        else:
            joined = self.applied.residual(extra_options[CALL], self.layer, q, heads, (height, width), out)
            out = out if joined is None else joined
        return self._joined(out, q, k, v, extra_options) if self.chained else out

    def _joined(self, out: Tensor, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
        """The output with what other packs add behind the people."""
        sigma = extra_options[CALL].sigma
        for function, options in self.chained:
            if options["sigma_end"] <= sigma <= options["sigma_start"]:
                out = (out + function(out, q, k, v, extra_options, **options)).to(q.dtype)
        return out

    @property
    def form(self) -> str:
        """What of the layer's patches compiled code depends on."""
        below = self.previous.form if isinstance(self.previous, PairedAttentionPatch) else type(self.previous).__name__
        return f"{self.applied.number}({below})"

    def models(self) -> list[Any]:
        """ModelPatchers that ComfyUI shall load along with the model."""
        own = [] if self.applied.adapter is None else [self.applied.adapter]
        return [*own, *(self.previous.models() if hasattr(self.previous, "models") else ())]

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


def form_of(options: dict[str, Any]) -> dict[str, bool]:
    """What compiled code depends on, of the patches of a call: an argument for the UNet, whose name holds it, since names of
    arguments are guarded.

    Args:
        options: its transformer_options.
    """
    form = " ".join(patch.form for patch in _patches(options))
    return {f"dhumandiff_{zlib.crc32(form.encode()):08x}": True}


def check_compilable(model: Any) -> None:
    """Refuse a compiled MODEL on which another pack joined its own addition to the people's: noise levels switch it on and off, which
    compiled code would take for constants; and one with parts of people.

    Raises:
        HostError: says so.
    """
    if any(isinstance(applied.people, PartsConditioning) for applied in people_of(model)):
        raise HostError(
            "The MODEL is compiled, and compiled code would keep the first step's samples for the parts that are read in "
            "self-attention. Take the node that compiles away.",
            code="compiled-with-parts",
        )
    chained = [patch for patch in _patches(model.model_options["transformer_options"]) if patch.chained]
    if chained:
        raise HostError(
            "The MODEL is compiled, and another node (an IP-Adapter, for instance) adds to the people's attention behind "
            f"{chained[0].applied.NODE}. Put that node before it, or take the node that compiles away.",
            code="compiled-with-additions",
        )


def _patches(options: dict[str, Any]) -> list[PairedAttentionPatch]:
    placed = options.get("patches_replace", {}).get("attn2", {}).values()
    return [patch for patch in placed if isinstance(patch, PairedAttentionPatch)]
