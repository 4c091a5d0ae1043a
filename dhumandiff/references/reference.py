"""What is known of one person: the reference that everything downstream reads instead of photos.

A reference is made by `dhumandiff.references.encode.encode_reference`, or by hand from tensors. It holds one row per photo and
needs neither the face models nor the image encoder any more, so a person can be encoded once and kept as a file.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from ..errors import FaceReferenceError, short_error
from ..faces.same_recognizer import same_recognizer
from ..io import atomic_write, why_not_written
from .lacks import called, require

__all__ = ["SAME_PERSON_THRESHOLD", "FaceReference", "same_person_warning"]

FORMAT = "dhumandiff-reference"
FORMAT_VERSIONS = ("1", "2")
"""2 holds parts that readers of 1 do not know, or lacks CLIP's; what readers of 1 know is still written as 1."""

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
        siglip_hidden: [N, 256, 768] SigLIP's last hidden state of each photo's face, for WithAnyone's sig branch.
        identity_length: [N] length of each embedding before it was normalized: WithAnyone reads `raw_identity`.
        recognizer: what made the identities, such as "antelopev2/glintr100"; "" where that is not known.
        recognizer_hash: first 16 hexadecimal digits of the SHA-256 of its file; "" for one without a file.
        image_encoder: what made `clip_hidden`, for messages; "" where that is not known.
        siglip_encoder: what made `siglip_hidden`, for messages.

    Any part may be lacking; a method asks for those that it reads with `require`. CLIP's two come together.

    Raises:
        FaceReferenceError: shapes that do not belong together, or values that are not finite.
    """

    identity: Tensor | None
    clip_hidden: Tensor | None = None
    clip_hidden_zero: Tensor | None = None
    identity_swapped: Tensor | None = None
    crop: Tensor | None = None
    box: Tensor | None = None
    landmarks: Tensor | None = None
    name: str = ""
    siglip_hidden: Tensor | None = None
    identity_length: Tensor | None = None
    recognizer: str = ""
    recognizer_hash: str = ""
    image_encoder: str = ""
    siglip_encoder: str = ""

    def __post_init__(self) -> None:
        held = {key: value for key in _SHAPES if (value := getattr(self, key)) is not None}
        for key, value in held.items():
            self._check(key, value, _SHAPES[key])
        self._check_clip()
        main = next((key for key in ("clip_hidden", "siglip_hidden", "identity") if key in held), None)
        if main is None:
            self._refuse("it holds nothing that a method reads. Encode the photos again", "reference-empty")
        photos = len(held[main])
        for key, value in held.items():
            if key != "clip_hidden_zero" and len(value) != photos:
                self._refuse(
                    f"{key} has {len(value)} rows for {photos} photos; one row a photo is needed",
                    "reference-rows-differ",
                )
        self._check_lengths()
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

    def _check_clip(self) -> None:
        hidden, zero = self.clip_hidden, self.clip_hidden_zero
        if hidden is None and zero is None:
            return
        if hidden is None or zero is None:
            one, other = ("clip_hidden_zero", "clip_hidden") if hidden is None else ("clip_hidden", "clip_hidden_zero")
            self._refuse(
                f"{one} is there and {other} is missing; both are needed, or neither. Encode the photos again",
                "reference-of-half-an-encoder",
            )
        if list(zero.shape) != [1, *hidden.shape[1:]]:
            self._refuse(
                f"clip_hidden_zero has shape {list(zero.shape)}, clip_hidden {list(hidden.shape)}: both come from one "
                f"image encoder, so {[1, *hidden.shape[1:]]} is needed",
                "reference-of-two-encoders",
            )

    def _check_lengths(self) -> None:
        if self.identity_length is None:
            return
        if self.identity is None:
            self._refuse("it has identity_length without identity. Encode the photos again", "length-of-no-identity")
        if (self.identity_length <= 0).any():
            self._refuse(
                f"identity_length holds {float(self.identity_length.min()):.3g}; an embedding's length is above 0. Encode the "
                "photos again",
                "identity-length-not-positive",
            )

    def require(self, *parts: str, by: str = "") -> None:
        """Refuse to go on without some parts; see `lacks.require`.

        Raises:
            FaceReferenceError: one is lacking; the message says how to get it.
        """
        require(self, *parts, by=by)

    def raw_identity(self) -> Tensor:
        """[N, 512] the recognizer's embeddings as it gave them, of any length.

        Raises:
            FaceReferenceError: identity or its length is lacking.
        """
        require(self, "identity", "identity_length")
        assert self.identity is not None
        assert self.identity_length is not None
        return self.identity * self.identity_length.to(self.identity)[:, None]

    def mean_identity(self, swapped: bool = False) -> Tensor:
        """[1, 512] unit length: the photos' mean on the sphere, the direction with the largest sum of cosines to them.

        Args:
            swapped: take `identity_swapped`.

        Raises:
            FaceReferenceError: the reference has none, or they cancel each other out.
        """
        require(self, "identity_swapped" if swapped else "identity")
        rows = self.identity_swapped if swapped else self.identity
        assert rows is not None
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
        if not self.is_comparable(other):
            one, two = (each.recognizer or "one not known" for each in (self, other))
            raise FaceReferenceError(
                f"{called(self)} and {called(other)} come from different face recognizers (widths {ours.shape[1]} "
                f"and {theirs.shape[1]}; {one}, {two}) and cannot be compared. Encode both with the same one.",
                code="recognizers-differ",
            )
        return float((ours * theirs).sum())

    def is_comparable(self, other: FaceReference) -> bool:
        """Whether both have identities, and of one recognizer as far as is known."""
        if self.identity is None or other.identity is None or self.identity.shape[1] != other.identity.shape[1]:
            return False
        made_by = [(each.recognizer, each.recognizer_hash) for each in (self, other)]
        return same_recognizer(*made_by) is not False

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
        version = "1" if {"clip_hidden"} <= {*tensors} <= _VERSION_1 else "2"
        metadata = {"format": FORMAT, "format_version": version, "name": self.name}
        metadata |= {key: value for key in _MADE_BY if (value := getattr(self, key))}
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
                if metadata.get("format_version") not in FORMAT_VERSIONS:
                    raise FaceReferenceError(
                        f"{path} has reference format {metadata.get('format_version')}, this version reads "
                        f"{' and '.join(FORMAT_VERSIONS)}. Update the project, or encode the person again.",
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
        given = [key for key in ("clip_hidden", "clip_hidden_zero") if key in tensors]
        # A file of version 2 may be without CLIP's; where one of two is gone, or those of version 1 are, it is cut short.
        if len(given) == 1 or (not given and metadata["format_version"] == "1"):
            missing = [key for key in ("clip_hidden", "clip_hidden_zero") if key not in given]
            raise FaceReferenceError(
                f"{path} is incomplete: {' and '.join(missing)} is missing. Encode the person again.",
                code="reference-incomplete",
            )
        try:
            made_by = {key: metadata.get(key, "") for key in _MADE_BY}
            return cls(tensors.pop("identity", None), **tensors, name=metadata.get("name", ""), **made_by)
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
        raise FaceReferenceError(f"{called(self)}: {why}.", code=code)


_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

_SHAPES: dict[str, tuple[str | int, ...]] = {
    "identity": ("photos", "width"),
    "clip_hidden": ("photos", "tokens", "width"),
    "clip_hidden_zero": (1, "tokens", "width"),
    "identity_swapped": ("photos", "width"),
    "crop": ("photos", "height", "width", 3),
    "box": ("photos", 4),
    "landmarks": ("photos", 5, 2),
    "siglip_hidden": ("photos", "tokens", "width"),
    "identity_length": ("photos",),
}

_VERSION_1 = {*_SHAPES} - {"siglip_hidden", "identity_length"}

_MADE_BY = ("recognizer", "recognizer_hash", "image_encoder", "siglip_encoder")


def same_person_warning(*references: FaceReference) -> str | None:
    """A sentence for the person for each two references that seem to show the same person, with their similarity; else None."""
    found = []
    for (one, first), (other, second) in itertools.combinations(enumerate(references, 1), 2):
        if not first.is_comparable(second):  # whoever reads identities refuses one of the two
            continue
        similarity = first.similarity(second)
        if similarity is not None and similarity >= SAME_PERSON_THRESHOLD:
            found.append(
                f"Person {one} and person {other} look like the same person (similarity {similarity:.2f}; different people stay "
                f"below {SAME_PERSON_THRESHOLD}). Check that the right photos are connected."
            )
    return " ".join(found) or None
