"""People on a diffusers UNet.

    with attach(unet, adapter, [reference_1, reference_2], strength=1.0):
        noise = unet(latents, t, encoder_hidden_states=..., added_cond_kwargs=...).sample

A batch of even size is taken as diffusers' pipelines lay it out: the unconditional half first.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ...conditioning.attention_store import last_layers
from ...conditioning.batch_layout import BatchLayout
from ...conditioning.identity import LayerConditioning, Strength
from ...conditioning.masks import layer_shape
from ...conditioning.token_conditioning import Later, Recorder, face_tokens, projected
from ...errors import HostError
from ...methods.dual_pathway.conditioning import DualConditioning
from ...methods.paired.conditioning import PairedConditioning

if TYPE_CHECKING:
    from ...methods.paired.adapter import Adapter, AdapterInfo
    from ...references.reference import FaceReference

__all__ = [
    "Attached",
    "PairedProcessor",
    "attach",
    "attach_couples",
    "check_compatible",
    "check_plain",
    "cross_attention_layers",
]

# Processors that compute plain attention, which `PairedProcessor` computes likewise; any other would be lost.
_HOW_TO_DETACH = {
    "PairedProcessor": "Other people are attached: end their `with`, or call its detach()",
    "PartsProcessor": "Parts of people are attached: end their `with`, or call its detach()",
    "FusedAttnProcessor2_0": "Call unet.unfuse_qkv_projections() first",
}
_PLAIN = ("AttnProcessor", "AttnProcessor2_0", "XFormersAttnProcessor", "SlicedAttnProcessor")


def cross_attention_layers(unet: Any) -> list[tuple[str, Any]]:
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
        guidance: a batch of even size is [unconditional; conditional]. False: every sample is conditional. A batch of odd
            size is conditional in any case.

    Returns:
        A context manager that detaches at its end; `detach` does so too.

    Raises:
        HostError: the adapter does not fit the UNet, another processor sits at a layer, or references, strengths and
            masks are not of the same number of persons.
        AdapterError: the weights are for fewer persons.
        FaceReferenceError: a reference was made with another image encoder.
    """
    if hasattr(references, "clip_hidden"):
        raise HostError(
            "A list of references is needed, one a person; put the one reference into [ ].", code="references-no-list"
        )
    attached = attach_couples(unet, adapter, [references], person_strengths, masks, guidance)
    attached.strength = strength
    return attached


def attach_couples(
    unet: nn.Module,
    adapter: Adapter,
    couples: Sequence[Sequence[FaceReference]],
    person_strengths: Sequence[float] | None = None,
    masks: Tensor | None = None,
    guidance: bool = True,
) -> Attached:
    """`attach` for a batch in which every picture has people of its own, or all have the same (one couple)."""
    layers = cross_attention_layers(unet)
    check_compatible(layers, adapter.info)
    persons = len(couples[0])

    transformers = [name.split(".transformer_blocks.")[0] for name, _ in layers]
    keys_values = Later()  # people are checked before their tokens are made
    people = PairedConditioning(keys_values, persons, person_strengths, masks, last_layers(transformers))
    adapter.check_persons(persons)
    with torch.no_grad():
        keys_values.made = projected(adapter.keys_values, face_tokens(adapter, couples))
    return Attached(unet, layers, people, len(couples), guidance)


