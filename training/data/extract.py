"""One picture: find the two people, say who is who, and cut out everything that needs no encoder.

`extract` never raises for what a picture is like: it answers with what was found, or with why the picture is set aside.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from dhumandiff.errors import FaceError, ImageError, PromptError
from dhumandiff.evaluation.assignment import assign_by_clothes
from dhumandiff.faces import Face, FaceAnalyzer, assess, crop_face
from dhumandiff.io import printable

from .. import TrainingError
from .annotation import Annotation, Box, Person, read_annotation
from .identities import PairedPhoto
from .match import Unusable, box_of, two_faces
from .naming import PersonAttributes, default_caption, name_people
from .pictures import Crop, augment_face, body_box, buckets, choose_crop, face_mask, person_mask, provided_mask, split
from .seeding import named_rng
from .settings import PrepareSettings
from .sources import Picture

__all__ = ["ExtractedSample", "SkippedSample", "Task", "extract"]


@dataclass(frozen=True)
class Task:
    """One picture to extract a sample from.

    Attributes:
        key: names the sample.
        picture: where it is, and what is known of it.
        paired: further photos of each annotated person.
    """

    key: str
    picture: Picture
    paired: tuple[tuple[PairedPhoto, ...], ...] = ()


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
    """
    try:
        return _extract(task, settings, faces, latent_factor, vision_size)
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
    photo = task.picture.image.photo()
    image, notes = photo.pixels, list(photo.notes)
    height, width = image.shape[:2]
    if min(height, width) < settings.min_side:
        raise Unusable(
            f"the picture has {width} x {height} px; the shorter side needs {settings.min_side}.",
            reason="tiny",
            code="picture-too-small",
        )
    data = task.picture.read_annotation()
    annotation = Annotation() if data is None else read_annotation(data, (width, height))
    notes += annotation.notes
    if annotation.people and len(annotation.people) != 2:
        count = len(annotation.people)
        raise Unusable(
            f"{count} people are annotated; 2 are needed.",
            reason="one person" if count < 2 else "three people",
            code="annotated-people-not-two",
        )

    found = two_faces(image, annotation.people, faces, settings)
    people = annotation.people or tuple(Person(str(number)) for number in (1, 2))
    bodies = [person.box or body_box(box_of(face), (height, width)) for person, face in zip(people, found, strict=True)]
    known = [_attributes(person, face, image, faces) for person, face in zip(people, found, strict=True)]
    caption = _usable_caption(annotation.caption, task.picture)
    caption = caption or default_caption(known)
    naming = name_people(
        caption,
        annotation.words,
        known,
        settings.unknown_gender,
        lambda colors: assign_by_clothes(colors, found, image),
    )

    choices = buckets(settings.resolution, settings.bucket_step, settings.max_aspect)
    crop = choose_crop((height, width), [box_of(face) for face in found], bodies, choices)
    if crop is None:
        raise Unusable(
            "the two faces are too far apart for any bucket; a larger max_aspect may hold them.",
            reason="crop",
            code="faces-too-far-apart",
        )

    references = [
        _references(task, number, image, found[number], faces, settings, vision_size, notes) for number in (0, 1)
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
                "identity": people[index].identity,
                "face_box": _rounded(crop.box(box_of(found[index]))),
                "person_box": _rounded(crop.box(bodies[index])),
                "landmarks": [_rounded(point) for point in crop.points(found[index].landmarks)],
                "references": references[index].metadata,
            }
            for number, index in enumerate(naming.order, 1)
        ],
    }
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
    )


def _usable_caption(annotated: str, picture: Picture) -> str:
    """The caption that the data has for a picture, "" for none."""
    if picture.problem and not annotated:
        raise Unusable(picture.problem, reason="caption", code="caption-not-readable")
    caption = annotated or picture.caption
    if re.search("[\ud800-\udfff\ufffd]", caption):
        raise Unusable(
            "letters of the caption were lost when it was cut, or saved in another encoding. Write them anew.",
            reason="caption",
            code="caption-with-lost-letters",
        )
    return caption


