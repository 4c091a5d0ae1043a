"""The dual pathway on a diffusers UNet.

    with attach_dual(unet, dual, [reference_1, reference_2], DualPathwaySettings(), masks=masks):
        noise = unet(latents, t, encoder_hidden_states=..., added_cond_kwargs=...).sample

Regions from the attention are found from step to step: run `DenoisingLoop` with `FindRegions` as its mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ...conditioning.attention_store import last_layers
from ...errors import HostError
from .attention import Attached, check_compatible, cross_attention_layers

if TYPE_CHECKING:
    from ...methods.dual_pathway import DualPathway, DualPathwaySettings
    from ...references.reference import FaceReference

__all__ = ["attach_dual", "attach_dual_couples"]


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
