"""WithAnyone: up to four people, each in a region of their own, into a FLUX MODEL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..dhumandiff.errors import AdapterError
from ..dhumandiff.methods.withanyone.people import unknown_recognizers
from ..dhumandiff.references.reference import same_person_warning
from .comfy.flux import PLACEMENT
from .comfy.flux_patch import apply_withanyone
from .comfy.folders import withanyone_choices, withanyone_path
from .comfy.schema import (
    ADVANCED,
    FORCE_INPUT,
    PERSONS,
    SHARE,
    STRENGTH,
    BoundingBoxType,
    ReferenceType,
    WithAnyoneType,
    check_choice,
    of_each_person,
    schema,
    start_and_end,
    start_before_end,
    tell,
)
from .comfy.withanyone import PRECISIONS, load_withanyone
from .people import masks_in_order, of_persons, references_in_order

if TYPE_CHECKING:
    from ..dhumandiff.references import FaceReference

PLACEMENTS = ("boxes and masks only", PLACEMENT)
"""Where somebody is who has neither box nor mask: refused, or placed by a preset."""


class DHDLoadWithAnyone(io.ComfyNode):
    """Choice of file -> weights under ComfyUI's memory management."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DHDLoadWithAnyone",
            display_name="Load WithAnyone Adapter",
            description="The trained weights of WithAnyone, which draw up to four people on FLUX.1. For non-commercial use.",
            search_aliases=["withanyone", "flux face", "flux identity", "multiple people", "face id", "dhumandiff"],
            inputs=[
                io.Combo.Input(
                    "adapter_name",
                    options=withanyone_choices(),
                    tooltip="From models/withanyone: withanyone.safetensors, or the file of one branch (ArcFace's also for Kontext).",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="auto",
                    tooltip="What the weights are kept in. auto: bf16 where the GPU computes in it, else fp16, else fp32. fp32 takes 11 GB, "
                    "the others 5.6 GB.",
                    **ADVANCED,
                ),
            ],
            outputs=[WithAnyoneType.Output("withanyone", tooltip="The weights, for Apply WithAnyone.")],
        )

    @classmethod
    def validate_inputs(cls, adapter_name: str | None = None) -> bool | str:
        # In the place of ComfyUI's own check of the choice, whose message does not say what to put where.
        if adapter_name is None:  # linked: looked up when it runs
            return True
        try:
            withanyone_path(adapter_name)
        except AdapterError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, adapter_name: str | None = None, precision: str = "auto") -> float:
        if adapter_name is None:  # linked: the other node's own fingerprint counts
            return 0.0
        return withanyone_path(adapter_name).stat().st_mtime

    @classmethod
    def execute(cls, adapter_name: str, precision: str = "auto") -> io.NodeOutput:
        precision = check_choice("precision", precision, PRECISIONS)
        return io.NodeOutput(load_withanyone(withanyone_path(adapter_name), precision))


class DHDApplyWithAnyone(io.ComfyNode):
    """MODEL -> MODEL that draws the people, each in their region."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        strength: dict[str, Any] = {"default": 1.0, **STRENGTH}
        return schema(
            node_id="DHDApplyWithAnyone",
            display_name="Apply WithAnyone",
            description="Draws up to four people with a FLUX.1 model, each where their box or mask says. Works with every loader of FLUX "
            "(fp8, GGUF, LoRA, Kontext, Krea) and every sampler.",
            search_aliases=["withanyone", "flux face", "flux identity", "multiple people", "group photo", "face id"],
            inputs=[
                io.Model.Input("model", tooltip="A FLUX.1 model: dev, Krea or Kontext, with any LoRA."),
                WithAnyoneType.Input("withanyone", tooltip="From Load WithAnyone Adapter."),
                ReferenceType.Input(
                    "reference_1", tooltip="Person 1, encoded with antelopev2; with SigLIP, too, for `form`."
                ),
                *of_each_person(ReferenceType, "reference", "Person {k}.", persons=PERSONS[1:], optional=True),
                io.Float.Input(
                    "form",
                    default=0.5,
                    **SHARE,
                    tooltip="0, in spirit: who it is, with freedom in expression, pose and age. 1, in form: nearer to the photo. Above 0 "
                    "references need SigLIP (Load SigLIP Vision).",
                ),
                io.Float.Input(
                    "strength",
                    **strength,
                    tooltip="How much people count. 1.0 is as trained; less gives the words more say. 0 is as if the node were not there.",
                ),
                BoundingBoxType.Input(
                    "boxes",
                    optional=True,
                    **FORCE_INPUT,
                    tooltip="A box around each face, in the order of the references: from Portrait Layout. They follow the picture's size.",
                ),
                *of_each_person(
                    io.Mask,
                    "mask",
                    "Where the face of person {k} may be (white), in the place of their box.",
                    optional=True,
                ),
                io.Combo.Input(
                    "placement",
                    options=list(PLACEMENTS),
                    default=PLACEMENTS[0],
                    optional=True,
                    tooltip=f"For people without box and mask. {PLACEMENTS[0]}: say so and stop. {PLACEMENT}: side by side, as that preset "
                    "of Portrait Layout has them.",
                ),
                *of_each_person(
                    io.Float,
                    "strength",
                    "Multiplies the strength for person {k}, when one face wins or looks stiff.",
                    optional=True,
                    **strength,
                    **ADVANCED,
                ),
                *start_and_end("people", optional=True),
            ],
            outputs=[io.Model.Output("model_out", display_name="model", tooltip="The model with everybody in it.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, start: float | None = None, end: float | None = None) -> bool | str:
        return start_before_end(start, end)

    @classmethod
    def execute(
        cls,
        model: Any,
        withanyone: Any,
        reference_1: FaceReference,
        form: float,
        strength: float,
        boxes: Any = None,
        placement: str = PLACEMENTS[0],
        start: float = 0.0,
        end: float = 1.0,
        **persons: Any,
    ) -> io.NodeOutput:
        placement = check_choice("placement", placement, PLACEMENTS)
        references = references_in_order(reference_1, *of_persons("reference", persons, first=2))
        masks = masks_in_order(of_persons("mask", persons), len(references))
        patched = apply_withanyone(
            model,
            withanyone,
            references,
            form,
            strength=strength,
            person_strengths=of_persons("strength", persons, 1.0)[: len(references)],
            boxes=boxes,
            masks=masks,
            place=placement == PLACEMENT,
            start=start,
            end=end,
        )
        if notes := [note for note in (unknown_recognizers(references), same_person_warning(*references)) if note]:
            tell(cls, "\n".join(notes))  # together: a text on the node takes the place of the one before
        return io.NodeOutput(patched)