def _attributes(person: Person, face: Face, image: np.ndarray, faces: FaceAnalyzer) -> PersonAttributes:
    gender, age = person.gender, person.age_group
    attributes = getattr(faces, "attributes", None)
    if attributes is not None and not (gender and age):
        seen = attributes(image, face)
        gender, age = gender or seen[0], age or seen[1]
    return PersonAttributes(gender, age, face.center[0])


@dataclass(eq=False)
class _ReferenceRows:
    """Reference rows of one person, in order."""

    crops: list[np.ndarray]
    identity: list[np.ndarray]
    identity_swapped: list[np.ndarray]
    metadata: list[dict[str, Any]]


def _references(
    task: Task,
    index: int,
    image: np.ndarray,
    face: Face,
    faces: FaceAnalyzer,
    settings: PrepareSettings,
    vision_size: int,
    notes: list[str],
) -> _ReferenceRows:
    """The face itself, its variants, and the other photos of the person."""
    rows = _ReferenceRows([], [], [], [])
    wanted = settings.references

    def add(
        picture: np.ndarray, seen: Face, crop: np.ndarray, moved: Face, origin: str, variant_of: int | None
    ) -> bool:
        """Whether it is taken; variant_of: the row of the photo that it was made of."""
        quality = {name: round(value, 4) for name, value in asdict(assess(picture, seen, crop, moved)).items()}
        del quality["distortion"]  # a warning for people; what samples hold stays as it is
        identity = faces.identity(picture, seen)
        if variant_of is not None:  # it has no more detail than the face it was made of
            quality["face_size"] = rows.metadata[variant_of]["quality"]["face_size"]
        if rows.identity:
            quality["similarity"] = round(float(identity @ rows.identity[0]), 4)
            if origin == "paired" and quality["similarity"] < wanted.min_similarity:
                notes.append(f"a paired photo is too unlike the person ({quality['similarity']:.2f}) and is left out")
                return False
        shown = Image.fromarray(crop).resize((vision_size, vision_size), Image.Resampling.BICUBIC)
        rows.crops.append(np.asarray(shown))
        rows.identity.append(np.asarray(identity, np.float32))
        rows.identity_swapped.append(np.asarray(faces.identity(picture, seen, swap_channels=True), np.float32))
        rows.metadata.append({"origin": origin, "augmented": variant_of is not None, "quality": quality})
        return True

    def vary(crop: np.ndarray, moved: Face, origin: str, count: int) -> None:
        source = len(rows.metadata) - 1
        for _ in range(count):
            varied, turned = augment_face(crop, moved, rng, wanted.flip, wanted.light, wanted.color)
            add(varied, turned, varied, turned, origin, source)

    rng = named_rng(settings.seed, task.key, index)
    crop, moved, _ = crop_face(image, face)
    add(image, face, crop, moved, "target", None)
    vary(crop, moved, "target", wanted.augmented)
    for paired in task.paired[index] if index < len(task.paired) else ():
        try:
            other, seen = _paired_face(paired, faces, settings)
        except (ImageError, FaceError, TrainingError) as error:
            notes.append(f"the paired photo {paired.name} is left out: {error}")
            continue
        crop, moved, _ = crop_face(other, seen)
        if add(other, seen, crop, moved, "paired", None):
            vary(crop, moved, "paired", wanted.augmented_paired)
    return rows


def _paired_face(paired: PairedPhoto, faces: FaceAnalyzer, settings: PrepareSettings) -> tuple[np.ndarray, Face]:
    image = paired.image.photo().pixels
    if paired.picture is None:
        found = faces.detect(image)
        if not found:
            raise Unusable(
                "no face was found in it.",
                reason="no face",
                code="no-face-in-photo",
            )
        face = max(found, key=lambda one: one.size)
    else:
        annotation = read_annotation(paired.picture.read_annotation(), (image.shape[1], image.shape[0]))
        if len(annotation.people) != 2:
            raise Unusable(
                "two people are not annotated in it.",
                reason="one person",
                code="annotated-people-not-two",
            )
        face = two_faces(image, annotation.people, faces, settings)[paired.person]
    if face.size < settings.faces.min_size:
        raise Unusable(
            f"its face has {face.size:.0f} px.",
            reason="small face",
            code="small-face-in-photo",
        )
    return image, face


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
