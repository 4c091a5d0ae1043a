"""The pair on a diffusers UNet.

    with attach(unet, adapter, [reference_1, reference_2], strength=1.0):
        noise = unet(latents, t, encoder_hidden_states=..., added_cond_kwargs=...).sample

A batch of even size is taken as diffusers' pipelines lay it out: the unconditional half first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ...errors import HostError
from ...methods.paired.adapter import Adapter
from ...methods.paired.attention import ReadyKeysValues, fit_masks, person_weights
from ...methods.paired.attention_store import Observation, Place, last_layers

if TYPE_CHECKING:
    from ...references.reference import FaceReference

__all__ = [
    "Attached",
    "PairedProcessor",
    "attach",
    "check_fit",
    "cross_attention_layers",
    "is_zero",
    "layer_shape",
    "strength_at",
]

# Processors that compute plain attention, which `PairedProcessor` computes likewise; any other would be lost.
_HOW_TO_DETACH = {
    "PairedProcessor": "Another pair is attached: end its `with`, or call its detach()",
    "FusedAttnProcessor2_0": "Call unet.unfuse_qkv_projections() first",
}
_PLAIN = ("AttnProcessor", "AttnProcessor2_0", "XFormersAttnProcessor", "SlicedAttnProcessor")


def cross_attention_layers(unet: nn.Module) -> list[tuple[str, nn.Module]]:
    """(name, attention module) of all cross-attention layers, in the adapter's order: down, up, mid."""
    names = [name.removesuffix(".processor") for name in unet.attn_processors if name.endswith("attn2.processor")]
    return [(name, unet.get_submodule(name)) for name in names]


def attach(
    unet: nn.Module,
    adapter: Adapter,
    references: Sequence[FaceReference],
    strength: float = 1.0,
    person_strengths: Sequence[float] | None = None,
    masks: Tensor | None = None,
    guidance: bool = True,
) -> Attached:
    """Let a diffusers UNet draw the references' faces.

    Args:
        unet: UNet2DConditionModel with the layers that the adapter was trained for.
        adapter: the weights.
        references: one a person, in order.
        strength: of all persons; 0 leaves the UNet's prediction exactly as it was.
        person_strengths: one a person, multiplied with the strength.
        masks: where each person may be, [P, N, H, W] 0..1, N pictures or 1 for all; any size of the picture's shape.
        guidance: a batch of even size is [unconditional; conditional]. False: every row is conditional. A batch of odd
            size is conditional in any case.

    Returns:
        A context manager that detaches at its end; `detach` does so too.

    Raises:
        HostError: the adapter does not fit the UNet, another processor sits at a layer, or references, strengths and
            masks are not of the same number of persons.
        AdapterError: the weights are for fewer persons.
        FaceReferenceError: a reference was made with another vision tower.
    """
    return Attached(unet, adapter, references, strength, person_strengths, masks, guidance)


