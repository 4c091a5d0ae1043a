"""The trained parts beside the identity path, all small. Their form is this project's choice.

    TextConsistency    face tokens -> keys and values of the text-consistency path, of low rank
    Gates              how much of the mask each layer and group of heads takes
    Router             which person, or nobody, a position belongs to

Layers come from an `operations` namespace (Linear, LayerNorm): torch.nn, or a host's own that casts weights on use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import AdapterError
from .blending import gated

__all__ = ["Gates", "Router", "TextConsistency"]

Shapes = Mapping[str, Sequence[int]]


def _size(shapes: Shapes, name: str, axis: int, ndim: int = 2) -> int:
    """One size out of a state dict's shapes. AdapterError where it cannot be."""
    if name not in shapes or len(shapes[name]) != ndim:
        found = list(shapes[name]) if name in shapes else "missing"
        raise AdapterError(
            f"the tensor {name!r} of the dual pathway is {found}; {ndim} dimensions were expected. The file is incomplete",
            code="dual-tensor",
        )
    return int(shapes[name][axis])


def _count(shapes: Shapes, what: str) -> int:
    """Layers that are numbered 0 to n. AdapterError for gaps."""
    numbers = {int(number) for name in shapes if (number := name.removeprefix("layers.").partition(".")[0]).isdecimal()}
    if not numbers or numbers != set(range(len(numbers))):
        raise AdapterError(
            f"the layers of {what} are not numbered 0 to n but {sorted(numbers)[:8]}. The file is incomplete",
            code="dual-layers-not-numbered",
        )
    return len(numbers)


