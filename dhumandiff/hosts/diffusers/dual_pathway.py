"""The dual pathway on a diffusers UNet.

    with attach_dual(unet, dual, [reference_1, reference_2], DualPathwaySettings(), masks=masks):
        noise = unet(latents, t, encoder_hidden_states=..., added_cond_kwargs=...).sample

Regions from the attention are found from step to step: run `DenoisingLoop` with `FindRegions` as its mode, or draw whole portraits:

    image, focus = draw_dual(portrait, dual, [reference_1, reference_2], "A man@1 and a woman@2 in a garden", masks=masks)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor, nn

from ...conditioning.attention_store import last_layers
from ...conditioning.masks import resize_masks
from ...errors import HostError
from ...formats.values import check_weights
from ...methods.dual_pathway import DualPathwaySettings
from ...methods.dual_pathway.finding import FindRegions
from ...methods.paired.settings import SamplingSettings
from ...prompts import Prompt, parse_prompt
from .attention import Attached, check_compatible, cross_attention_layers
from .pipeline import NEGATIVE, PortraitPipeline
from .vae import decode

if TYPE_CHECKING:
    from ...methods.dual_pathway import DualPathway
    from ...references.reference import FaceReference

__all__ = ["attach_dual", "attach_dual_couples", "draw_dual"]


def attach_dual(
    unet: nn.Module,
    dual: DualPathway,
    references: Sequence[FaceReference],
    settings: DualPathwaySettings,
    person_strengths: Sequence[float] | None = None,
    masks: Tensor | None = None,
    guidance: bool = True,
) -> Attached:
    """Let a diffusers UNet draw people by both paths, in one call.

    Args:
        unet: UNet2DConditionModel with the layers that the weights were trained for.
        dual: the weights.
        references: one a person, in order.
        settings: strengths, and where regions come from.
        person_strengths: one a person, multiplied with both strengths.
        masks: each person's region, [P, N, H, W] 0..1, N pictures or 1 for all; any size of the picture's shape.
        guidance: a batch of even size is [unconditional; conditional]. False: every sample is conditional.

    Returns:
        A context manager that detaches at its end. Its `strength` is 1, or the regions that `FindRegions` found.

    Raises:
        HostError: the weights do not fit the UNet, another processor sits at a layer, or references, strengths and regions are not of
            the same number of persons.
        AdapterError: a part that the settings need is not there, or the weights are for fewer persons.
        FaceReferenceError: a reference was made with another image encoder.
    """
    if hasattr(references, "clip_hidden"):
        raise HostError(
            "A list of references is needed, one a person; put the one reference into [ ].", code="references-no-list"
        )
    return attach_dual_couples(unet, dual, [references], settings, person_strengths, masks, guidance)


def attach_dual_couples(
    unet: nn.Module,
    dual: DualPathway,
    couples: Sequence[Sequence[FaceReference]],
    settings: DualPathwaySettings,
    person_strengths: Sequence[float] | None = None,
    masks: Tensor | None = None,
    guidance: bool = True,
) -> Attached:
    """`attach_dual` for a batch in which every picture has people of its own, or all have the same (one couple)."""
    layers = cross_attention_layers(unet)
    check_compatible(layers, dual.identity.info)
    transformers = [name.split(".transformer_blocks.")[0] for name, _ in layers]
    people = dual.conditioning(couples, settings, person_strengths, masks, last_layers(transformers))
    return Attached(unet, layers, people, len(couples), guidance)


def draw_dual(
    portrait: PortraitPipeline,
    dual: DualPathway,
    references: Sequence[FaceReference],
    prompt: Prompt | str,
    negative: str = NEGATIVE,
    *,
    settings: DualPathwaySettings | None = None,
    sampling: SamplingSettings | None = None,
    masks: Tensor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Image.Image, Tensor | None]:
    """Draw one portrait by both paths. The same settings and seed give the same picture.

    Args:
        portrait: an SDXL base.
        dual: the weights.
        references: one a person, in order.
        prompt: a sentence with marks (`parse_prompt`), or one already parsed.
        negative: what to keep away from; without effect at a cfg of 1.
        settings: of the method, with the share of sampling in which the people act; None: the defaults.
        sampling: steps, guidance, seed, size, person strengths; None: as published. Its own start and end stay at 0 and 1.
        masks: each person's region, [P, 1, H, W] 0..1, any size of the picture's shape.
        progress: called with (steps done, all steps).

    Returns:
        The picture; and where the identity path counted, [height / 8, width / 8] 0..1, None where regions were given.

    Raises:
        HostError: settings that cannot be used, weights that do not fit, or NaN on the way.
        AdapterError: the weights hold NaN, lack a part that the settings need, or are for fewer persons.
    """
    check_weights(dual)
    settings, sampling = settings or DualPathwaySettings(), sampling or SamplingSettings()
    dual.check(settings)
    sampling = dataclasses.replace(sampling, start=settings.start, end=settings.end)
    sampling.check()
    if sampling.sampler is not None:
        portrait.use_sampler(sampling.sampler)
    if masks is not None and masks.ndim == 4:  # refused here, not in the first step
        resize_masks(masks, (sampling.size[1] // 8, sampling.size[0] // 8), 1)
    if isinstance(prompt, str):
        prompt = parse_prompt(prompt, persons=len(references))
    guidance = sampling.cfg != 1
    mode = FindRegions(settings)
    people = (references, settings, sampling.person_strengths, masks, guidance)
    base, turns = portrait.pipeline, portrait.turns
    with torch.no_grad(), ExitStack() as stack:
        with turns.of(base.text_encoder, base.text_encoder_2, dual):
            unconditional = portrait.encode(negative) if guidance else None
            texts = [portrait.encode(prompt, dual.identity, references)]
            conditions = portrait.conditions(texts, unconditional, sampling.size)
            attached = stack.enter_context(attach_dual(base.unet, dual, *people))
            if portrait.offload:
                attached.people.finish(attached.layers, portrait.device, portrait.dtype)
        read_while_sampling = [dual.router] if settings.regions == "router" else []
        with turns.of(base.unet, *read_while_sampling):
            loop = portrait.loop(attached, conditions, sampling, [sampling.seed], progress)
            latent = loop.run(portrait.noise(sampling.seed, sampling.size), mode)
    with turns.of(base.vae):
        return decode(base.vae, latent), None if mode.focus is None else mode.focus[0].float().cpu()
