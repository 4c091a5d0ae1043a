"""Drawn pictures of garments and a drawn pose map: what the workflows on Parts2Whole show in the place of photos.

picture("dress.png")
pose_map()
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

Points = tuple[tuple[float, float], ...]
SIDE = 512
PAPER = (246, 246, 244)

# Left halves as shares of the picture, from the top to the bottom; the right ones mirror them.
JACKET: Points = ((0.42, 0.12), (0.28, 0.18), (0.12, 0.7), (0.22, 0.74), (0.31, 0.42), (0.29, 0.88), (0.5, 0.88))
TROUSERS: Points = ((0.34, 0.08), (0.3, 0.3), (0.27, 0.94), (0.44, 0.94), (0.5, 0.4))
DRESS: Points = ((0.42, 0.06), (0.34, 0.12), (0.4, 0.38), (0.14, 0.92), (0.5, 0.95))
VEIL: Points = ((0.46, 0.06), (0.36, 0.12), (0.28, 0.45), (0.18, 0.92), (0.5, 0.96))
INSIDE: Points = ((0.46, 0.2), (0.4, 0.28), (0.34, 0.93), (0.5, 0.96))
COAT: Points = ((0.43, 0.05), (0.33, 0.08), (0.22, 0.42), (0.29, 0.44), (0.35, 0.24), (0.35, 0.54), (0.5, 0.54))
LEGS: Points = ((0.37, 0.52), (0.36, 0.95), (0.47, 0.95), (0.5, 0.6))

GARMENTS: dict[str, tuple[tuple[Points, tuple[int, int, int]], ...]] = {
    "jacket.png": ((JACKET, (178, 38, 42)),),
    "trousers.png": ((TROUSERS, (38, 46, 74)),),
    "dress.png": ((DRESS, (226, 214, 196)),),
    "veil.png": ((VEIL, (206, 213, 224)), (INSIDE, (224, 229, 236))),
    "suit.png": ((LEGS, (34, 34, 38)), (COAT, (44, 44, 50))),
}
"""File -> what is drawn, one over the other."""

BODY = (
    # Body part of DensePose, middle x, y and half width, height as shares of the picture.
    (1, 0.5, 0.32, 0.14, 0.15),
    (2, 0.5, 0.4, 0.13, 0.14),
    (15, 0.3, 0.33, 0.05, 0.12),
    (16, 0.7, 0.33, 0.05, 0.12),
    (19, 0.26, 0.5, 0.04, 0.11),
    (20, 0.74, 0.5, 0.04, 0.11),
    (3, 0.25, 0.62, 0.035, 0.04),
    (4, 0.75, 0.62, 0.035, 0.04),
    (9, 0.42, 0.62, 0.07, 0.15),
    (10, 0.58, 0.62, 0.07, 0.15),
    (13, 0.42, 0.82, 0.05, 0.13),
    (14, 0.58, 0.82, 0.05, 0.13),
    (5, 0.4, 0.95, 0.06, 0.03),
    (6, 0.6, 0.95, 0.06, 0.03),
    (23, 0.46, 0.12, 0.05, 0.07),
    (24, 0.54, 0.12, 0.05, 0.07),
)


def picture(file: str, side: int = SIDE) -> Image.Image:
    """One garment on a light ground, with a seam."""
    scale = 2 * side
    made = Image.new("RGB", (scale, scale), PAPER)
    draw = ImageDraw.Draw(made)
    for half, color in GARMENTS[file]:
        dark = tuple(round(0.7 * one) for one in color)
        whole = (*half, *((1 - x, y) for x, y in reversed(half)))
        outline = [(scale * x, scale * y) for x, y in whole]
        draw.polygon(outline, color)
        draw.line([*outline, outline[0]], dark, scale // 128)
        draw.line((scale / 2, scale * half[0][1], scale / 2, scale * half[-1][1]), dark, scale // 200)  # a seam
    return made.resize((side, side), Image.Resampling.LANCZOS)


def pose_map(width: int = 512, height: int = 768) -> Image.Image:
    """A standing body of ellipses as raw IUV: blue is the body part, green and red are where on it."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    y, x = (np.arange(height)[:, None] + 0.5) / height, (np.arange(width)[None] + 0.5) / width
    for part, middle, center, wide, high in BODY:
        across, down = (x - middle) / wide, (y - center) / high
        inside = across**2 + down**2 < 1
        where = np.broadcast_arrays(127.5 * (across + 1), 127.5 * (down + 1))
        for channel, values in ((0, where[1]), (1, where[0])):
            pixels[..., channel][inside] = values[inside].round().astype(np.uint8)
        pixels[..., 2][inside] = part
    return Image.fromarray(pixels)
