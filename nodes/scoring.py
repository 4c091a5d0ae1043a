"""Scoring what came out: who is on it, the best of a batch, and where each face is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..dhumandiff.errors import HostError, ImageError
from ..dhumandiff.evaluation.person_masks import face_mask, resize_person_masks
from ..dhumandiff.evaluation.report import describe_score, draw_score
from ..dhumandiff.evaluation.score import TIE_TOLERANCE, ScoredImage, mean_identities, ranking, score_image
from ..dhumandiff.faces import as_analyzer
from ..dhumandiff.faces.photos import photo_from_tensor
from ..dhumandiff.faces.same_recognizer import recognizer_hash, recognizer_name, recognizer_note
from ..dhumandiff.layout.presets import MOST_PEOPLE
from ..dhumandiff.prompts import try_parse_prompt
from ..dhumandiff.references.reference import SAME_PERSON_THRESHOLD
from .comfy.encoders import text_alignment
from .comfy.schema import ADVANCED, FACE_ANALYSIS_TYPES, ReferenceType, progress_text, schema, tell
from .people import masks_in_order, references_in_order

if TYPE_CHECKING:
    from comfy.sd import CLIP

    from ..dhumandiff.references import FaceReference


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


def _more_people() -> list[Any]:
    """Persons 3 and 4, behind all that a node had before."""
    return [
        ReferenceType.Input(f"reference_{n}", optional=True, tooltip=f"Person {n}: @{n} in the text.") for n in (3, 4)
    ]


def _text_input() -> Any:
    return io.String.Input(
        "text",
        default="",
        multiline=True,
        optional=True,
        tooltip="The sentence of the picture, with @1, @2 and so on. Its sides (on the left) or the colours of clothes say who should be "
        "where; likeness never does, so that exchanged faces count as wrong. Left empty, that is not decided.",
    )


class DHDIdentityScore(io.ComfyNode):
    """IMAGE -> how alike each person is, and whether they are the right ones."""

    @classmethod
    def define_schema(cls) -> io.Schema:

        def mask(n: int) -> Any:
            text = f"Where person {n} should be (white), instead of the text. Same shape as the picture."
            return io.Mask.Input(f"mask_{n}", optional=True, tooltip=text)

        def similarity(n: int) -> Any:
            text = f"Of person {n}, one a picture; 0 without a face."
            return io.Float.Output(f"similarity_{n}", is_output_list=True, tooltip=text)

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
                    tooltip="How much nearer a face has to be to its own reference than to any other.",
                    **ADVANCED,
                ),
                mask(1),
                mask(2),
                *_more_people(),
                mask(3),
                mask(4),
            ],
            outputs=[
                io.Image.Output("boxed", tooltip="The pictures with faces, persons and similarities drawn in."),
                similarity(1),
                similarity(2),
                io.Boolean.Output("passed", is_output_list=True, tooltip="Whether everybody passed, one a picture."),
                io.String.Output("report", tooltip="All of it, in words."),
                similarity(3),
                similarity(4),
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        face_analysis: Any,
        reference_1: FaceReference,
        least_similarity: float,
        least_margin: float,
        reference_2: FaceReference | None = None,
        text: str = "",
        mask_1: Tensor | None = None,
        mask_2: Tensor | None = None,
        reference_3: FaceReference | None = None,
        reference_4: FaceReference | None = None,
        mask_3: Tensor | None = None,
        mask_4: Tensor | None = None,
    ) -> io.NodeOutput:
        references = references_in_order(reference_1, reference_2, reference_3, reference_4)
        own = masks_in_order((mask_1, mask_2, mask_3, mask_4), len(references))
        pixels = _bytes(image)
        masks = resize_person_masks(own, (image.shape[1], image.shape[2]), len(image))
        show = progress_text(cls)
        analyzer = as_analyzer(face_analysis)
        scored, names = _score(show, pixels, analyzer, references, text, masks), _names(references)
        drawn = [draw_score(picture, one, names) for picture, one in zip(pixels, scored, strict=True)]
        boxed = torch.from_numpy(np.stack(drawn)).float() / 255
        passed = [one.passes(least_similarity, least_margin) for one in scored]
        lines = [
            describe_score(number, one, names, ok)
            for number, (one, ok) in enumerate(zip(scored, passed, strict=True), 1)
        ]
        if who := recognizer_note(recognizer_name(analyzer), recognizer_hash(analyzer)):
            lines.append(f"recognized by {who}")
        show(f"{sum(passed)} of {len(passed)} passed")
        similarity = [
            [one.score.persons[k].sim_ref if k < len(references) else 0.0 for one in scored] for k in range(MOST_PEOPLE)
        ]
        given = (boxed, *similarity[:2], passed, "\n".join(lines), *similarity[2:])
        return io.NodeOutput(*given, ui=ui.PreviewImage(boxed, cls=cls))


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
                *_more_people(),
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
        reference_1: FaceReference,
        reference_2: FaceReference | None = None,
        text: str = "",
        clip: CLIP | None = None,
        clip_vision: Any = None,
        reference_3: FaceReference | None = None,
        reference_4: FaceReference | None = None,
    ) -> io.NodeOutput:
        references = references_in_order(reference_1, reference_2, reference_3, reference_4)
        show = progress_text(cls)
        scored, names = _score(show, _bytes(image), face_analysis, references, text), _names(references)
        alignment = _text_alignment(image, text, clip, clip_vision, len(references))
        order = ranking([one.score for one in scored], alignment)
        lines = [
            f"{rank}. {describe_score(n + 1, scored[n], names)}{'' if alignment is None else f', words {alignment[n]:.3f}'}"
            for rank, n in enumerate(order, 1)
        ]
        best = image[order[0] : order[0] + 1]
        if scored[order[0]].score.face_count_correct:
            show(f"picture {order[0] + 1} of {len(scored)}")
        else:
            tell(cls, "No picture of the batch shows everybody once; this is the one with the most alike faces.")
        shown = (
            best if best.shape[-1] > 1 else best.expand(-1, -1, -1, 3)
        ).float()  # ComfyUI's preview has no grey, and no bf16
        return io.NodeOutput(best, order[0], "\n".join(lines), ui=ui.PreviewImage(shown, cls=cls))


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
                *_more_people(),
            ],
            outputs=[
                io.Mask.Output(f"mask_{n}", tooltip=f"Person {n}'s face, white; black all over where it is missing.")
                for n in range(1, MOST_PEOPLE + 1)
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        face_analysis: Any,
        reference_1: FaceReference,
        grow: float,
        feather: float,
        reference_2: FaceReference | None = None,
        text: str = "",
        reference_3: FaceReference | None = None,
        reference_4: FaceReference | None = None,
    ) -> io.NodeOutput:
        references = references_in_order(reference_1, reference_2, reference_3, reference_4)
        show = progress_text(cls)
        scored = _score(show, _bytes(image), face_analysis, references, text)
        size = (image.shape[1], image.shape[2])
        masks, missing = [], []
        for person in range(MOST_PEOPLE):
            own = []
            for number, one in enumerate(scored, 1):
                face = one.located[person] if person < len(references) else None
                if face is None and person < len(references):
                    missing.append(f"person {person + 1} in picture {number}")
                own.append(face_mask(None if face is None else one.faces[face].box, size, grow, feather))
            masks.append(torch.stack(own))
        if missing:
            tell(cls, _missing_faces(missing, scored, len(references)))
        else:
            show("every face was found")
        return io.NodeOutput(*masks)


def _missing_faces(missing: Sequence[str], scored: Sequence[ScoredImage], persons: int) -> str:
    """Who has a black mask, and how many faces there are in their pictures."""
    lacking = [
        f"{one.score.faces} face{'' if one.score.faces == 1 else 's'} for {persons} people in picture {number}"
        for number, one in enumerate(scored, 1)
        if persons > 1 and 0 < one.score.faces < persons
    ]
    text = f"No face, so a black mask: {', '.join(missing)}."
    return f"{text} ({'; '.join(lacking)}.)" if lacking else text


def _names(references: Sequence[FaceReference]) -> list[str]:
    return [reference.name for reference in references]


def _score(
    show: Callable[[str], None],
    pictures: np.ndarray,
    face_analysis: Any,
    references: Sequence[FaceReference],
    text: str,
    masks: Tensor | None = None,
) -> list[ScoredImage]:
    analyzer = as_analyzer(face_analysis)
    identities = mean_identities(references, analyzer)
    prompt = try_parse_prompt(text, len(references)) if text.strip() else None
    scored = []
    for number, pixels in enumerate(pictures):
        show(f"looking at picture {number + 1} of {len(pictures)}")
        own = None if masks is None else masks[:, number % masks.shape[1]].numpy()
        scored.append(score_image(pixels, identities, analyzer, prompt=prompt, masks=own))
    return scored


def _bytes(image: Tensor) -> np.ndarray:
    """IMAGE [N, H, W, 1|3|4] float 0..1 -> uint8 [N, H, W, 3], read as Encode Reference Face reads photos.

    Raises:
        ImageError: there is no picture, or one that is none: another shape or scale, NaN.
    """
    if image.ndim != 4 or not len(image):
        raise ImageError(
            f"image has the shape {list(image.shape)}: [pictures, height, width, channels] with at least one picture is "
            "needed. Connect an IMAGE.",
            code="no-pictures",
        )
    return np.stack([photo_from_tensor(one, f"picture {number}").pixels for number, one in enumerate(image, 1)])


def _text_alignment(image: Tensor, text: str, clip: CLIP | None, clip_vision: Any, persons: int) -> list[float] | None:
    """How well each picture fits the text; None where that is not asked for."""
    if clip is None and clip_vision is None:
        return None
    if clip is None or clip_vision is None or not text.strip():
        raise HostError(
            "Words decide with clip, clip_vision and a text. Connect and write all three, or take clip away.",
            code="words-without-clip",
        )
    prompt = try_parse_prompt(text, persons)
    if image.shape[-1] != 3:
        image = torch.from_numpy(_bytes(image)).float() / 255
    return text_alignment(clip, clip_vision, image, prompt.text if prompt else text)
