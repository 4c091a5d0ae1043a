"""Face models on ONNX Runtime alone: SCRFD and YuNet find faces, ArcFace's kind and SFace tell them apart.

    model = open_model("det_10g.onnx", ["CPUExecutionProvider"])     # Scrfd, YuNet, FaceRecognizer, or None
    boxes, landmarks = model.detect(bgr, (640, 640))

Which one a file is shows in its inputs and outputs, never in its name. The classes look like InsightFace's own, so that whatever
works with those works with these.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..onnx_bytes import first_nodes
from .geometry import import_opencv

__all__ = ["FaceRecognizer", "OnnxModel", "Scrfd", "YuNet", "open_model"]

Detections = tuple[np.ndarray, np.ndarray | None]
"""Boxes with scores [N, 5] x0 y0 x1 y1 score, the best first, and landmarks [N, 5, 2] or None; px of the picture."""


class OnnxModel:
    """An .onnx file that takes one picture.

    Args:
        path: of the file.
        session: ONNX Runtime's, of the file.
    """

    def __init__(self, path: Path, session: Any) -> None:
        given = session.get_inputs()[0]
        self.session, self.model_file = session, str(path)
        self.input_name, self.input_shape = given.name, tuple(given.shape)
        self.dtype = np.float16 if given.type == "tensor(float16)" else np.float32

    def run(self, pixels: np.ndarray, names: Sequence[str] | None = None) -> list[np.ndarray]:
        """Outputs, float32, of a picture [H, W, 3] whose colors are as the model wants them."""
        given = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], dtype=self.dtype)
        found = self.session.run(names, {self.input_name: given})
        return [np.asarray(one, dtype=np.float32) for one in found]


class Scrfd(OnnxModel):
    """InsightFace's detector: at each place of a grid, distances to the four sides of a box and shifts to five landmarks."""

    SCORE, OVERLAP = 0.5, 0.4
    """InsightFace's own least score, and the most that two boxes may share (`insightface.model_zoo.scrfd`)."""

    def detect(self, bgr: np.ndarray, input_size: tuple[int, int] | None = None) -> Detections:
        """Faces of a picture uint8 [H, W, 3], looked at in a square of `input_size` px, or in the model's own where that is fixed."""
        fixed = isinstance(self.input_shape[2], int) and isinstance(self.input_shape[3], int)
        width, height = self.input_shape[:1:-1] if fixed else input_size or (640, 640)
        fit = min(width / bgr.shape[1], height / bgr.shape[0])
        tall = height / width < bgr.shape[0] / bgr.shape[1]
        # Whole px as InsightFace cuts them; one side fills the square.
        size = (int(height * bgr.shape[1] / bgr.shape[0]), height) if tall else (width, int(bgr.shape[0] * fit))
        size = (max(1, size[0]), max(1, size[1]))  # of a picture as thin as a line
        canvas = _on_black(_resized(bgr, size), (height, width))
        outputs = self.run((canvas[..., ::-1].astype(np.float32) - 127.5) / 128)
        outputs = [one[0] if one.ndim == 3 else one for one in outputs]
        # Scores, boxes and (in 9 or 15) landmarks of 3 strides with two faces a place, or of 5 with one.
        levels = 3 if len(outputs) in (6, 9) else 5
        found = [
            self._decode(outputs[level::levels], 8 * 2**level, (height, width), 2 if levels == 3 else 1)
            for level in range(levels)
        ]
        boxes, points = (np.concatenate(parts) for parts in zip(*found, strict=True))
        scale = size[1] / bgr.shape[0]
        boxes[:, :4] /= scale
        kept = _best_apart(boxes, self.OVERLAP, 1.0)
        return boxes[kept], points[kept] / scale if len(outputs) in (9, 15) else None

    def _decode(
        self, outputs: Sequence[np.ndarray], stride: int, size: tuple[int, int], a_place: int
    ) -> tuple[np.ndarray, np.ndarray]:
        scores, sides = outputs[0].reshape(-1), outputs[1]
        good = np.flatnonzero(scores >= self.SCORE)
        place = good // a_place
        columns = size[1] // stride
        centers = np.stack([place % columns, place // columns], axis=-1).astype(np.float32) * stride
        sides = sides[good] * stride
        boxes = np.concatenate([centers - sides[:, :2], centers + sides[:, 2:], scores[good, None]], axis=1)
        shifts = outputs[2][good].reshape(-1, 5, 2) if len(outputs) > 2 else np.zeros((len(good), 5, 2), np.float32)
        return boxes, centers[:, None] + shifts * stride


class YuNet(OnnxModel):
    """OpenCV's detector, of fixed size (2023mar) or any (2026may): BGR 0..255, sides of multiples of 32 px.

    Each place has a class and an object score, a box as center and logarithm of its size, and five landmarks.
    """

    SCORE, OVERLAP = 0.6, 0.3
    """Of OpenCV's zoo, `models/face_detection_yunet/yunet.py`."""

    LARGEST = 300.0
    """Px: YuNet was trained on faces of 10 to 300, so larger ones are looked at once more in a smaller picture."""

    STRIDES = (8, 16, 32)

    def __init__(self, path: Path, session: Any) -> None:
        super().__init__(path, session)
        sides = self.input_shape[2:]
        self.canvas = sides if all(isinstance(side, int) for side in sides) else None
        # Pictures of any size fit, also onto a canvas of fixed size; whoever looks for faces tries several.
        self.input_shape = (*self.input_shape[:2], "height", "width")

    def detect(self, bgr: np.ndarray, input_size: tuple[int, int] | None = None) -> Detections:
        """Faces of a picture uint8 [H, W, 3], scaled down (never up) to fit into `input_size` px."""
        scale = min(1.0, min(input_size or (640, 640)) / max(bgr.shape[:2]))
        boxes, points = self._at(bgr, scale)
        largest = _sizes(boxes).max(initial=0.0) * scale
        if largest <= self.LARGEST:
            return boxes, points
        again, better = self._at(bgr, scale * 0.6 * self.LARGEST / largest)
        both, points = np.concatenate([again, boxes]), np.concatenate([better, points])
        ranked = both.copy()  # a large face counts as seen in the smaller picture, a small one as in the larger
        ranked[: len(again), 4] += np.where(_sizes(again) * scale > self.LARGEST / 2, 1, -1)
        kept = _best_apart(ranked, self.OVERLAP)
        return both[kept], points[kept]

    def _at(self, bgr: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
        if self.canvas is not None:
            scale = min(scale, self.canvas[0] / bgr.shape[0], self.canvas[1] / bgr.shape[1])
        height, width = (max(1, round(side * scale)) for side in bgr.shape[:2])
        canvas = self.canvas or (-(-height // 32) * 32, -(-width // 32) * 32)
        small = _resized(bgr, (width, height), smooth=True)
        names = [f"{kind}_{stride}" for stride in self.STRIDES for kind in ("cls", "obj", "bbox", "kps")]
        outputs = self.run(_on_black(small, canvas).astype(np.float32), names)
        found = [self._decode(outputs[4 * n : 4 * n + 4], stride, canvas) for n, stride in enumerate(self.STRIDES)]
        boxes, points = (np.concatenate(parts) for parts in zip(*found, strict=True))
        kept = _best_apart(boxes, self.OVERLAP)
        boxes, points = boxes[kept], points[kept]
        back = np.array([bgr.shape[1] / width, bgr.shape[0] / height], np.float32)
        boxes[:, :4] *= np.tile(back, 2)
        return boxes, points * back

    def _decode(
        self, outputs: Sequence[np.ndarray], stride: int, canvas: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        kinds, objects, boxes, points = (
            one.reshape(-1, size) for one, size in zip(outputs, (1, 1, 4, 10), strict=True)
        )
        scores = np.sqrt(kinds.clip(0, 1) * objects.clip(0, 1))[:, 0]
        good = np.flatnonzero(scores >= self.SCORE)
        columns = canvas[1] // stride
        corner = np.stack([good % columns, good // columns], axis=-1).astype(np.float32)
        center, half = (corner + boxes[good, :2]) * stride, np.exp(boxes[good, 2:]) * stride / 2
        found = np.concatenate([center - half, center + half, scores[good, None]], axis=1)
        return found, (corner[:, None] + points[good].reshape(-1, 5, 2)) * stride


class FaceRecognizer(OnnxModel):
    """An aligned face -> an embedding: ArcFace's kind, 512 numbers, or SFace, 128."""

    SCORING = 128
    """Width of SFace's embeddings, which no adapter was trained with."""

    def __init__(self, path: Path, session: Any) -> None:
        super().__init__(path, session)
        self.input_size = (self.input_shape[3], self.input_shape[2])
        self.width = session.get_outputs()[0].shape[-1]
        # Models from MXNet, SFace among them, begin with a normalization of their own; InsightFace tells them by these names.
        begin = first_nodes(path)
        kinds = (("Sub", "_minus"), ("Mul", "_mul"))
        self.raw = self.scores_only or all(any(name.startswith(kind) for name in begin) for kind in kinds)

    @property
    def scores_only(self) -> bool:
        """Whether it can judge who is who, and nothing more."""
        return self.width == self.SCORING

    def get_feat(self, bgr: np.ndarray) -> np.ndarray:
        """Embedding [1, D] of an aligned face uint8 [S, S, 3]."""
        rgb = bgr[..., ::-1].astype(np.float32)
        return self.run(rgb if self.raw else (rgb - 127.5) / 127.5)[0]


def open_model(path: str | Path, providers: Sequence[Any]) -> Scrfd | YuNet | FaceRecognizer | None:
    """Load a file; None where it is neither a face detector nor a recognizer (landmarks, age, a swapper).

    Args:
        path: of an .onnx file.
        providers: ONNX Runtime's names, the best first; a name with options is a pair.

    Raises:
        Exception: ONNX Runtime's, which have no base in common, for a file that it cannot load.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # SFace's file makes it warn 174 times, of nothing
    session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    shape, outputs = session.get_inputs()[0].shape, session.get_outputs()
    if len(shape) != 4 or len(session.get_inputs()) != 1:
        return None
    if {"cls_8", "obj_8", "bbox_8", "kps_8"} <= {one.name for one in outputs}:
        return YuNet(Path(path), session)
    if len(outputs) in (6, 9, 10, 15):
        return Scrfd(Path(path), session)
    # The sizes by which InsightFace knows a recognizer: 192 px are those of landmarks, 96 those of gender and age.
    square = shape[2] == shape[3] and isinstance(shape[2], int)
    if len(outputs) == 1 and square and shape[2] >= 112 and shape[2] % 16 == 0 and shape[2] != 192:
        return FaceRecognizer(Path(path), session)
    return None


def _resized(bgr: np.ndarray, size: tuple[int, int], smooth: bool = False) -> np.ndarray:
    """A picture at (width, height); bilinear as InsightFace does it, or `smooth`: averaged."""
    cv2 = import_opencv()
    return cv2.resize(bgr, size, interpolation=cv2.INTER_AREA if smooth else cv2.INTER_LINEAR)


def _on_black(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture in the upper left corner of a black one of (height, width)."""
    canvas = np.zeros((*size, 3), np.uint8)
    canvas[: picture.shape[0], : picture.shape[1]] = picture
    return canvas


def _sizes(boxes: np.ndarray) -> np.ndarray:
    """Sides of the squares with the boxes' areas, px."""
    return np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def _best_apart(boxes: np.ndarray, overlap: float, pixel: float = 0.0) -> list[int]:
    """Which boxes [N, 5] stay, the best first, when those that share more than `overlap` of their union with a better one go.

    pixel: what is added to every length, 1 where corners are px and not lines.
    """
    x0, y0, x1, y1, scores = boxes.T
    areas = (x1 - x0 + pixel) * (y1 - y0 + pixel)
    left = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(int(best))
        width = np.minimum(x1[best], x1[left]) - np.maximum(x0[best], x0[left]) + pixel
        height = np.minimum(y1[best], y1[left]) - np.maximum(y0[best], y0[left]) + pixel
        shared = width.clip(0) * height.clip(0)
        left = left[shared <= overlap * (areas[best] + areas[left] - shared)]
    return kept
