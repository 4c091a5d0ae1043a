"""Puts people of WithAnyone on a FLUX MODEL: references, and where each of them is, into a clone of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...dhumandiff.conditioning.masks import stack_masks
from ...dhumandiff.errors import HostError, LayoutError
from ...dhumandiff.methods.paired.settings import check_start_end, check_strengths
from ...dhumandiff.methods.withanyone.people import check_references
from .flux import FLUX_PEOPLE, PLACEMENT, FluxBlockPatch, FluxConditioning, FluxPeople, flux_blocks, flux_people_of
from .memory import compute_dtype
from .patch import add_wrappers
from .withanyone import keys_values_of, sampling_parts

if TYPE_CHECKING:
    from torch import Tensor

    from ...dhumandiff.methods.withanyone.regions import PixelBox
    from ...dhumandiff.references.reference import FaceReference

NOT_READ = (0.0, 0.0, 0.0, 0.0)
"""The box of somebody whom the preset places once the picture's shape is known."""

__all__ = ["apply_withanyone", "read_boxes"]


def read_boxes(given: Any) -> tuple[list[PixelBox], tuple[int, int] | None]:
    """What a BOUNDING_BOX input brings: boxes left, top, right, bottom in px, and the size of the picture that they were drawn on.

    Args:
        given: boxes {x, y, width, height} of one picture, or a list of pictures' with one picture in it. Portrait Layout says
            `picture_width` and `picture_height` as well; without them the picture that is sampled is meant (None).

    Raises:
        LayoutError: it is none of these.
    """
    boxes = [given] if isinstance(given, Mapping) else given
    lists = (list, tuple)
    if isinstance(boxes, lists) and boxes and all(isinstance(of_picture, lists) for of_picture in boxes):
        if len(boxes) > 1:
            raise LayoutError(
                f"boxes brings those of {len(boxes)} pictures. Connect the boxes of one picture: they hold for all of a batch.",
                code="withanyone-boxes-of-pictures",
            )
        boxes = boxes[0]
    try:
        edges: list[PixelBox] = [
            (box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]) for box in boxes
        ]
        sizes = {(box.get("picture_width"), box.get("picture_height")) for box in boxes}
    except (TypeError, KeyError, AttributeError):
        raise LayoutError(
            f"boxes is {str(given)[:80]!r}: a list of boxes with x, y, width and height in px is needed. Connect boxes of Portrait "
            "Layout.",
            code="withanyone-boxes-unread",
        ) from None
    if len(sizes) > 1:
        raise LayoutError(
            "The boxes were drawn on pictures of several sizes. Connect the boxes of one Portrait Layout.",
            code="withanyone-boxes-of-sizes",
        )
    width, height = sizes.pop() if sizes else (None, None)
    return edges, (int(width), int(height)) if width and height else None


def apply_withanyone(
    model: Any,
    adapter: Any,
    references: Sequence[FaceReference],
    form: float = 0.5,
    *,
    strength: float = 1.0,
    person_strengths: Sequence[float] | None = None,
    boxes: Any = None,
    masks: Sequence[Tensor | None] = (),
    place: bool = False,
    start: float = 0.0,
    end: float = 1.0,
) -> Any:
    """A clone of the model that draws the references' faces.

    Args:
        model: MODEL, a FLUX.1.
        adapter: DHD_WITHANYONE.
        references: one a person, in order.
        form: 0 is "in spirit" (ArcFace alone), 1 "in form" (SigLIP alone: nearer to the photo).
        strength: of all persons.
        person_strengths: one a person.
        boxes: BOUNDING_BOX, one box a person; see `read_boxes`.
        masks: one MASK [N, H, W] a person, or None; it takes the place of that person's box.
        place: whether people with neither are placed by the preset `PLACEMENT`; else they are refused.
        start, end: share of sampling in which the people act.

    Raises:
        HostError: the model is no FLUX.1 that the weights are for; numbers or people do not fit.
        LayoutError: it is not known where somebody is.
        FaceReferenceError: a reference lacks something, or was made with another recognizer.
        AdapterError: the weights lack a branch, or are damaged.
    """
    check_start_end(start, end)
    check_strengths(form, strength, *(person_strengths or ()))
    if not 0 <= form <= 1:
        raise HostError(
            f"form is {form:g}: choose a number from 0 (in spirit) to 1 (in form).", code="withanyone-form-out-of-range"
        )
    keys = flux_blocks(model, adapter.model.info)
    weights = {"arc": 1 - form, "sig": float(form)}
    branches = [branch for branch, weight in weights.items() if weight]
    for branch in branches:  # first, so that nobody fetches an encoder for a branch that is not there
        adapter.model.check_branch(branch)
    check_references(references, branches)
    places, size, unplaced = _places(len(references), boxes, masks, place)

    kept = keys_values_of(adapter, references, weights, compute_dtype(model))
    people = FluxConditioning(
        adapter.model,
        {},
        weights["arc"],
        weights["sig"],
        boxes=places,
        masks=stack_masks(masks),
        size=size,
        person_strengths=person_strengths,
        kept=kept,
    )
    people.unplaced = unplaced
    applied = FluxPeople(people, sampling_parts(adapter, branches), len(keys), strength, start, end)
    patched = model.clone()
    present = patched.model_options["transformer_options"].get("patches_replace", {}).get("dit", {})
    for block, (kind, number) in enumerate(keys):
        patch = FluxBlockPatch(applied, block, kind == "single_block", present.get((kind, number)))
        patched.set_model_patch_replace(patch, "dit", kind, number)
    patched.model_options["transformer_options"][FLUX_PEOPLE] = (*flux_people_of(patched), applied)
    add_wrappers(patched)
    return patched


def _places(
    persons: int, boxes: Any, masks: Sequence[Tensor | None], place: bool
) -> tuple[list[PixelBox | None], tuple[int, int] | None, tuple[int, ...]]:
    """Each person's box (None for one with a mask), the size that boxes are drawn on, and the numbers of those without either.

    Raises:
        LayoutError: somebody has neither box nor mask, or there are more boxes than people.
    """
    given, size = ([], None) if boxes is None else read_boxes(boxes)
    if len(given) > persons:
        raise LayoutError(
            f"There are {len(given)} boxes for {persons} {'person' if persons == 1 else 'people'}. Connect a reference for each box, or "
            "set people in Portrait Layout.",
            code="withanyone-more-boxes",
        )
    masked = [person < len(masks) and masks[person] is not None for person in range(persons)]
    for person, has_mask in enumerate(masked, 1):
        mask = masks[person - 1] if has_mask else None
        if mask is not None and not mask.any():
            raise LayoutError(
                f"mask_{person} is black, so nobody would be drawn there. Paint where the face of person {person} belongs, or set "
                "people in Portrait Layout.",
                code="withanyone-mask-black",
            )
    places = [None if masked[person] else box for person, box in enumerate(given)] + [None] * (persons - len(given))
    unplaced = tuple(person for person, box in enumerate(places) if box is None and not masked[person])
    if unplaced and not place:
        who = " and ".join(f"person {person + 1}" for person in unplaced)
        raise LayoutError(
            f"It is not known where {who} shall be. Draw a box around the face in Portrait Layout (set people to {persons}) and connect "
            f"its boxes, or connect a mask; or choose the placement {PLACEMENT!r}.",
            code="withanyone-nowhere",
        )
    for person in unplaced:
        places[person] = NOT_READ
    return places, size, unplaced
