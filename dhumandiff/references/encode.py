"""From photos of one person to a `FaceReference`: detect, choose, crop, recognize, and run the image encoder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import DHumanDiffError, FaceError, HostError, ImageError
from ..faces import light
from ..faces.face import MIN_FACE_SIZE, Face, choose_face
from ..faces.geometry import crop_face
from ..faces.photos import PhotoPixels, as_photo
from ..faces.quality import PhotoQuality, QualityIssue, assess
from ..protocols import FaceAnalyzer, ImageEncoder
from .reference import SAME_PERSON_THRESHOLD, FaceReference

__all__ = ["CLIP_MEAN", "CLIP_STD", "EncodeReport", "PhotoReport", "clip_pixels", "encode_reference"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

Photo = PhotoPixels | str | os.PathLike | Tensor | np.ndarray


@dataclass(frozen=True)
class PhotoReport:
    """What happened to one photo.

    Attributes:
        name: what messages call it.
        size: (width, height) px.
        faces_found: how many faces were found in it.
        quality: what was measured.
        face_in_crop: the face used, in crop pixels.
        notes: what was done to it on the way.
        similarity: cosine to the mean of the person's other photos, None without others.
    """

    name: str
    size: tuple[int, int]
    faces_found: int
    quality: PhotoQuality
    face_in_crop: Face
    notes: tuple[str, ...] = ()
    similarity: float | None = None

    @property
    def is_outlier(self) -> bool:
        """Whether this photo would not be taken for the person in the others."""
        return self.similarity is not None and self.similarity < SAME_PERSON_THRESHOLD

    def issues(self) -> list[QualityIssue]:
        """What a person should do something about, without the photo's name."""
        found = self.quality.issues()
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
    """What happened to all photos of one person; `str()` of it is the text for people."""

    photos: tuple[PhotoReport, ...]
    name: str = ""

    def warnings(self) -> list[str]:
        """All warnings, each beginning with the photo it is about."""
        return [
            f"photo {number} ({photo.name}): {text}"
            for number, photo in enumerate(self.photos, 1)
            for text in photo.warnings()
        ]

    def __str__(self) -> str:
        lines = [f"{self.name}: {len(self.photos)} photo(s)"] if self.name else []
        for number, photo in enumerate(self.photos, 1):
            lines.append(f"photo {number} ({photo.name}, {photo.size[0]} x {photo.size[1]} px): {photo.quality}")
            if photo.similarity is not None:
                lines.append(f"  similarity to the other photos: {photo.similarity:.2f}")
            lines.extend(f"  note: {note}" for note in photo.notes)
            lines.extend(f"  warning: {warning}" for warning in photo.warnings())
        if not self.warnings():
            lines.append("Nothing to improve.")
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class _PhotoFeatures:
    """Everything extracted from one photo before the image encoder runs."""

    report: PhotoReport
    face: Face
    crop: np.ndarray
    identity: np.ndarray
    identity_swapped: np.ndarray


def clip_pixels(crops: Tensor, size: int = 224) -> Tensor:
    """CLIP's preprocessing: short side to `size` with Pillow's bicubic filter on 8-bit values, center crop, mean and deviation.

    Args:
        crops: [N, H, W, 3] float 0..1.
        size: px.

    Returns:
        [N, 3, size, size] float32.

    Raises:
        ImageError: crops of another shape.
    """
    if crops.ndim != 4 or crops.shape[-1] != 3:
        raise ImageError(
            f"Crops have shape {list(crops.shape)}; [photos, height, width, 3] is needed.", code="not-crops"
        )
    bytes_ = (crops.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    height, width = bytes_.shape[1:3]
    short = min(height, width)
    scaled = (int(size * width / short), int(size * height / short))
    left, top = (scaled[0] - size) // 2, (scaled[1] - size) // 2
    pictures = []
    for picture in bytes_:
        resized = np.asarray(Image.fromarray(picture).resize(scaled, Image.Resampling.BICUBIC))
        pictures.append(torch.from_numpy(resized[top : top + size, left : left + size].copy()))
    pixels = torch.stack(pictures).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(CLIP_MEAN).view(1, 3, 1, 1)) / torch.tensor(CLIP_STD).view(1, 3, 1, 1)


