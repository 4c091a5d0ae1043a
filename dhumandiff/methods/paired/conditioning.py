"""The people of DHumanDiff on a UNet: what their face tokens add to each cross-attention layer.

    conditioning = PairedConditioning(keys_values, persons=2)
    out = out + conditioning.residual(layer, query, heads, layout, shape, strength)

The same class in ComfyUI, in diffusers, and where many couples are drawn in one batch; what differs is where keys and values
come from (`KeysValues`), and how a call is batched (`BatchLayout`). Training has its own, since gradients reach its weights
(training/run/model.py); all of them answer `conditioning.identity.LayerConditioning` to a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...conditioning.batch_layout import BatchLayout
from ...conditioning.identity import IdentityConditioning, Strength
from .attention import KVCache
from .attention_store import AttentionRecord

__all__ = ["KeysValues", "PairedConditioning", "Recorder"]

KeysValues = Callable[[int, torch.device, torch.dtype], tuple[Tensor, Tensor]]
"""Keys and values of all face tokens at a layer, each [2, couples, P, T, C]: unconditional, then conditional."""

Recorder = Callable[[AttentionRecord], None]
"""Called with what a layer saw in a call."""


class PairedConditioning(IdentityConditioning):
    """Keys and values of people, ready for every layer.

    Args:
        keys_values: makes them; called once a run and layer.
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

    def clear_cache(self) -> None:
        """Let go of what a run computed."""
        super().clear_cache()
        self._kv.clear()

    def residual(
        self,
        layer: int,
        query: Tensor,
        heads: int,
        layout: BatchLayout,
        shape: tuple[int, int],
        strength: Strength,
        record: Recorder | None = None,
        recorded_strength: int = 0,
    ) -> Tensor:
        """What the persons add to a layer before its `to_out`.

        Args:
            layer: its number in the adapter's order.
            query: [B, Q, C], the layer's own.
            heads: of the layer.
            layout: of the call.
            shape: (height, width) of the layer.
            strength: of the step.
            record: called with what the layer saw.
            recorded_strength: of several strengths the one whose samples are recorded.

        Returns:
            [B, Q, C] in the query's dtype.
        """
        cache = self._cache(layer, query, heads, layout)
        weights = self.weights(layout, shape, query.shape[1], query.device, strength)
        residual, probabilities = cache.attend(query, weights)
        if record is not None:
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
                    is_last=self.recorded_layers is None or layer in self.recorded_layers,
                )
            )
        return residual

    def _cache(self, layer: int, query: Tensor, heads: int, layout: BatchLayout) -> KVCache:
        """Keys and values of the samples of a call; made once a run."""
        key = (layer, query.device, query.dtype, layout.token_sets)
        if key not in self._kv:
            self._kv[key] = KVCache.from_kv(*self._samples_keys_values(layer, query, layout), heads)
        return self._kv[key]

    def _samples_keys_values(self, layer: int, query: Tensor, layout: BatchLayout) -> tuple[Tensor, Tensor]:
        """Keys and values of each sample, [B, P, T, C] each."""
        keys, values = self.keys_values(layer, query.device, query.dtype)
        is_cond, couple = torch.tensor(layout.token_sets, device=query.device).unbind(1)
        return keys[is_cond, couple], values[is_cond, couple]
