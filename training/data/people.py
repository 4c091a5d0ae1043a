"""Look at one picture: find the two people, say who is who, and cut out everything that needs no encoder.

`look` never raises for what a picture is like: it answers with what was found, or with why the picture is set aside.
Faces and annotated boxes are matched by `scipy.optimize.linear_sum_assignment` (this project's choice).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from dhumandiff.errors import FaceError, ImageError, PromptError
from dhumandiff.faces import Face, FaceAnalyzer, assess, crop_face
from training import TrainingError

from .annotation import Annotation, Box, Person, read_annotation
from .identities import PairedPhoto
from .naming import Somebody, default_caption, name_people
from .pictures import Crop, body_box, buckets, choose_crop, face_mask, given_mask, person_mask, split, vary
from .settings import PrepareSettings
from .sources import Picture

__all__ = ["Aside", "Looked", "Task", "look"]


@dataclass(frozen=True)
class Task:
    """One picture to look at; `key` names its sample, `paired` are further photos of each annotated person."""

    key: str
    picture: Picture
    paired: tuple[tuple[PairedPhoto, ...], ...] = ()


@dataclass(frozen=True, eq=False)
class Looked:
    """A picture that can be used.

    described: the sample's JSON, without token positions. pixels: uint8 [H, W, 3] of the bucket. masks: name -> uint8 at
    latent size. crops: per person uint8 [R, S, S, 3] at the vision tower's size. identity, identity_swapped: per person
    float32 [R, width].
    """

    key: str
    name: str
    described: dict[str, Any]
    pixels: np.ndarray
    masks: dict[str, np.ndarray]
    crops: tuple[np.ndarray, np.ndarray]
    identity: tuple[np.ndarray, np.ndarray]
    identity_swapped: tuple[np.ndarray, np.ndarray]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Aside:
    """A picture that is set aside: the kind of reason, and the reason in words."""

    key: str
    source: str
    name: str
    reason: str
    message: str


class _Unusable(TrainingError):
    """This picture cannot be used, for a reason of this kind."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def look(
    task: Task, settings: PrepareSettings, faces: FaceAnalyzer, latent_factor: int, vision_size: int
) -> Looked | Aside:
    """Look at one picture.

    Args:
        task: the picture.
        settings: all of prepare's.
        faces: detector and recogniser; if it has `attributes(image, face) -> (gender, age group)`, they fill in what
            the annotation leaves open.
        latent_factor: px of a latent pixel.
        vision_size: px of the vision tower's pictures.
    """
    try:
        return _look(task, settings, faces, latent_factor, vision_size)
    except _Unusable as unusable:
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
    return Aside(task.key, task.picture.source, task.picture.name, reason, " ".join(message.split()))


def _look(task: Task, settings: PrepareSettings, faces: FaceAnalyzer, latent_factor: int, vision_size: int) -> Looked:
    photo = task.picture.image.photo()
    image, notes = photo.pixels, list(photo.notes)
    height, width = image.shape[:2]
    if min(height, width) < settings.min_side:
        raise _Unusable("tiny", f"the picture has {width} x {height} px; the shorter side needs {settings.min_side}.")
    data = task.picture.read_annotation()
    annotation = Annotation() if data is None else read_annotation(data, (width, height))
    notes += annotation.notes
    if annotation.people and len(annotation.people) != 2:
        count = len(annotation.people)
        raise _Unusable("one person" if count < 2 else "three people", f"{count} people are annotated; 2 are needed.")

    found = _two_faces(image, annotation.people, faces, settings)
    people = annotation.people or tuple(Person(str(number)) for number in (1, 2))
    bodies = [person.box or body_box(_box(face), (height, width)) for person, face in zip(people, found, strict=True)]
    known = [_somebody(person, face, image, faces) for person, face in zip(people, found, strict=True)]
    caption = annotation.caption or task.picture.caption or default_caption(known)
    naming = name_people(caption, annotation.words, known, settings.unknown_gender)

    choices = buckets(settings.resolution, settings.bucket_step, settings.max_aspect)
    crop = choose_crop((height, width), [_box(face) for face in found], bodies, choices)
    if crop is None:
        raise _Unusable("crop", "the two faces are too far apart for any bucket; a larger max_aspect may hold them.")

    references = [
        _references(task, number, image, found[number], faces, settings, vision_size, notes) for number in (0, 1)
    ]
    alike = float(references[0].identity[0] @ references[1].identity[0])
    if alike >= settings.faces.same_person:
        raise _Unusable("same person", f"the two faces look like one person (similarity {alike:.2f}).")
    masks = _masks(task, crop, found, bodies, naming.order, latent_factor, notes)
    described = {
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
                "face_box": _rounded(crop.box(_box(found[index]))),
                "person_box": _rounded(crop.box(bodies[index])),
                "landmarks": [_rounded(point) for point in crop.points(found[index].landmarks)],
                "references": references[index].described,
            }
            for number, index in enumerate(naming.order, 1)
        ],
    }
    first, second = (references[index] for index in naming.order)
    return Looked(
        task.key,
        task.picture.name,
        described,
        crop.pixels(image),
        masks,
        (np.stack(first.crops), np.stack(second.crops)),
        (np.stack(first.identity), np.stack(second.identity)),
        (np.stack(first.identity_swapped), np.stack(second.identity_swapped)),
        tuple(notes),
    )


