"""Folders of face models: where a pack lies, and what to say where it does not."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

from ..errors import FaceError
from ..io import expand_user

__all__ = ["PACK_ADVICE", "find_pack", "onnx_names", "silence"]

PACK_ADVICE = (
    "A pack is a folder with a detector (such as det_10g.onnx) and a recognizer (such as w600k_r50.onnx); unpack "
    "buffalo_l or antelopev2 again."
)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep insightface's prints (every model's shapes, every provider) off the console."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


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
        f"{PACK_ADVICE}",
        code="pack-empty",
    )


def _is_pack(folder: Path) -> bool:
    return any(folder.glob("*.onnx")) or (folder / "manifest.json").is_file()


def onnx_names(folder: Path) -> str:
    """The names of its .onnx files, for messages."""
    return ", ".join(sorted(file.name for file in folder.glob("*.onnx"))) or "its files"


def _download_pack(name: str, root: Path) -> Path:
    from insightface.utils import ensure_available

    try:
        with silence():
            return Path(ensure_available("models", name, root=str(root)))
    except Exception as error:  # requests, urllib3, zipfile and insightface's own RuntimeError
        raise FaceError(
            f"The face model pack {name} could not be downloaded ({error}). Fetch {name}.zip from InsightFace's model "
            f"zoo yourself and unpack it to {root / 'models' / name}.",
            code="pack-not-downloaded",
        ) from error
