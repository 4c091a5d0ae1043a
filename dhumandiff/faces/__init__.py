"""Photos and the faces in them: open, detect, choose, align, recognize, crop, measure.

One small interface (`FaceAnalyzer`) and two backends: `insightface.py`, and `onnx_packs.py`, which needs ONNX Runtime alone.
Pictures are uint8 RGB arrays [H, W, 3] throughout; what a backend wants instead (InsightFace: BGR) is that backend's affair. No
optional package is imported before something needs it.
"""

from __future__ import annotations

from ..protocols import FaceAnalyzer
from .face import Face, choose_face
from .geometry import ARCFACE_TEMPLATE, align, crop_face
from .insightface import InsightFaceAnalyzer, as_analyzer
from .light import normalize_light
from .onnx_packs import OnnxAnalyzer, load_face_analysis
from .photos import PhotoPixels, as_photo, load_photo, photo_from_tensor
from .quality import PhotoQuality, assess

__all__ = [
    "ARCFACE_TEMPLATE",
    "Face",
    "FaceAnalyzer",
    "InsightFaceAnalyzer",
    "OnnxAnalyzer",
    "PhotoPixels",
    "PhotoQuality",
    "align",
    "as_analyzer",
    "as_photo",
    "assess",
    "choose_face",
    "crop_face",
    "load_face_analysis",
    "load_photo",
    "normalize_light",
    "photo_from_tensor",
]
