"""Scoring what came out: who is on it, the best of a batch, and where everybody's face is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from comfy_api.latest import io, ui
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from ..dhumandiff.errors import HostError, ImageError
from ..dhumandiff.evaluation.score import TIE_TOLERANCE, ScoredImage, mean_identities, ranking, score_image
from ..dhumandiff.faces import InsightFaceAnalyzer
from ..dhumandiff.layout.person_style import draw_box, person_color
from ..dhumandiff.prompts import try_parse_prompt
from ..dhumandiff.references.reference import SAME_PERSON_THRESHOLD
from .comfy.schema import ADVANCED, FACE_ANALYSIS_TYPES, ReferenceType, progress_text, schema, tell


def _inputs(image: str) -> list[Any]:
    """What all nodes of this file ask for."""
    return [
        io.Image.Input("image", tooltip=image),
        io.MultiType.Input(
            "face_analysis",
            types=FACE_ANALYSIS_TYPES,
            tooltip="From Load Face Analysis; the one that the references were encoded with.",
        ),
        ReferenceType.Input("reference_1", tooltip="Person 1: @1 in the text."),
        ReferenceType.Input("reference_2", optional=True, tooltip="Person 2: @2 in the text."),
    ]


def _text_input() -> Any:
    return io.String.Input(
        "text",
        default="",
        multiline=True,
        optional=True,
        tooltip="The sentence of the picture, with @1 and @2. Its sides (on the left) or the colours of clothes say who should be "
        "where; likeness never does, so that exchanged faces count as wrong. Left empty, that is not decided.",
    )


class DHDIdentityScore(io.ComfyNode):
    """IMAGE -> how alike everybody is, and whether they are the right ones."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        mask = {
            "optional": True,
            "tooltip": "Where person {} should be (white), instead of the text. Same shape as the picture.",
        }
        return schema(
            node_id="DHDIdentityScore",
            display_name="Score Identity",
            description="Finds the faces in a result and says for each person how alike they are to their reference and whether "
            "the face that should be theirs is theirs. A missing or extra face is a failure.",
            search_aliases=["score", "similarity", "face distance", "evaluate", "identity", "arcface", "dhumandiff"],
            inputs=[
                *_inputs("The result, one picture or a batch."),
                _text_input(),
                io.Float.Input(
                    "least_similarity",
                    default=SAME_PERSON_THRESHOLD,
                    min=-1.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Cosine to the reference from which a face passes. 0.4 is common for one person on two photos with "
                    "buffalo_l; the miniature's faces are below it.",
                ),
                io.Float.Input(
                    "least_margin",
                    default=0.0,
                    min=-2.0,
                    max=2.0,
                    step=0.01,
                    tooltip="How much nearer a face has to be to its own reference than to the other.",
                    **ADVANCED,
                ),
                io.Mask.Input("mask_1", **{**mask, "tooltip": mask["tooltip"].format(1)}),
                io.Mask.Input("mask_2", **{**mask, "tooltip": mask["tooltip"].format(2)}),
            ],
            outputs=[
                io.Image.Output("boxed", tooltip="The pictures with faces, persons and similarities drawn in."),
                io.Float.Output(
                    "similarity_1", is_output_list=True, tooltip="Of person 1, one a picture; 0 without a face."
                ),
                io.Float.Output(
                    "similarity_2", is_output_list=True, tooltip="Of person 2, one a picture; 0 without a face."
                ),
                io.Boolean.Output("passed", is_output_list=True, tooltip="Whether everybody passed, one a picture."),
                io.String.Output("report", tooltip="All of it, in words."),
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        face_analysis: Any,
        reference_1: Any,
        least_similarity: float,
        least_margin: float,
        reference_2: Any = None,
        text: str = "",
        mask_1: Tensor | None = None,
        mask_2: Tensor | None = None,
    ) -> io.NodeOutput:
        references = _people(reference_1, reference_2)
        if reference_2 is None and mask_2 is not None:
            raise HostError("mask_2 is connected, but reference_2 is not: connect person 2, or take the mask away.")
        masks = _masks(image, (mask_1, mask_2)[: len(references)])
        show = progress_text(cls)
        judged = _judge(show, image, face_analysis, references, text, masks)
        boxed = torch.stack([_boxed(picture, one, references) for picture, one in zip(image, judged, strict=True)])
        passed = [_passes(one, least_similarity, least_margin) for one in judged]
        lines = [
            _line(number, one, ok, references) for number, (one, ok) in enumerate(zip(judged, passed, strict=True), 1)
        ]
        show(f"{sum(passed)} of {len(passed)} passed")
        alike = [[one.score.persons[k].sim_ref if k < len(references) else 0.0 for one in judged] for k in (0, 1)]
        return io.NodeOutput(boxed, *alike, passed, "\n".join(lines), ui=ui.PreviewImage(boxed, cls=cls))


class DHDPickBest(io.ComfyNode):
    """A batch -> its best picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DHDPickBest",
            display_name="Pick Best Portrait",
            description="The best picture of a batch: most people right and all there, then the faces most alike; among those "
            f"within {TIE_TOLERANCE} of the most alike, the one that fits the text best, when clip and clip_vision are connected.",
            search_aliases=["best of", "select", "choose", "batch", "rank", "dhumandiff"],
            inputs=[
                *_inputs("A batch of results."),
                _text_input(),
                io.Clip.Input(
                    "clip", optional=True, tooltip="To let the words decide between faces that are alike: SDXL's CLIP."
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="Goes with clip: the vision tower of the same CLIP. SDXL's words are CLIP ViT-bigG's.",
                ),
            ],
            outputs=[
                io.Image.Output("best", tooltip="The best picture."),
                io.Int.Output(
                    "index", tooltip="Its place in the batch, from 0 on; for Latent From Batch and the like."
                ),
                io.String.Output("report", tooltip="All pictures, the best first."),
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        face_analysis: Any,
        reference_1: Any,
        reference_2: Any = None,
        text: str = "",
        clip: Any = None,
        clip_vision: Any = None,
    ) -> io.NodeOutput:
        references = _people(reference_1, reference_2)
        show = progress_text(cls)
        judged = _judge(show, image, face_analysis, references, text)
        words = _words(image, text, clip, clip_vision, len(references))
        order = ranking([one.score for one in judged], words)
        lines = [
            f"{place}. {_line(n + 1, judged[n], None, references)}{'' if words is None else f', words {words[n]:.3f}'}"
            for place, n in enumerate(order, 1)
        ]
        best = image[order[0] : order[0] + 1]
        if judged[order[0]].score.present:
            show(f"picture {order[0] + 1} of {len(judged)}")
        else:
            tell(cls, "No picture of the batch shows everybody once; this is the one with the most alike faces.")
        return io.NodeOutput(best, order[0], "\n".join(lines), ui=ui.PreviewImage(best, cls=cls))


class DHDFaceMasks(io.ComfyNode):
    """IMAGE -> where each person's face is."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DHDFaceMasks",
            display_name="Mask Faces by Person",
            description="Masks of the faces in a result, in the order of the references: for detailers, inpainting and colour "
            "correction of one person alone.",
            search_aliases=["face mask", "facedetailer", "segment", "inpaint", "who is who", "dhumandiff"],
            inputs=[
                *_inputs("The result, one picture or a batch."),
                _text_input(),
                io.Float.Input(
                    "grow",
                    default=0.3,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="How much larger than the face, as a share of its size; 0.3 takes in forehead and ears, 1 the hair.",
                ),
                io.Float.Input(
                    "feather",
                    default=0.1,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How soft the edge is, as a share of the face's size.",
                ),
            ],
            outputs=[
                io.Mask.Output("mask_1", tooltip="Person 1's face, white; black all over where it is missing."),
                io.Mask.Output("mask_2", tooltip="Person 2's face, white; black all over where it is missing."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        face_analysis: Any,
        reference_1: Any,
        grow: float,
        feather: float,
        reference_2: Any = None,
        text: str = "",
    ) -> io.NodeOutput:
        references = _people(reference_1, reference_2)
        show = progress_text(cls)
        judged = _judge(show, image, face_analysis, references, text)
        size = (image.shape[2], image.shape[1])
        masks, missing = [], []
        for person in (0, 1):
            rows = []
            for number, one in enumerate(judged, 1):
                face = one.people[person] if person < len(references) else None
                if face is None and person < len(references):
                    missing.append(f"person {person + 1} in picture {number}")
                rows.append(_oval(None if face is None else one.faces[face].box, size, grow, feather))
            masks.append(torch.stack(rows))
        if missing:
            tell(cls, f"No face, so a black mask: {', '.join(missing)}.")
        else:
            show("every face was found")
        return io.NodeOutput(*masks)


def _people(*references: Any) -> list[Any]:
    return [reference for reference in references if reference is not None]


def _judge(
    show: Callable[[str], None],
    image: Tensor,
    face_analysis: Any,
    references: Sequence[Any],
    text: str,
    masks: Tensor | None = None,
) -> list[ScoredImage]:
    analyzer = face_analysis if hasattr(face_analysis, "detect") else InsightFaceAnalyzer(face_analysis)
    identities = mean_identities(references)
    prompt = try_parse_prompt(text, len(references)) if text.strip() else None
    judged = []
    for number, picture in enumerate(_bytes(image)):
        show(f"looking at picture {number + 1} of {len(image)}")
        own = None if masks is None else masks[:, number % masks.shape[1]].numpy()
        judged.append(score_image(picture, identities, analyzer, prompt=prompt, masks=own))
    return judged


def _masks(image: Tensor, masks: Sequence[Tensor | None]) -> Tensor | None:
    """[P, N, H, W] of the picture's size, N pictures or 1; None without any. ImageError when one is missing or of another shape."""
    given = [mask for mask in masks if mask is not None]
    if not given:
        return None
    if len(given) < len(masks):
        raise ImageError("One of two masks is connected. Connect a mask for each person, or none.")
    height, width = image.shape[1:3]
    rows = []
    for number, mask in enumerate(given, 1):
        mask = mask.reshape(-1, *mask.shape[-2:]).float().cpu()
        if abs(mask.shape[-1] / mask.shape[-2] / (width / height) - 1) > 0.05:
            raise ImageError(
                f"mask_{number} is {mask.shape[-1]} x {mask.shape[-2]}, of another shape than the picture of {width} x {height}."
            )
        if len(mask) not in (1, len(image)):
            raise ImageError(f"mask_{number} holds {len(mask)} masks for {len(image)} pictures: give one, or one each.")
        rows.append(torch.nn.functional.interpolate(mask[:, None], (height, width), mode="bilinear")[:, 0])
    most = max(map(len, rows))
    return torch.stack([row.expand(most, -1, -1) for row in rows])


def _bytes(image: Tensor) -> np.ndarray:
    """IMAGE [N, H, W, 3] float 0..1 -> uint8."""
    return (image[..., :3].detach().cpu().float().clamp(0, 1) * 255).round().byte().numpy()


def _passes(judged: ScoredImage, least_similarity: float, least_margin: float) -> bool:
    persons = judged.score.persons
    return judged.score.present and all(
        person.sim_ref >= least_similarity
        and person.right is not False
        and (person.margin is None or person.margin >= least_margin)
        for person in persons
    )


def _line(number: int, judged: ScoredImage, passed: bool | None, references: Sequence[Any]) -> str:
    score = judged.score
    told = {True: "right", False: "WRONG", None: "not decidable"}
    who = [
        f"person {k}{f' ({reference.name})' if reference.name else ''} {person.sim_ref:.2f}"
        + (f", {told[person.right]}" if len(references) > 1 else "")
        for k, (reference, person) in enumerate(zip(references, score.persons, strict=True), 1)
    ]
    verdict = "" if passed is None else f": {'passed' if passed else 'FAILED'}"
    said = f", said by {judged.assigned_by}" if judged.assigned_by else ""
    return f"picture {number}{verdict}; {'; '.join(who)}; {score.faces} faces for {len(references)} people{said}"


def _boxed(picture: Tensor, judged: ScoredImage, references: Sequence[Any]) -> Tensor:
    """The picture with its faces boxed, named and scored, [H, W, 3]."""
    image = Image.fromarray(_bytes(picture[None])[0])
    draw = ImageDraw.Draw(image)
    size = max(8.0, image.height / 24)
    owner = {face: k for k, face in enumerate(judged.people) if face is not None}
    for number, face in enumerate(judged.faces):
        person = owner.get(number)
        box = [float(edge) for edge in face.box]
        width = max(1, image.height // 200)
        if person is None:
            colour, text = "#888888", "?"
            draw.rectangle(box, outline=colour, width=width)
        else:
            colour = person_color(person)
            draw_box(draw, box, person, width)
            score = judged.score.persons[person]
            text = (
                f"{references[person].name or person + 1} {score.sim_ref:.2f}{' WRONG' if score.right is False else ''}"
            )
        place = (box[0], max(box[1] - 1.2 * size, 0))
        draw.text(place, text, fill=colour, font_size=size, stroke_width=max(1, int(size / 10)), stroke_fill="white")
    return torch.from_numpy(np.asarray(image).copy()).float() / 255


def _oval(box: np.ndarray | None, size: tuple[int, int], grow: float, feather: float) -> Tensor:
    """A mask [H, W] 0..1 of an ellipse in a face box, px; black for None."""
    mask = Image.new("L", size)
    if box is not None:
        x0, y0, x1, y1 = (float(edge) for edge in box)
        wide, high = grow * (x1 - x0) / 2, grow * (y1 - y0) / 2
        ImageDraw.Draw(mask).ellipse([x0 - wide, y0 - high, x1 + wide, y1 + high], fill=255)
        mask = mask.filter(ImageFilter.GaussianBlur(feather * ((x1 - x0) * (y1 - y0)) ** 0.5))
    return torch.from_numpy(np.asarray(mask).copy()).float() / 255


def _words(image: Tensor, text: str, clip: Any, clip_vision: Any, persons: int) -> list[float] | None:
    """How well each picture fits the text: cosine of CLIP's two embeddings. None without both towers or a text."""
    if clip is None and clip_vision is None:
        return None
    if clip is None or clip_vision is None or not text.strip():
        raise HostError(
            "Words decide with clip, clip_vision and a text. Connect and write all three, or take clip away."
        )
    prompt = try_parse_prompt(text, persons)
    said = clip.encode_from_tokens(clip.tokenize(prompt.text if prompt else text), return_pooled=True)[1]
    seen = clip_vision.encode_image(image[..., :3])["image_embeds"]
    said, seen = said.float().cpu().reshape(1, -1), seen.float().cpu()
    if said.shape[1] != seen.shape[1]:
        raise HostError(
            f"clip and clip_vision are of two CLIPs: {said.shape[1]} and {seen.shape[1]} numbers. SDXL's words (1280) go with "
            "CLIP ViT-bigG's vision tower."
        )
    return torch.nn.functional.cosine_similarity(seen, said).tolist()