class Attached:
    """A pair on a UNet; see `attach`.

    Attributes:
        strength: may be changed between calls: a number; one for every place of the latent, [images, 1, H, W]; or several,
            for as many copies of the pictures: each half of the batch is then all pictures at the first, at the second ...
        heard: which of several strengths `observe` hears.
        observe: called with a `focus.Observation` for every layer of every call.
    """

    def __init__(
        self,
        unet: nn.Module,
        adapter: Adapter,
        references: Sequence[FaceReference],
        strength: float,
        person_strengths: Sequence[float] | None,
        masks: Tensor | None,
        guidance: bool,
    ) -> None:
        if hasattr(references, "clip_hidden"):
            raise HostError("A list of references is needed, one a person; put the one reference into [ ].")
        self.strength: float | Tensor | tuple[float, ...] = strength
        self.heard = 0
        self.person_strengths = tuple([1.0] * len(references) if person_strengths is None else person_strengths)
        self.masks = masks
        self.guidance = guidance
        self.observe: Callable[[Observation], None] | None = None
        self.size: tuple[int, int] | None = None
        self._adapter = adapter
        self._keys_values: dict[Any, tuple[Tensor, Tensor]] = {}
        self._ready: dict[Any, ReadyKeysValues] = {}
        self._weights: dict[tuple[int, int], Tensor | float] = {}

        _check_persons(len(references), self.person_strengths, masks)
        layers = cross_attention_layers(unet)
        check_fit(layers, adapter.info)
        with torch.no_grad():
            conditional = torch.stack([adapter.face_tokens(reference)[0] for reference in references])
            unconditional = torch.stack([adapter.unconditional_tokens(reference)[0] for reference in references])
            self.tokens = torch.stack([unconditional, conditional])
            adapter.keys_values(0, self.tokens)  # too many persons are refused here, not in the first step
        self._before = {name: module.processor for name, module in layers}
        self._modules = dict(layers)
        self._last = last_layers([name.split(".transformer_blocks.")[0] for name, _ in layers])
        for layer, (_, module) in enumerate(layers):
            module.processor = PairedProcessor(self, layer)
        self._hook = unet.register_forward_pre_hook(self._note_size, with_kwargs=True)

    def __enter__(self) -> Attached:
        if not self._before:
            raise HostError("This pair was detached from the UNet: call attach again for another run with it.")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.detach()

    def detach(self) -> None:
        """Put the UNet back as it was."""
        for name, processor in self._before.items():
            self._modules[name].processor = processor
        self._before = {}
        self._hook.remove()
        self._keys_values.clear()
        self._ready.clear()
        self._weights.clear()

    def latent_masks(self, size: tuple[int, int], images: int) -> Tensor:
        """Masks at the latent's size, [N or 1, P, *size]."""
        return fit_masks(self.masks, size, images)

    def roles(self, rows: int) -> list[int]:
        """For each row of a batch, 1 where it is conditional."""
        if self.guidance and rows % 2 == 0:
            return [0] * (rows // 2) + [1] * (rows // 2)
        return [1] * rows

    def term(self, layer: int, query: Tensor, heads: int) -> Tensor | None:
        """What the persons add to a layer, [rows, Q, C]; None for nothing."""
        if is_zero(self.strength) or not any(self.person_strengths):
            return None
        roles = self.roles(query.shape[0])
        ready = self._ready_keys_values(layer, query, roles, heads)
        shape = layer_shape(self.size, query.shape[1])
        term, probabilities = ready.attend(query, self._weights_once(shape, roles, query.device))
        if self.observe is not None:
            self.observe(self._observation(layer, shape, heads, query, probabilities, roles))
        return term

    def _observation(
        self, layer: int, shape: tuple[int, int], heads: int, query: Tensor, probabilities: Tensor, roles: list[int]
    ) -> Observation:
        images, copies = self._images_copies(roles)
        rows = range(len(roles))
        places = [
            Place(row % images, 0, 0, *self.size) if row // images % copies == self.heard else None for row in rows
        ]
        keys = self._layer_keys_values(layer, query)[0]
        watched = (self, layer, shape, heads, query, lambda row: keys[roles[row]], probabilities)
        return Observation(*watched, roles, places, self.size, images, layer in self._last)

    def _images_copies(self, roles: list[int]) -> tuple[int, int]:
        """Pictures of the batch, and how often each of them is in it."""
        copies = len(self.strength) if isinstance(self.strength, tuple) else 1
        return len(roles) // (1 + (0 in roles)) // copies, copies

    def _weights_once(self, shape: tuple[int, int], roles: list[int], device: torch.device) -> Tensor | float:
        if shape not in self._weights:
            self._weights[shape] = self._make_weights(shape, roles, device)
        return self._weights[shape]

    def _make_weights(self, shape: tuple[int, int], roles: list[int], device: torch.device) -> Tensor | float:
        """Strength of each person at each place of a layer, [rows or 1, P, Q or 1]; a number where they are all the same."""
        (images, copies), strength = self._images_copies(roles), self.strength
        if copies > 1:
            strength = torch.tensor(strength, device=device).repeat_interleave(images)[:, None, None]
        elif isinstance(strength, Tensor):
            strength = strength_at(strength, shape, device)
        elif self.masks is None and len(set(self.person_strengths)) == 1:
            return strength * self.person_strengths[0]
        weights = torch.tensor(self.person_strengths, device=device)[None, :, None] * strength
        if self.masks is not None:
            masks = person_weights(self.latent_masks(self.size, images).to(device), shape)
            weights = weights * (masks if len(masks) == 1 else masks.repeat(copies, 1, 1))
        return weights if len(weights) == 1 else weights.repeat(len(roles) // len(weights), 1, 1)

    def _ready_keys_values(self, layer: int, query: Tensor, roles: list[int], heads: int) -> ReadyKeysValues:
        key = (layer, query.device, query.dtype, tuple(roles))
        if key not in self._ready:
            keys, values = self._layer_keys_values(layer, query)
            self._ready[key] = ReadyKeysValues.of(keys[roles], values[roles], heads)
        return self._ready[key]

    def _layer_keys_values(self, layer: int, query: Tensor) -> tuple[Tensor, Tensor]:
        """[2, P, T, C] each: unconditional, conditional."""
        key = (layer, query.device, query.dtype)
        if key not in self._keys_values:
            with torch.no_grad():
                keys, values = self._adapter.keys_values(layer, self.tokens)
            self._keys_values[key] = (keys.to(query), values.to(query))
        return self._keys_values[key]

    def _note_size(self, _: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        sample = args[0] if args else kwargs["sample"]
        self.size = (sample.shape[-2], sample.shape[-1])
        self._weights.clear()


def is_zero(strength: float | Tensor | tuple[float, ...]) -> bool:
    """Whether a strength is 0 for certain, without a look at the places of a map."""
    return not isinstance(strength, Tensor) and strength in (0, (0, 0))


def strength_at(strength: float | Tensor, shape: tuple[int, int], device: torch.device) -> float | Tensor:
    """A strength at the places of a layer: the number, or a map [images, 1, H, W] as [images, 1, height * width]."""
    return person_weights(strength.to(device), shape) if isinstance(strength, Tensor) else strength


def layer_shape(size: tuple[int, int], places: int) -> tuple[int, int]:
    """(height, width) of a layer with that many places: the latent's size, halved and rounded up as needed. HostError."""
    height, width = size
    while height * width > places:
        height, width = (height + 1) // 2, (width + 1) // 2
    if height * width != places:
        raise HostError(
            f"A layer has {places} places, which is no halving of the latent's {size[0]} x {size[1]}: "
            "something merges places (token merging, for instance). Switch it off."
        )
    return height, width


class Pair(Protocol):
    """What a processor asks of a pair."""

    def term(self, layer: int, query: Tensor, heads: int) -> Tensor | None:
        """What the persons add to a layer, [rows, Q, C]; None for nothing."""
        ...


class PairedProcessor:
    """Cross-attention of one layer as diffusers computes it, plus the persons' term.

    Args:
        pair: whose; `Attached`, or the trainer's.
        layer: number of the layer in the adapter's order.
    """

    def __init__(self, pair: Pair, layer: int) -> None:
        self.pair, self.layer = pair, layer

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, context.shape[1], context.shape[0])
            attention_mask = rearrange(attention_mask, "(b h) q k -> b h q k", h=attn.heads)
        out = self.attend_text(query, key, value, attn.heads, attention_mask)
        term = self.pair.term(self.layer, query, attn.heads)
        if term is not None:
            out = out + term
        return attn.to_out[1](attn.to_out[0](out))

    def attend_text(self, query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None) -> Tensor:
        """The base's own attention to the prompt, [rows, Q, C]."""
        q, k, v = (rearrange(t, "b n (h d) -> b h n d", h=heads) for t in (query, key, value))
        return rearrange(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), "b h n d -> b n (h d)")


def check_fit(layers: Sequence[tuple[str, nn.Module]], info: Any) -> None:
    """Refuse a UNet with other layers than the adapter's, or with processors that would be lost. HostError."""
    context = layers[0][1].cross_attention_dim if layers else 0
    widths = tuple(module.inner_dim for _, module in layers)
    if context != info.context_width or widths != tuple(info.hidden):
        raise HostError(
            f"The adapter does not fit the UNet. The adapter is for {info.base_family} ({info.layers} cross-attention layers, "
            f"context {info.context_width}); the UNet has {len(layers)} layers, context {context}. "
            "Load a checkpoint of the adapter's base."
        )
    for name, module in layers:
        kind = type(module.processor).__name__
        if kind not in _PLAIN:
            raise HostError(
                f"The layer {name} has the attention processor {kind}, which would be lost. "
                f"{_HOW_TO_DETACH.get(kind, 'Put the plain one back first: unet.set_attn_processor(AttnProcessor2_0())')}."
            )


def _check_persons(references: int, strengths: Sequence[float], masks: Tensor | None) -> None:
    """Refuse strengths and masks of another number of persons than there are references."""
    if references == 0:
        raise HostError("There is no reference to draw: give one for each person.")
    if len(strengths) != references:
        raise HostError(f"There are {len(strengths)} person strengths for {references} references: give one a person.")
    if masks is not None and (masks.ndim != 4 or len(masks) != references):
        raise HostError(
            f"The person masks have the shape {list(masks.shape)}: [{references}, pictures or 1, height, width] is "
            "needed, one mask a person."
        )
