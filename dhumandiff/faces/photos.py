"""A photo, from a file or a tensor, as upright 8-bit RGB pixels; whatever had to be done to it is said in notes."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import ImageError
from ..io import expand_user

__all__ = ["MAX_PIXELS", "PhotoPixels", "as_photo", "check_pixels", "load_photo", "photo_from_tensor"]

MAX_PIXELS = 1024**3 // 4 // 3
"""The most pixels that are read, 89 million, which is where Pillow warns: a file of 2 MB may hold far more, and take the memory
of all that runs beside."""


@dataclass(frozen=True, eq=False)
class PhotoPixels:
    """A photo that was read.

    Attributes:
        pixels: uint8 [H, W, 3] RGB, upright.
        notes: what was changed on the way.
        name: what messages call the photo.
        alpha: uint8 [H, W], how opaque a photo with transparent parts is; None for others.
    """

    pixels: np.ndarray
    notes: tuple[str, ...] = ()
    name: str = ""
    alpha: np.ndarray | None = None

    @property
    def opaque(self) -> np.ndarray | None:
        """`alpha`, where it leaves anything out: a mask uint8 [H, W]."""
        return None if self.alpha is None or self.alpha.min() == 255 else self.alpha


def as_photo(photo: PhotoPixels | str | os.PathLike | torch.Tensor | np.ndarray, name: str = "image") -> PhotoPixels:
    """A path, a picture tensor or pixels already read, as `PhotoPixels`.

    Args:
        photo: a file; [H, W, 1|3|4] float 0..1 or uint8; or what was read before.
        name: for what has no file name.

    Raises:
        ImageError: it is something else, or cannot be read.
    """
    if isinstance(photo, PhotoPixels):
        return photo
    if isinstance(photo, (str, os.PathLike)):
        return load_photo(photo)
    if isinstance(photo, np.ndarray):
        photo = torch.from_numpy(np.ascontiguousarray(photo))
    if isinstance(photo, torch.Tensor):
        return photo_from_tensor(photo, name)
    raise ImageError(
        f"{name} is a {type(photo).__name__}; a photo is a file path or a picture tensor [height, width, channels].",
        code="not-a-photo",
    )


def load_photo(path: str | os.PathLike) -> PhotoPixels:
    """Read a picture file as upright 8-bit RGB.

    EXIF rotation is applied, 16 bit scaled to 8, grey and CMYK turned into RGB, transparency laid on white; of several
    frames the first is taken. All but the rotation leave a note.

    Raises:
        ImageError: the file is missing, no picture, or damaged.
    """
    path = expand_user(path)
    if not os.path.isfile(path):
        what = "is a folder" if os.path.isdir(path) else "does not exist"
        raise ImageError(f"{path} {what}. Give the path of a photo (JPEG, PNG, WebP, TIFF).", code="photo-missing")
    notes: list[str] = []
    try:
        with Image.open(path) as image:
            check_pixels(image)
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                image.seek(0)
                notes.append(f"the file holds {frames} pictures; the first one is used")
            image.load()
            upright = ImageOps.exif_transpose(image)
            pixels = _to_rgb(upright, notes, image.format == "TIFF")
            alpha = np.asarray(upright.convert("RGBA"))[..., 3] if _is_transparent(upright) else None
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{path} is not a picture that can be read. Save it as JPEG, PNG, WebP or TIFF.",
            code="photo-of-unknown-format",
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"{path} is too large to be opened safely ({error}). Save it at a smaller size.", code="photo-too-large"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError) as error:
        # Pillow's decoders answer damaged data with any of these.
        raise ImageError(
            f"{path} is damaged or of an unusual kind: {error}. Download it again, or save it as JPEG or PNG.",
            code="photo-damaged",
        ) from error
    return PhotoPixels(pixels, tuple(notes), path.name, alpha)


def check_pixels(image: Image.Image) -> None:
    """Refuse a picture that is opened and not yet decoded, when it holds more than `MAX_PIXELS`.

    Raises:
        DecompressionBombError: it does; Pillow's own, which it raises at twice as many.
    """
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError(
            f"{image.width} x {image.height} px, more than {MAX_PIXELS / 1e6:.0f} megapixels"
        )


def photo_from_tensor(image: torch.Tensor, name: str = "image") -> PhotoPixels:
    """One element of a ComfyUI IMAGE batch as `PhotoPixels`.

    Args:
        image: [H, W, 1|3|4] float 0..1, or uint8 0..255.
        name: what messages call it.

    Raises:
        ImageError: another shape, NaN or infinity, or values that are plainly on another scale.
    """
    if image.ndim != 3 or image.shape[-1] not in (1, 3, 4) or 0 in image.shape:
        raise ImageError(
            f"{name} has shape {list(image.shape)}; a photo is [height, width, channels] with 1, 3 or 4 channels.",
            code="photo-of-another-shape",
        )
    notes: list[str] = []
    image = image.detach().cpu()
    if image.dtype == torch.uint8:
        values = image.numpy().astype(np.float32) / 255
    elif image.is_floating_point():
        values = image.float().numpy()
    else:
        raise ImageError(
            f"{name} holds {image.dtype} values; a photo holds floats from 0 to 1 or uint8 from 0 to 255.",
            code="photo-of-another-dtype",
        )
    if not np.isfinite(values).all():
        raise ImageError(
            f"{name} holds NaN or infinite values: the step that made it failed. Look at that step, or load the photo "
            "again.",
            code="photo-not-finite",
        )
    low, high = float(values.min()), float(values.max())
    if low < -0.5 or high > 1.5:
        raise ImageError(
            f"{name} has values from {low:.3g} to {high:.3g}; they have to lie between 0 and 1. Scale the picture "
            "first.",
            code="photo-of-another-scale",
        )
    if low < -0.01 or high > 1.01:  # less is what resampling filters overshoot by
        notes.append(f"values from {low:.2f} to {high:.2f} were clipped to 0..1")
    values, alpha = values.clip(0, 1), None
    if values.shape[-1] == 1:
        notes.append("greyscale: no color is known of this face")
        values = values.repeat(3, axis=-1)
    elif values.shape[-1] == 4:
        alpha = np.rint(values[..., 3] * 255).astype(np.uint8)
        values = _on_white(values[..., :3], values[..., 3:], notes)
    return PhotoPixels(np.rint(values * 255).astype(np.uint8), tuple(notes), name, alpha)


def _on_white(rgb: np.ndarray, alpha: np.ndarray, notes: list[str]) -> np.ndarray:
    """Composite float pictures 0..1 on white."""
    if alpha.min() < 1:
        notes.append("transparent parts were laid on white")
    return rgb * alpha + (1 - alpha)


_GREY = "greyscale: no color is known of this face"


def _full_scale(mode: str, top: float, is_tiff: bool) -> float:
    """What white is in a grey picture whose largest value is `top`: it may be 8, 10, 12 or 16 bit in larger numbers.

    A PNG says how many bits it has. A TIFF need not: cameras and microscopes write 12 bit as 16.
    """
    if mode == "F":
        return 1.0 if top <= 1 else 255.0 if top <= 255 else 65535.0
    bits = next((bits for bits in (8, 10, 12) if top < 2**bits), 16) if is_tiff else 16
    return 2.0**bits - 1


def _is_transparent(image: Image.Image) -> bool:
    """Whether parts of a picture may be transparent."""
    deep = image.mode == "F" or image.mode.startswith("I")
    return not deep and (image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info)


def _to_rgb(image: Image.Image, notes: list[str], is_tiff: bool = False) -> np.ndarray:
    """Any Pillow mode to uint8 [H, W, 3]."""
    if image.mode == "F" or image.mode.startswith("I"):  # Pillow would clip these at 255 instead of scaling them
        values = np.asarray(image).astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError("it holds NaN or infinite values")
        top = float(values.max(initial=0.0))
        full = _full_scale(image.mode, top, is_tiff)
        if values.min(initial=0.0) < 0 or top > full:
            raise ValueError(f"its values go from {values.min():.6g} to {top:.6g}, which is no scale of light")
        depth = "floating point" if image.mode == "F" else f"{int(full).bit_length()} bit"
        scaled = "" if full == 255 and image.mode != "F" else ", scaled to 8 bit"
        guessed = "" if image.mode == "F" or full == 65535 else f" (by its largest, {top:.0f})"
        notes.append(f"greyscale with {depth} values{guessed}{scaled}: no color is known of this face")
        return np.rint(values / full * 255).astype(np.uint8)[..., None].repeat(3, axis=-1)
    if _is_transparent(image):
        if image.mode in ("L", "1", "LA", "La"):
            notes.append(_GREY)
        values = np.asarray(image.convert("RGBA")).astype(np.float32) / 255
        return np.rint(_on_white(values[..., :3], values[..., 3:], notes) * 255).astype(np.uint8)
    if image.mode in ("L", "1"):
        notes.append(_GREY)
    elif image.mode == "CMYK":
        notes.append("CMYK print colors, turned into RGB without a color profile: skin may look slightly different")
    return np.array(image.convert("RGB"))
