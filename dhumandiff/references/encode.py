"""From photos of one person to a `FaceReference`: detect, choose, crop, recognize, and run the image encoders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import DHumanDiffError, FaceError, HostError, ImageError
from ..faces import light
from ..faces.analyzer import check_no_judge
from ..faces.face import MIN_FACE_SIZE, Face, choose_face
from ..faces.geometry import CROP_SIZE, crop_face, square_face
from ..faces.photos import PhotoPixels, as_photo
from ..faces.quality import assess
from ..faces.same_recognizer import recognizer_hash, recognizer_name
from ..protocols import FaceAnalyzer, ImageEncoder
from .reference import FaceReference
from .report import EncodeReport, PhotoReport, report_of

__all__ = ["CLIP_MEAN", "CLIP_STD", "WHOLE_PHOTO", "EncodeReport", "PhotoReport", "clip_pixels", "encode_reference"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
SIGLIP_MEAN = SIGLIP_STD = (0.5, 0.5, 0.5)
SIGLIP_SIZE = 256
"""Px of the pictures that WithAnyone's SigLIP (base-patch16-256-i18n) looks at."""

WHOLE_PHOTO = "whole-photo"
"""In the place of a choice of face: the photo is a head crop already. No face model runs, and who it is stays unknown."""

Photo = PhotoPixels | str | os.PathLike | Tensor | np.ndarray


@dataclass(frozen=True, eq=False)
class _PhotoFeatures:
    """Everything extracted from one photo before the image encoders run; the face alone and its length where they are wanted. Of a
    whole photo there is a crop and nothing else."""

    report: PhotoReport
    crop: np.ndarray
    face: Face | None = None
    square: np.ndarray | None = None
    identity: np.ndarray | None = None
    length: float | None = None
    identity_swapped: np.ndarray | None = None


