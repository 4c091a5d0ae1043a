"""A detector and a recognizer together: every face of a picture, and whose it is. What all backends share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import DHumanDiffError, FaceError, short_error
from .face import Face
from .geometry import align
from .providers import PROVIDER_ADVICE, PROVIDERS

__all__ = ["DETECTION_SIZES", "ModelAnalyzer", "check_no_judge"]

DETECTION_SIZES = (640, 512, 384, 320, 256)
"""Detector input sizes in px, tried in turn until a face is found: in a tight crop the face is too large for the first
ones."""


class ModelAnalyzer:
    """Detection and recognition with two models that look like InsightFace's.

    Args:
        detector: detect(bgr, input_size) -> boxes with scores [N, 5], landmarks [N, 5, 2] or None; input_shape; session.
        recognizer: get_feat(bgr) -> embedding; input_size; session; model_file.
        name: of the models.
        note: for the person: what was not as wished when they were loaded, or None.
    """

    def __init__(self, detector: Any, recognizer: Any, name: str, note: str | None = None) -> None:
        self.detector, self.recognizer, self.name, self.note = detector, recognizer, name, note

    @property
    def scores_only(self) -> bool:
        """Whether the recognizer is a judge, whose embeddings condition nothing (SFace)."""
        return bool(getattr(self.recognizer, "scores_only", False))

    @property
    def provider(self) -> str:
        """What the models really run on: the worse of the detector's and the recognizer's first provider."""
        names = {full: short for short, full in PROVIDERS.items()}
        obtained = []
        for model in (self.detector, self.recognizer):
            first = next(iter(model.session.get_providers()), "CPUExecutionProvider")
            obtained.append(names.get(first, first))
        return "CPU" if "CPU" in obtained else obtained[0]

    def note_provider(self, wanted: str) -> None:
        """Note where ONNX Runtime runs the models elsewhere: it does so without a word, e.g. when a CUDA library is missing."""
        if self.provider != wanted:
            text = (
                f"{wanted} was wanted for face analysis, but ONNX Runtime runs it on {self.provider}. "
                f"{PROVIDER_ADVICE[wanted]}"
            )
            self.note = " ".join(filter(None, (text, self.note)))

    def detect(self, image: np.ndarray) -> list[Face]:
        """Faces in a uint8 RGB picture [H, W, 3].

        When none is found the picture is tried at the smaller `DETECTION_SIZES` (detectors of fixed input size: once).
        In a tight crop a detector finds nothing, or an eye and a nose it takes for faces; so a picture without a face,
        or with one that fills much of it, is looked at once more with a border around it, and what is found there takes
        precedence.
        """
        faces = self._detect_at_sizes(image)
        if faces and max(face.size for face in faces) <= _CLOSE_UP * min(image.shape[:2]):
            return faces
        bordered = self._detect_with_border(image)
        return bordered + [face for face in faces if not any(_contains(other, face) for other in bordered)]

    def identity(self, image: np.ndarray, face: Face, swap_channels: bool = False) -> np.ndarray:
        """Unit-length float32 embedding [512] (the recognizer's width) of one face of a uint8 RGB picture.

        InsightFace expects BGR and is handed BGR. With `swap_channels` it is handed the aligned face as RGB, the way
        the released inference script does.
        """
        return self.identity_and_length(image, face, swap_channels)[0]

    def identity_and_length(
        self, image: np.ndarray, face: Face, swap_channels: bool = False
    ) -> tuple[np.ndarray, float]:
        """`identity`, and how long the embedding was before it was brought to length one."""
        size = self.recognizer.input_size[0]
        aligned = align(image, face.landmarks, size if isinstance(size, int) else 112)
        given = aligned if swap_channels else aligned[..., ::-1]
        with self._running("recognizer"):
            found = self.recognizer.get_feat(np.ascontiguousarray(given))
            embedding = np.asarray(found, dtype=np.float32).reshape(-1)
        length = float(np.linalg.norm(embedding))
        if not np.isfinite(length) or length == 0:
            raise FaceError(
                f"The face recognizer of {self.name} gave no usable embedding (its length is {length}). Load the pack "
                "again, or use another one.",
                code="no-embedding",
            )
        return embedding / length, length

    def _detect_with_border(self, image: np.ndarray) -> list[Face]:
        height, width = image.shape[:2]
        border = max(height, width) // 2
        padded = np.full((height + 2 * border, width + 2 * border, 3), 127, dtype=np.uint8)
        padded[border : border + height, border : border + width] = image
        inside = [
            Face(face.box - border, face.landmarks - border, face.score) for face in self._detect_at_sizes(padded)
        ]
        whole = Face(np.array([0, 0, width, height], np.float32), np.zeros((5, 2), np.float32))
        return [face for face in inside if _contains(whole, face)]  # nothing in the border itself is a face

    def _detect_at_sizes(self, image: np.ndarray) -> list[Face]:
        bgr = np.ascontiguousarray(image[..., ::-1])
        # The input's height is a number in a detector of fixed size, and a name (or None) in one that takes any.
        fixed = getattr(self.detector, "static_input_size", None) is not None or isinstance(
            self.detector.input_shape[2], int
        )
        for size in (None,) if fixed else DETECTION_SIZES:
            with self._running("detector"):
                boxes, landmarks = self.detector.detect(bgr, input_size=None if size is None else (size, size))
            if len(boxes) and landmarks is None:
                raise FaceError(
                    f"The face detector of {self.name} gives no landmarks, which alignment needs. Use buffalo_l or "
                    "antelopev2.",
                    code="detector-without-landmarks",
                )
            if len(boxes):
                boxes, landmarks = np.asarray(boxes, np.float32), np.asarray(landmarks, np.float32)
                if not (np.isfinite(boxes).all() and np.isfinite(landmarks).all()):
                    raise FaceError(
                        f"The face detector of {self.name} gives numbers that are none (NaN or infinite). Get the pack again.",
                        code="detector-without-numbers",
                    )
                return [Face(box[:4], points, float(box[4])) for box, points in zip(boxes, landmarks, strict=True)]
        return []

    @contextlib.contextmanager
    def _running(self, part: str) -> Iterator[None]:
        """A model that was loaded may still be damaged: its numbers are looked at only when it runs."""
        try:
            yield
        except DHumanDiffError:
            raise
        except Exception as error:  # onnxruntime's own families, and what insightface makes of results of another shape
            raise FaceError(
                f"The face {part} of {self.name} cannot run: {short_error(error)}. Load it on the CPU, get the pack again, or use another one.",
                code="pack-cannot-run",
            ) from error


def check_no_judge(faces: Any, what: str) -> None:
    """Refuse a recognizer that only scores where people are encoded for an adapter.

    Args:
        faces: any face analyzer.
        what: is to be made with it.

    Raises:
        FaceError: it is a judge.
    """
    if getattr(faces, "scores_only", False):
        raise FaceError(
            f"{faces.name} is a judge: its embeddings of 128 numbers say who is who, and no adapter reads them, so {what} cannot be made "
            "with it. Choose the adapter's own pack (open, buffalo_l, antelopev2), and this one for scoring.",
            code="judge-conditions-nothing",
        )


_CLOSE_UP = 0.5  # share of the picture's shorter side; the false faces of tight crops measured 0.54 and more


def _contains(face: Face, other: Face) -> bool:
    """Whether the center of `other` lies in the box of `face`."""
    x, y = other.center
    return bool(face.box[0] <= x <= face.box[2] and face.box[1] <= y <= face.box[3])
