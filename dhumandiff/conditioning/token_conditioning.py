"""People who are tokens with keys and values at each layer: made once a run, laid over the samples of a call, and recorded.

A method derives its own from `TokenConditioning` and says what its layers add (`residual`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from einops import rearrange
from torch import Tensor

from .attention_store import AttentionRecord
from .batch_layout import BatchLayout
from .finished_keys_values import FinishedKeysValues
from .identity import IdentityConditioning
from .kv_cache import FusedKV, KVCache

if TYPE_CHECKING:
    from ..references.reference import FaceReference

__all__ = [
    "KeysValues",
    "Later",
    "Recorder",
    "TokenConditioning",
    "TokenMaker",
    "face_tokens",
    "of_samples",
    "projected",
]

KeysValues = Callable[[int, torch.device, torch.dtype], tuple[Tensor, Tensor]]
"""Keys and values of all people's tokens at a layer, each [2, couples, P, T, C]: unconditional, then conditional."""

Recorder = Callable[[AttentionRecord], None]
"""Called with what a layer saw in a call."""


class TokenConditioning(IdentityConditioning):
    """Keys and values of people, ready for every layer.

    Args:
        keys_values: gives them; called once a run and layer.
        persons: P.
        person_strengths, masks: see `IdentityConditioning`.
        recorded_layers: those of which a record says that it is the last of its transformer; None: all.

    Raises:
        HostError: see `IdentityConditioning`.
    """

    def __init__(
        self,
        keys_values: KeysValues,
        persons: int,
        person_strengths: Sequence[float] | None = None,
        masks: Tensor | None = None,
        recorded_layers: Iterable[int] | None = None,
    ) -> None:
        super().__init__(persons, person_strengths, masks)
        self.keys_values = keys_values
        self.recorded_layers = None if recorded_layers is None else frozenset(recorded_layers)
        self._kv: dict[Any, KVCache] = {}
        self._fused: dict[Any, tuple[Any, FusedKV]] = {}

    def clear_cache(self) -> None:
        """Let go of what a run computed."""
        super().clear_cache()
        self._kv.clear()
        self._fused.clear()
        if isinstance(self.keys_values, FinishedKeysValues):
            self.keys_values.clear_cache()

    def hand_over(
        self,
        record: Recorder,
        probabilities: Tensor | None,
        layer: int,
        query: Tensor,
        heads: int,
        layout: BatchLayout,
        shape: tuple[int, int],
        recorded_strength: int = 0,
        places: Tensor | None = None,
    ) -> None:
        """Call `record` with what a layer saw; `probabilities` are those of `KVCache.attend`, the rest is as in `AttentionRecord`."""
        record(
            AttentionRecord(
                conditioning=self,
                layer=layer,
                shape=shape,
                heads=heads,
                query=query,
                keys=lambda sample: self._samples_keys_values(layer, query, layout)[0][sample],
                probabilities=probabilities,
                layout=layout,
                tiles=layout.recorded(recorded_strength),
                is_last=self.is_recorded(layer),
                places=places,
            )
        )

    def _cache(self, layer: int, query: Tensor, heads: int, layout: BatchLayout) -> KVCache:
        """Keys and values of the samples of a call; made once a run."""
        key = (layer, query.device, query.dtype, layout.token_sets)
        if key not in self._kv:
            self._kv[key] = KVCache.from_kv(*self._samples_keys_values(layer, query, layout), heads)
        return self._kv[key]

    def finish(self, layers: int, device: torch.device, dtype: torch.dtype) -> None:
        """Make the keys and values of all layers now, so that the weights that they come from may leave the device.

        Args:
            layers: how many there are.
            device, dtype: of the queries.
        """
        made = [self.keys_values(layer, device, dtype) for layer in range(layers)]
        self.keys_values = FinishedKeysValues(made)

    def fused(
        self,
        layer: int,
        query: Tensor,
        heads: int,
        layout: BatchLayout,
        weights: Tensor | float,
        onto: Tensor | None = None,
    ) -> Tensor:
        """`FusedKV.attend` at a layer, with `weights` of `IdentityConditioning.weights`."""
        device, dtype = query.device, query.dtype
        varying: Tensor | None = None
        if isinstance(weights, Tensor) and weights.shape[-1] > 1:
            of_layer = weights
            varying = self._once(("cast", of_layer.shape, device, dtype), of_layer, lambda: of_layer.to(dtype))
            weights = 1.0
        key = (layer, device, dtype, layout.token_sets)
        kept = self._fused.get(key)
        if kept is None or not _same(kept[0], weights):
            pair = self._samples_keys_values(layer, query, layout)
            kept = self._fused[key] = (weights, FusedKV.from_kv(*pair, heads, weights))
        return kept[1].attend(query, varying, onto)

    def is_recorded(self, layer: int) -> bool:
        """Whether a record of the layer says what a store of attention asks for."""
        return self.recorded_layers is None or layer in self.recorded_layers

    def _samples_keys_values(self, layer: int, query: Tensor, layout: BatchLayout) -> tuple[Tensor, Tensor]:
        """Keys and values of each sample, [B, P, T, C] each."""
        return of_samples(self.keys_values(layer, query.device, query.dtype), layout)


def _same(one: Tensor | float, other: Tensor | float) -> bool:
    """Whether these are the same weights, without a look at a tensor's numbers."""
    numbers = not isinstance(one, Tensor) and not isinstance(other, Tensor)
    return one is other or (numbers and one == other)


def of_samples(pair: tuple[Tensor, Tensor], layout: BatchLayout) -> tuple[Tensor, Tensor]:
    """What is made for [2, couples, ...] for each sample of a call, [B, ...]."""
    first, second = pair
    sets = layout.token_sets  # numbers, not a tensor: a GPU need not wait for it
    return torch.stack([first[row] for row in sets]), torch.stack([second[row] for row in sets])


class TokenMaker(Protocol):
    """What makes a person's tokens, each [1, T, C]."""

    def face_tokens(self, reference: FaceReference) -> Tensor:
        """Of the person."""
        ...

    def unconditional_tokens(self, reference: FaceReference) -> Tensor:
        """Of nobody, for the unconditional half."""
        ...


def face_tokens(maker: TokenMaker, couples: Sequence[Sequence[FaceReference]]) -> Tensor:
    """Face tokens of all couples, [2, couples, P, T, C]: unconditional, conditional. Each reference is looked at once."""
    known: dict[FaceReference, tuple[Tensor, Tensor]] = {}
    for reference in {reference: None for couple in couples for reference in couple}:
        known[reference] = maker.unconditional_tokens(reference)[0], maker.face_tokens(reference)[0]
    halves = [torch.stack([torch.stack([known[r][half] for r in couple]) for couple in couples]) for half in (0, 1)]
    return torch.stack(halves)


def projected(project: Callable[[int, Tensor], tuple[Tensor, Tensor]], tokens: Tensor) -> KeysValues:
    """Keys and values of tokens [2, couples, P, T, C], from `project(layer, [B, P, T, C])`; computed where the tokens are."""

    def keys_values(layer: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        made = project(layer, rearrange(tokens, "half couples p t c -> (half couples) p t c"))
        keys, values = (rearrange(t.to(device, dtype), "(half c) ... -> half c ...", half=2) for t in made)
        return keys, values

    return keys_values


class Later:
    """`KeysValues` that are set after the conditioning that asks for them was made, and people were checked."""

    made: KeysValues | None = None

    def __call__(self, layer: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        assert self.made is not None
        return self.made(layer, device, dtype)
