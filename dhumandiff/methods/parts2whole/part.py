"""One part of a person: a picture of a face, a jacket, shoes ..., as the model takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...conditioning.masks import check_mask
from ...errors import HostError, ImageError

__all__ = ["ALIASES", "IMAGE_ROWS", "LABELS", "Part", "check_image_embed", "check_parts", "label_of"]

LABELS = (
    "face",
    "hair or headwear",
    "upper body clothes",
    "lower body clothes",
    "whole body clothes",
    "shoes",
)
"""What the model was trained to know a part as; the text that the appearance encoder reads with its picture."""

ALIASES = {
    "hair": LABELS[1],
    "headwear": LABELS[1],
    "hat": LABELS[1],
    "upper": LABELS[2],
    "lower": LABELS[3],
    "whole": LABELS[4],
}
"""Short names of labels, as a command line takes them."""

IMAGE_ROWS = 6
"""Image tokens that cross-attention was trained with: one a part, the rest zeros."""


def label_of(name: str) -> str:
    """The label that a name or short name stands for.

    Raises:
        HostError: there is none.
    """
    plain = " ".join(name.replace("_", " ").replace("-", " ").lower().split())
    label = ALIASES.get(plain, plain)
    if label not in LABELS:
        raise HostError(
            f"There is no part {name!r}. Parts2Whole knows {', '.join(LABELS)} "
            f"(short: face, {', '.join(ALIASES)}, shoes).",
            code="unknown-part",
        )
    return label


@dataclass(frozen=True, eq=False)
class Part:
    """A part of a person. Features are kept for this very latent: do not change it in place.

    Attributes:
        label: one of `LABELS`, or a short name.
        latent: of the picture, without noise, [1, 4, h, w].
        mask: where in the picture the part is, [1, 1, 8 h, 8 w] 0..1; None: all of it.
        label_embedding: the label's text as the text encoder gives it, [1, 77, C].
        image_embed: the picture's CLIP embedding, [1, E].
        person: whose part it is, from 1.
        strength: factor of the attention that the part gets; 1 is as trained, 0 as if it were not there.

    Raises:
        HostError: an unknown label, or a tensor of another shape; a strength that is no number from 0 on.
        ImageError: the mask is none, is of another size than the picture, or has nothing in it.
    """

    label: str
    latent: Tensor
    mask: Tensor | None
    label_embedding: Tensor
    image_embed: Tensor
    person: int = 1
    strength: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", label_of(self.label))
        for name, wanted in (("latent", 4), ("label_embedding", 3), ("image_embed", 2)):
            shape = getattr(self, name).shape
            if len(shape) != wanted or shape[0] != 1:
                raise HostError(
                    f"The {name} of {self.name} has the shape {list(shape)}: one of {wanted} dimensions, the first of "
                    "them 1, is needed.",
                    code="part-shape",
                )
        if self.person < 1 or int(self.person) != self.person:
            raise HostError(
                f"{self.person} is no person: parts belong to person 1, 2, ... Give a whole number from 1 on.",
                code="part-of-nobody",
            )
        if not 0 <= self.strength < float("inf"):
            raise HostError(
                f"The strength of {self.name} is {self.strength}: 1 is as trained, 0 as if the part were not there.",
                code="part-strength",
            )
        if self.mask is not None:
            self._check_mask(self.mask)

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"the {self.label} of person {self.person}"

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the latent."""
        return self.latent.shape[-2], self.latent.shape[-1]

    def _check_mask(self, mask: Tensor) -> None:
        wanted = (8 * self.size[0], 8 * self.size[1])
        check_mask(mask, f"mask of {self.name}")
        if mask.ndim != 4 or len(mask) != 1 or tuple(mask.shape[-2:]) != wanted:
            raise ImageError(
                f"The mask of {self.name} has the shape {list(mask.shape)}, its picture needs [1, 1, {wanted[0]}, "
                f"{wanted[1]}]: make the mask from the same picture, and bring both to one size.",
                code="part-mask-size",
            )
        if not bool(torch.any(mask > 0)):
            raise ImageError(
                f"There is nothing in the mask of {self.name}: paint it white where the part is, or leave it away to "
                "take the whole picture.",
                code="part-mask-empty",
            )


def check_image_embed(part: Part, width: int) -> None:
    """Refuse a part that another image encoder saw.

    Raises:
        HostError: its embedding is not `width` wide.
    """
    if part.image_embed.shape[-1] != width:
        raise HostError(
            f"The image embedding of {part.name} is {part.image_embed.shape[-1]} wide, the weights were trained with {width} "
            "(CLIP ViT-L/14). Encode the part with that image encoder.",
            code="image-embed-of-another-width",
        )


def check_parts(parts: Sequence[Part]) -> None:
    """Refuse parts that cannot be drawn together.

    Raises:
        HostError: there is none, a person has more than `IMAGE_ROWS`, or their pictures are of several sizes.
    """
    if not parts:
        raise HostError("There is no part to draw: give at least one picture.", code="no-part")
    for person in sorted({part.person for part in parts}):
        count = sum(part.person == person for part in parts)
        if count > IMAGE_ROWS:
            raise HostError(
                f"Person {person} has {count} parts, but the model was trained with at most {IMAGE_ROWS} a person. "
                "Leave some away.",
                code="too-many-parts",
            )
    sizes = {part.size for part in parts}
    if len(sizes) > 1:
        told = ", ".join(f"{part.name} {part.size[1] * 8} x {part.size[0] * 8}" for part in parts)
        raise HostError(
            f"The parts were encoded for pictures of several sizes ({told}). Encode all of them for the picture that is "
            "drawn.",
            code="parts-of-several-sizes",
        )
