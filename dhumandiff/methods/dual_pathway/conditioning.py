"""The people of the dual pathway on a UNet, whatever the host: what both paths add to each cross-attention layer.

    people = dual.conditioning([[reference_1, reference_2]], settings, masks=masks)
    out = out + people.residual(layer, query, heads, layout, shape, strength)

The strength of a step is a number, which is multiplied with both paths (0: nothing is added; 1: as the settings say); or, with
regions from the attention, the regions found so far, [images or 1, P, H, W] 0..1 (`finding.FindRegions`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...conditioning.batch_layout import BatchLayout
from ...conditioning.finished_keys_values import FinishedKeysValues
from ...conditioning.identity import Strength, at_layer
from ...conditioning.kv_cache import KVCache
from ...conditioning.token_conditioning import KeysValues, Recorder, TokenConditioning, of_samples
from ...errors import HostError
from .blending import feathered, gated, path_weights, region_masks
from .settings import DualPathwaySettings

if TYPE_CHECKING:
    from .weights import Gates, Router

__all__ = ["LATENT", "DualConditioning"]

LATENT = 8
"""Px of the picture for one of the latent."""


class DualConditioning(TokenConditioning):
    """Keys and values of both paths, and the regions, ready for every layer.

    Args:
        keys_values: of the identity path.
        text_keys_values: of the text-consistency path; None: untrained.
        gates: of the mask; None: none.
        router: predicts regions; None where they come from elsewhere.
        routing_tokens: [couples, P + 1, width] of `Router.tokens`.
        settings: of the method.
        persons, person_strengths, masks: see `IdentityConditioning`; masks are the people's regions.
        recorded_layers: see `TokenConditioning`.

    Raises:
        HostError: there are no regions where they are to be given; see `IdentityConditioning`.
    """

    def __init__(
        self,
        keys_values: KeysValues,
        persons: int,
        settings: DualPathwaySettings,
        *,
        text_keys_values: KeysValues | None = None,
        gates: Gates | None = None,
        router: Router | None = None,
        routing_tokens: Tensor | None = None,
        person_strengths: Sequence[float] | None = None,
        masks: Tensor | None = None,
        recorded_layers: Iterable[int] | None = None,
    ) -> None:
        super().__init__(keys_values, persons, person_strengths, masks, recorded_layers)
        if masks is None and settings.regions == "given":
            raise HostError(
                f"The dual pathway needs a region for each of the {persons} people, or does not know where identity counts and where "
                "words do. Give masks (Portrait Layout draws them), or choose regions from attention.",
                code="dual-no-regions",
            )
        self.settings, self.gates, self.router, self.routing_tokens = settings, gates, router, routing_tokens
        self.text_keys_values = text_keys_values
        self._both: dict[Any, KVCache] = {}
        self._routing_keys: dict[Any, Tensor] = {}
        self._gate_factors: dict[Any, Tensor] = {}
        self._own: dict[Any, tuple[Tensor, Tensor]] = {}
        self._steps: tuple[BatchLayout | None, Strength, dict[Any, tuple[Tensor, Tensor, Tensor]]] = (None, 0.0, {})

    def clear_cache(self) -> None:
        """Let go of what a run computed."""
        super().clear_cache()
        if isinstance(self.text_keys_values, FinishedKeysValues):
            self.text_keys_values.clear_cache()
        self._both.clear()
        self._routing_keys.clear()
        self._gate_factors.clear()
        self._own.clear()
        self._steps = (None, 0.0, {})

    def finish(self, layers: int, device: torch.device, dtype: torch.dtype) -> None:
        """Make the keys and values of both paths now; see `TokenConditioning.finish`. A router is read while sampling all the same."""
        super().finish(layers, device, dtype)
        if self.text_keys_values is not None:
            made = [self.text_keys_values(layer, device, dtype) for layer in range(layers)]
            self.text_keys_values = FinishedKeysValues(made)

    @property
    def _reads_text(self) -> bool:
        """Whether the text-consistency path has keys and values of its own that count."""
        return self.text_keys_values is not None and self.settings.text_strength != 0

    def counts(self, strength: Strength) -> bool:
        """Whether anybody adds anything at this strength."""
        acts = self.settings.identity_strength != 0 or self.settings.text_strength != 0
        return acts and super().counts(strength)

    def latent_masks(self, size: tuple[int, int], images: int) -> Tensor:
        """The people's regions at the latent's size, feathered, [N, P, *size]; all ones where nobody has one."""
        masks = super().latent_masks(size, images)
        return feathered(masks, round(self.settings.feather / LATENT)) if self.has_regions else masks

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
        onto: Tensor | None = None,
    ) -> Tensor:
        """What both paths add to a layer before its `to_out`.

        Args:
            layer: its number in the adapter's order.
            query: [B, Q, C], the layer's own.
            heads: of the layer.
            layout: of the call.
            shape: (height, width) of the layer.
            strength: of the step: a number, or the regions found so far.
            record: called with what the layer saw.
            recorded_strength: there is one only.
            onto: [B, Q, C] that it is added to: the sum is given back then, with less work for a GPU.

        Returns:
            [B, Q, C] in the query's dtype.

        Raises:
            HostError: several strengths, or those of a cascade; see `IdentityConditioning.weights`.
        """
        routes = None if self.router is None else self._routes(layer, query, layout)
        weights = self._weights_at(layer, query, heads, layout, shape, strength, routes)
        plain = not self._reads_text and weights.ndim == 3  # no second path, no heads of different strengths
        if query.is_cuda and plain and (record is None or not self.is_recorded(layer)):
            residual, seen = self.fused(layer, query, heads, layout, weights, onto), None
        else:
            residual, probabilities = self._path_caches(layer, query, heads, layout).attend(query, weights)
            residual = residual if onto is None else onto + residual
            seen = probabilities[..., : self.persons, :]
        if record is not None:
            self.hand_over(record, seen, layer, query, heads, layout, shape, recorded_strength, places=routes)
        return residual

    def _weights_at(
        self,
        layer: int,
        query: Tensor,
        heads: int,
        layout: BatchLayout,
        shape: tuple[int, int],
        strength: Strength,
        routes: Tensor | None,
    ) -> Tensor:
        """`path_weights` of a layer; what does not depend on its query, or on its gates, is made once a step."""
        own = self._own_weights(strength, query.device)
        separate = self._reads_text
        if routes is not None:
            given = self._given(layout, shape, query)
            shares, mask = region_masks(routes if given is None else routes * given)
        else:
            kept = self._steps
            if kept[0] is not layout or kept[1] is not strength:
                # Never emptied, only replaced: ComfyUI calls several GPUs at once, each with a layout of its own.
                kept = self._steps = (layout, strength, {})
            made, key = kept[2], (shape, query.shape[1], query.device)
            if key not in made:
                shares, mask = self._shares_and_mask(layout, shape, query, strength)
                made[key] = shares, mask, path_weights(shares, mask, *own, separate)
            shares, mask, weights = made[key]
            if self.gates is None:
                return weights
        if self.gates is not None:
            key = (layer, heads, query.device)
            if key not in self._gate_factors:
                self._gate_factors[key] = self.gates.factors(layer, heads).to(query.device)
            mask = gated(mask, self._gate_factors[key])
        return path_weights(shares, mask, *own, separate)

    def _own_weights(self, strength: Strength, device: torch.device) -> tuple[Tensor, Tensor]:
        """s_v and s_t times each person's own strength and the step's, [P] each."""
        key = (_factor(strength, self.persons), device)
        if key not in self._own:
            own = key[0] * torch.tensor(self.person_strengths, device=device)
            self._own[key] = self.settings.identity_strength * own, self.settings.text_strength * own
        return self._own[key]

    def _shares_and_mask(
        self, layout: BatchLayout, shape: tuple[int, int], query: Tensor, strength: Strength
    ) -> tuple[Tensor, Tensor]:
        """`region_masks` of a layer without a router."""
        given = self._given(layout, shape, query)
        if isinstance(strength, Tensor):
            advice = "give the regions"
            found = at_layer(strength.to(query.device), layout, shape, query.shape[1], self.patch, "regions", advice)
            if given is not None:
                return region_masks(found * given)
            return torch.ones_like(found), found.amax(dim=1, keepdim=True)  # they do not say whose face it is
        if self.settings.regions == "given" and given is not None:
            return region_masks(given)
        return region_masks(torch.zeros(1, self.persons, query.shape[1], device=query.device))  # nothing was found yet

    def _given(self, layout: BatchLayout, shape: tuple[int, int], query: Tensor) -> Tensor | None:
        return self._masks_of_layer(layout, shape, query.shape[1], query.device) if self.has_regions else None

    def _routes(self, layer: int, query: Tensor, layout: BatchLayout) -> Tensor:
        """How much of each position is each person's by the router, [B, P, Q] float32."""
        assert self.router is not None
        assert self.routing_tokens is not None
        key = (layer, query.device, query.dtype, layout.token_sets)
        if key not in self._routing_keys:
            couples = torch.tensor([couple for _, couple in layout.token_sets], device=self.routing_tokens.device)
            tokens = self.routing_tokens[couples].to(query.device, query.dtype)
            self._routing_keys[key] = self.router.keys(layer, tokens)
        logits = self.router.compare(layer, query, self._routing_keys[key]).float()
        if self.settings.hard_routes:
            chosen = logits.argmax(dim=-1, keepdim=True)
            routes = torch.zeros_like(logits).scatter_(-1, chosen, 1.0)
        else:
            routes = logits.softmax(dim=-1)
        return routes[..., : self.persons].transpose(1, 2)

    def _path_caches(self, layer: int, query: Tensor, heads: int, layout: BatchLayout) -> KVCache:
        """Keys and values of the identity path, and behind them those of the text-consistency path."""
        if not self._reads_text or self.text_keys_values is None:
            return self._cache(layer, query, heads, layout)
        key = (layer, query.device, query.dtype, layout.token_sets)
        if key not in self._both:
            pair = of_samples(self.text_keys_values(layer, query.device, query.dtype), layout)
            identity = KVCache.from_kv(*self._samples_keys_values(layer, query, layout), heads)
            self._both[key] = identity.joined(KVCache.from_kv(*pair, heads))
        return self._both[key]


def _factor(strength: Strength, persons: int) -> float:
    """What a step's strength is multiplied with; 1 where it is found regions."""
    if isinstance(strength, tuple) or (isinstance(strength, Tensor) and strength.shape[1] != persons):
        raise HostError(
            "The dual pathway has strengths of its own, inside and outside of the regions, and cannot run under a cascade: take an "
            "ordinary sampler, or the mode none.",
            code="dual-under-a-cascade",
        )
    return 1.0 if isinstance(strength, Tensor) else strength