def _two_faces(
    image: np.ndarray, people: Sequence[Person], faces: FaceAnalyzer, settings: PrepareSettings
) -> list[Face]:
    """The faces of the two people, in the order of the annotation, or from left to right without one."""
    found = sorted(faces.detect(image), key=lambda face: face.size, reverse=True)
    if people:
        chosen = _match(image, people, found, faces)
    elif len(found) < 2:
        count = "1 face was" if found else "no face was"
        raise _Unusable("one person" if found else "no face", f"{count} found; two people are needed.")
    else:
        chosen = sorted(found[:2], key=lambda face: face.center[0])
    smaller = min(face.size for face in chosen)
    if smaller < settings.faces.min_size:
        raise _Unusable(
            "small face", f"a face has {smaller:.0f} px, less than faces.min_size ({settings.faces.min_size:g})."
        )
    others = [face for face in found if not any(_same(face, one) for one in chosen)]
    third = max((face.size for face in others), default=0.0)
    if third >= settings.faces.third * smaller:
        raise _Unusable(
            "three people", f"there is a third face of {third:.0f} px beside faces of {smaller:.0f} px and more."
        )
    return chosen


def _match(image: np.ndarray, people: Sequence[Person], found: list[Face], faces: FaceAnalyzer) -> list[Face]:
    """One face for each annotated person; a second look at the body of who has none."""
    if all(person.box is None and person.face_box is None for person in people):
        raise _Unusable("not matched", "the annotated people have no box inside the picture, so no face can be theirs.")
    from scipy.optimize import linear_sum_assignment

    chosen: list[Face | None] = [None, None]
    costs = np.array([[_cost(person, face) for face in found] for person in people]).reshape(len(people), len(found))
    for row, column in zip(*linear_sum_assignment(np.minimum(costs, 1e3)), strict=True):
        if costs[row, column] < math.inf:
            chosen[row] = found[column]
    for index, person in enumerate(people):
        if chosen[index] is None and person.box is not None:  # small faces of whole figures show when one looks closer
            closer = [face for face in _look_closer(image, person.box, faces) if _cost(person, face) < math.inf]
            closer = [face for face in closer if not any(one is not None and _same(face, one) for one in chosen)]
            chosen[index] = min(closer, key=lambda face: _cost(person, face), default=None)
        if chosen[index] is None:
            seen = f"{len(found)} face{'' if len(found) == 1 else 's'} found in the picture"
            raise _Unusable(
                "no face" if not found else "not matched", f"person {person.object_id} has no face; {seen}."
            )
    if _same(chosen[0], chosen[1]):
        raise _Unusable("not matched", "both annotated people got the same face: their boxes overlap too much.")
    return chosen


def _cost(person: Person, face: Face) -> float:
    """How far a face is from where this person's should be, in widths of the body; infinite when it is not theirs."""
    x, y = face.center
    if person.face_box is not None:
        box = person.face_box
        width, expected = 3 * (box[2] - box[0]), ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        inside = _overlap(_box(face), box) > 0
    elif person.box is not None:
        box = person.box
        width, expected = box[2] - box[0], ((box[0] + box[2]) / 2, box[1] + 0.5 * face.size)
        head = [point for point in person.keypoints[:5] if point[2] > 0 and _holds(box, point)]
        if len(person.keypoints) == 17 and head:  # COCO: nose, eyes, ears
            expected = tuple(np.mean([point[:2] for point in head], axis=0))
        inside = _holds(box, (x, y))
    else:  # the other person has a box, so this one gets what is left
        return 1e2
    return math.hypot(x - expected[0], y - expected[1]) / max(width, 1.0) if inside else math.inf


def _look_closer(image: np.ndarray, box: Box, faces: FaceAnalyzer) -> list[Face]:
    """Faces in the upper half of a body's box, which the detector sees larger; px of the picture."""
    room = 0.1 * (box[2] - box[0])
    x0, y0 = max(0, int(box[0] - room)), max(0, int(box[1] - room))
    x1, y1 = int(min(image.shape[1], box[2] + room)), int(min(image.shape[0], (box[1] + box[3]) / 2 + room))
    if min(x1 - x0, y1 - y0) < 16:
        return []
    moved = np.float32([x0, y0])
    return [
        Face((face.box.reshape(2, 2) + moved).reshape(4), face.landmarks + moved, face.score)
        for face in faces.detect(np.ascontiguousarray(image[y0:y1, x0:x1]))
    ]


