"""The reference photos of a person: the face in the picture itself, its variants, and other photos of the same person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from dhumandiff.errors import FaceError, ImageError, PromptError
from dhumandiff.faces import Face, FaceAnalyzer, assess, crop_face

from .. import TrainingError
from .annotation import read_annotation
from .couple import Couple, find_couple
from .identities import PairedPhoto
from .match import Unusable, two_faces
from .pictures import augment_face
from .seeding import named_rng
from .settings import PrepareSettings
from .store import StoreError

__all__ = ["ReferenceRows", "make_references"]

_APART = 0.05
"""By how much two faces have to be more like two people one way round than the other, to say which is whose."""


@dataclass(eq=False)
class ReferenceRows:
    """Reference rows of one person, in order."""

    crops: list[np.ndarray]
    identity: list[np.ndarray]
    identity_swapped: list[np.ndarray]
    metadata: list[dict[str, Any]]


def make_references(
    key: str,
    couple: Couple,
    index: int,
    photos: Sequence[PairedPhoto],
    faces: FaceAnalyzer,
    settings: PrepareSettings,
    vision_size: int,
    notes: list[str],
) -> ReferenceRows:
    """All rows of one person.

    Args:
        key: of the sample.
        couple: the two people of the picture.
        index: which of them.
        photos: of the person, from elsewhere.
        faces: detector and recognizer.
        settings: how many variants, and how unlike a photo may be.
        vision_size: px of the image encoder's pictures.
        notes: gets what is left out.
    """
    rows = ReferenceRows([], [], [], [])
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

    image, face = couple.image, couple.faces[index]
    rng = named_rng(settings.seed, key, index)
    crop, moved, _ = crop_face(image, face)
    add(image, face, crop, moved, "target", None)
    vary(crop, moved, "target", wanted.augmented)
    for paired in photos:
        try:
            other, seen = _paired_face(paired, couple, index, faces, settings)
        except StoreError:
            raise
        except (ImageError, FaceError, PromptError, TrainingError) as error:
            notes.append(f"the paired photo {paired.name} is left out: {error}")
            continue
        crop, moved, _ = crop_face(other, seen)
        if add(other, seen, crop, moved, "paired", None):
            vary(crop, moved, "paired", wanted.augmented_paired)
    return rows


def _paired_face(
    paired: PairedPhoto, couple: Couple, index: int, faces: FaceAnalyzer, settings: PrepareSettings
) -> tuple[np.ndarray, Face]:
    """The picture of a paired photo, and the person's face in it."""
    if paired.picture is not None and paired.by == "mention":
        other = find_couple(paired.picture, settings, faces)
        return other.image, other.faces[other.naming.order[paired.person]]
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
    elif paired.by == "likeness":
        face = _alike(couple, index, image, two_faces(image, (), faces, settings), faces)
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


def _alike(couple: Couple, index: int, image: np.ndarray, found: Sequence[Face], faces: FaceAnalyzer) -> Face:
    """Of two faces of the same two people the one of person `index`."""
    ours = [faces.identity(couple.image, face) for face in couple.faces]
    theirs = [faces.identity(image, face) for face in found]
    alike = np.array([[float(one @ other) for other in theirs] for one in ours])
    straight, crossed = alike[0, 0] + alike[1, 1], alike[0, 1] + alike[1, 0]
    if abs(straight - crossed) < _APART:
        raise Unusable(
            "its two faces are as much like the two people one way round as the other.",
            reason="not matched",
            code="couple-not-told-apart",
        )
    return found[index if straight > crossed else 1 - index]