def clip_pixels(
    crops: Tensor, size: int = 224, mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD
) -> Tensor:
    """CLIP's preprocessing: short side to `size` with Pillow's bicubic filter on 8-bit values, center crop, mean and deviation.

    SigLIP's is the same of a square, with a mean and deviation of its own.

    Args:
        crops: [N, H, W, 3] float 0..1.
        size: px.
        mean: of each color, which becomes 0.
        std: of each color, which becomes 1.

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
    return (pixels - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)


def encode_reference(
    photos: Photo | Sequence[Photo],
    image_encoder: ImageEncoder | None,
    faces: FaceAnalyzer | None,
    *,
    siglip: ImageEncoder | None = None,
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
        image_encoder: CLIP's; it runs twice, on all crops and on one normalized picture of zeros. None where no method asks for it.
        faces: detector and recognizer.
        siglip: SigLIP's, for WithAnyone; it runs once, on the faces alone.
        which: face of each photo, see `choose_face`; or `WHOLE_PHOTO`, which needs no `faces`: for IP-Adapter Plus, which reads
            CLIP's alone.
        normalize_light: even out the light in the crops; the identity always comes from the photo as it is.
        name: what messages call the person.
        min_size: least size of a face, px.
        progress: called before each photo with its number, from 1 on, and how many there are.

    Returns:
        The person, and what happened to each photo.

    Raises:
        FaceError: nothing to find faces with, a judge that only scores, or a photo without the face that is wanted.
        ImageError: no photo, or one that cannot be read. With several failures the error is the first one's and names all.
        HostError: there is no image encoder, or one that a whole photo is not for, or its answer is of another shape, or not finite.
    """
    whole = which == WHOLE_PHOTO
    if image_encoder is None and siglip is None:
        raise HostError(
            "There is no image encoder. Connect CLIP ViT-H/14 to clip_vision (DHumanDiff, IP-Adapter), or SigLIP to siglip_vision "
            "(WithAnyone), or both.",
            code="no-image-encoder",
        )
    if whole:
        _check_whole(siglip, normalize_light)
    elif faces is None:
        raise FaceError(
            "There is nothing to find faces with. Connect a face analysis (Load Face Analysis), or pass an "
            f"InsightFaceAnalyzer. For IP-Adapter Plus a head crop is enough: choose {WHOLE_PHOTO} where a face is chosen.",
            code="no-face-analysis",
        )
    check_no_judge(faces, "a reference")
    extracted, failures = [], []
    listed = _as_list(photos)
    for number, photo in enumerate(listed, 1):
        if progress is not None:
            progress(number, len(listed))
        try:
            opened = as_photo(photo, name=f"image {number}")
            if whole or faces is None:
                extracted.append(_extract_whole(opened, min_size))
            else:
                extracted.append(_extract(opened, faces, which, min_size, normalize_light, siglip is not None))
        except (FaceError, ImageError) as error:
            failures.append((number, photo, error))
    if failures:
        shapes = {tuple(photo.shape) if isinstance(photo, Tensor) else None for photo in listed}
        raise _all_failures(
            failures, len(listed), name, is_batch=len(listed) > 1 and len(shapes) == 1 and None not in shapes
        )

    crop = _stacked(one.crop for one in extracted).float() / 255
    hidden, hidden_zero = (None, None) if image_encoder is None else _encode_crops(image_encoder, crop)
    squares = [one.square for one in extracted if one.square is not None]
    siglip_hidden = None if siglip is None else _encode_faces(siglip, _stacked(squares).float() / 255)
    lengths = [one.length for one in extracted if one.length is not None]
    found = [one.face for one in extracted if one.face is not None]
    reference = FaceReference(
        identity=_of_all(one.identity for one in extracted),
        clip_hidden=hidden,
        clip_hidden_zero=hidden_zero,
        identity_swapped=_of_all(one.identity_swapped for one in extracted),
        crop=crop,
        box=None if whole else _stacked(one.box for one in found).float(),
        landmarks=None if whole else _stacked(one.landmarks for one in found).float(),
        name=name,
        siglip_hidden=siglip_hidden,
        identity_length=torch.tensor(lengths) if len(lengths) == len(extracted) else None,
        recognizer="" if whole else recognizer_name(faces),
        recognizer_hash="" if whole else recognizer_hash(faces),
        image_encoder=_encoder_name(hidden, _CLIPS, "CLIP"),
        siglip_encoder=_encoder_name(siglip_hidden, _SIGLIPS, "SigLIP"),
    )
    return reference, report_of(reference, [one.report for one in extracted])


def _stacked(arrays: Iterable[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(list(arrays)))


def _of_all(arrays: Iterable[np.ndarray | None]) -> Tensor | None:
    """Stacked, or None where no photo has any."""
    there = [array for array in arrays if array is not None]
    return _stacked(there) if there else None


_CLIPS = {1280: "CLIP ViT-H/14", 1024: "CLIP ViT-L/14", 1664: "CLIP ViT-bigG/14"}
_SIGLIPS = {768: "SigLIP base-patch16-256"}


def _encoder_name(hidden: Tensor | None, known: Mapping[int, str], kind: str) -> str:
    """What made hidden states, by their width."""
    return "" if hidden is None else known.get(hidden.shape[-1], f"{kind} of width {hidden.shape[-1]}")


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
    photo: PhotoPixels, faces: FaceAnalyzer, which: str | int, min_size: float, normalize_light: bool, alone: bool
) -> _PhotoFeatures:
    """Of one photo: the wanted face, its crop, with `alone` also the face alone, and whose it is."""
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
    square, square_note = _face_alone(photo.pixels, face, normalize_light) if alone else (None, None)
    if square_note:
        notes.append(square_note)
    quality = assess(photo.pixels, face, crop, face_in_crop)
    report = PhotoReport(photo.name, (width, height), len(found), quality, face_in_crop, tuple(notes))
    return _PhotoFeatures(
        report,
        light.normalize_light(crop, face_in_crop) if normalize_light else crop,
        face,
        square,
        *_identity_and_length(photo.pixels, face, faces),
        faces.identity(photo.pixels, face, swap_channels=True),
    )


