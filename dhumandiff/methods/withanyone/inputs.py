"""What WithAnyone is given: refused where it cannot be what the weights were trained with."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import FaceReferenceError, HostError
from .regions import check_people

__all__ = ["check_embeddings", "check_picture", "check_siglip"]

NORMED = 0.01
"""How far from 1 the length of an embedding is at most after normalization, in half precision too. A recognizer's own
embeddings are 10 to 30 long."""


def check_embeddings(embeddings: Tensor, width: int) -> None:
    """Refuse what cannot be raw ArcFace embeddings of one to four people.

    Args:
        embeddings: [N, width].
        width: that the weights read.

    Raises:
        FaceReferenceError: another shape; zero, NaN or infinite; normalized.
        HostError: too many people.
    """
    if embeddings.ndim != 2 or embeddings.shape[-1] != width:
        raise FaceReferenceError(
            f"The face embeddings have the shape {list(embeddings.shape)}; WithAnyone reads [people, {width}], those of antelopev2. "
            "Encode the photos again with that face pack.",
            code="withanyone-embeddings-shape",
        )
    check_people(len(embeddings))
    lengths = embeddings.detach().float().norm(dim=-1).tolist()
    for person, length in enumerate(lengths, 1):
        if not 0 < length < float("inf"):
            raise FaceReferenceError(
                f"The face embedding of person {person} has the length {length:g}, so no face was recognized. Encode another photo.",
                code="withanyone-embedding-empty",
            )
        if abs(length - 1) < NORMED:
            raise FaceReferenceError(
                f"The face embedding of person {person} was brought to the length 1, but WithAnyone reads it as the recognizer makes it, "
                "10 to 30 long. Encode the photo again: older references do not keep the length.",
                code="withanyone-embedding-normalized",
            )


def check_siglip(siglip: Tensor, tokens: int, width: int, people: int) -> None:
    """Refuse hidden states of another image encoder, or of another number of people.

    Raises:
        FaceReferenceError: it is so.
    """
    if siglip.ndim != 3 or tuple(siglip.shape[1:]) != (tokens, width):
        raise FaceReferenceError(
            f"SigLIP's hidden states have the shape {list(siglip.shape)}; WithAnyone reads [people, {tokens}, {width}], those of "
            "siglip-base-patch16-256-i18n. Load that encoder and encode the photos again.",
            code="withanyone-siglip-shape",
        )
    if len(siglip) != people:
        raise FaceReferenceError(
            f"There are SigLIP's hidden states of {len(siglip)} people and face embeddings of {people}: give both of each.",
            code="withanyone-siglip-count",
        )
    if not bool(torch.isfinite(siglip).all()):
        raise FaceReferenceError(
            "SigLIP's hidden states hold NaN or infinite values. Encode the photos again.",
            code="withanyone-siglip-not-finite",
        )


def check_picture(picture: Tensor, width: int) -> None:
    """Refuse picture tokens of another model.

    Raises:
        HostError: they have another width.
    """
    if picture.ndim != 3 or picture.shape[-1] != width:
        raise HostError(
            f"The picture's tokens have the shape {list(picture.shape)}; these weights are for a FLUX of width {width}, [samples, tokens, "
            f"{width}]. Load FLUX.1 dev, Krea or Kontext.",
            code="withanyone-picture-shape",
        )
