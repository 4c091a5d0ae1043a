"""InsightFace as a face backend: a model pack by name or folder, or a `FaceAnalysis` object another ComfyUI pack
made."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from ..errors import FaceError, short_error
from ..io import expand_user
from ..protocols import FaceAnalyzer
from .analyzer import DETECTION_SIZES, ModelAnalyzer
from .damaged_pack import damaged_files, load_without
from .packs import PACK_ADVICE, find_pack, onnx_names, silence
from .providers import PROVIDER_ADVICE, PROVIDERS, check_provider, choose_provider, provider_options, provider_order

__all__ = [
    "DETECTION_SIZES",
    "PROVIDERS",
    "PROVIDER_ADVICE",
    "InsightFaceAnalyzer",
    "as_analyzer",
    "check_provider",
    "find_pack",
]

INSTALL = (
    "Install it with: pip install insightface onnxruntime. For NVIDIA cards: pip install onnxruntime-gpu onnx "
    "opencv-python-headless requests scikit-image scipy, then pip install --no-deps insightface; never both runtimes in "
    "one environment, the CPU build hides the other"
)


class InsightFaceAnalyzer(ModelAnalyzer):
    """Detection and recognition with the models of an `insightface.app.FaceAnalysis` object.

    Args:
        app: one's own (`from_pack`), or that of another ComfyUI pack (INSIGHTFACE, FACEANALYSIS). Only its detector and its
            recognizer are used.
        name: of the pack; by default that of its folder.
        note: for the person: what was not as wished when it was loaded, or None.

    Raises:
        FaceError: a part is missing.
    """

    def __init__(self, app: Any, name: str | None = None, note: str | None = None) -> None:
        models = getattr(app, "models", None)
        models = models if isinstance(models, dict) else {}
        detector, recognizer = getattr(app, "det_model", None) or models.get("detection"), models.get("recognition")
        if detector is None or recognizer is None:
            part = "face detector" if detector is None else "face recognizer"
            raise FaceError(
                f"The face analysis object ({type(app).__name__}) has no {part}. Connect a node that loads a whole "
                "InsightFace pack (buffalo_l, antelopev2), such as Load Face Analysis.",
                code="not-face-analysis",
            )
        self.app = app
        name = name or Path(str(getattr(app, "model_dir", "") or "insightface")).name
        super().__init__(detector, recognizer, name, note)

    @classmethod
    def from_pack(
        cls,
        name_or_folder: str | Path = "buffalo_l",
        root: str | Path | None = None,
        provider: str = "auto",
        allow_download: bool = False,
    ) -> InsightFaceAnalyzer:
        """Load a model pack: `<root>/models/<name>` (root: ~/.insightface), or the folder itself, nested once if it is.

        Args:
            name_or_folder: a pack.
            root: where packs are looked for.
            provider: "auto" (the best there is), "CPU", "CUDA", "CoreML" or "DirectML"; what cannot be had becomes CPU, with a
                `note`.
            allow_download: fetch a pack that is not there; nothing is downloaded otherwise.

        Raises:
            FaceError: a package, the pack or a part of it is missing; the message says what to install or to put where.
        """
        onnxruntime, face_analysis = _import_insightface()
        root = expand_user(root if root is not None else "~/.insightface")
        folder = find_pack(str(name_or_folder), root, allow_download)
        wanted, note = choose_provider(provider, onnxruntime.get_available_providers())

        def load(place: Path) -> Any:
            with silence():
                app = face_analysis(
                    name=str(place.resolve()),
                    allowed_modules=["detection", "recognition"],
                    providers=provider_order(wanted),
                    provider_options=provider_options(wanted),  # pairs are not known to old versions
                )
                app.prepare(ctx_id=-1 if wanted == "CPU" else 0, det_size=(DETECTION_SIZES[0], DETECTION_SIZES[0]))
            return app

        try:
            app, damaged = load(folder), []
        except Exception as error:  # onnxruntime, onnx and protobuf each have unrelated families for a damaged file
            app, damaged = None, damaged_files(folder, onnxruntime)
            with contextlib.suppress(Exception):
                app = load_without(damaged, folder, load) if damaged else None
            if app is None or "recognition" not in app.models:
                raise _not_loaded(folder, error, damaged) from error
            note = " ".join(
                filter(
                    None, (note, f"{', '.join(damaged)} of the pack {folder.name} cannot be loaded and is left out.")
                )
            )
        if "recognition" not in app.models:
            raise FaceError(
                f"The face model pack {folder} has no face recognizer among {onnx_names(folder)}. {PACK_ADVICE}",
                code="pack-without-recognizer",
            )
        analyzer = cls(app, name=folder.name, note=note)
        analyzer.note_provider(wanted)
        return analyzer


def as_analyzer(face_analysis: Any) -> FaceAnalyzer:
    """What finds and recognizes faces: an analyzer as it is, an InsightFace object of another ComfyUI pack as one.

    Raises:
        FaceError: it is neither, or lacks a part.
    """
    return face_analysis if hasattr(face_analysis, "detect") else InsightFaceAnalyzer(face_analysis)


def _import_insightface() -> tuple[Any, Any]:
    """(onnxruntime, FaceAnalysis), or a `FaceError` that names the missing package."""
    try:
        import onnxruntime
    except ImportError as error:
        raise FaceError(
            f"Face analysis needs onnxruntime, which cannot be imported ({error}). {INSTALL}",
            code="onnxruntime-missing",
        ) from error
    try:
        with silence():
            from insightface.app import FaceAnalysis
    except ImportError as error:
        raise FaceError(
            f"Face analysis needs insightface, which cannot be imported ({error}). {INSTALL}",
            code="insightface-missing",
        ) from error
    return onnxruntime, FaceAnalysis


def _not_loaded(folder: Path, error: Exception, damaged: list[str]) -> FaceError:
    if isinstance(error, AssertionError) and not damaged:  # insightface's way to say that no file was a detector
        return FaceError(
            f"The face model pack {folder} has no face detector among {onnx_names(folder)}. {PACK_ADVICE}",
            code="pack-without-detector",
        )
    what = f"{', '.join(damaged)}: {short_error(error)}" if damaged else short_error(error)
    return FaceError(f"The face model pack {folder} cannot be loaded ({what}). {PACK_ADVICE}", code="pack-damaged")
