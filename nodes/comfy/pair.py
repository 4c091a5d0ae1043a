"""The pair inside ComfyUI: what it adds to the cross-attention of a layer (comfy_apply.py puts it on a MODEL).

Adapter weights live in a ModelPatcher of their own that is loaded along with the model (``models()`` of the patches),
so that ComfyUI counts, offloads and casts them like any other model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...dhumandiff.errors import HostError
from ...dhumandiff.methods.paired.attention import ReadyKeysValues, fit_masks
from ...dhumandiff.methods.paired.attention_store import Observation, OnePass
from .batch import CALL, Call, Step

KEY = "dhumandiff"
PAIRS = "dhumandiff_pairs"


@dataclasses.dataclass(eq=False)
class Pair:
    """An adapter and the people it shall draw, ready for one model.

    Attributes:
        adapter: ModelPatcher around the `Adapter`.
        tokens: face tokens, [2, P, T, C] float32: unconditional, conditional.
        layers: number of cross-attention layers.
        strength: of all persons.
        person_strengths: one a person, multiplied with the strength.
        masks: [P, N, H, W] 0..1, or None.
        start, end: share of sampling in which the pair acts.
        cascade: makes the mode one_pass for a run, where the pair's strength shall vary over the picture by itself.
        one_pass: that of the run that is on. now: strength in its present step. hears: whether a prediction is to be heard yet.
        laid_masks: masks at the sizes of the layers, kept for a run (comfy_call.py).
    """

    adapter: Any
    tokens: Tensor
    layers: int
    strength: float
    person_strengths: tuple[float, ...]
    masks: Tensor | None
    start: float = 0.0
    end: float = 1.0
    cascade: Callable[[], OnePass] | None = None
    one_pass: OnePass | None = None
    now: float | Tensor | None = None
    hears: bool = False
    laid_masks: dict[Any, Tensor] = dataclasses.field(default_factory=dict)
    _ready: dict[Any, ReadyKeysValues] = dataclasses.field(default_factory=dict)
    _checked: bool = False
    proven: bool = False
    sigma_range: tuple[float, float] = (float("inf"), 0.0)

    def strength_in(self, step: Step) -> float | Tensor | tuple[float, ...]:
        """The strength in a step: the guider's cascade's, the pair's own cascade's, or the pair's."""
        if step.strength is not None:
            return step.strength
        return self.strength if self.now is None else self.now

    def active(self, call: Call) -> bool:
        """Whether the pair adds anything in this call."""
        strength = self.strength_in(call.step)
        if (not isinstance(strength, Tensor) and strength in (0, (0, 0))) or not any(self.person_strengths):
            return False
        return self.acts_at(lambda: call.sigma)

    def acts_at(self, sigma: Callable[[], float]) -> bool:
        """Whether a noise level lies between `start` and `end`; it is asked for only where it matters."""
        if self.start <= 0 and self.end >= 1:
            return True
        highest, lowest = self.sigma_range
        return lowest <= sigma() <= highest

    def begin(self, sampling: Any) -> None:
        """Before a run, when it is known which sampling the model ended up with: note the noise levels of `start` and `end`."""
        self.sigma_range = (float(sampling.percent_to_sigma(self.start)), float(sampling.percent_to_sigma(self.end)))
        self.one_pass = None if self.cascade is None else self.cascade()

    def begin_step(self, picture: Tensor) -> None:
        """Before a step of a run: the strength in it, and listen to its first prediction."""
        if self.one_pass is not None:
            self.now = self.one_pass.strength((picture.shape[-2], picture.shape[-1]), picture.shape[0])
            self.hears = self.one_pass.given is None

    def keys_values(self, layer: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values of all face tokens at one layer, each [2, P, T, C]: unconditional, conditional."""
        return self.adapter.model.keys_values(layer, self.tokens.to(device, dtype))

    def ready_keys_values(self, layer: int, query: Tensor, heads: int, roles: tuple[int, ...]) -> ReadyKeysValues:
        """Keys and values of rows with these roles; made once a run."""
        key = (layer, query.device, query.dtype, roles)
        if key not in self._ready:
            keys, values = self.keys_values(layer, query.device, query.dtype)
            rows = torch.tensor(roles, device=query.device)
            self._ready[key] = ReadyKeysValues.of(keys[rows], values[rows], heads)
        return self._ready[key]

    def latent_masks(self, size: tuple[int, int], images: int) -> Tensor:
        """Masks at the latent's size, [N or 1, P, *size]."""
        return fit_masks(self.masks, size, images)

    def check_reached(self, call: Call) -> None:
        """See that the first call of a run went through every layer of the pair (packs may skip layers later on).

        Raises:
            HostError: another node put its own attention in place of this one.
        """
        if self._checked:
            return
        missed = self.layers - sum((id(self), layer) in call.hit for layer in range(self.layers))
        if missed:
            raise HostError(
                f"Another node replaced the two people's attention in {missed} of {self.layers} layers, so they would "
                "be missing from the picture. Put Apply Disparity-Aware Conditioning after that node."
            )
        self._checked = True

    def forget(self) -> None:
        """Let go of what a run computed."""
        self._ready.clear()
        self.laid_masks.clear()
        self._checked = self.proven = self.hears = False
        self.one_pass = self.now = None


class PairedAttentionPatch:
    """Cross-attention of one layer: whatever was there before, plus the persons' term. last: of its transformer."""

    def __init__(
        self, pair: Pair, layer: int, previous: Any = None, joined: Sequence[tuple[Any, dict]] = (), last: bool = True
    ) -> None:
        self.pair, self.layer, self.previous, self.last = pair, layer, previous, last
        self.joined = list(joined)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
        heads = extra_options["n_heads"]
        if self.previous is not None:
            out = self.previous(q, k, v, extra_options)
        else:
            precision = extra_options["attn_precision"]
            out = optimized_attention(q, k, v, heads, attn_precision=precision, transformer_options=extra_options)
        call: Call = extra_options[CALL]
        call.hit.add((id(self.pair), self.layer))
        if self.pair.active(call):
            out = out + self._term(q, heads, call, extra_options)
        for function, options in self.joined:
            if options["sigma_end"] <= call.sigma <= options["sigma_start"]:
                out = (out + function(out, q, k, v, extra_options, **options)).to(q.dtype)
        return out

    def _term(self, q: Tensor, heads: int, call: Call, extra_options: dict[str, Any]) -> Tensor:
        shape = tuple(extra_options["activations_shape"][-2:])
        ready = self.pair.ready_keys_values(self.layer, q, heads, call.roles)
        term, probabilities = ready.attend(q, call.weights(self.pair, shape, q.shape[1], q.device))
        if call.step.observe is not None:
            # Only the mode `released` asks for keys, in the last step of its first run.
            watched = (self.pair, self.layer, shape, heads, q, self._row_keys(q, call), probabilities)
            call.step.observe(Observation(*watched, call.roles, call.heard, call.size, call.images, self.last))
        return term

    def _row_keys(self, q: Tensor, call: Call) -> Callable[[int], Tensor]:
        return lambda row: self.pair.keys_values(self.layer, q.device, q.dtype)[0][call.roles[row]]

    def models(self) -> list[Any]:
        """ModelPatchers that ComfyUI shall load along with the model."""
        return [self.pair.adapter, *(self.previous.models() if hasattr(self.previous, "models") else ())]

    def to(self, device_or_dtype: Any) -> PairedAttentionPatch:
        """Called when the model moves or is cast; what is ours follows the query, so this is for the patch below."""
        if hasattr(self.previous, "to"):
            self.previous = self.previous.to(device_or_dtype)
        return self

    def cleanup(self) -> None:
        """Called at the end of a run."""
        self.pair.forget()
        if hasattr(self.previous, "cleanup"):
            self.previous.cleanup()

    def add(self, function: Any, **options: Any) -> None:
        """Join a term of an IP-Adapter pack that was applied after this one.

        ComfyUI_IPAdapter_plus looks up what stands at a layer and calls ``add(function, sigma_start=, ...)`` on it
        instead of replacing it; without this method it would fail.
        """
        self.joined.append((function, options))

    def copy(self) -> PairedAttentionPatch:
        """A patch for a clone of the model, so that what joins there does not leak back."""
        return PairedAttentionPatch(self.pair, self.layer, self.previous, self.joined, self.last)


def pairs_of(model: Any) -> tuple[Pair, ...]:
    """The pairs applied to a MODEL, or to the model of a guider."""
    return model.model_options["transformer_options"].get(PAIRS, ())
