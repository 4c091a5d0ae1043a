"""Parts2Whole on diffusers' UNets: the appearance encoder, and parts on the UNet that draws.

`methods.parts2whole.Parts2Whole` reaches these functions by name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...conditioning.batch_layout import BatchLayout
from ...conditioning.masks import layer_shape
from ...errors import AdapterError, HostError, short_error
from ...formats.parts2whole import ABSENT, Parts2WholeFiles, layers_of
from ...methods.parts2whole.conditioning import PartsConditioning
from ...methods.parts2whole.part import Part
from ...optional import require
from .attention import PairedProcessor, check_plain

if TYPE_CHECKING:
    from ...methods.parts2whole.model import Parts2Whole

__all__ = ["AttachedParts", "attach", "encode", "load_unet", "make_encoder"]


def make_encoder(files: Parts2WholeFiles) -> nn.Module:
    """The appearance encoder as a UNet2DConditionModel around the file's tensors; what it lacks by design is zeros.

    Raises:
        AdapterError: tensors are missing or have other shapes.
        HostError: diffusers is missing.
    """
    return load_unet(files.config, files.reference, files.paths["reference"], ABSENT)


def load_unet(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path, absent: Collection[str] = ()
) -> nn.Module:
    """A UNet2DConditionModel around a file's tensors, without copying them.

    Args:
        config: its config.json.
        tensors: under diffusers' names; others are left.
        path: of the file, for messages.
        absent: names that may be missing, and are zeros then.

    Raises:
        AdapterError: tensors are missing or have other shapes.
        HostError: diffusers is missing.
    """
    kind = require("diffusers").UNet2DConditionModel
    try:
        with torch.device("meta"):
            unet = kind.from_config({name: value for name, value in config.items() if not name.startswith("_")})
    except Exception as error:  # a config of another model, or one that somebody edited
        raise AdapterError(
            f"{path.parent / 'config.json'}: no UNet can be made of it ({short_error(error)}). Get the file again.",
            code="encoder-config",
        ) from error
    wanted = unet.state_dict()
    lacking = [name for name in wanted if name not in tensors and name not in absent]
    odd = [name for name in wanted if name in tensors and tensors[name].shape != wanted[name].shape]
    if lacking or odd:
        raise AdapterError(
            f"{path}: it lacks {len(lacking)} tensors of the UNet that config.json describes, and {len(odd)} have another shape "
            f"({', '.join((lacking + odd)[:3])}). Get the folder again.",
            code="encoder-tensors",
        )
    zeros = {name: torch.zeros(tensor.shape) for name, tensor in wanted.items() if name not in tensors}
    unet.load_state_dict({name: tensors.get(name, zeros.get(name)) for name in wanted}, strict=True, assign=True)
    return unet.requires_grad_(False).eval()


def encode(unet: nn.Module, latent: Tensor, label_embedding: Tensor) -> list[Tensor]:
    """norm1's output [1, L, C] of every layer, in the order down, mid, up: the clean latent at timestep 0, with its label."""
    weight = next(unet.parameters())
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda _, __, output: found.__setitem__(name, output)

    layers = transformer_layers(unet)
    hooks = [block.norm1.register_forward_hook(keep(name)) for name, block in layers]
    try:
        with torch.no_grad():
            unet(latent.to(weight), 0, encoder_hidden_states=label_embedding.to(weight))
    finally:
        for hook in hooks:
            hook.remove()
    return [found[name] for name, _ in layers]


def transformer_layers(unet: nn.Module) -> list[tuple[str, Any]]:
    """(name, transformer block) of a UNet, in the order down, mid, up."""
    names = [name for name, _ in unet.named_parameters()]
    return [(name, unet.get_submodule(name)) for name in layers_of(dict.fromkeys(names))]


def attach(
    unet: nn.Module,
    weights: Parts2Whole,
    parts: Sequence[Part],
    pose: Tensor | None,
    masks: Tensor | None,
    *,
    scale: float = 1.0,
    drop_masked: bool = False,
    guidance: bool = True,
) -> AttachedParts:
    """Put parts on a UNet; see `Parts2Whole.attach`. `masks` are regions without overlap."""
    layers = transformer_layers(unet)
    _check_compatible(layers, weights, None if pose is None else unet.conv_in)
    conditioning = PartsConditioning(
        parts,
        weights.bank(parts),
        list(weights.image_projections),
        weights.info.image_width,
        masks,
        scale,
        drop_masked,
    )
    if masks is not None:  # refused here, not in the first step
        conditioning.latent_masks(parts[0].size, masks.shape[1])
    features = None if pose is None else weights.pose_features(pose)
    return AttachedParts(unet, layers, conditioning, parts[0].size, features, guidance)


