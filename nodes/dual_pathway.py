"""The dual pathway (DP-Adapter, our reading): faces where faces count, words where words count."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..dhumandiff.methods.dual_pathway.presets import PRESETS
from ..dhumandiff.methods.dual_pathway.settings import MAX_FEATHER, SOURCES, DualPathwaySettings
from ..dhumandiff.references.reference import same_person_warning
from .comfy.dual import apply_dual
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
from .people import check_layout_masks, masks_in_order, of_persons, references_in_order

if TYPE_CHECKING:
    from ..dhumandiff.references import FaceReference

USES = {"none": None} | {preset.title.lower(): preset for preset in PRESETS.values()}
"""What each choice of `preset` stands for."""
DEFAULTS = DualPathwaySettings()


class DHDApplyDualPathway(io.ComfyNode):
    """MODEL -> MODEL that draws the people by both paths."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DHDApplyDualPathway",
            display_name="Apply Dual Pathway",
            description="Draws the references' faces, up to four, and follows the words everywhere else: the faces count inside of "
            "regions, which are given or found while sampling. Works with KSampler and every other sampler, at the price of one run.",
            search_aliases=["dp-adapter", "dual pathway", "expression", "age", "two people", "face id", "dhumandiff"],
            inputs=[
                io.Model.Input("model", tooltip="An SDXL model."),
                AdapterType.Input(
                    "adapter",
                    tooltip="From Load DHumanDiff Adapter: weights of the dual pathway, or any other adapter, with which a weaker identity "
                    "stands outside of the regions.",
                ),
                ReferenceType.Input("reference_1", tooltip="Person 1."),
                *of_each_person(ReferenceType, "reference", "Person {k}.", persons=PERSONS[1:], optional=True),
                io.Combo.Input(
                    "preset",
                    options=list(USES),
                    default="none",
                    tooltip="Settings for a use, in the place of the inputs below down to `start`. They are reasoned, not measured.",
                ),
                io.Combo.Input(
                    "regions",
                    options=list(SOURCES),
                    default="attention",
                    tooltip="Where the faces count. given: in the masks. attention: where the model reads the faces while sampling; masks "
                    "narrow it down. router: as trained weights predict.",
                ),
                io.Float.Input(
                    "identity_strength",
                    default=DEFAULTS.identity_strength,
                    **STRENGTH,
                    tooltip="How much the faces count inside of the regions.",
                ),
                io.Float.Input(
                    "text_strength",
                    default=DEFAULTS.text_strength,
                    **STRENGTH,
                    tooltip="How much the path of the words counts outside of the regions. 0: the words alone.",
                ),
                io.Float.Input(
                    "feather",
                    default=DEFAULTS.feather,
                    min=0.0,
                    max=float(MAX_FEATHER),
                    step=8.0,
                    optional=True,
                    tooltip="Width of the ramp on either side of a mask's border, px of the picture.",
                    **ADVANCED,
                ),
                io.Float.Input(
                    "face_share",
                    default=DEFAULTS.face_share,
                    optional=True,
                    **SHARE,
                    **ADVANCED,
                    tooltip="Share of the picture that is face, with `regions` attention.",
                ),
                io.Boolean.Input(
                    "hard_routes",
                    default=False,
                    optional=True,
                    **ADVANCED,
                    tooltip="With `regions` router: each place is one person's, in the place of each one's in part.",
                ),
                *start_and_end("the people", optional=True),
                io.Boolean.Input(
                    "require_trained",
                    default=False,
                    optional=True,
                    **ADVANCED,
                    tooltip="Stop if the weights have no trained path of the words.",
                ),
                *of_each_person(
                    io.Mask,
                    "mask",
                    "The region of person {k} (white), for instance from Portrait Layout; same shape as the picture.",
                    optional=True,
                ),
                *of_each_person(
                    io.Float,
                    "strength",
                    "Multiplies both strengths for person {k}, when one face wins.",
                    optional=True,
                    default=1.0,
                    **STRENGTH,
                    **ADVANCED,
                ),
            ],
            outputs=[io.Model.Output("model_out", display_name="model", tooltip="The model with the people.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls, start: float | None = None, end: float | None = None, preset: str | None = None
    ) -> bool | str:
        use = USES.get(preset) if preset else None
        return start_before_end(start if use is None else use.settings.start, end)

    @classmethod
    def execute(
        cls,
        model: Any,
        adapter: Any,
        reference_1: FaceReference,
        preset: str,
        regions: str,
        identity_strength: float,
        text_strength: float,
        feather: float = DEFAULTS.feather,
        face_share: float = DEFAULTS.face_share,
        hard_routes: bool = False,
        start: float = 0.0,
        end: float = 1.0,
        require_trained: bool = False,
        **persons: Any,
    ) -> io.NodeOutput:
        use = USES[check_choice("preset", preset, USES)]
        regions = check_choice("regions", regions, SOURCES)
        settings = DualPathwaySettings(
            identity_strength=identity_strength,
            text_strength=text_strength,
            regions=regions,
            feather=feather,
            face_share=face_share,
            hard_routes=hard_routes,
            start=start,
        )
        settings = dataclasses.replace(
            settings if use is None else use.settings, end=end, require_trained=require_trained
        )
        references = references_in_order(reference_1, *of_persons("reference", persons, first=2))
        masks = masks_in_order(of_persons("mask", persons), len(references))
        check_layout_masks(masks)
        strengths = of_persons("strength", persons, 1.0)[: len(references)]
        patched, notes = apply_dual(model, adapter, references, settings, person_strengths=strengths, masks=masks)
        if said := [note for note in (*notes, same_person_warning(*references)) if note]:
            tell(cls, "\n".join(said))
        return io.NodeOutput(patched)
