"""Face packs on ONNX Runtime alone: InsightFace's without InsightFace, and the open one, which businesses may use.

    analyzer = load_face_analysis("open")              # YuNet and AuraFace
    analyzer = load_face_analysis("sface")             # YuNet and SFace, a judge: scores and never conditions
    analyzer = load_face_analysis("buffalo_l")         # by InsightFace where it is installed, else on ONNX Runtime alone

The files of the open pack lie in one folder, models/open below the root of face packs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..catalogue import AURAFACE, AURAFACE_RECOGNIZER, FACE_PACKS, SFACE, SFACE_RECOGNIZER, WITHANYONE_RECOGNIZER, YUNET
from ..errors import FaceError, short_error
from ..io import expand_user
from .analyzer import ModelAnalyzer
from .insightface import InsightFaceAnalyzer
from .onnx_models import FaceRecognizer, Scrfd, YuNet, open_model
from .packs import PACK_ADVICE, find_pack, onnx_names
from .providers import choose_provider, session_providers
from .same_recognizer import file_hash, recognizer_hash

__all__ = ["JUDGE", "OPEN", "OnnxAnalyzer", "insightface_files", "load_face_analysis", "open_files"]

OPEN = AURAFACE.name
"""Name of the pack of YuNet and AuraFace, and of the folder of all open files."""

JUDGE = "sface"
"""Name of the pack of YuNet and SFace."""

INSTALL = "Install it with: pip install onnxruntime opencv-python-headless (for NVIDIA cards onnxruntime-gpu instead, never both)"

_INSIGHTFACE = {
    "1k3d68.onnx",
    "2d106det.onnx",
    "det_10g.onnx",
    "det_2.5g.onnx",
    "det_500m.onnx",
    "genderage.onnx",
    "scrfd_10g_bnkps.onnx",
    "w600k_mbf.onnx",
    "w600k_r50.onnx",
}
"""Files of InsightFace's packs; AuraFace's repository holds four of them beside its own."""

_NEEDLESS = ("1k3d68", "2d106det", "genderage")
"""Beginnings of names of files that neither find faces nor tell them apart; the first is of 137 MB."""


class OnnxAnalyzer(ModelAnalyzer):
    """A detector and a recognizer on ONNX Runtime, without InsightFace."""

    @classmethod
    def from_files(
        cls, detector: str | Path, recognizer: str | Path, provider: str = "auto", name: str = ""
    ) -> OnnxAnalyzer:
        """Load two .onnx files.

        Args:
            detector: SCRFD or YuNet.
            recognizer: ArcFace's kind (AuraFace, w600k_r50, glintr100) or SFace.
            provider: "auto" (the best there is), "CPU", "CUDA", "CoreML" or "DirectML".
            name: that references are marked with; by default the recognizer's folder's.

        Raises:
            FaceError: ONNX Runtime or OpenCV is missing, or a file is, or it is something else.
        """
        load, wanted, note = _loader(provider)
        detector, recognizer = expand_user(detector), expand_user(recognizer)
        found = []
        for path, kinds, what in ((detector, (Scrfd, YuNet), "detector"), (recognizer, FaceRecognizer, "recognizer")):
            model = load(path)
            if not isinstance(model, kinds):
                raise FaceError(
                    f"{path} is no face {what} that is known here. Detectors are SCRFD and YuNet, recognizers ArcFace's kind "
                    "(w600k_r50, glintr100, AuraFace) and SFace.",
                    code="not-that-face-model",
                )
            found.append(model)
        return cls._made(found[0], found[1], name or recognizer.parent.name, wanted, note)

    @classmethod
    def from_pack(
        cls, name_or_folder: str | Path = "buffalo_l", root: str | Path | None = None, provider: str = "auto"
    ) -> OnnxAnalyzer:
        """Load a pack of InsightFace's kind; places as in `InsightFaceAnalyzer.from_pack`. Nothing is downloaded.

        Raises:
            FaceError: a package, the pack or a part of it is missing.
        """
        load, wanted, note = _loader(provider)
        folder = find_pack(str(name_or_folder), _root(root))
        found: dict[str, Any] = {}
        damaged: list[tuple[str, FaceError]] = []
        for path in sorted(folder.glob("*.onnx")):
            if path.name.startswith(_NEEDLESS):
                continue
            try:
                model = load(path)
            except FaceError as error:
                damaged.append((path.name, error))
                continue
            if model is not None:  # of two detectors the first, as InsightFace takes it
                found.setdefault("recognizer" if isinstance(model, FaceRecognizer) else "detector", model)
        if len(found) < 2 and damaged:
            raise damaged[0][1]
        if "detector" not in found:
            raise FaceError(
                f"The face model pack {folder} has no face detector among {onnx_names(folder)}. {PACK_ADVICE}",
                code="pack-without-detector",
            )
        if "recognizer" not in found:
            raise FaceError(
                f"The face model pack {folder} has no face recognizer among {onnx_names(folder)}. {PACK_ADVICE}",
                code="pack-without-recognizer",
            )
        if damaged:
            left = (
                f"{', '.join(name for name, _ in damaged)} of the pack {folder.name} cannot be loaded and is left out."
            )
            note = " ".join(filter(None, (note, left)))
        return cls._made(found["detector"], found["recognizer"], folder.name, wanted, note)

    @classmethod
    def from_open(cls, root: str | Path | None = None, provider: str = "auto", judge: bool = False) -> OnnxAnalyzer:
        """Load YuNet with AuraFace, or as a `judge` with SFace.

        Raises:
            FaceError: a package or a file is missing, or files of InsightFace's lie beside them, which are for non-commercial use.
        """
        detector, recognizer = open_files(_root(root), judge)
        name, digest = SFACE_RECOGNIZER if judge else AURAFACE_RECOGNIZER
        analyzer = cls.from_files(detector, recognizer, provider, name.partition("/")[0])
        if recognizer_hash(analyzer) != digest:
            text = f"{recognizer.name} is not the file that was published as {name.partition('/')[0]}: what license it has is not known."
            analyzer.note = " ".join(filter(None, (analyzer.note, text)))
        return analyzer

    @classmethod
    def _made(cls, detector: Any, recognizer: Any, name: str, wanted: str, note: str | None) -> OnnxAnalyzer:
        analyzer = cls(detector, recognizer, name, note)
        analyzer.note_provider(wanted)
        return analyzer


def load_face_analysis(
    pack: str | Path = "buffalo_l",
    root: str | Path | None = None,
    provider: str = "auto",
    allow_download: bool = False,
) -> ModelAnalyzer:
    """Face models by the name of their pack: open, sface, or a pack of InsightFace's kind, by name or folder.

    A pack is loaded by InsightFace where that can be imported, else on ONNX Runtime alone, which a note says: the same numbers.

    Args:
        pack: name or folder.
        root: packs lie in models/ below it; ~/.insightface by default.
        provider: see `InsightFaceAnalyzer.from_pack`.
        allow_download: InsightFace fetches a pack of its own that is not there.

    Raises:
        FaceError: something is missing; the message says what to install or to put where.
    """
    if pack in (OPEN, JUDGE):
        return OnnxAnalyzer.from_open(root, provider, judge=pack == JUDGE)
    try:
        analyzer: ModelAnalyzer = InsightFaceAnalyzer.from_pack(pack, root, provider, allow_download)
    except FaceError as error:
        if error.code != "insightface-missing":
            raise
        try:
            analyzer = OnnxAnalyzer.from_pack(pack, root, provider)
        except FaceError as lacking:
            raise (error if allow_download and lacking.code == "pack-missing" else lacking) from None
        text = f"InsightFace cannot be imported, so the pack {analyzer.name} runs on ONNX Runtime alone, with the same results."
        analyzer.note = " ".join(filter(None, (analyzer.note, text)))
    if recognizer_hash(analyzer) == AURAFACE_RECOGNIZER[1]:
        foreign = insightface_files(Path(analyzer.recognizer.model_file).parent)
        text = f"AuraFace's recognizer is Apache-2.0, but {', '.join(foreign)} beside it is InsightFace's, for non-commercial use: choose `{OPEN}` where that matters."
        analyzer.note = " ".join(filter(None, (analyzer.note, text if foreign else "")))
    return analyzer


def open_files(root: Path, judge: bool = False) -> tuple[Path, Path]:
    """The detector's and the recognizer's file of the open pack.

    Args:
        root: of face packs.
        judge: SFace instead of AuraFace.

    Raises:
        FaceError: one is missing, or InsightFace's files lie beside them.
    """
    folder = next((path for path in (root / "models" / OPEN, root / OPEN) if path.is_dir()), root / "models" / OPEN)
    if foreign := insightface_files(folder):
        raise FaceError(
            f"{folder} holds {', '.join(foreign)} of InsightFace's, for {FACE_PACKS[0].license}; the repository of AuraFace has them "
            f"beside its own. Remove them: the pack `{OPEN}` is of YuNet, AuraFace and SFace alone.",
            code="open-pack-with-insightface-files",
        )
    wanted = SFACE if judge else AURAFACE
    detector = _newest(folder, "*yunet*.onnx")
    recognizer = _newest(folder, "*sface*.onnx") if judge else _newest(folder, "*glintr100*.onnx", "*auraface*.onnx")
    missing = [known for known, file in ((YUNET, detector), (wanted, recognizer)) if file is None]
    if detector is None or recognizer is None:
        told = "; ".join(f"{known.files[0]} ({known.title}, {known.license}) from {known.url}" for known in missing)
        only = (
            " Of AuraFace's repository take this file alone: the others are InsightFace's."
            if AURAFACE in missing
            else ""
        )
        raise FaceError(
            f"The open face models are not all in {folder}. Put there: {told}.{only} Or: python -m dhumandiff download --portrait "
            f"--items yunet {'sface' if judge else 'auraface'}",
            code="open-pack-missing",
        )
    return detector, recognizer


def insightface_files(folder: Path) -> list[str]:
    """Names of the files in a folder that InsightFace published, for non-commercial use.

    They are known by their names; glintr100.onnx, which AuraFace has too, by its hash.
    """
    names = [path.name for path in sorted(folder.glob("*.onnx"))]
    found = [name for name in names if name in _INSIGHTFACE]
    if "glintr100.onnx" in names and file_hash(folder / "glintr100.onnx") == WITHANYONE_RECOGNIZER[1]:
        found.append("glintr100.onnx")
    return found


def _newest(folder: Path, *patterns: str) -> Path | None:
    """The last file by name, one that is not quantized before one that is."""
    found = sorted({path for pattern in patterns for path in folder.glob(pattern)}, key=lambda path: path.name)
    return max(found, key=lambda path: ("int8" not in path.name, path.name), default=None)


def _root(root: str | Path | None) -> Path:
    return expand_user(root if root is not None else "~/.insightface")


def _loader(provider: str) -> tuple[Callable[[Path], Any], str, str | None]:
    """What loads a file, the provider it asks for, and a note where that is not the wanted one."""
    try:
        import onnxruntime
    except ImportError as error:
        raise FaceError(
            f"Face models need onnxruntime, which cannot be imported ({error}). {INSTALL}.", code="onnxruntime-missing"
        ) from error
    wanted, note = choose_provider(provider, onnxruntime.get_available_providers())

    def load(path: Path) -> Any:
        if not path.is_file():
            raise FaceError(f"There is no face model {path}. Put it there, or name another.", code="face-model-missing")
        try:
            return open_model(path, session_providers(wanted))
        except FaceError:
            raise
        except Exception as error:  # ONNX Runtime's families have no common base
            raise FaceError(
                f"The face model {path} cannot be loaded ({short_error(error)}). Get it again.",
                code="face-model-damaged",
            ) from error

    return load, wanted, note