class AttachedParts:
    """Parts on a UNet; see `Parts2Whole.attach`.

    Attributes:
        notes: what is to be told about the regions.
        size: (height, width) of the latent of the present call.
    """

    def __init__(
        self,
        unet: Any,
        layers: Sequence[tuple[str, Any]],
        conditioning: PartsConditioning,
        wanted: tuple[int, int],
        pose: Tensor | None,
        guidance: bool,
    ) -> None:
        self.notes: list[str] = []
        self.conditioning, self.guidance = conditioning, guidance
        self.size = (0, 0)
        self._wanted, self._pose = wanted, pose
        self._layout: BatchLayout | None = None
        self._before: list[tuple[Any, Any]] = []
        for number, (_, block) in enumerate(layers):
            self._before += [(module, module.processor) for module in (block.attn1, block.attn2)]
            block.attn1.processor = PartsProcessor(self, number)
            block.attn2.processor = PairedProcessor(self, number)
        self._hooks = [unet.register_forward_pre_hook(self._on_call, with_kwargs=True)]
        if pose is not None:
            self._hooks.append(unet.conv_in.register_forward_hook(self._add_pose))

    def __enter__(self) -> AttachedParts:
        if not self._hooks:
            raise HostError(
                "These parts were detached from the UNet: call attach again for another run with them.", code="detached"
            )
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.detach()

    def detach(self) -> None:
        """Put the UNet back as it was."""
        for module, processor in self._before:
            module.processor = processor
        for hook in self._hooks:
            hook.remove()
        self._before, self._hooks = [], []
        self.conditioning.clear_cache()

    def layout(self, batch: int) -> BatchLayout:
        """What a batch of that many samples is made of; the same one through a call."""
        if self._layout is None:
            guidance = self.guidance and batch % 2 == 0
            self._layout = BatchLayout.of_whole_pictures(batch // (1 + guidance), self.size, guidance)
        return self._layout

    def self_attention(self, layer: int, attn: Any, hidden: Tensor) -> Tensor:
        """Self-attention of a layer with the parts, [B, Q, C]."""
        query = attn.to_q(hidden)
        layout, shape = self.layout(len(query)), layer_shape(self.size, query.shape[1])

        def project(features: Tensor) -> tuple[Tensor, Tensor]:
            return attn.to_k(features), attn.to_v(features)

        own = (query, *project(hidden), project, attn.heads)
        return self.conditioning.self_attention(layer, *own, layout, shape)

    def residual(self, layer: int, query: Tensor, heads: int) -> Tensor | None:
        """What the image tokens add to a layer; see `conditioning.identity.LayerConditioning`."""
        layout, shape = self.layout(len(query)), layer_shape(self.size, query.shape[1])
        return self.conditioning.residual(layer, query, heads, layout, shape)

    def _on_call(self, _: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        sample = args[0] if args else kwargs["sample"]
        self.size, self._layout = (sample.shape[-2], sample.shape[-1]), None
        if self.size != self._wanted:
            drawn, made = ([8 * side for side in size[::-1]] for size in (self.size, self._wanted))
            raise HostError(
                f"The picture is {drawn[0]} x {drawn[1]}, but the parts were encoded for {made[0]} x {made[1]}: encode them for "
                "the picture's size.",
                code="parts-of-another-size",
            )

    def _add_pose(self, _: nn.Module, __: tuple, output: Tensor) -> Tensor:
        """The same features for all samples, the unconditional ones too, as published."""
        pose = self._pose
        if pose is None:
            return output
        if pose.shape[1:] != output.shape[1:]:
            height, width = (8 * side for side in pose.shape[-2:])
            raise HostError(
                f"The pose map is {width} x {height} px, the picture {output.shape[-1] * 8} x {output.shape[-2] * 8}: bring the "
                "map to the picture's size.",
                code="pose-map-of-another-size",
            )
        return output + pose.to(output)


class PartsProcessor:
    """Self-attention of one layer with parts.

    Args:
        attached: whose.
        layer: its number in the order down, mid, up.
    """

    def __init__(self, attached: AttachedParts, layer: int) -> None:
        self.attached, self.layer = attached, layer

    def __call__(self, attn: Any, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        out = self.attached.self_attention(self.layer, attn, hidden_states)
        return attn.to_out[1](attn.to_out[0](out))


def _check_compatible(layers: Sequence[tuple[str, Any]], weights: Parts2Whole, posed: Any) -> None:
    """Refuse another UNet, and processors that would be lost. `posed`: the convolution that a pose is added to, if there is one.

    Raises:
        HostError: says what does not fit.
    """
    info = weights.info
    context = layers[0][1].attn2.cross_attention_dim if layers else 0
    widths = tuple(block.attn1.inner_dim for _, block in layers)
    if widths != info.hidden or context != info.context_width:
        raise HostError(
            f"Parts2Whole does not fit the UNet: the weights have {len(info.hidden)} layers with a context of "
            f"{info.context_width} (Stable Diffusion 1.5), the UNet has {len(layers)} with {context}. Take the UNet of the "
            "released folder, or another one of Stable Diffusion 1.5.",
            code="parts2whole-of-another-base",
        )
    if posed is not None and posed.out_channels != info.pose_channels:
        raise HostError(
            f"The pose net adds to {info.pose_channels} channels, the UNet's first convolution gives "
            f"{posed.out_channels}. Take the UNet of the released folder.",
            code="pose-net-of-another-base",
        )
    for name, block in layers:
        for attention in ("attn1", "attn2"):
            check_plain(f"{name}.{attention}", getattr(block, attention))
