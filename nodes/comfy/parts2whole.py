"""Parts2Whole in ComfyUI: parts from pictures, and parts on a MODEL. Everything goes through the model patcher."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import comfy.latent_formats
import comfy.model_management as model_management
import numpy as np
import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...dhumandiff.conditioning.batch_layout import crop
from ...dhumandiff.conditioning.masks import check_mask, check_shape
from ...dhumandiff.errors import HostError, ImageError
from ...dhumandiff.faces.photos import photo_from_tensor
from ...dhumandiff.methods.paired.settings import check_start_end
from ...dhumandiff.methods.parts2whole.conditioning import PartsConditioning
from ...dhumandiff.methods.parts2whole.model import Parts2Whole
from ...dhumandiff.methods.parts2whole.part import Part, check_parts, label_of
from ...dhumandiff.methods.parts2whole.pictures import check_pose_picture, squash, squash_mask
from ...dhumandiff.methods.parts2whole.regions import part_regions
from .attention import AppliedPeople
from .batch import CALL, UNetCall
from .patch import LayerKey, put_on

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from .parts_models import ComfyParts2Whole

__all__ = ["apply_parts", "encode_part"]

MOST_KEPT = 8
"""Labels and sizes for which an IMAGE's latents and features are kept."""

MAX_SIDE = 4096
"""Of a part's picture, px: what a link may bring beyond would fill the memory."""


def encode_part(
    weights: ModelPatcher,
    image: Tensor,
    label: str,
    size: tuple[int, int],
    clip: Any,
    vae: Any,
    clip_vision: Any,
    mask: Tensor | None = None,
    person: int = 1,
    strength: float = 1.0,
) -> Part:
    """A part from one picture.

    Args:
        weights: DHD_PARTS.
        image: IMAGE of one picture, with or without alpha.
        label: one of `part.LABELS`.
        size: (width, height) of the picture that will be drawn, px.
        clip, vae: of Stable Diffusion 1.5.
        clip_vision: CLIP ViT-L/14.
        mask: MASK of where the part is; None: what is opaque of the picture.
        person, strength: see `Part`.

    Raises:
        HostError: another base's CLIP or VAE, or another image encoder.
        ImageError: several pictures, or a mask that does not fit or has nothing in it.
    """
    label = label_of(label)
    name = f"the {label} of person {person}"
    if not all(8 <= side <= MAX_SIDE and side % 8 == 0 for side in size):
        raise ImageError(
            f"width and height of {name} are {size[0]} x {size[1]}: choose multiples of 8 from 8 to {MAX_SIDE}.",
            code="part-size",
        )
    mask = None if mask is None else check_mask(mask.float(), f"mask of {name}")
    if image.ndim != 4 or len(image) != 1 or (mask is not None and len(mask) != 1):
        raise ImageError(
            f"{len(image)} pictures came for {name}, or several masks: a part has one. Choose it with Get Image or Mask from Batch.",
            code="part-of-several-pictures",
        )
    photo = photo_from_tensor(image[0], name)
    pixels = photo.pixels
    values = photo.opaque if mask is None else (mask[0] * 255).round().to(torch.uint8).cpu().numpy()
    found = None if values is None else squash_mask(values, (pixels.shape[0], pixels.shape[1]), size, name)
    latent, text, embed = _encoded(weights.model, image, pixels, label, size, (clip, vae, clip_vision))
    made = Part(label, latent, found, text, embed, person=person, strength=strength)
    weights.model.check_part(made)
    return made


def _encoded(
    weights: ComfyParts2Whole,
    image: Tensor,
    pixels: np.ndarray,
    label: str,
    size: tuple[int, int],
    models: tuple[Any, ...],
) -> tuple[Tensor, Tensor, Tensor]:
    """Latent, label embedding and image embedding of a picture, made once for as long as the IMAGE is there.

    ComfyUI runs all Encode Parts of a chain again when the first one changes; the others then find what they made, and with it
    their features.
    """
    known = weights.encoded.get(image, [])
    for of_label, of_size, made_by, made in known:
        if (of_label, of_size) == (label, size) and all(one() is m for one, m in zip(made_by, models, strict=True)):
            return made
    clip, vae, clip_vision = models
    latent = vae.encode(squash(pixels, size).movedim(1, -1))
    text = clip.encode_from_tokens_scheduled(clip.tokenize(label))[0][0]
    made = (
        comfy.latent_formats.SD15().process_in(latent).float(),
        text.float(),
        _image_embed(clip_vision, pixels),
    )
    weights.encoded[image] = [*known[1 - MOST_KEPT :], (label, size, tuple(map(weakref.ref, models)), made)]
    return made


