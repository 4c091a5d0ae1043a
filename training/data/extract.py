"""One picture: find the two people, say who is who, and cut out everything that needs no encoder.

`extract` never raises for what a picture is like: it answers with what was found, or with why the picture is set aside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dhumandiff.errors import FaceError, ImageError, PromptError
from dhumandiff.faces import Face, FaceAnalyzer
from dhumandiff.io import printable

from .. import TrainingError
from .annotation import Box
from .couple import find_couple
from .identities import PairedPhoto
from .likeness import picture_hash
from .match import Unusable, box_of
from .part import Picture
from .pictures import Crop, buckets, choose_crop, face_mask, person_mask, provided_mask, split
from .references import make_references
from .settings import PrepareSettings
from .store import StoreError

__all__ = ["ExtractedSample", "SkippedSample", "Task", "extract"]


@dataclass(frozen=True)
class Task:
    """One picture to extract a sample from.

    Attributes:
        key: names the sample.
        picture: where it is, and what is known of it.
        paired: further photos of each of the two people.
        by_mention: whether the two are those whom the caption names first and second, not as annotated.
    """

    key: str
    picture: Picture
    paired: tuple[tuple[PairedPhoto, ...], ...] = ()
    by_mention: bool = False


@dataclass(frozen=True, eq=False)
class ExtractedSample:
    """A picture that can be used, not encoded yet.

    Attributes:
        key: names the sample.
        name: of the picture, for messages.
        metadata: the sample's JSON, without token positions.
        pixels: uint8 [H, W, 3] of the bucket.
        masks: name -> uint8 [h, w] at latent size.
        crops: per person uint8 [R, S, S, 3] at the image encoder's size.
        identity: face embeddings, per person float32 [R, width].
        identity_swapped: the same of pictures with red and blue exchanged.
        notes: what was odd, for the report.
        looks: a hash of the whole picture that near duplicates nearly share.
        captioned: whether the data have a caption of it.
    """

    key: str
    name: str
    metadata: dict[str, Any]
    pixels: np.ndarray
    masks: dict[str, np.ndarray]
    crops: tuple[np.ndarray, np.ndarray]
    identity: tuple[np.ndarray, np.ndarray]
    identity_swapped: tuple[np.ndarray, np.ndarray]
    notes: tuple[str, ...]
    looks: bytes = b""
    captioned: bool = True


@dataclass(frozen=True)
class SkippedSample:
    """A picture that is set aside; its fields are on disk, in journal/ and report.json.

    Attributes:
        key: of the sample that it does not become.
        source: that it comes from.
        name: of the picture.
        reason: of the kinds in `report.REASONS`.
        message: the reason in words.
    """

    key: str
    source: str
    name: str
    reason: str
    message: str


def extract(
    task: Task, settings: PrepareSettings, faces: FaceAnalyzer, latent_factor: int, vision_size: int
) -> ExtractedSample | SkippedSample:
    """Extract one picture's sample.

    Args:
        task: the picture.
        settings: all of prepare's.
        faces: detector and recognizer; if it has `attributes(image, face) -> (gender, age group)`, they fill in what
            the annotation leaves open.
        latent_factor: px of a latent pixel.
        vision_size: px of the image encoder's pictures.

    Returns:
        What was found, or why the picture is set aside.

    Raises:
        StoreError: the pictures' store does not answer.
    """
    try:
        return _extract(task, settings, faces, latent_factor, vision_size)
    except StoreError:
        raise  # it is not the picture's fault, and the next one's neither
    except Unusable as unusable:
        reason, message = unusable.reason, str(unusable)
    except ImageError as error:
        reason, message = "corrupt", str(error)
    except PromptError as error:
        reason, message = "words", str(error)
    except FaceError as error:
        reason, message = "face", str(error)
    except TrainingError as error:
        reason, message = "annotation", str(error)
    except Exception as error:  # nothing that a decoder or a detector makes of one picture may stop a hundred thousand
        reason, message = "failed", f"{type(error).__name__}: {error}"
    return SkippedSample(task.key, task.picture.source, task.picture.name, reason, printable(" ".join(message.split())))


def _extract(
    task: Task, settings: PrepareSettings, faces: FaceAnalyzer, latent_factor: int, vision_size: int
) -> ExtractedSample:
    couple = find_couple(task.picture, settings, faces)
    image, found, bodies, known = couple.image, couple.faces, couple.bodies, couple.known
    people, naming, notes = couple.people, couple.naming, couple.notes
    height, width = image.shape[:2]

    choices = buckets(settings.resolution, settings.bucket_step, settings.max_aspect)
    crop = choose_crop((height, width), [box_of(face) for face in found], bodies, choices)
    if crop is None:
        raise Unusable(
            "the two faces are too far apart for any bucket; a larger max_aspect may hold them.",
            reason="crop",
            code="faces-too-far-apart",
        )

    numbers = [naming.order.index(index) for index in (0, 1)]
    chosen = task.paired if not task.by_mention else tuple(task.paired[number] for number in numbers)
    references = [
        make_references(
            task.key, couple, index, chosen[index] if index < len(chosen) else (), faces, settings, vision_size, notes
        )
        for index in (0, 1)
    ]
    alike = float(references[0].identity[0] @ references[1].identity[0])
    if alike >= settings.faces.same_person:
        raise Unusable(
            f"the two faces look like one person (similarity {alike:.2f}).",
            reason="same person",
            code="one-person-twice",
        )
    masks = _masks(task, crop, found, bodies, naming.order, latent_factor, notes)
    metadata = {
        "caption": naming.caption,
        "source": task.picture.source,
        "picture": task.picture.name,
        "named_by": naming.how,
        "bucket": list(crop.bucket),
        "original_size": [height, width],
        "crop": [crop.top, crop.left],
        "target_size": list(crop.bucket),
        "persons": [
            {
                "words": [
                    {"start": mention.start, "end": mention.end, "word": mention.word}
                    for mention in naming.mentions
                    if mention.person == number
                ],
                "gender": known[index].gender,
                "age_group": known[index].age_group,
                "identity": task.picture.identities[number - 1] or people[index].identity,
                "face_box": _rounded(crop.box(box_of(found[index]))),
                "person_box": _rounded(crop.box(bodies[index])),
                "landmarks": [_rounded(point) for point in crop.points(found[index].landmarks)],
                "references": references[index].metadata,
            }
            for number, index in enumerate(naming.order, 1)
        ],
    }
    if task.picture.columns:
        metadata["columns"] = dict(task.picture.columns)
    first, second = (references[index] for index in naming.order)
    return ExtractedSample(
        task.key,
        task.picture.name,
        metadata,
        crop.pixels(image),
        masks,
        (np.stack(first.crops), np.stack(second.crops)),
        (np.stack(first.identity), np.stack(second.identity)),
        (np.stack(first.identity_swapped), np.stack(second.identity_swapped)),
        tuple(map(printable, notes)),
        picture_hash(image),
        couple.captioned,
    )


def _masks(
    task: Task,
    crop: Crop,
    found: Sequence[Face],
    bodies: Sequence[Box],
    order: tuple[int, int],
    factor: int,
    notes: list[str],
) -> dict[str, np.ndarray]:
    ovals = [face_mask(crop.box(box_of(found[index])), crop.bucket, factor) for index in order]
    persons = [
        person_mask(crop.box(bodies[index]), oval, crop.bucket, factor)
        for index, oval in zip(order, ovals, strict=True)
    ]
    persons = split(persons, ovals)
    if task.picture.masks:
        try:
            persons = [provided_mask(task.picture.masks[index].photo().pixels, crop, factor) for index in order]
        except ImageError as error:
            notes.append(f"its masks are not used: {error}")
    return {"mask_1": persons[0], "mask_2": persons[1], "face_1": ovals[0], "face_2": ovals[1]}


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(float(value), 2) for value in values]
