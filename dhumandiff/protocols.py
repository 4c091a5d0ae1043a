"""What may be put in from outside: a face analyzer, an image encoder, a scorer of pictures.

A class of your own needs these methods and nothing else: no base class, no registration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from .faces.face import Face

__all__ = ["FaceAnalyzer", "ImageEncoder", "PictureScorer"]


@runtime_checkable
class FaceAnalyzer(Protocol):
    """A face detector and recognizer: everything the project asks of a backend.

    One that also has `identity_and_length`, with the arguments of `identity`, tells how long the embedding was before it was
    normalized, which WithAnyone reads.

    Attributes:
        name: of its models.
    """

    name: str

    def detect(self, image: np.ndarray) -> list[Face]:
        """Faces in a uint8 RGB picture [H, W, 3]; an empty list when there is none."""
        ...

    def identity(self, image: np.ndarray, face: Face, swap_channels: bool = False) -> np.ndarray:
        """Unit-length float32 embedding [512] of one face; with `swap_channels` of the face with red and blue swapped."""
        ...


class ImageEncoder(Protocol):
    """A vision model: normalized pixels [N, 3, S, S] float32 -> [N, T, C]; of CLIP `hidden_states[-2]`, of SigLIP the last.

    S is the attribute `image_size`; 224 without one.
    """

    def __call__(self, pixels: Tensor) -> Tensor:
        """Run it."""
        ...


class PictureScorer(Protocol):
    """A score of a picture that another model gives: aesthetics, preference. `python -m training evaluate` takes any.

    Attributes:
        name: of the column.
    """

    name: str

    def __call__(self, picture: np.ndarray, sentence: str) -> float:
        """The score of a picture uint8 [H, W, 3] and its sentence; larger is better."""
        ...
