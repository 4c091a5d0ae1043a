"""What a reference lacks for a method, and how to get it.

    require(reference, "siglip_hidden", "identity_length", by="WithAnyone")     # or a FaceReferenceError that says how

A reference need only look like one: what is not there counts as lacking.
"""

from __future__ import annotations

from typing import Any

from ..errors import FaceReferenceError

__all__ = ["called", "require"]


def called(reference: Any) -> str:
    """How a sentence about a reference begins: its name, where it has one."""
    return f"The reference {reference.name!r}" if reference.name else "The reference"


def require(reference: Any, *parts: str, by: str = "") -> None:
    """Refuse a reference without one of the parts that a method reads.

    Args:
        reference: a person.
        parts: names of `FaceReference`'s tensors: clip_hidden, siglip_hidden, identity, identity_swapped, identity_length.
        by: the method that reads them, for the message.

    Raises:
        FaceReferenceError: one is lacking: "reference-without-clip", "reference-without-siglip", "no-identity",
            "no-swapped-identity" or "reference-without-length".
    """
    for part in parts:
        if getattr(reference, part, None) is None:
            raise _lack(called(reference), part, f", which {by} reads" if by else "")


def _lack(who: str, part: str, reader: str) -> FaceReferenceError:
    if part == "clip_hidden":
        return FaceReferenceError(
            f"{who} was encoded without CLIP ViT-H/14{reader}. Connect Load CLIP Vision (CLIP ViT-H/14) to clip_vision of "
            "Encode Reference Face and encode the photos again.",
            code="reference-without-clip",
        )
    if part == "siglip_hidden":
        return FaceReferenceError(
            f"{who} was encoded without SigLIP{reader}. Connect Load SigLIP Vision to siglip_vision of Encode Reference Face "
            "and encode the photos again.",
            code="reference-without-siglip",
        )
    if part == "identity_swapped":
        return FaceReferenceError(
            f"{who} has no identity of channel-swapped faces{reader}, which adapters made with it need. Encode the photos "
            "again with face analysis connected.",
            code="no-swapped-identity",
        )
    if part == "identity_length":
        return FaceReferenceError(
            f"{who} does not know how long its face embedding was{reader}: it was saved by an earlier version, or its face "
            "analysis does not tell. Encode the photos again with Load Face Analysis.",
            code="reference-without-length",
        )
    return FaceReferenceError(
        f"{who} has no identity{reader}: it was made without a face recognizer. Encode the photos again with face analysis "
        "connected.",
        code="no-identity",
    )