def apply_parts(
    model: ModelPatcher,
    weights: ModelPatcher,
    parts: Sequence[Part],
    *,
    pose: Tensor | None = None,
    regions: Sequence[Tensor | None] = (),
    scale: float = 1.0,
    drop_masked: bool = False,
    start: float = 0.0,
    end: float = 1.0,
) -> tuple[ModelPatcher, list[str]]:
    """A clone of the model that draws these parts, and what is to be told of the regions.

    Args:
        model: MODEL of Stable Diffusion 1.5, from `load_parts2whole`.
        weights: DHD_PARTS.
        parts: encoded for the picture's size.
        pose: IMAGE of a DensePose map, of the picture's shape.
        regions: a MASK of each person, or None for what the others leave.
        scale: of the image tokens.
        drop_masked: leave out what masks exclude, instead of zeroing it.
        start, end: share of sampling in which the parts count.

    Raises:
        HostError: the weights do not fit the model, or parts, regions and pose do not fit each other.
        ImageError: the pose is several pictures, or of another kind.
    """
    check_start_end(start, end)
    check_parts(parts)
    masks, notes = part_regions(
        list(regions) if any(r is not None for r in regions) else None, max(p.person for p in parts)
    )
    notes += _other_noise(model, weights.model)
    layers = _layers(model, weights.model)
    model_management.load_models_gpu([weights])
    bank = [layer.to(model_management.intermediate_device()) for layer in weights.model.bank(parts)]
    weights.model.free_encoder()
    info = weights.model.info
    people = PartsConditioning(
        parts, bank, list(weights.model.image_projections), info.image_width, masks, scale, drop_masked
    )
    size = parts[0].size
    if masks is not None:
        people.latent_masks(size, masks.shape[1])
    applied = AppliedParts(people=people, adapter=weights, layers=len(layers), strength=1.0, start=start, end=end)
    keys = [key for key, _ in layers]
    patched = put_on(model, applied, keys)
    present = patched.model_options["transformer_options"].get("patches_replace", {}).get("attn1", {})
    for layer, (key, attention) in enumerate(layers):
        previous = present.get(key, present.get(key[:2]))
        if previous is not None:
            raise HostError(
                "Another node has replaced the MODEL's self-attention, in which the parts are read. Leave one of the two away.",
                code="self-attention-replaced",
            )
        # Without the number within the block, of which there is one: so PerturbedAttentionGuidance's own pass takes its place.
        patched.set_model_attn1_replace(PartsAttention(applied, people, layer, attention, size), *key[:2])
    if pose is not None:
        patched.set_model_input_block_patch(PosePatch(applied, _pose_features(weights, pose, size)))
    return patched, notes


@dataclasses.dataclass(eq=False)
class AppliedParts(AppliedPeople):
    """Parts on one MODEL.

    Attributes:
        reached: layers whose self-attention a run came to.
    """

    NODE = "Apply Parts"

    reached: set[int] = dataclasses.field(default_factory=set)

    def check_coverage(self, call: UNetCall, options: dict[str, Any]) -> None:
        """See that the first call of a run went through every self-attention, too.

        Raises:
            HostError: another node put its own in place of one.
        """
        missed = 0 if self.coverage_checked else self.layers - len(self.reached)
        super().check_coverage(call, options)
        if missed:
            raise HostError(
                f"Another node replaced the self-attention of {missed} of {self.layers} layers behind Apply Parts, so the parts would "
                "be missing there. Leave one of the two nodes away. (SelfAttentionGuidance is such a node, "
                "PerturbedAttentionGuidance is not.)",
                code="parts-attention-replaced",
            )

    def clear_cache(self) -> None:
        """Let go of what a run computed."""
        super().clear_cache()
        self.reached.clear()