class Attached:
    """People on a UNet; see `attach`.

    Attributes:
        strength: may be changed between calls: a number; one for every position of the latent, [images, 1, H, W]; or several,
            for as many copies of the pictures: each half of the batch is then all pictures at the first, at the second ...
        record: called with an `AttentionRecord` for every layer of every call.
        recorded_strength: which of several strengths `record` is called for.
        layers: how many cross-attention layers there are.
    """

    def __init__(
        self,
        unet: nn.Module,
        layers: Sequence[tuple[str, Any]],
        people: PairedConditioning | DualConditioning,
        couples: int,
        guidance: bool,
    ) -> None:
        self.strength: Strength = 1.0
        self.record: Recorder | None = None
        self.recorded_strength = 0
        self.people, self.couples, self.guidance = people, couples, guidance
        self.size = (0, 0)
        self._layout: BatchLayout | None = None
        self._before = {name: module.processor for name, module in layers}
        self._modules = dict(layers)
        self.layers = len(layers)
        for layer, (_, module) in enumerate(layers):
            module.processor = PairedProcessor(self, layer)
        self._hook = unet.register_forward_pre_hook(self._on_call, with_kwargs=True)

    def __enter__(self) -> Attached:
        if not self._before:
            raise HostError(
                "These people were detached from the UNet: call attach again for another run with them.",
                code="detached",
            )
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.detach()

    def detach(self) -> None:
        """Put the UNet back as it was."""
        for name, processor in self._before.items():
            self._modules[name].processor = processor
        self._before = {}
        self._hook.remove()
        self.people.clear_cache()

    def layout(self, batch: int) -> BatchLayout:
        """What a batch of that many samples is made of."""
        guidance = self.guidance and batch % 2 == 0
        strengths = len(self.strength) if isinstance(self.strength, tuple) else 1
        images = batch // (1 + guidance) // strengths
        return BatchLayout.of_whole_pictures(images, self.size, guidance, strengths, self.couples)

    def residual(self, layer: int, query: Tensor, heads: int) -> Tensor | None:
        """What the persons add to a layer, [B, Q, C]; None for nothing."""
        if not self.people.counts(self.strength):
            return None
        if self._layout is None:
            self._layout = self.layout(query.shape[0])
        shape = layer_shape(self.size, query.shape[1])
        recording = (self.record, self.recorded_strength)
        return self.people.residual(layer, query, heads, self._layout, shape, self.strength, *recording)

    def _on_call(self, _: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        sample = args[0] if args else kwargs["sample"]
        self.size, self._layout = (sample.shape[-2], sample.shape[-1]), None


class PairedProcessor:
    """Cross-attention of one layer as diffusers computes it, plus what the persons add.

    Args:
        conditioning: whose; `Attached`, or the trainer's.
        layer: number of the layer in the adapter's order.
    """

    def __init__(self, conditioning: LayerConditioning, layer: int) -> None:
        self.conditioning, self.layer = conditioning, layer

    def __call__(
        self,
        attn: Any,
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
        residual = self.conditioning.residual(self.layer, query, attn.heads)
        if residual is not None:
            out = out + residual
        return attn.to_out[1](attn.to_out[0](out))

    def attend_text(self, query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None) -> Tensor:
        """The base's own attention to the prompt, [B, Q, C]."""
        q, k, v = (rearrange(t, "b n (h d) -> b h n d", h=heads) for t in (query, key, value))
        return rearrange(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), "b h n d -> b n (h d)")


def check_compatible(layers: Sequence[tuple[str, nn.Module]], info: AdapterInfo) -> None:
    """Refuse a UNet with other layers than the adapter's, or with processors that would be lost. HostError."""
    context = layers[0][1].cross_attention_dim if layers else 0
    widths = tuple(module.inner_dim for _, module in layers)
    if context != info.context_width or widths != tuple(info.hidden):
        raise HostError(
            f"The adapter does not fit the UNet. The adapter is for {info.base_family} ({info.layers} cross-attention layers, "
            f"context {info.context_width}); the UNet has {len(layers)} layers, context {context}. "
            "Load a checkpoint of the adapter's base.",
            code="adapter-of-another-base",
        )
    for name, module in layers:
        check_plain(name, module)


def check_plain(name: str, module: Any) -> None:
    """Refuse an attention whose processor computes something else than plain attention, and would be lost. HostError."""
    kind = type(module.processor).__name__
    if kind not in _PLAIN:
        raise HostError(
            f"The layer {name} has the attention processor {kind}, which would be lost. "
            f"{_HOW_TO_DETACH.get(kind, 'Put the plain one back first: unet.set_attn_processor(AttnProcessor2_0())')}.",
            code="foreign-processor",
        )
