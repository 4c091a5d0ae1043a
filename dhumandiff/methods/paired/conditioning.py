"""The people of DHumanDiff on a UNet: what their face tokens add to each cross-attention layer.

    conditioning = PairedConditioning(keys_values, persons=2)
    out = out + conditioning.residual(layer, query, heads, layout, shape, strength)

The same class in ComfyUI, in diffusers, and where many couples are drawn in one batch; what differs is where keys and values
come from (`KeysValues`), and how a call is batched (`BatchLayout`). Training has its own, since gradients reach its weights
(training/run/model.py); all of them answer `conditioning.identity.LayerConditioning` to a layer.
"""

from __future__ import annotations

from torch import Tensor

from ...conditioning.batch_layout import BatchLayout
from ...conditioning.identity import Strength
from ...conditioning.token_conditioning import KeysValues, Recorder, TokenConditioning

__all__ = ["KeysValues", "PairedConditioning", "Recorder"]


class PairedConditioning(TokenConditioning):
    """Keys and values of people, each of whom adds what the layer reads of them."""

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
            onto: [B, Q, C] that it is added to: the sum is given back then, with less work for a GPU.

        Returns:
            [B, Q, C] in the query's dtype.
        """
        weights = self.weights(layout, shape, query.shape[1], query.device, strength)
        probabilities: Tensor | None = None
        if query.is_cuda and (record is None or not self.is_recorded(layer)):
            residual = self.fused(layer, query, heads, layout, weights, onto)
        else:
            residual, probabilities = self._cache(layer, query, heads, layout).attend(query, weights)
            residual = residual if onto is None else onto + residual
        if record is not None:
            self.hand_over(record, probabilities, layer, query, heads, layout, shape, recorded_strength)
        return residual
