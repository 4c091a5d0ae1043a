"""Refuse a reference whose face recognizer is not the one that it meets: an adapter's, or a face analysis's.

Embeddings of two recognizers have one width and nothing else in common, so no number would tell. References of before say
nothing of their recognizer, and are taken as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import FaceReferenceError
from ..faces.same_recognizer import compare, pack_of, recognizer_hash, recognizer_name, recognizer_note, same_recognizer
from .lacks import called

__all__ = ["check_face_analysis", "check_trained_with", "recognizer_warnings"]


def check_trained_with(reference: Any, said: str) -> None:
    """Refuse a reference of certainly another recognizer than weights were trained with.

    Args:
        reference: a person; what is there may only look like a `FaceReference`.
        said: what the weights' metadata says of their recognizer; "" says nothing.

    Raises:
        FaceReferenceError: it is another one.
    """
    if _compare(reference, said) == "other":
        raise FaceReferenceError(
            f"{called(reference)} was encoded with the face recognizer {_note(reference)}, and these weights were trained with "
            f"{said}, to which its numbers mean nothing. Load {pack_of(said)} with Load Face Analysis and encode the photos again.",
            code="reference-of-another-recognizer",
        )


def recognizer_warnings(references: Sequence[Any], said: str) -> list[str]:
    """Sentences on references whose recognizer has another name than the one that weights were trained with.

    A renamed pack has another name, too, so this is no refusal.
    """
    return [
        f"{called(reference)} was encoded with the face recognizer {_note(reference)}, and the weights were trained with {said}: "
        f"unless the two are one under two names, nobody will be alike. If in doubt, encode the photos again with {pack_of(said)}."
        for reference in references
        if _compare(reference, said) == "unsure"
    ]


def check_face_analysis(references: Sequence[Any], analyzer: Any) -> None:
    """Refuse a face analysis with another recognizer than references were encoded with.

    Raises:
        FaceReferenceError: it is another one.
    """
    name, digest = recognizer_name(analyzer), recognizer_hash(analyzer)
    for reference in references:
        if same_recognizer((reference.recognizer, reference.recognizer_hash), (name, digest)) is False:
            raise FaceReferenceError(
                f"{called(reference)} was encoded with the face recognizer {_note(reference)}, and the face analysis holds "
                f"{recognizer_note(name, digest)}: their numbers cannot be compared. Connect the face analysis that it was encoded "
                "with, encode its photos again with this one, or let the judge `sface` score.",
                code="face-analysis-of-another-recognizer",
            )


def _compare(reference: Any, said: str) -> str:
    return compare(said, getattr(reference, "recognizer", ""), getattr(reference, "recognizer_hash", ""))


def _note(reference: Any) -> str:
    return recognizer_note(reference.recognizer, reference.recognizer_hash)