def encode_reference(
    photos: Photo | Sequence[Photo],
    image_encoder: ImageEncoder,
    faces: FaceAnalyzer | None,
    *,
    which: str | int = "largest",
    normalize_light: bool = False,
    name: str = "",
    min_size: float = MIN_FACE_SIZE,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[FaceReference, EncodeReport]:
    """Encode one person from one or more photos.

    Photos that look like someone else are reported, not dropped. All photos are looked at before a failure is raised, so that
    every failure is listed and none is lost silently.

    Args:
        photos: file paths, tensors [H, W, C] float 0..1, a batch [N, H, W, C] of them, or `PhotoPixels`.
        image_encoder: CLIP's; it runs twice, on all crops and on one normalized picture of zeros.
        faces: detector and recognizer.
        which: face of each photo, see `choose_face`.
        normalize_light: even out the light in the crops; the identity always comes from the photo as it is.
        name: what messages call the person.
        min_size: least size of a face, px.
        progress: called before each photo with its number, from 1 on, and how many there are.

    Returns:
        The person, and what happened to each photo.

    Raises:
        FaceError: nothing to find faces with, or a photo without the face that is wanted.
        ImageError: no photo, or one that cannot be read. With several failures the error is the first one's and names all.
        HostError: the image encoder's answer is of another shape, or not finite.
    """
    if faces is None:
        raise FaceError(
            "There is nothing to find faces with. Connect a face analysis (Load Face Analysis), or pass an "
            "InsightFaceAnalyzer.",
            code="no-face-analysis",
        )
    extracted, failures = [], []
    listed = _as_list(photos)
    for number, photo in enumerate(listed, 1):
        if progress is not None:
            progress(number, len(listed))
        try:
            opened = as_photo(photo, name=f"image {number}")
            extracted.append(_extract(opened, faces, which, min_size, normalize_light))
        except (FaceError, ImageError) as error:
            failures.append((number, photo, error))
    if failures:
        shapes = {tuple(photo.shape) if isinstance(photo, Tensor) else None for photo in listed}
        raise _all_failures(
            failures, len(listed), name, is_batch=len(listed) > 1 and len(shapes) == 1 and None not in shapes
        )

    crop = torch.from_numpy(np.stack([one.crop for one in extracted])).float() / 255
    identity = torch.from_numpy(np.stack([one.identity for one in extracted]))
    hidden, hidden_zero = _encode_crops(image_encoder, crop)
    reference = FaceReference(
        identity=identity,
        clip_hidden=hidden,
        clip_hidden_zero=hidden_zero,
        identity_swapped=torch.from_numpy(np.stack([one.identity_swapped for one in extracted])),
        crop=crop,
        box=torch.from_numpy(np.stack([one.face.box for one in extracted])).float(),
        landmarks=torch.from_numpy(np.stack([one.face.landmarks for one in extracted])).float(),
        name=name,
    )
    similarities = _similarity_to_others(identity)
    reports = tuple(replace(one.report, similarity=value) for one, value in zip(extracted, similarities, strict=True))
    return reference, EncodeReport(reports, name)


def _as_list(photos: Photo | Sequence[Photo]) -> list[Photo]:
    listed: list[Photo]
    if isinstance(photos, (Tensor, np.ndarray)):
        listed = list(photos) if photos.ndim == 4 else [photos]
    elif isinstance(photos, (str, os.PathLike, PhotoPixels)):
        listed = [photos]
    else:
        listed = list(photos)
    if not listed:
        raise ImageError("There is no photo to encode. Give at least one photo of the person.", code="no-photo")
    return listed


def _extract(
    photo: PhotoPixels, faces: FaceAnalyzer, which: str | int, min_size: float, normalize_light: bool
) -> _PhotoFeatures:
    height, width = photo.pixels.shape[:2]
    if min(height, width) < min_size:
        raise ImageError(
            f"The photo is {width} x {height} px, too small for a face. Use a larger photo.", code="photo-too-small"
        )
    found = faces.detect(photo.pixels)
    face = choose_face(found, which, min_size)
    crop, face_in_crop, crop_note = crop_face(photo.pixels, face)
    notes = list(photo.notes)
    if len(found) > 1:
        notes.append(
            f"{len(found)} faces were found; the one used is: "
            f"{which if isinstance(which, str) else f'index {which}, by size'}"
        )
    if crop_note:
        notes.append(crop_note)
    quality = assess(photo.pixels, face, crop, face_in_crop)
    report = PhotoReport(photo.name, (width, height), len(found), quality, face_in_crop, tuple(notes))
    return _PhotoFeatures(
        report,
        face,
        light.normalize_light(crop, face_in_crop) if normalize_light else crop,
        faces.identity(photo.pixels, face),
        faces.identity(photo.pixels, face, swap_channels=True),
    )


def _encode_crops(image_encoder: ImageEncoder, crop: Tensor) -> tuple[Tensor, Tensor]:
    """(hidden states of the crops [N, T, C], of zeros [1, T, C]), float32 on the CPU."""
    size = int(getattr(image_encoder, "image_size", 224))
    with torch.no_grad():
        outputs = [image_encoder(clip_pixels(crop, size)), image_encoder(torch.zeros(1, 3, size, size))]
    for given, hidden in zip((len(crop), 1), outputs, strict=True):
        if not isinstance(hidden, Tensor) or hidden.ndim != 3 or len(hidden) != given:
            got = list(hidden.shape) if isinstance(hidden, Tensor) else type(hidden).__name__
            raise HostError(
                f"The CLIP image encoder gave {got} for {given} picture(s); hidden states [{given}, tokens, width] are "
                "needed.",
                code="not-hidden-states",
            )
        if not hidden.isfinite().all():
            raise HostError(
                "The CLIP image encoder gave NaN or infinite values. Run it in a wider dtype (float32 or bfloat16), or "
                "load its file again.",
                code="hidden-states-not-finite",
            )
    return outputs[0].float().cpu(), outputs[1].float().cpu()


def _similarity_to_others(identity: Tensor) -> list[float | None]:
    """Per photo the cosine to the mean direction of all other photos."""
    if len(identity) == 1:
        return [None]
    others = torch.nn.functional.normalize(identity.sum(dim=0, keepdim=True) - identity, dim=-1)
    return (identity * others).sum(dim=-1).tolist()


def _all_failures(
    failures: list[tuple[int, Photo, DHumanDiffError]], count: int, name: str, is_batch: bool = False
) -> DHumanDiffError:
    """One error for all photos that failed, of the first one's kind and code."""
    lines = []
    for number, photo, error in failures:
        file = f" ({os.path.basename(photo)})" if isinstance(photo, (str, os.PathLike)) else ""
        if isinstance(photo, PhotoPixels) and photo.name:
            file = f" ({photo.name})"
        lines.append(f"photo {number}{file}: {error}")
    who = f" of {name!r}" if name else ""
    head = f"{len(failures)} of {count} photos{who} cannot be used" if count > 1 else f"The photo{who} cannot be used"
    first = failures[0][2]
    if is_batch and any(error.code == "no-face" for _, _, error in failures):
        lines.append(
            "Batching images crops or stretches all of them to the shape of the first, which may have cut the face off: batch photos "
            "of one shape, or encode them one by one."
        )
    return type(first)(f"{head}. " + " ".join(lines), code=first.code)