def _somebody(person: Person, face: Face, image: np.ndarray, faces: FaceAnalyzer) -> Somebody:
    gender, age = person.gender, person.age_group
    attributes = getattr(faces, "attributes", None)
    if attributes is not None and not (gender and age):
        seen = attributes(image, face)
        gender, age = gender or seen[0], age or seen[1]
    return Somebody(gender, age, face.center[0])


@dataclass(eq=False)
class _Rows:
    """Reference rows of one person, in order."""

    crops: list[np.ndarray]
    identity: list[np.ndarray]
    identity_swapped: list[np.ndarray]
    described: list[dict[str, Any]]


def _references(
    task: Task,
    index: int,
    image: np.ndarray,
    face: Face,
    faces: FaceAnalyzer,
    settings: PrepareSettings,
    vision_size: int,
    notes: list[str],
) -> _Rows:
    """The face itself, its variants, and the other photos of the person."""
    rows = _Rows([], [], [], [])
    wanted = settings.references

    def add(picture: np.ndarray, seen: Face, crop: np.ndarray, moved: Face, origin: str, augmented: bool) -> None:
        quality = {name: round(value, 4) for name, value in asdict(assess(picture, seen, crop, moved)).items()}
        identity = faces.identity(picture, seen)
        if augmented:  # it has no more detail than the face it was made of
            quality["face_size"] = rows.described[0]["quality"]["face_size"]
        if rows.identity:
            quality["similarity"] = round(float(identity @ rows.identity[0]), 4)
            if origin == "paired" and quality["similarity"] < wanted.min_similarity:
                notes.append(f"a paired photo is too unlike the person ({quality['similarity']:.2f}) and is left out")
                return
        shown = Image.fromarray(crop).resize((vision_size, vision_size), Image.Resampling.BICUBIC)
        rows.crops.append(np.asarray(shown))
        rows.identity.append(np.asarray(identity, np.float32))
        rows.identity_swapped.append(np.asarray(faces.identity(picture, seen, swap_channels=True), np.float32))
        rows.described.append({"origin": origin, "augmented": augmented, "quality": quality})

    crop, moved, _ = crop_face(image, face)
    add(image, face, crop, moved, "target", False)
    chance = random.Random(f"{settings.seed}/{task.key}/{index}")
    for _ in range(wanted.augmented):
        varied, turned = vary(crop, moved, chance, wanted.flip, wanted.light, wanted.colour)
        add(varied, turned, varied, turned, "target", True)
    for paired in task.paired[index] if index < len(task.paired) else ():
        try:
            other, seen = _paired_face(paired, faces, settings)
        except (ImageError, FaceError, TrainingError) as error:
            notes.append(f"the paired photo {paired.name} is left out: {error}")
            continue
        crop, moved, _ = crop_face(other, seen)
        add(other, seen, crop, moved, "paired", False)
    return rows


def _paired_face(paired: PairedPhoto, faces: FaceAnalyzer, settings: PrepareSettings) -> tuple[np.ndarray, Face]:
    image = paired.image.photo().pixels
    if paired.picture is None:
        found = faces.detect(image)
        if not found:
            raise _Unusable("no face", "no face was found in it.")
        face = max(found, key=lambda one: one.size)
    else:
        annotation = read_annotation(paired.picture.read_annotation(), (image.shape[1], image.shape[0]))
        if len(annotation.people) != 2:
            raise _Unusable("one person", "two people are not annotated in it.")
        face = _two_faces(image, annotation.people, faces, settings)[paired.person]
    if face.size < settings.faces.min_size:
        raise _Unusable("small face", f"its face has {face.size:.0f} px.")
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
    ovals = [face_mask(crop.box(_box(found[index])), crop.bucket, factor) for index in order]
    persons = [
        person_mask(crop.box(bodies[index]), oval, crop.bucket, factor)
        for index, oval in zip(order, ovals, strict=True)
    ]
    persons = split(persons, ovals)
    if task.picture.masks:
        try:
            persons = [given_mask(task.picture.masks[index].photo().pixels, crop, factor) for index in order]
        except ImageError as error:
            notes.append(f"its masks are not used: {error}")
    return {"mask_1": persons[0], "mask_2": persons[1], "face_1": ovals[0], "face_2": ovals[1]}


def _box(face: Face) -> Box:
    return tuple(map(float, face.box))


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(float(value), 2) for value in values]


def _holds(box: Box, point: Sequence[float]) -> bool:
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


def _overlap(first: Box, second: Box) -> float:
    """Share of the smaller box that lies in the other."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return max(width, 0.0) * max(height, 0.0) / max(min(areas), 1e-6)


def _same(first: Face, second: Face) -> bool:
    return first is second or _overlap(_box(first), _box(second)) > 0.5
