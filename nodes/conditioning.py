"""Visual disparity-aware conditioning: references into a MODEL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..dhumandiff.errors import HostError
from ..dhumandiff.methods.paired.cascade import FOCUS_FRACTION, SCENE_STRENGTH
from ..dhumandiff.methods.paired.settings import CascadeSettings
from ..dhumandiff.references.reference import same_person_warning
from .comfy.patch import apply_people
from .comfy.schema import (
    ADVANCED,
    PERSONS,
    SHARE,
    STRENGTH,
    AdapterType,
    ReferenceType,
    check_choice,
    of_each_person,
    schema,
    start_and_end,
    start_before_end,
    tell,
)
from .people import check_layout_masks, masks_in_order, references_in_order

if TYPE_CHECKING:
    from torch import Tensor

    from ..dhumandiff.references import FaceReference

CASCADES = ("off", "one_pass")
DURING: dict[str, tuple[float, float] | None] = {
    "start and end": None,
    "whole run": (0.0, 1.0),
    "first 80 %": (0.0, 0.8),
}
"""When the faces count: what each choice of `during` stands for. On the miniature the last fifth of sampling adds nothing to who is
who that could be measured (training/miniature/results_128x96: during_0_0.8), and without it those steps cost what a plain run costs."""


class DHDApplyPair(io.ComfyNode):
    """MODEL -> MODEL that draws the people."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        person_strength = {"default": 1.0, **STRENGTH, **ADVANCED}
        one_wins = "Multiplies the strength for person {k}, when one face wins."
        return schema(
            node_id="DHDApplyPair",
            display_name="Apply Disparity-Aware Conditioning",
            description="Draws the references' faces with this model, up to four. DHumanDiff's weights have some for each of two "
            "people, which is what keeps the two apart; masks are not needed. IP-Adapter files have one for everybody: give each "
            "person a mask. Works with KSampler and every other sampler.",
            search_aliases=["apply pair", "two faces", "couple", "ipadapter", "face id", "dhumandiff"],
            inputs=[
                io.Model.Input("model", tooltip="An SDXL model."),
                AdapterType.Input("adapter", tooltip="From Load DHumanDiff Adapter."),
                ReferenceType.Input("reference_1", tooltip="Person 1: @1 in the prompt."),
                ReferenceType.Input(
                    "reference_2",
                    optional=True,
                    tooltip="Person 2: @2 in the prompt. Leave open for a portrait of one.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    **STRENGTH,
                    tooltip="How much the faces count. 1.0 is as trained; less gives the words more say. The cascade puts its "
                    "scene and face strength in the place of this one.",
                ),
                *of_each_person(io.Float, "strength", one_wins, persons=PERSONS[:2], **person_strength),
                *start_and_end("the faces"),
                io.Mask.Input(
                    "mask_1",
                    optional=True,
                    tooltip="Where person 1 may be (white). Optional; same shape as the picture. One for all pictures of a "
                    "batch, or one each.",
                ),
                io.Mask.Input("mask_2", optional=True, tooltip="Where person 2 may be (white)."),
                io.Combo.Input(
                    "cascade",
                    options=list(CASCADES),
                    default="off",
                    optional=True,
                    tooltip="one_pass: `strength` holds where the faces are and `scene_strength` everywhere else, with KSampler or any "
                    "other sampler, at the price of one run. Off where a cascade node follows.",
                    **ADVANCED,
                ),
                io.Float.Input(
                    "scene_strength",
                    default=SCENE_STRENGTH,
                    **STRENGTH,
                    optional=True,
                    tooltip="How much the faces count outside of the faces, with `cascade` one_pass.",
                    **ADVANCED,
                ),
                io.Float.Input(
                    "focus_share",
                    default=FOCUS_FRACTION,
                    optional=True,
                    tooltip="Share of the picture that counts as face, with `cascade` one_pass.",
                    **SHARE,
                    **ADVANCED,
                ),
                io.Mask.Input(
                    "focus",
                    optional=True,
                    tooltip="Where the faces are (white), in place of what is found while sampling. Needs `cascade` one_pass.",
                ),
                io.Combo.Input(
                    "during",
                    options=list(DURING),
                    default="start and end",
                    optional=True,
                    tooltip="When the faces count. start and end: as those two inputs say. whole run. first 80 %: the last steps cost "
                    "what a plain run costs; who is who is settled by then.",
                    **ADVANCED,
                ),
                ReferenceType.Input(
                    "reference_3",
                    optional=True,
                    tooltip="Person 3: @3 in the prompt. Needs weights for more than two people, or an IP-Adapter file.",
                ),
                ReferenceType.Input("reference_4", optional=True, tooltip="Person 4: @4 in the prompt."),
                *of_each_person(
                    io.Mask, "mask", "Where person {k} may be (white).", persons=PERSONS[2:], optional=True
                ),
                *of_each_person(io.Float, "strength", one_wins, persons=PERSONS[2:], optional=True, **person_strength),
            ],
            outputs=[io.Model.Output("model_out", display_name="model", tooltip="The model with the people.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls, start: float | None = None, end: float | None = None, during: str | None = None
    ) -> bool | str:
        counts = during is None or DURING.get(during) is None
        return start_before_end(start, end) if counts else True

    @classmethod
    def execute(
        cls,
        model: Any,
        adapter: Any,
        reference_1: FaceReference,
        strength: float,
        strength_1: float,
        strength_2: float,
        start: float,
        end: float,
        reference_2: FaceReference | None = None,
        mask_1: Tensor | None = None,
        mask_2: Tensor | None = None,
        cascade: str = "off",
        scene_strength: float = SCENE_STRENGTH,
        focus_share: float = FOCUS_FRACTION,
        focus: Tensor | None = None,
        during: str = "start and end",
        reference_3: FaceReference | None = None,
        reference_4: FaceReference | None = None,
        mask_3: Tensor | None = None,
        mask_4: Tensor | None = None,
        strength_3: float = 1.0,
        strength_4: float = 1.0,
    ) -> io.NodeOutput:
        cascade = check_choice("cascade", cascade, CASCADES)
        start, end = DURING[check_choice("during", during, DURING)] or (start, end)
        if focus is not None and cascade == "off":
            raise HostError(
                "focus is connected, but cascade is off: set it to one_pass, or take the mask away.",
                code="focus-without-cascade",
            )
        references = references_in_order(reference_1, reference_2, reference_3, reference_4)
        persons = len(references)
        masks = masks_in_order((mask_1, mask_2, mask_3, mask_4), persons)
        check_layout_masks(masks)
        if notes := [
            note for note in (same_person_warning(*references), adapter.model.info.blending_note(masks)) if note
        ]:
            tell(cls, "\n".join(notes))
        patched = apply_people(
            model,
            adapter,
            references,
            strength,
            person_strengths=(strength_1, strength_2, strength_3, strength_4)[:persons],
            masks=masks,
            start=start,
            end=end,
            cascade=None
            if cascade == "off"
            else CascadeSettings(cascade, scene_strength, face_strength=strength, focus_fraction=focus_share),
            focus=focus,
        )
        return io.NodeOutput(patched)
