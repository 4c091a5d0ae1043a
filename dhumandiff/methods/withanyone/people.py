"""References -> what WithAnyone reads of each person.

    check_references(adapter.info, references, ("arc", "sig"))      # what is lacking is said before anything is computed
    tokens = people_tokens(adapter, references, ("arc", "sig"))     # {"arc": [P, 8, D], "sig": [P, 264, D]}

This project's choice for several photos of one person: the mean direction of their embeddings at their mean length, and SigLIP's
states of the first photo, since a mean of patches shows nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...catalogue import WITHANYONE_RECOGNIZER
from ...errors import FaceReferenceError
from ...faces.same_recognizer import is_published, recognizer_note
from .regions import check_people

if TYPE_CHECKING:
    from ...references.reference import FaceReference
    from .adapter import WithAnyone

__all__ = ["RECOGNIZER", "RECOGNIZER_HASH", "check_references", "people_tokens", "unknown_recognizers"]

RECOGNIZER, RECOGNIZER_HASH = WITHANYONE_RECOGNIZER
"""The face recognizer whose embeddings the weights were trained with, and the hash of its file."""


def check_references(references: Sequence[FaceReference], branches: Iterable[str]) -> None:
    """Refuse references that lack something that the branches read.

    Raises:
        HostError: there are none, or too many.
        FaceReferenceError: says of whom, and how to get it.
    """
    check_people(len(references))
    for person, reference in enumerate(references, 1):
        parts = ("identity", "identity_length", *(("siglip_hidden",) if "sig" in branches else ()))
        reference.require(*parts, by="WithAnyone" if "sig" in branches else "WithAnyone's ArcFace branch")
        made_by = reference.recognizer, reference.recognizer_hash
        if is_published(made_by, WITHANYONE_RECOGNIZER) is False:
            raise FaceReferenceError(
                f"Reference {person}{f' ({reference.name})' if reference.name else ''} was encoded with the face recognizer "
                f"{recognizer_note(*made_by)}, but WithAnyone reads embeddings of {recognizer_note(*WITHANYONE_RECOGNIZER)}, and those of another "
                "one show another person. Choose antelopev2 in Load Face Analysis and encode the photos again.",
                code="withanyone-other-recognizer",
            )


def unknown_recognizers(references: Sequence[FaceReference]) -> str | None:
    """A note on references that do not say which recognizer made them; None where all do."""
    unknown = [str(person) for person, reference in enumerate(references, 1) if not reference.recognizer]
    if not unknown:
        return None
    return (
        f"It is not known which face recognizer made reference {' and '.join(unknown)}. WithAnyone needs {RECOGNIZER}: with another "
        "one somebody else's face is drawn."
    )


def people_tokens(
    adapter: WithAnyone,
    references: Sequence[FaceReference],
    branches: Iterable[str],
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Branch -> tokens of all people, [P, T, D] on a device.

    Raises:
        AdapterError: the weights have no such branch.
        FaceReferenceError: see `check_references`, `WithAnyone.arc_tokens` and `sig_tokens`.
    """
    branches = tuple(branches)
    for branch in branches:  # first, so that nobody fetches an encoder for a branch that is not there
        adapter.check_branch(branch)
    check_references(references, branches)
    embeddings = torch.cat([_embedding(reference) for reference in references]).to(device)
    found = {}
    if "arc" in branches:
        found["arc"] = adapter.arc_tokens(embeddings)
    if "sig" in branches:
        states = [
            reference.siglip_hidden[:1].float() for reference in references if reference.siglip_hidden is not None
        ]
        found["sig"] = adapter.sig_tokens(torch.cat(states).to(device), embeddings)
    return found


def _embedding(reference: FaceReference) -> Tensor:
    """[1, 512] of one person, of the length that the recognizer gives."""
    assert reference.identity_length is not None  # since it was required
    return reference.mean_identity().float() * reference.identity_length.float().mean()
