"""A picture without a face, and a face where a test wants it, for tests of what is done with photos and faces."""

import numpy as np

from dhumandiff.faces import ARCFACE_TEMPLATE, Face


def gradient(height: int = 40, width: int = 60) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), 128 + 0 * x], axis=-1).astype(np.uint8)


def face_at(x: float, y: float, size: float) -> Face:
    """An upright frontal face whose box is a square of that size around a centre."""
    points = (ARCFACE_TEMPLATE - ARCFACE_TEMPLATE.mean(axis=0)) * size / 91 + [x, y]
    return Face(
        np.array([x - size / 2, y - size / 2, x + size / 2, y + size / 2], np.float32), points.astype(np.float32)
    )
