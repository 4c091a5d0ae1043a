"""The miniature: a small trained base of drawn people, and photos of them, so that a portrait is made with no downloads."""

from __future__ import annotations

from itertools import islice
from typing import Literal

import torch
from comfy_api.latest import io

from ..dhumandiff.errors import HostError
from ..dhumandiff.miniature.weights import FOLDER
from ..dhumandiff.miniature.world import SPLITS, Identity, draw_reference, sample_identity
from .comfy.miniature import (
    mini_adapter_patcher,
    mini_clip,
    mini_clip_vision,
    mini_face_analysis,
    mini_model,
    mini_vae,
)
from .comfy.schema import AdapterType, check_choice, schema

MIN_SIDE, MAX_SIDE = 32, 4096
GENDERS = ("any", "woman", "man")


class DHDLoadMiniature(io.ComfyNode):
    """Everything that a portrait of two drawn people needs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DHDLoadMiniature",
            display_name="Load Miniature",
            description="A small model in which the whole method works, shipped with this pack: a tiny SDXL, its encoders, "
            "face recognition and adapter, trained on drawn people. It draws portraits of 256 x 192 px in seconds on any "
            "computer. It knows drawn people only: give it photos from Draw Person.",
            search_aliases=["mini", "tiny", "demo", "example", "drawn people", "checkpoint", "dhumandiff"],
            inputs=[],
            outputs=[
                io.Model.Output("model", tooltip="The base model. Its pictures are 256 x 192 px; 20 steps, CFG 2."),
                io.Clip.Output(
                    "clip",
                    tooltip="Knows the words of the drawn world: clothes, colours, places, actions, expressions.",
                ),
                io.Vae.Output("vae", tooltip="For VAE Decode."),
                io.ClipVision.Output("clip_vision", tooltip="For Encode Reference Face."),
                io.FaceAnalysis.Output("face_analysis", tooltip="For Encode Reference Face. Finds drawn faces."),
                AdapterType.Output("adapter", tooltip="For the other DHumanDiff nodes."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls) -> float:
        # Whoever trains the miniature anew wants the new one without a restart.
        return max((path.stat().st_mtime for path in FOLDER.glob("*.safetensors")), default=0.0)

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(
            mini_model(), mini_clip(), mini_vae(), mini_clip_vision(), mini_face_analysis(), mini_adapter_patcher()
        )


class DHDDrawPerson(io.ComfyNode):
    """A number -> a reference photo of a drawn person."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DHDDrawPerson",
            display_name="Draw Person",
            description="Draws a reference photo of a person who does not exist, for the miniature, which draws drawn people "
            "only. None of them was seen in its training.",
            search_aliases=["drawn person", "example photo", "reference photo", "mini", "face", "dhumandiff"],
            inputs=[
                io.Int.Input(
                    "person",
                    default=0,
                    min=0,
                    max=9999,
                    tooltip="Who: every number is somebody else, and always the same person.",
                ),
                io.Combo.Input(
                    "gender",
                    options=list(GENDERS),
                    default=GENDERS[0],
                    tooltip="woman and man: adults of that gender, counted by the number. any: children too.",
                ),
                io.Int.Input(
                    "view",
                    default=0,
                    min=0,
                    max=9999,
                    tooltip="Which photo of this person: another number is another pose, expression, light and clothes.",
                ),
                io.Int.Input(
                    "size",
                    default=384,
                    min=128,
                    max=1024,
                    step=32,
                    tooltip="Side of the square photo, px. 256 and more make the report on the photo content.",
                ),
            ],
            outputs=[io.Image.Output("image", tooltip="For Encode Reference Face.")],
        )

    @classmethod
    def execute(cls, person: int, gender: Literal["any", "woman", "man"], view: int, size: int) -> io.NodeOutput:
        check_choice("gender", gender, GENDERS)
        if not MIN_SIDE <= size <= MAX_SIDE:
            raise HostError(f"size is {size}: choose {MIN_SIDE} to {MAX_SIDE} px.", code="photo-size")
        picture = draw_reference(drawn_person(person, gender), view, size).picture
        return io.NodeOutput(torch.from_numpy(picture.copy())[None].float() / 255)


def drawn_person(number: int, gender: Literal["any", "woman", "man"] = "any") -> Identity:
    """One of the people nobody trained on: the `number`-th of all, or of the grown-up women or men.

    Raises:
        HostError: there are not so many.
    """
    people = SPLITS["test"]
    if number in range(len(people)):
        if gender == "any":
            return sample_identity(people[number])
        grown_up = (who for seed in people if (who := sample_identity(seed, gender)).age != "child")
        if (found := next(islice(grown_up, number, None), None)) is not None:
            return found
    raise HostError(
        f"There is no drawn person {number}: they have numbers from 0 on, of which there are {len(people)} with gender any.",
        code="no-such-drawn-person",
    )
