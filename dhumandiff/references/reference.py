"""What is known of one person: the reference that everything downstream reads instead of photos.

A reference is made by `dhumandiff.references.encode.encode_reference`, or by hand from tensors. It holds one row per photo and
needs neither the face models nor the image encoder any more, so a person can be encoded once and kept as a file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from ..errors import FaceReferenceError, short_error
from ..io import atomic_write, why_not_written

__all__ = ["SAME_PERSON_THRESHOLD", "FaceReference", "same_person_warning"]

FORMAT = "dhumandiff-reference"
FORMAT_VERSION = "1"

SAME_PERSON_THRESHOLD = 0.4
"""Cosine similarity from which two identities count as one person. It is the threshold commonly used with buffalo_l, and
lies in the gap measured with the small test recognizer: different people 0.22 at most, one person 0.73 or more."""


@dataclass(frozen=True, eq=False)
class FaceReference:
    """One person, from N photos.

    Attributes:
        identity: [N, 512] one unit vector a photo (512 is the recognizer's width), or None when no recognizer was used.
            Rows are directions: whatever their length, they are kept at length one.
        clip_hidden: [N, T, C] the image encoder's `hidden_states[-2]` of each photo's crop.
        clip_hidden_zero: [1, T, C] the same of a normalized tensor of zeros: what the unconditional half reads
            (docs/method.md#visual-disparity-aware-conditioning).
        identity_swapped: [N, 512] the recognizer's answer to faces with red and blue exchanged, which is what the released
            inference script works with.
        crop: [N, S, S, 3] float 0..1 RGB, the pictures that were encoded.
        box: [N, 4] x0 y0 x1 y1 of the face, px in the photo.
        landmarks: [N, 5, 2] x y of eyes, nose tip and mouth corners, px in the photo.
        name: what the person is called in messages.

    Raises:
        FaceReferenceError: shapes that do not belong together, or values that are not finite.
    """

    identity: Tensor | None
    clip_hidden: Tensor
    clip_hidden_zero: Tensor
    identity_swapped: Tensor | None = None
    crop: Tensor | None = None
    box: Tensor | None = None
    landmarks: Tensor | None = None
    name: str = ""

    def __post_init__(self) -> None:
        for key, shape in _SHAPES.items():
            value = getattr(self, key)
            if value is None and key not in ("clip_hidden", "clip_hidden_zero"):
                continue
            self._check(key, value, shape)
        photos, *encoder = self.clip_hidden.shape
        if list(self.clip_hidden_zero.shape) != [1, *encoder]:
            self._refuse(
                f"clip_hidden_zero has shape {list(self.clip_hidden_zero.shape)}, clip_hidden "
                f"{list(self.clip_hidden.shape)}: both come from one image encoder, so {[1, *encoder]} is needed",
                "reference-of-two-encoders",
            )
        for key in _SHAPES:
            value = getattr(self, key)
            if key != "clip_hidden_zero" and value is not None and len(value) != photos:
                self._refuse(
                    f"{key} has {len(value)} rows for {photos} photos; one row a photo is needed",
                    "reference-rows-differ",
                )
        for key in ("identity", "identity_swapped"):
            value = getattr(self, key)
            if value is None:
                continue
            lengths = value.float().norm(dim=-1, keepdim=True)
            if (lengths == 0).any():
                self._refuse(
                    f"{key} has a row of zeros, which is nobody's face; leave it None when no face was recognized",
                    "identity-without-direction",
                )
            if ((lengths - 1).abs() > 1e-3).any():  # what is of unit length is kept bit for bit
                object.__setattr__(self, key, (value.float() / lengths).to(value.dtype))

    def mean_identity(self, swapped: bool = False) -> Tensor:
        """[1, 512] unit length: the photos' mean on the sphere, the direction with the largest sum of cosines to them.

        Args:
            swapped: take `identity_swapped`.

        Raises:
            FaceReferenceError: the reference has none, or they cancel each other out.
        """
        rows = self.identity_swapped if swapped else self.identity
        if rows is None:
            what = "identity of channel-swapped faces, which adapters made with it need" if swapped else "identity"
            self._refuse(
                f"there is no {what}. Encode the photos again with a face recognizer connected",
                "no-swapped-identity" if swapped else "no-identity",
            )
        total = rows.float().sum(dim=0, keepdim=True)
        length = total.norm()
        if length < 1e-6:
            self._refuse(
                "the identities of its photos cancel each other out: they do not show one person. Choose other photos",
                "identities-cancel",
            )
        return (total / length).to(rows.dtype)

    def similarity(self, other: FaceReference) -> float | None:
        """Cosine of the two mean identities, or None when one of the references has no identity.

        Raises:
            FaceReferenceError: they come from two face recognizers.
        """
        if self.identity is None or other.identity is None:
            return None
        ours, theirs = self.mean_identity().float().cpu(), other.mean_identity().float().cpu()
        if ours.shape != theirs.shape:
            raise FaceReferenceError(
                f"{self._title()} and {other._title()} come from different face recognizers (widths {ours.shape[1]} "
                f"and {theirs.shape[1]}) and cannot be compared. Encode both with the same one.",
                code="recognizers-differ",
            )
        return float((ours * theirs).sum())

    def save(self, path: str | os.PathLike) -> None:
        """Write everything to one .safetensors file; `load` gives back the same bits.

        Raises:
            FaceReferenceError: another ending, or a place that cannot be written.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        path = Path(path)
        if path.suffix != ".safetensors":
            raise FaceReferenceError(
                f"A reference is saved as .safetensors, not as {path.name}. Give the file that ending.",
                code="reference-not-safetensors",
            )
        tensors = {key: getattr(self, key) for key in _SHAPES if getattr(self, key) is not None}
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        metadata = {"format": FORMAT, "format_version": FORMAT_VERSION, "name": self.name}
        try:
            with atomic_write(path) as part:
                save_file(tensors, part, metadata=metadata)
        except (SafetensorError, OSError) as error:
            raise FaceReferenceError(
                f"The reference cannot be saved to {path} ({why_not_written(error)}).",
                code="reference-not-written",
            ) from error

    @classmethod
    def load(cls, path: str | os.PathLike) -> FaceReference:
        """Read a file that `save` wrote.

        Raises:
            FaceReferenceError: the file is missing, damaged or something else.
        """
        from safetensors import safe_open

        path = Path(path)
        if not path.is_file():
            raise FaceReferenceError(
                f"There is no reference file {path}. Save a reference there first, or choose another file.",
                code="reference-file-missing",
            )
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    keys = ", ".join(sorted(file.keys())[:3])
                    raise FaceReferenceError(
                        f"{path} is not a saved reference (it holds {keys}, ...). Choose a file made by Save Reference.",
                        code="not-a-reference",
                    )
                if metadata.get("format_version") != FORMAT_VERSION:
                    raise FaceReferenceError(
                        f"{path} has reference format {metadata.get('format_version')}, this version reads "
                        f"{FORMAT_VERSION}. Update the project, or encode the person again.",
                        code="reference-of-another-version",
                    )
                unknown = sorted(set(file.keys()) - {*_SHAPES})
                if unknown:  # a damaged name would make a person without what it named
                    raise FaceReferenceError(
                        f"{path} is damaged or of another program: no reference has {', '.join(unknown[:3])}. Encode the "
                        "person again.",
                        code="reference-with-unknown-parts",
                    )
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        except FaceReferenceError:
            raise
        except Exception as error:  # a damaged file, or a dtype that this torch does not know
            raise FaceReferenceError(
                f"{path} cannot be read as a reference: {short_error(error)}. Save it again; only .safetensors files are read.",
                code="reference-unreadable",
            ) from error
        missing = [key for key in ("clip_hidden", "clip_hidden_zero") if key not in tensors]
        if missing:
            raise FaceReferenceError(
                f"{path} is incomplete: {' and '.join(missing)} is missing. Encode the person again.",
                code="reference-incomplete",
            )
        try:
            return cls(tensors.pop("identity", None), **tensors, name=metadata.get("name", ""))
        except FaceReferenceError as error:
            raise FaceReferenceError(f"{path} is damaged. {error}", code="reference-damaged") from error

    def _check(self, key: str, value: Tensor, shape: tuple[str | int, ...]) -> None:
        written = f"[{', '.join(map(str, shape))}]"
        if not isinstance(value, Tensor):
            self._refuse(f"{key} is a {type(value).__name__}; a tensor {written} is needed", "reference-not-tensor")
        fits = value.ndim == len(shape) and all(
            isinstance(want, str) or want == have for want, have in zip(shape, value.shape, strict=True)
        )
        if not fits or 0 in value.shape:
            self._refuse(f"{key} has shape {list(value.shape)}; {written} is needed", "reference-shape")
        if value.dtype not in _DTYPES or value.layout != torch.strided:
            kind = str(value.dtype).removeprefix("torch.")
            self._refuse(
                f"{key} holds {kind} values; float32, float16, bfloat16 or float64 is needed", "reference-not-floating"
            )
        if not value.isfinite().all():
            self._refuse(f"{key} holds NaN or infinite values; encode the photos again", "reference-not-finite")
        if key == "crop" and (value.min() < -0.01 or value.max() > 1.01):
            self._refuse(
                f"crop holds values from {float(value.min()):.3g} to {float(value.max()):.3g}; a picture's lie from 0 to 1",
                "reference-crop-range",
            )

    def _refuse(self, why: str, code: str) -> NoReturn:
        raise FaceReferenceError(f"{self._title()}: {why}.", code=code)

    def _title(self) -> str:
        return f"The reference {self.name!r}" if self.name else "The reference"


_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

_SHAPES: dict[str, tuple[str | int, ...]] = {
    "identity": ("photos", "width"),
    "clip_hidden": ("photos", "tokens", "width"),
    "clip_hidden_zero": (1, "tokens", "width"),
    "identity_swapped": ("photos", "width"),
    "crop": ("photos", "height", "width", 3),
    "box": ("photos", 4),
    "landmarks": ("photos", 5, 2),
}


def same_person_warning(first: FaceReference, second: FaceReference) -> str | None:
    """A sentence for the person when two references seem to show the same person, with their similarity; else None."""
    similarity = first.similarity(second)
    if similarity is None or similarity < SAME_PERSON_THRESHOLD:
        return None
    return (
        f"Person 1 and person 2 look like the same person (similarity {similarity:.2f}; different people stay below "
        f"{SAME_PERSON_THRESHOLD}). Check that the right photos are connected."
    )
