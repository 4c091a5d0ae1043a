"""People from pictures of their parts: Parts2Whole, on Stable Diffusion 1.5."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..dhumandiff.errors import AdapterError
from ..dhumandiff.methods.parts2whole.part import LABELS
from .comfy.folders import parts_choices, parts_path
from .comfy.parts2whole import apply_parts, encode_part
from .comfy.parts_models import load_parts2whole
from .comfy.schema import (
    ADVANCED,
    STRENGTH,
    PartsType,
    PartsWeightsType,
    check_choice,
    schema,
    start_and_end,
    start_before_end,
    tell,
)

if TYPE_CHECKING:
    from torch import Tensor

    from ..dhumandiff.methods.parts2whole.part import Part

MASKED = {"zeroed": False, "left out": True}
"""What becomes of what a mask excludes; the first is as published."""


class DHDLoadParts2Whole(io.ComfyNode):
    """The released folder -> MODEL with its own noise, and the weights of the parts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DHDLoadParts2Whole",
            display_name="Load Parts2Whole",
            description="Parts2Whole: draws people from a picture for each part, on its own Stable Diffusion 1.5.",
            search_aliases=["parts2whole", "clothes", "outfit", "virtual try on", "garment", "dhumandiff"],
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=parts_choices(),
                    tooltip="A folder in models/dhumandiff with reference_unet, pose_guider, unet and decoupled_attn.pth.",
                )
            ],
            outputs=[
                io.Model.Output(
                    "model", tooltip="The UNet that draws, with the noise schedule that it was trained on."
                ),
                PartsWeightsType.Output("weights", tooltip="The other weights, for Encode Part and Apply Parts."),
            ],
        )

    @classmethod
    def validate_inputs(cls, folder: str | None = None) -> bool | str:
        # In the place of ComfyUI's own check of the choice, whose message does not say what to put where.
        if folder is None:  # linked: looked up when it runs
            return True
        try:
            parts_path(folder)
        except AdapterError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, folder: str | None = None) -> float:
        if folder is None:  # linked: the other node's own fingerprint counts
            return 0.0
        files = (path for path in parts_path(folder).rglob("*") if path.is_file())
        return max((path.stat().st_mtime for path in files), default=0.0)

    @classmethod
    def execute(cls, folder: str) -> io.NodeOutput:
        return io.NodeOutput(*load_parts2whole(parts_path(folder)))


class DHDEncodePart(io.ComfyNode):
    """A picture of a face, a jacket ... -> a part, beside those before it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        side = {"default": 512, "min": 64, "max": 2048, "step": 64}
        return schema(
            node_id="DHDEncodePart",
            display_name="Encode Part",
            description="One part of a person from a picture of its own: the face, hair or headwear, clothes, shoes.",
            search_aliases=["part", "garment", "clothes", "face", "shoes", "parts2whole"],
            inputs=[
                PartsWeightsType.Input("weights", tooltip="From Load Parts2Whole."),
                io.Image.Input("image", tooltip="One picture that shows the part."),
                io.Combo.Input(
                    "part", options=list(LABELS), tooltip="What it is. The model was trained with these six."
                ),
                io.Clip.Input("clip", tooltip="CLIP of a Stable Diffusion 1.5 checkpoint."),
                io.Vae.Input("vae", tooltip="VAE of Stable Diffusion 1.5."),
                io.ClipVision.Input("clip_vision", tooltip="CLIP ViT-L/14."),
                io.Int.Input("width", **side, tooltip="Of the picture that will be drawn, px."),
                io.Int.Input("height", **{**side, "default": 768}, tooltip="Of the picture that will be drawn, px."),
                io.Int.Input("person", default=1, min=1, max=2, tooltip="Whose part it is: person 1 or person 2."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    **STRENGTH,
                    tooltip="How much the part counts: 1 is as trained, 0 as if it were not there.",
                    **ADVANCED,
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where in the picture the part is (white), from any segmentation. Without one the whole picture counts.",
                ),
                PartsType.Input("parts", optional=True, tooltip="Parts that there are already; this one joins them."),
            ],
            outputs=[
                PartsType.Output("parts_out", display_name="parts", tooltip="For the next Encode Part, or Apply Parts.")
            ],
        )

    @classmethod
    def execute(
        cls,
        weights: Any,
        image: Tensor,
        part: str,
        clip: Any,
        vae: Any,
        clip_vision: Any,
        width: int,
        height: int,
        person: int,
        strength: float,
        mask: Tensor | None = None,
        parts: tuple[Part, ...] = (),
    ) -> io.NodeOutput:
        part = check_choice("part", part, LABELS)
        made = encode_part(weights, image, part, (width, height), clip, vae, clip_vision, mask, person, strength)
        return io.NodeOutput((*parts, made))


class DHDApplyParts(io.ComfyNode):
    """MODEL -> MODEL that draws people with these parts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DHDApplyParts",
            display_name="Apply Parts",
            description="Draws one person, or two, with exactly these parts. Two people have a region each: nobody wears the other's "
            "clothes. Works with KSampler and every other sampler.",
            search_aliases=["parts", "outfit", "virtual try on", "two people", "parts2whole", "dhumandiff"],
            inputs=[
                io.Model.Input("model", tooltip="From Load Parts2Whole."),
                PartsWeightsType.Input("weights", tooltip="From Load Parts2Whole."),
                PartsType.Input("parts", tooltip="From Encode Part."),
                io.Float.Input(
                    "image_strength",
                    default=1.0,
                    **STRENGTH,
                    tooltip="How much the parts' image tokens count beside their features. 1 is as trained.",
                    **ADVANCED,
                ),
                io.Combo.Input(
                    "masked",
                    options=list(MASKED),
                    default="zeroed",
                    tooltip="What becomes of what a mask excludes. zeroed: as published, it dilutes the part. left out: the part counts "
                    "more, and sampling is faster.",
                    **ADVANCED,
                ),
                *start_and_end("the parts"),
                io.Image.Input(
                    "pose",
                    optional=True,
                    tooltip="A DensePose map as raw IUV, of the picture's shape. Skeletons and colored body maps are refused.",
                ),
                io.Mask.Input(
                    "mask_1",
                    optional=True,
                    tooltip="Where person 1 may be (white), for instance from Portrait Layout. Two people need one of the two at least.",
                ),
                io.Mask.Input("mask_2", optional=True, tooltip="Where person 2 may be (white)."),
            ],
            outputs=[io.Model.Output("model_out", display_name="model", tooltip="The model with the parts.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, start: float | None = None, end: float | None = None) -> bool | str:
        return start_before_end(start, end)

    @classmethod
    def execute(
        cls,
        model: Any,
        weights: Any,
        parts: tuple[Part, ...],
        image_strength: float,
        masked: str,
        start: float,
        end: float,
        pose: Tensor | None = None,
        mask_1: Tensor | None = None,
        mask_2: Tensor | None = None,
    ) -> io.NodeOutput:
        drop_masked = MASKED[check_choice("masked", masked, MASKED)]
        persons = max((part.person for part in parts), default=1)
        patched, notes = apply_parts(
            model,
            weights,
            parts,
            pose=pose,
            regions=[mask_1, mask_2][: max(persons, 1 + (mask_2 is not None))],
            scale=image_strength,
            drop_masked=drop_masked,
            start=start,
            end=end,
        )
        for note in notes:
            tell(cls, note)
        return io.NodeOutput(patched)
