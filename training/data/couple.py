"""The two people of one picture: their faces, what is known of them, and which words of the caption mean whom."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from dhumandiff.evaluation.assignment import assign_by_clothes
from dhumandiff.faces import Face, FaceAnalyzer

from .annotation import Annotation, Box, Person, read_annotation
from .match import Unusable, box_of, two_faces
from .naming import Naming, PersonAttributes, default_caption, name_people
from .part import Picture
from .pictures import body_box
from .settings import PrepareSettings

__all__ = ["Couple", "find_couple"]


@dataclass(frozen=True, eq=False)
class Couple:
    """Two people of a picture, in the order of the annotation, or from left to right without one.

    Attributes:
        image: uint8 [H, W, 3], upright.
        people: as annotated; with nothing but a number where they are not.
        faces: found in the picture.
        bodies: boxes, px.
        known: gender and age of each.
        naming: the caption, tied to them.
        captioned: whether the data have a caption of it; else one was made.
        notes: what was odd.
    """

    image: np.ndarray
    people: tuple[Person, ...]
    faces: list[Face]
    bodies: list[Box]
    known: list[PersonAttributes]
    naming: Naming
    captioned: bool
    notes: list[str]


def find_couple(picture: Picture, settings: PrepareSettings, faces: FaceAnalyzer) -> Couple:
    """Look at a picture.

    Args:
        picture: where it is, and what is known of it.
        settings: how large picture and faces have to be, and what to do where nothing says who is who.
        faces: the detector.

    Raises:
        Unusable: it does not show two people with faces.
        ImageError: it cannot be read.
        PromptError: its caption does not say who is who.
        TrainingError: its annotation cannot be read.
    """
    photo = picture.image.photo()
    image, notes = photo.pixels, list(photo.notes)
    height, width = image.shape[:2]
    if min(height, width) < settings.min_side:
        raise Unusable(
            f"the picture has {width} x {height} px; the shorter side needs {settings.min_side}.",
            reason="tiny",
            code="picture-too-small",
        )
    data = picture.read_annotation()
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
    caption = _usable_caption(annotation.caption, picture)
    naming = name_people(
        caption or default_caption(known),
        annotation.words,
        known,
        settings.unknown_gender,
        lambda colors: assign_by_clothes(colors, found, image),
    )
    return Couple(image, people, found, bodies, known, naming, bool(caption), notes)


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