def _check_whole(siglip: ImageEncoder | None, normalize_light: bool) -> None:
    """Refuse what needs to know where the face is."""
    if siglip is not None:
        raise HostError(
            f"SigLIP looks at the face alone, and with {WHOLE_PHOTO} none is looked for. Leave SigLIP away, or choose a face.",
            code="siglip-of-a-whole-photo",
        )
    if normalize_light:
        raise HostError(
            f"Light is evened out on the face, and with {WHOLE_PHOTO} none is looked for. Leave the light as it is, or choose a face.",
            code="light-of-a-whole-photo",
        )


def _extract_whole(photo: PhotoPixels, min_size: float) -> _PhotoFeatures:
    """The square in the middle of a photo that is a head crop already."""
    height, width = photo.pixels.shape[:2]
    side = min(height, width)
    if side < min_size:
        raise ImageError(
            f"The photo is {width} x {height} px, too small for a head. Use a larger one.", code="whole-photo-too-small"
        )
    left, top = (width - side) // 2, (height - side) // 2
    square = Image.fromarray(photo.pixels[top : top + side, left : left + side])
    notes = [*photo.notes, "taken as a head crop: no face was looked for, so nobody is recognized"]
    if max(height, width) > side * 1.05:
        notes.append(f"not a square: {1 - side / max(height, width):.0%} of it were cut off at its ends")
    crop = np.asarray(square.resize((CROP_SIZE, CROP_SIZE), Image.Resampling.BICUBIC))
    return _PhotoFeatures(PhotoReport(photo.name, (width, height), 0, None, None, tuple(notes)), crop)


def _face_alone(pixels: np.ndarray, face: Face, normalize_light: bool) -> tuple[np.ndarray, str | None]:
    square, face_in_square, note = square_face(pixels, face)
    return light.normalize_light(square, face_in_square) if normalize_light else square, note


def _identity_and_length(pixels: np.ndarray, face: Face, faces: FaceAnalyzer) -> tuple[np.ndarray, float | None]:
    """What the recognizer says of a face, and how long its embedding was, where the analyzer tells."""
    measure = getattr(faces, "identity_and_length", None)
    return measure(pixels, face) if measure is not None else (faces.identity(pixels, face), None)


def _encode_crops(image_encoder: ImageEncoder, crop: Tensor) -> tuple[Tensor, Tensor]:
    """(hidden states of the crops [N, T, C], of zeros [1, T, C]), float32 on the CPU."""
    size = int(getattr(image_encoder, "image_size", 224))
    hidden = _run(image_encoder, clip_pixels(crop, size), "CLIP")
    return hidden, _run(image_encoder, torch.zeros(1, 3, size, size), "CLIP")


def _encode_faces(siglip: ImageEncoder, squares: Tensor) -> Tensor:
    """Hidden states [N, T, C] of faces [N, S, S, 3] 0..1, float32 on the CPU."""
    size = int(getattr(siglip, "image_size", SIGLIP_SIZE))
    return _run(siglip, clip_pixels(squares, size, SIGLIP_MEAN, SIGLIP_STD), "SigLIP")


def _run(encoder: ImageEncoder, pixels: Tensor, kind: str) -> Tensor:
    with torch.no_grad():
        hidden = encoder(pixels)
    given = len(pixels)
    if not isinstance(hidden, Tensor) or hidden.ndim != 3 or len(hidden) != given:
        got = list(hidden.shape) if isinstance(hidden, Tensor) else type(hidden).__name__
        raise HostError(
            f"The {kind} image encoder gave {got} for {given} picture(s); hidden states [{given}, tokens, width] are "
            "needed.",
            code="not-hidden-states",
        )
    if not hidden.isfinite().all():
        raise HostError(
            f"The {kind} image encoder gave NaN or infinite values. Run it in a wider dtype (float32 or bfloat16), or "
            "load its file again.",
            code="hidden-states-not-finite",
        )
    return hidden.float().cpu()


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
