"""InsightFace as a face backend: a model pack by name or folder, or a `FaceAnalysis` object another ComfyUI pack
made."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DHumanDiffError, FaceError, short_error
from ..io import expand_user
from ..protocols import FaceAnalyzer
from .damaged_pack import damaged_files, load_without
from .face import Face
from .geometry import align

__all__ = ["DETECTION_SIZES", "PROVIDERS", "PROVIDER_ADVICE", "InsightFaceAnalyzer", "as_analyzer", "find_pack"]

INSTALL = (
    "Install it with: pip install insightface onnxruntime. For NVIDIA cards: pip install onnxruntime-gpu onnx "
    "opencv-python-headless requests scikit-image scipy, then pip install --no-deps insightface; never both runtimes in "
    "one environment, the CPU build hides the other"
)

DETECTION_SIZES = (640, 512, 384, 320, 256)
"""Detector input sizes in px, tried in turn until a face is found: in a tight crop the face is too large for the first
ones."""

PROVIDERS = {
    "CUDA": "CUDAExecutionProvider",
    "CoreML": "CoreMLExecutionProvider",
    "DirectML": "DmlExecutionProvider",
    "CPU": "CPUExecutionProvider",
}
"""What a person calls a provider -> what ONNX Runtime calls it, best first."""


class InsightFaceAnalyzer:
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
        self.detector: Any = getattr(app, "det_model", None) or models.get("detection")
        self.recognizer: Any = models.get("recognition")
        if self.detector is None or self.recognizer is None:
            part = "face detector" if self.detector is None else "face recognizer"
            raise FaceError(
                f"The face analysis object ({type(app).__name__}) has no {part}. Connect a node that loads a whole "
                "InsightFace pack (buffalo_l, antelopev2), such as Load Face Analysis.",
                code="not-face-analysis",
            )
        self.app = app
        self.name = name or Path(str(getattr(app, "model_dir", "") or "insightface")).name
        self.note = note

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
        wanted, note = _choose_provider(provider, onnxruntime.get_available_providers())
        order = [PROVIDERS[wanted]] + ([PROVIDERS["CPU"]] if wanted != "CPU" else [])

        def load(place: Path) -> Any:
            with _silence():
                app = face_analysis(
                    name=str(place.resolve()), providers=order, allowed_modules=["detection", "recognition"]
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
                f"The face model pack {folder} has no face recognizer among {_onnx_names(folder)}. {_PACK_ADVICE}",
                code="pack-without-recognizer",
            )
        analyzer = cls(app, name=folder.name, note=note)
        if analyzer.provider != wanted:  # onnxruntime falls back without a word, e.g. when a CUDA library is missing
            analyzer.note = (
                f"{wanted} was wanted for face analysis, but ONNX Runtime runs it on {analyzer.provider}. "
                f"{PROVIDER_ADVICE[wanted]}"
            )
        return analyzer

    @property
    def provider(self) -> str:
        """What the models really run on: the worse of the detector's and the recognizer's first provider."""
        names = {full: short for short, full in PROVIDERS.items()}
        obtained = []
        for model in (self.detector, self.recognizer):
            first = next(iter(model.session.get_providers()), "CPUExecutionProvider")
            obtained.append(names.get(first, first))
        return "CPU" if "CPU" in obtained else obtained[0]

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


_CLOSE_UP = 0.5  # share of the picture's shorter side; the false faces of tight crops measured 0.54 and more


def _contains(face: Face, other: Face) -> bool:
    """Whether the center of `other` lies in the box of `face`."""
    x, y = other.center
    return bool(face.box[0] <= x <= face.box[2] and face.box[1] <= y <= face.box[3])


_PACK_ADVICE = (
    "A pack is a folder with a detector (such as det_10g.onnx) and a recognizer (such as w600k_r50.onnx); unpack "
    "buffalo_l or antelopev2 again."
)

PROVIDER_ADVICE = {
    "CUDA": "For CUDA keep onnxruntime-gpu as the only runtime (pip uninstall onnxruntime; pip install "
    "--force-reinstall onnxruntime-gpu) and see that its CUDA and cuDNN versions are there.",
    "CoreML": "CoreML needs macOS and the onnxruntime package.",
    "DirectML": "DirectML needs Windows and onnxruntime-directml as the only runtime.",
    "CPU": "Install onnxruntime again.",
}


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
        with _silence():
            from insightface.app import FaceAnalysis
    except ImportError as error:
        raise FaceError(
            f"Face analysis needs insightface, which cannot be imported ({error}). {INSTALL}",
            code="insightface-missing",
        ) from error
    return onnxruntime, FaceAnalysis


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep insightface's prints (every model's shapes, every provider) off the console."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _not_loaded(folder: Path, error: Exception, damaged: list[str]) -> FaceError:
    if isinstance(error, AssertionError) and not damaged:  # insightface's way to say that no file was a detector
        return FaceError(
            f"The face model pack {folder} has no face detector among {_onnx_names(folder)}. {_PACK_ADVICE}",
            code="pack-without-detector",
        )
    what = f"{', '.join(damaged)}: {short_error(error)}" if damaged else short_error(error)
    return FaceError(f"The face model pack {folder} cannot be loaded ({what}). {_PACK_ADVICE}", code="pack-damaged")


def _onnx_names(folder: Path) -> str:
    return ", ".join(sorted(file.name for file in folder.glob("*.onnx"))) or "its files"


def _is_pack(folder: Path) -> bool:
    return any(folder.glob("*.onnx")) or (folder / "manifest.json").is_file()


def find_pack(name: str, root: Path, allow_download: bool = False) -> Path:
    """The folder that holds a pack's .onnx files.

    Args:
        name: of the pack, or its folder.
        root: packs are in its folder `models`.
        allow_download: fetch a pack that is not there.

    Raises:
        FaceError: it is not there, or holds something else; the message says what is there instead, and what to do.
    """
    if not name.strip():
        raise FaceError(
            "No face model pack was named. Give the name of a pack (buffalo_l) or its folder.", code="no-pack-named"
        )
    is_name = Path(name).name == name and name != ".."
    candidates = [root / "models" / name, root / name] if is_name else []
    candidates.append(expand_user(name))
    folder = next((path for path in candidates if path.is_dir()), None)
    if folder is None and is_name and allow_download:
        folder = _download_pack(name, root)
    if folder is None:
        packs = sorted(entry.name for entry in (root / "models").glob("*") if entry.is_dir())
        there = f" Packs that are there: {', '.join(packs)}." if packs else ""
        where = f"in {candidates[0]}" if is_name else f"at {candidates[0]}"
        raise FaceError(
            f"There is no face model pack {where}.{there} Unpack the pack's zip (buffalo_l or antelopev2, from "
            "https://github.com/deepinsight/insightface/releases) to that folder, or allow the download (in ComfyUI the switch `download` of Load Face Analysis; "
            "in Python allow_download=True). InsightFace's own packs are for non-commercial use.",
            code="pack-missing",
        )
    if _is_pack(folder):
        return folder
    # antelopev2.zip unpacks to antelopev2/antelopev2
    nested = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and _is_pack(entry)]
    if len(nested) == 1:
        return nested[0]
    if nested:
        raise FaceError(
            f"{folder} holds several face model packs ({', '.join(entry.name for entry in nested)}). Give the folder "
            "of one of them.",
            code="several-packs",
        )
    raise FaceError(
        f"The face model pack folder {folder} has no .onnx file in it: an unfinished download or unzipping. "
        f"{_PACK_ADVICE}",
        code="pack-empty",
    )


def _download_pack(name: str, root: Path) -> Path:
    from insightface.utils import ensure_available

    try:
        with _silence():
            return Path(ensure_available("models", name, root=str(root)))
    except Exception as error:  # requests, urllib3, zipfile and insightface's own RuntimeError
        raise FaceError(
            f"The face model pack {name} could not be downloaded ({error}). Fetch {name}.zip from InsightFace's model "
            f"zoo yourself and unpack it to {root / 'models' / name}.",
            code="pack-not-downloaded",
        ) from error


def check_provider(wanted: str) -> None:
    """Refuse what is no provider.

    Raises:
        FaceError: it is none.
    """
    if wanted not in ("auto", *PROVIDERS):
        raise FaceError(
            f'There is no provider "{wanted}" for face analysis. Choose auto, {", ".join(PROVIDERS)}.',
            code="unknown-provider",
        )


def _choose_provider(wanted: str, available: list[str]) -> tuple[str, str | None]:
    """(provider to ask for, note when it is not the wanted one)."""
    check_provider(wanted)
    if wanted == "auto":
        return next((short for short, full in PROVIDERS.items() if full in available), "CPU"), None
    if PROVIDERS[wanted] in available:
        return wanted, None
    return (
        "CPU",
        f"{wanted} was wanted for face analysis, but this ONNX Runtime has none, so it runs on CPU. "
        f"{PROVIDER_ADVICE[wanted]}",
    )
