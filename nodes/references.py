"""Reference-face encoding: photos -> people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..dhumandiff.errors import AdapterError, FaceReferenceError
from ..dhumandiff.faces import as_analyzer, load_face_analysis
from ..dhumandiff.faces.drawing import draw_crop
from ..dhumandiff.io import why_not_written
from ..dhumandiff.references.encode import WHOLE_PHOTO, EncodeReport, encode_reference
from ..dhumandiff.references.reference import FaceReference
from .comfy.folders import (
    face_pack,
    face_pack_choices,
    insightface_root,
    new_reference_path,
    reference_choices,
    reference_path,
    siglip_choices,
    siglip_path,
)
from .comfy.schema import ADVANCED, FACE_ANALYSIS_TYPES, ReferenceType, check_choice, progress_text, schema, tell
from .comfy.vision import ClipVisionEncoder, SiglipEncoder, load_siglip

DEVICES = ("auto", "CPU", "CUDA", "CoreML", "DirectML")
WHICH = ("largest", "left-most", "right-most", "by index", WHOLE_PHOTO)


class DHDLoadFaceAnalysis(io.ComfyNode):
    """Face models on a chosen device: a pack of InsightFace's, or the open one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DHDLoadFaceAnalysis",
            display_name="Load Face Analysis",
            description="Finds faces and tells them apart. InsightFace's packs are for non-commercial use; `open` (YuNet and AuraFace) is "
            "for everybody, and needs no InsightFace.",
            search_aliases=[
                "insightface",
                "buffalo_l",
                "antelopev2",
                "face detector",
                "face recognition",
                "yunet",
                "auraface",
                "sface",
                "commercial",
            ],
            inputs=[
                io.Combo.Input(
                    "pack",
                    options=face_pack_choices(),
                    tooltip="A folder in models/insightface/models. DHumanDiff's weights were trained with buffalo_l, WithAnyone's with "
                    "antelopev2. open: YuNet and AuraFace, which businesses may use too, for adapters trained with AuraFace and for "
                    "IP-Adapter. sface: YuNet and SFace, a judge for the scoring nodes alone.",
                ),
                io.Combo.Input(
                    "provider",
                    options=list(DEVICES),
                    default="auto",
                    tooltip="What runs the models. When it cannot be had, the CPU does, and a note says so.",
                ),
                io.Boolean.Input(
                    "download",
                    default=False,
                    tooltip="Fetch the pack (about 300 MB) from InsightFace's own release page when it is not there.",
                    **ADVANCED,
                ),
            ],
            outputs=[io.FaceAnalysis.Output("face_analysis", tooltip="For Encode Reference Face.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, pack: str, provider: str, download: bool) -> io.NodeOutput:
        provider = check_choice("provider", provider, DEVICES)
        analyzer = load_face_analysis(face_pack(pack), insightface_root(), provider, allow_download=download)
        if analyzer.note:
            tell(cls, analyzer.note)
        return io.NodeOutput(analyzer)


class DHDLoadSigLIP(io.ComfyNode):
    """Choice of file -> SigLIP's vision tower under ComfyUI's memory management."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DHDLoadSigLIP",
            display_name="Load SigLIP Vision",
            description="The image encoder with which WithAnyone looks at faces: siglip-base-patch16-256-i18n, which ComfyUI's own "
            "Load CLIP Vision does not know.",
            search_aliases=["siglip", "clip vision", "image encoder", "withanyone", "vision tower"],
            inputs=[
                io.Combo.Input(
                    "siglip_name",
                    options=siglip_choices(),
                    tooltip="From models/clip_vision: model.safetensors of google/siglip-base-patch16-256-i18n, under any name.",
                ),
            ],
            outputs=[io.ClipVision.Output("siglip_vision", tooltip="For siglip_vision of Encode Reference Face.")],
        )

    @classmethod
    def validate_inputs(cls, siglip_name: str | None = None) -> bool | str:
        # In the place of ComfyUI's own check of the choice, whose message does not say what to put where.
        if siglip_name is None:  # linked: looked up when it runs
            return True
        try:
            siglip_path(siglip_name)
        except AdapterError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, siglip_name: str | None = None) -> float:
        if siglip_name is None:  # linked: the other node's own fingerprint counts
            return 0.0
        return siglip_path(siglip_name).stat().st_mtime

    @classmethod
    def execute(cls, siglip_name: str) -> io.NodeOutput:
        return io.NodeOutput(load_siglip(siglip_path(siglip_name)))


class DHDEncodeReference(io.ComfyNode):
    """Photos of one person -> a reference."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DHDEncodeReference",
            display_name="Encode Reference Face",
            description="What is to be known of one person, from one or more photos of them. "
            "Use photos of people who agreed to it.",
            search_aliases=["face", "reference", "photo", "person", "encode face", "face id", "dhumandiff"],
            inputs=[
                io.Image.Input("image", tooltip="One photo of the person, or a batch of several."),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="CLIP ViT-H/14, the image encoder of IP-Adapter: for DHumanDiff and IP-Adapter on SDXL.",
                ),
                io.MultiType.Input(
                    "face_analysis",
                    types=FACE_ANALYSIS_TYPES,
                    optional=True,
                    tooltip="From Load Face Analysis, or an InsightFace loader of another pack. Needed for all but whole-photo.",
                ),
                io.Combo.Input(
                    "which",
                    options=list(WHICH),
                    default=WHICH[0],
                    tooltip="Which face, when a photo shows several people. whole-photo: it is a head crop already, nothing is looked for "
                    "and no face analysis is needed; for IP-Adapter Plus alone.",
                ),
                io.Int.Input(
                    "index",
                    default=0,
                    min=0,
                    max=99,
                    tooltip="For `by index`: 0 is the largest face, 1 the next.",
                    **ADVANCED,
                ),
                io.Boolean.Input(
                    "normalise_light",
                    default=False,
                    tooltip="Evens out light from one side and wrong exposure in the crop. The method takes the light of the "
                    "reference for the person's looks.",
                ),
                io.String.Input("name", default="", tooltip="What messages call this person. Optional.", **ADVANCED),
                io.ClipVision.Input(
                    "siglip_vision",
                    optional=True,
                    tooltip="From Load SigLIP Vision: for WithAnyone on FLUX. One of the two encoders is needed; with both, one "
                    "reference serves all methods.",
                ),
            ],
            outputs=[
                ReferenceType.Output("reference", tooltip="The person, for the other DHumanDiff nodes."),
                io.Image.Output("crop", tooltip="What the model sees of each photo, with the face's box."),
                io.String.Output("report", tooltip="What was measured of each photo, and what to do better."),
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        clip_vision: Any = None,
        face_analysis: Any = None,
        which: str = WHICH[0],
        index: int = 0,
        normalise_light: bool = False,
        name: str = "",
        siglip_vision: Any = None,
    ) -> io.NodeOutput:
        which = check_choice("which", which, WHICH)
        analyzer = None if face_analysis is None else as_analyzer(face_analysis)
        show = progress_text(cls)
        reference, report = encode_reference(
            list(image),
            None if clip_vision is None else ClipVisionEncoder(clip_vision),
            analyzer,
            siglip=None if siglip_vision is None else SiglipEncoder(siglip_vision),
            which=index if which == "by index" else which,
            normalize_light=normalise_light,
            name=name,
            progress=lambda number, count: show(f"reading faces: photo {number} of {count}"),
        )
        if warnings := report.warnings():
            tell(cls, "\n".join(warnings))  # together: a text on the node takes the place of the one before
        else:
            show("nothing to improve")
        crop = drawn_crops(reference, report)
        return io.NodeOutput(reference, crop, str(report), ui=ui.PreviewImage(crop, cls=cls))


def drawn_crops(reference: FaceReference, report: EncodeReport) -> Tensor:
    """The crops with the face's box and the report's quality issues drawn in, [N, S, S, 3] float 0..1."""
    crops = () if reference.crop is None else reference.crop
    drawn = []
    for crop, photo in zip(crops, report.photos, strict=True):
        pixels, labels = (crop * 255).round().byte().numpy(), [one.label for one in photo.issues()]
        drawn.append(pixels if photo.face_in_crop is None else draw_crop(pixels, photo.face_in_crop, labels))
    return torch.from_numpy(np.stack(drawn)).float() / 255


class DHDSaveReference(io.ComfyNode):
    """Keep a person for later."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DHDSaveReference",
            display_name="Save Reference",
            description="Saves a person to models/dhumandiff/references, so that they are encoded once.",
            search_aliases=["save face", "face model", "dhumandiff"],
            inputs=[
                ReferenceType.Input("reference", tooltip="From Encode Reference Face."),
                io.String.Input("file_name", default="person", tooltip="Name of the file, without ending."),
                io.Boolean.Input(
                    "overwrite", default=False, tooltip="Whether another person saved under this name may be replaced."
                ),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, reference: FaceReference, file_name: str, overwrite: bool) -> io.NodeOutput:
        path = new_reference_path(file_name)
        if path.exists() and not overwrite and not saved_as(path, reference):
            raise FaceReferenceError(
                f"There is another file saved as {path.name!r}. Choose another name, or switch `overwrite` on.",
                code="another-reference-of-that-name",
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FaceReferenceError(
                f"The folder {path.parent} cannot be made: {why_not_written(error)}.", code="references-folder"
            ) from error
        reference.save(path)
        return io.NodeOutput(ui=ui.PreviewText(f"saved as {path.name}"))


def saved_as(path: Path, reference: FaceReference) -> bool:
    """Whether a file holds this very person already."""
    try:
        there = FaceReference.load(path)
    except FaceReferenceError:  # damaged, or something else: not ours to write over unasked
        return False
    parts = ("identity", "clip_hidden", "siglip_hidden")
    pairs = [(getattr(there, part), getattr(reference, part)) for part in parts]
    return all(a is b if a is None or b is None else (a.shape == b.shape and torch.equal(a, b)) for a, b in pairs)


class DHDLoadReference(io.ComfyNode):
    """A person that was saved."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DHDLoadReference",
            display_name="Load Reference",
            description="A person saved by Save Reference. Needs neither photo nor face models.",
            search_aliases=["load face", "face model", "dhumandiff"],
            inputs=[
                io.Combo.Input("file_name", options=reference_choices(), tooltip="From models/dhumandiff/references.")
            ],
            outputs=[ReferenceType.Output("reference", tooltip="The person, for the other DHumanDiff nodes.")],
        )

    @classmethod
    def validate_inputs(cls, file_name: str | None = None) -> bool | str:
        if file_name is None:  # linked: looked up when it runs
            return True
        try:
            reference_path(file_name)
        except FaceReferenceError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, file_name: str | None = None) -> float:
        if file_name is None:  # linked: the other node's own fingerprint counts
            return 0.0
        return reference_path(file_name).stat().st_mtime

    @classmethod
    def execute(cls, file_name: str) -> io.NodeOutput:
        return io.NodeOutput(FaceReference.load(reference_path(file_name)))


class DHDSwapPersons(io.ComfyNode):
    """One switch for who is person 1 and who is person 2."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DHDSwapPersons",
            display_name="Swap Persons",
            description="Put between the references and everything that reads them: one switch exchanges person 1 and 2 "
            "in model and prompt alike.",
            search_aliases=["swap faces", "order", "exchange", "dhumandiff"],
            inputs=[
                ReferenceType.Input("reference_1", tooltip="From Encode or Load Reference."),
                ReferenceType.Input("reference_2", tooltip="From Encode or Load Reference."),
                io.Boolean.Input("swap", default=False, tooltip="On: the second reference becomes person 1."),
            ],
            outputs=[
                ReferenceType.Output("person_1", tooltip="@1 in the prompt."),
                ReferenceType.Output("person_2", tooltip="@2 in the prompt."),
            ],
        )

    @classmethod
    def execute(cls, reference_1: FaceReference, reference_2: FaceReference, swap: bool) -> io.NodeOutput:
        return io.NodeOutput(*((reference_2, reference_1) if swap else (reference_1, reference_2)))
