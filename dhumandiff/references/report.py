"""What happened to the photos of a person when they were encoded, and what the reference is good for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..catalogue import WITHANYONE_FACE_PACK, WITHANYONE_RECOGNIZER
from ..faces.face import Face
from ..faces.quality import PhotoQuality, QualityIssue
from ..faces.same_recognizer import is_published, recognizer_note
from .reference import SAME_PERSON_THRESHOLD, FaceReference

__all__ = ["EncodeReport", "PhotoReport", "report_of", "serves"]


@dataclass(frozen=True)
class PhotoReport:
    """What happened to one photo.

    Attributes:
        name: what messages call it.
        size: (width, height) px.
        faces_found: how many faces were found in it.
        quality: what was measured; None where no face was looked for.
        face_in_crop: the face used, in crop pixels; None likewise.
        notes: what was done to it on the way.
        similarity: cosine to the mean of the person's other photos, None without others.
    """

    name: str
    size: tuple[int, int]
    faces_found: int
    quality: PhotoQuality | None
    face_in_crop: Face | None
    notes: tuple[str, ...] = ()
    similarity: float | None = None

    @property
    def is_outlier(self) -> bool:
        """Whether this photo would not be taken for the person in the others."""
        return self.similarity is not None and self.similarity < SAME_PERSON_THRESHOLD

    def issues(self) -> list[QualityIssue]:
        """What a person should do something about, without the photo's name."""
        found = self.quality.issues() if self.quality else []
        if self.is_outlier:
            advice = (
                f"its face is unlike the other photos (similarity {self.similarity:.2f}, one person: {SAME_PERSON_THRESHOLD} or "
                "more): remove it, or choose another face in it, if it shows someone else"
            )
            found.append(QualityIssue("someone else?", advice))
        return found

    def warnings(self) -> list[str]:
        """The issues' sentences."""
        return [issue.advice for issue in self.issues()]


@dataclass(frozen=True)
class EncodeReport:
    """What happened to all photos of one person; `str()` of it is the text for people.

    Attributes:
        photos: one by one.
        name: of the person.
        made_by: what ran, in words.
        serves: the methods that the reference has everything for.
        advice: what could be better about all of it.
    """

    photos: tuple[PhotoReport, ...]
    name: str = ""
    made_by: tuple[str, ...] = ()
    serves: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()

    def warnings(self) -> list[str]:
        """All warnings, each beginning with the photo it is about; then those about no photo."""
        of_photos = [
            f"photo {number} ({photo.name}): {text}"
            for number, photo in enumerate(self.photos, 1)
            for text in photo.warnings()
        ]
        return [*of_photos, *self.advice]

    def __str__(self) -> str:
        lines = [f"{self.name}: {len(self.photos)} photo(s)"] if self.name else []
        for number, photo in enumerate(self.photos, 1):
            measured = photo.quality or "nothing was measured"
            lines.append(f"photo {number} ({photo.name}, {photo.size[0]} x {photo.size[1]} px): {measured}")
            if photo.similarity is not None:
                lines.append(f"  similarity to the other photos: {photo.similarity:.2f}")
            lines.extend(f"  note: {note}" for note in photo.notes)
            lines.extend(f"  warning: {warning}" for warning in photo.warnings())
        if self.made_by:
            lines.append(f"encoded with: {', '.join(self.made_by)}")
            lines.append(f"serves: {', '.join(self.serves) or 'no method'}")
        lines.extend(f"warning: {text}" for text in self.advice)
        if not self.warnings():
            lines.append("Nothing to improve.")
        return "\n".join(lines)


def report_of(reference: FaceReference, photos: Sequence[PhotoReport]) -> EncodeReport:
    """The report of a reference, of what happened to each of its photos."""
    similarities = _similarity_to_others(reference.identity) if reference.identity is not None else [None] * len(photos)
    reports = tuple(replace(one, similarity=value) for one, value in zip(photos, similarities, strict=True))
    recognizer = recognizer_note(reference.recognizer, reference.recognizer_hash)
    made_by = tuple(filter(None, (reference.image_encoder, reference.siglip_encoder, recognizer)))
    advice = ()
    if reference.identity is None:
        advice = (
            "Nobody is recognized in whole photos: this is for IP-Adapter Plus alone, and only the judge can score it",
        )
    if reference.siglip_hidden is not None and _made_for_withanyone(reference) is False:
        advice = (
            f"WithAnyone refuses this reference: it reads embeddings of {recognizer_note(*WITHANYONE_RECOGNIZER)}, and these are "
            f"{recognizer}'s. Choose {WITHANYONE_FACE_PACK.name} in Load Face Analysis",
        )
    return EncodeReport(reports, reference.name, made_by, serves(reference), advice)


def _similarity_to_others(identity: Tensor) -> list[float | None]:
    """Per photo the cosine to the mean direction of all other photos."""
    if len(identity) == 1:
        return [None]
    others = torch.nn.functional.normalize(identity.sum(dim=0, keepdim=True) - identity, dim=-1)
    return (identity * others).sum(dim=-1).tolist()


_METHODS = {
    "DHumanDiff": ("clip_hidden", "identity"),
    "IP-Adapter Plus": ("clip_hidden",),
    "WithAnyone": ("siglip_hidden", "identity", "identity_length"),
    "WithAnyone's ArcFace branch": ("identity", "identity_length"),
}


def serves(reference: FaceReference) -> tuple[str, ...]:
    """The methods for which a reference has every part, and no recognizer that they refuse; of two ways of one method the fuller.

    Which recognizer a DHumanDiff adapter wants stands in its file, so that is not asked here.
    """
    able = [name for name, parts in _METHODS.items() if all(getattr(reference, one) is not None for one in parts)]
    if _made_for_withanyone(reference) is False:
        able = [name for name in able if not name.startswith("WithAnyone")]
    return tuple(name for name in able if not any(name.startswith(f"{other}'s") for other in able))


def _made_for_withanyone(reference: FaceReference) -> bool | None:
    return is_published((reference.recognizer, reference.recognizer_hash), WITHANYONE_RECOGNIZER)