class _Factor(nn.Module):
    """A projection of low rank: `up` of `down`, without bias."""

    def __init__(self, width: int, out: int, rank: int, operations: Any) -> None:
        super().__init__()
        self.down = operations.Linear(width, rank, bias=False)
        self.up = operations.Linear(rank, out, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.up(self.down(tokens))


class _KeysValues(nn.Module):
    def __init__(self, width: int, hidden: int, rank: int, operations: Any) -> None:
        super().__init__()
        self.to_k = _Factor(width, hidden, rank, operations)
        self.to_v = _Factor(width, hidden, rank, operations)


class TextConsistency(nn.Module):
    """Keys and values of the text-consistency path: projections of its own at every layer, the same for all people.

    They read the face tokens, since those are what costs the words something. Values begin at zero, so that training starts with
    the base's own answer to the words outside of the regions.

    Args:
        hidden: width of every cross-attention layer, in the adapter's order.
        context_width: of a face token.
        rank: of the projections.
    """

    def __init__(self, hidden: Sequence[int], context_width: int, rank: int = 16, operations: Any = nn) -> None:
        super().__init__()
        self.hidden, self.context_width, self.rank = tuple(hidden), context_width, rank
        self.layers = nn.ModuleList(_KeysValues(context_width, width, rank, operations) for width in hidden)
        self._weights_cast_themselves = operations is not nn

    @classmethod
    def from_shapes(cls, shapes: Shapes, operations: Any = nn) -> TextConsistency:
        """Build for a state dict of these shapes. AdapterError where they fit none."""
        hidden = [_size(shapes, f"layers.{k}.to_k.up.weight", 0) for k in range(_count(shapes, "text consistency"))]
        rank, width = (_size(shapes, "layers.0.to_k.down.weight", axis) for axis in (0, 1))
        return cls(hidden, width, rank, operations)

    def initialize(self) -> TextConsistency:
        """Weights to start training with, from torch's random numbers."""
        for layer in self.layers:
            assert isinstance(layer, _KeysValues)
            for factor in (layer.to_k, layer.to_v):
                nn.init.normal_(factor.down.weight, std=self.context_width**-0.5)
                nn.init.normal_(factor.up.weight, std=self.rank**-0.5)
            nn.init.zeros_(layer.to_v.up.weight)
        return self

    def keys_values(self, layer: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """tokens [B, P, T, context_width] -> keys and values, each [B, P, T, hidden[layer]] in the tokens' dtype."""
        if not 0 <= layer < len(self.layers):
            raise AdapterError(
                f"Layer {layer} was asked for, but the text-consistency path has the layers 0 to {len(self.layers) - 1}.",
                code="dual-no-such-layer",
            )
        of_layer: Any = self.layers[layer]
        inside = tokens if self._weights_cast_themselves else tokens.to(of_layer.to_k.down.weight)
        return of_layer.to_k(inside).to(tokens.dtype), of_layer.to_v(inside).to(tokens.dtype)


class Gates(nn.Module):
    """A factor for the mask, of each layer and group of heads: ``2 sigmoid(g)``, at most 1 after the product.

    At g = 0 the factor is 1, and the mask acts as it was given. Lower, and those heads take the text-consistency path inside of a
    region too (of an expression, say); higher, and a region's ramp is steeper.

    Args:
        groups: how many groups of heads each layer has, in the adapter's order.
    """

    def __init__(self, groups: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ParameterList(nn.Parameter(torch.zeros(count)) for count in groups)

    @classmethod
    def for_heads(cls, heads: Sequence[int], groups: int = 10) -> Gates:
        """Gates of layers with these numbers of heads: as many of `groups` as divide them (SDXL: 10 of 10 or 20 heads)."""
        return cls([math.gcd(count, groups) for count in heads])

    @classmethod
    def from_shapes(cls, shapes: Shapes, operations: Any = nn) -> Gates:
        """Build for a state dict of these shapes. AdapterError where they fit none."""
        return cls([_size(shapes, f"layers.{k}", 0, ndim=1) for k in range(_count(shapes, "gates"))])

    @property
    def groups(self) -> tuple[int, ...]:
        """Groups of heads, of each layer."""
        return tuple(len(layer) for layer in self.layers)

    def factors(self, layer: int, heads: int) -> Tensor:
        """What each head's mask is multiplied with, [heads] between 0 and 2.

        Raises:
            AdapterError: the layer's heads cannot be shared out evenly.
        """
        gates = self.layers[layer]
        if heads % len(gates):
            raise AdapterError(
                f"Layer {layer} has {heads} heads, but the gates were trained with {len(gates)} groups of heads there. They are of "
                "another base: load the gates of this one.",
                code="dual-gates-of-other-heads",
            )
        return (2 * torch.sigmoid(gates.float())).repeat_interleave(heads // len(gates))

    def apply_to(self, mask: Tensor, layer: int, heads: int) -> Tensor:
        """The mask [B, 1, Q] -> each head's own, [B, heads, Q] 0..1."""
        return gated(mask, self.factors(layer, heads).to(mask.device))


class Router(nn.Module):
    """Who is where, in each layer: the position's query is compared with a key of each person and of the background.

    Routing features are apart from identity features: they are pooled from the image encoder's hidden states by weights that only
    route (after AnyStory, arXiv 2501.09503; a background entry from a picture of zeros as there). What a position is, is read from
    the layer's own query (after UniPortrait, which reads the hidden state that the query is made of).

    Args:
        hidden: width of every cross-attention layer, in the adapter's order.
        clip_width: of the image encoder's hidden states.
        width: of a routing token and of keys and queries.
    """

    def __init__(self, hidden: Sequence[int], clip_width: int, width: int = 64, operations: Any = nn) -> None:
        super().__init__()
        self.hidden, self.clip_width, self.width = tuple(hidden), clip_width, width
        self.norm = operations.LayerNorm(clip_width)
        self.pool = operations.Linear(clip_width, 1, bias=False)
        self.proj = operations.Linear(clip_width, width)
        self.layers = nn.ModuleList(_RouterLayer(out, width, operations) for out in hidden)
        self._weights_cast_themselves = operations is not nn

    @classmethod
    def from_shapes(cls, shapes: Shapes, operations: Any = nn) -> Router:
        """Build for a state dict of these shapes. AdapterError where they fit none."""
        hidden = [_size(shapes, f"layers.{k}.query_in.weight", 1) for k in range(_count(shapes, "the router"))]
        width, clip_width = (_size(shapes, "proj.weight", axis) for axis in (0, 1))
        return cls(hidden, clip_width, width, operations)

    def tokens(self, clip_hidden: Tensor) -> Tensor:
        """Hidden states of pictures [..., T, clip_width] -> their routing tokens [..., width], a weighted mean of the projections."""
        inside = clip_hidden if self._weights_cast_themselves else clip_hidden.to(self.proj.weight)
        normed = self.norm(inside)
        weights = self.pool(normed).softmax(dim=-2)
        return (weights * F.gelu(self.proj(normed))).sum(dim=-2)

    def logits(self, layer: int, hidden: Tensor, routing_tokens: Tensor) -> Tensor:
        """How well each position fits each person, and the background.

        Args:
            layer: its number in the adapter's order.
            hidden: [B, Q, hidden[layer]], the layer's query.
            routing_tokens: of `tokens`, [B or 1, P + 1, width]: the people's, then that of a picture of zeros.

        Returns:
            [B, Q, P + 1]. Softmax in training; softmax or argmax when drawing.
        """
        return self.compare(layer, hidden, self.keys(layer, routing_tokens.to(hidden.device)))

    def keys(self, layer: int, routing_tokens: Tensor) -> Tensor:
        """What positions of a layer are compared with, [B or 1, P + 1, width]; it does not change while sampling."""
        return self._layer(layer).keys(self._inside(layer, routing_tokens))

    def compare(self, layer: int, hidden: Tensor, keys: Tensor) -> Tensor:
        """`logits` with keys that were made before."""
        queries = self._layer(layer).queries(self._inside(layer, hidden))
        return queries @ keys.to(queries).transpose(-2, -1)

    def _layer(self, layer: int) -> _RouterLayer:
        of_layer = self.layers[layer]
        assert isinstance(of_layer, _RouterLayer)
        return of_layer

    def _inside(self, layer: int, x: Tensor) -> Tensor:
        return x if self._weights_cast_themselves else x.to(self._layer(layer).query_in.weight)


class _RouterLayer(nn.Module):
    def __init__(self, hidden: int, width: int, operations: Any) -> None:
        super().__init__()
        self.query_in = operations.Linear(hidden, width)
        self.query_out = operations.Linear(width, width)
        self.key_in = operations.Linear(width, width)
        self.key_out = operations.Linear(width, width)

    def keys(self, tokens: Tensor) -> Tensor:
        keys = self.key_out(F.gelu(self.key_in(tokens)))
        return keys * keys.shape[-1] ** -0.5

    def queries(self, hidden: Tensor) -> Tensor:
        return self.query_out(F.gelu(self.query_in(hidden)))