class PartsAttention:
    """Self-attention of one layer, in which each person's positions also read that person's parts."""

    def __init__(
        self, applied: AppliedParts, people: PartsConditioning, layer: int, attention: Any, wanted: tuple[int, int]
    ) -> None:
        self.applied, self.people, self.layer = applied, people, layer
        self.attention, self.wanted = attention, wanted

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
        heads, call = extra_options["n_heads"], extra_options[CALL]
        self.applied.reached.add(self.layer)
        if not self.applied.act_in(call):
            precision = extra_options["attn_precision"]
            return optimized_attention(q, k, v, heads, attn_precision=precision, transformer_options=extra_options)
        layout = call.layout_of(q)
        if tuple(layout.size) != self.wanted:
            drawn, made = ([8 * side for side in size[::-1]] for size in (layout.size, self.wanted))
            raise HostError(
                f"The picture is {drawn[0]} x {drawn[1]}, but the parts were encoded for {made[0]} x {made[1]}: encode them for "
                "the picture's size.",
                code="parts-of-another-size",
            )
        shape = tuple(extra_options["activations_shape"][-2:])
        return self.people.self_attention(self.layer, q, k, v, self._project, heads, layout, shape)

    def _project(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.attention.to_k(features), self.attention.to_v(features)


class PosePatch:
    """Adds the pose behind the UNet's first convolution, the same to all samples, the unconditional ones too."""

    def __init__(self, applied: AppliedPeople, features: Tensor) -> None:
        self.applied, self.features = applied, features

    def __call__(self, h: Tensor, transformer_options: dict[str, Any]) -> Tensor:
        if tuple(transformer_options["block"]) != ("input", 0):
            return h
        call: UNetCall = transformer_options[CALL]
        if not self.applied.act_in(call):
            return h
        layout = call.layout_of(h)
        if any(tile is None for tile in layout.tiles):
            raise HostError(
                "The sampler cut the picture into pieces that cannot be found again in the whole, so it is not known where the pose "
                "belongs. Sample without tiles, or leave the pose away.",
                code="unknown-tiles",
            )
        rows = [crop(self.features[0], tile) for tile in layout.tiles if tile is not None]
        return h + torch.stack(rows).to(h)


def _other_noise(model: Any, weights: Parts2Whole) -> list[str]:
    """Says that a MODEL has another noise schedule than the weights were trained on: the pictures look bad for no visible reason."""
    there = float(model.get_model_object("model_sampling").sigma_max)
    trained = float(weights.info.schedule.sigmas()[-1])
    if abs(there / trained - 1) < 0.01:
        return []
    return [
        f"The MODEL's noise goes up to {there:.1f}, but the parts were trained with {trained:.1f}: expect poor pictures. Take the "
        "MODEL of Load Parts2Whole, and no ModelSampling node behind it."
    ]


def _layers(model: Any, weights: Parts2Whole) -> list[tuple[LayerKey, Any]]:
    """(patch key, self-attention) of the model's layers, in the order down, mid, up.

    Raises:
        HostError: they are not those that the weights were trained for.
    """
    unet = model.get_model_object("diffusion_model")
    if not all(hasattr(unet, part) for part in ("input_blocks", "middle_block", "output_blocks")):
        raise HostError(
            f"Parts2Whole is for Stable Diffusion 1.5, but the MODEL is {type(model.model).__name__}. Take the MODEL of Load "
            "Parts2Whole.",
            code="no-unet",
        )
    middle = [] if unet.middle_block is None else [unet.middle_block]
    found = []
    for part, blocks in (("input", unet.input_blocks), ("middle", middle), ("output", unet.output_blocks)):
        for number, block in enumerate(blocks):
            transformers = (t for layer in block for t in getattr(layer, "transformer_blocks", ()))
            found += [((part, number, index), t) for index, t in enumerate(transformers)]
    widths = tuple(t.attn1.heads * t.attn1.dim_head for _, t in found)
    context = found[0][1].attn2.to_k.in_features if found else 0
    if widths != weights.info.hidden or context != weights.info.context_width:
        known = {1024: "Stable Diffusion 2", 2048: "SDXL"}
        raise HostError(
            f"Parts2Whole does not fit the MODEL: the weights have {len(weights.info.hidden)} layers with a context of "
            f"{weights.info.context_width} (Stable Diffusion 1.5), the MODEL has {len(found)} with {context}"
            f"{f', like {known[context]}' if context in known else ''}. Take the MODEL of Load Parts2Whole.",
            code="parts2whole-of-another-base",
        )
    return [(key, t.attn1) for key, t in found]


def _image_embed(clip_vision: Any, pixels: np.ndarray) -> Tensor:
    """CLIP's embedding of the whole picture, squashed as in training, [1, E] float32."""
    side = clip_vision.image_size if hasattr(clip_vision, "image_size") else 224
    picture = squash(pixels, (side, side)).movedim(1, -1)
    return clip_vision.encode_image(picture, crop=False)["image_embeds"].float()


def _pose_features(weights: ModelPatcher, pose: Tensor, size: tuple[int, int]) -> Tensor:
    """What a pose IMAGE adds, [1, C, h, w].

    Raises:
        ImageError: it is several, of another kind, or of another shape than the picture.
    """
    if pose.ndim != 4 or len(pose) != 1:
        raise ImageError(
            f"pose brings {len(pose)} pictures: one is needed, which holds for all that are drawn. Choose it with Get Image or Mask "
            "from Batch.",
            code="several-pose-maps",
        )
    pixels = photo_from_tensor(pose[0], "the pose map").pixels
    check_pose_picture(pixels, "The pose map")
    drawn = (8 * size[0], 8 * size[1])
    try:
        check_shape((pixels.shape[0], pixels.shape[1]), drawn, "pose map")
    except HostError as error:
        raise ImageError(
            f"The pose map is {pixels.shape[1]} x {pixels.shape[0]} px, the picture {drawn[1]} x {drawn[0]}: crop the map to the "
            "picture's shape, or choose another size.",
            code="pose-picture-of-another-shape",
        ) from error
    features = weights.model.pose_features(squash(pixels, (drawn[1], drawn[0])))
    return features.to(model_management.intermediate_device())
