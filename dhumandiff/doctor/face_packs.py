"""Packs of face models: InsightFace's, and the open one."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ..catalogue import AURAFACE, AURAFACE_RECOGNIZER, FACE_PACKS, YUNET
from ..errors import FaceError
from ..io import expand_user
from ..onnx_bytes import why_damaged
from .findings import DAMAGED, MISSING, NOTE, OK, Finding
from .folders import FACE_ROOT, PROJECT, Folders
from .misplaced import not_a_pack_yet

__all__ = ["face_packs", "pack"]

PACK = FACE_PACKS[0].name


def face_packs(folders: Folders, comfyui: bool) -> list[Finding]:
    """InsightFace's packs where they count, and one that lies elsewhere when none of them works."""
    names, get = _pack_names(folders.face_root), _get_pack(folders.face_root, comfyui)
    found = [pack(name, folders.face_root, get) for name in names]
    if not any(finding.state == OK for finding in found):
        return found + _no_pack(folders, get, damaged=bool(found))
    found = [finding.as_note() for finding in found]
    if PACK not in names:
        text = f"{PACK} is not among them. DHumanDiff's weights were trained with it; another pack may do worse."
        found.append(Finding(NOTE, PACK, text, get))
    return found


def _pack_names(root: Path) -> list[str]:
    """Folders in models/ below the root, and a pack of InsightFace's own beside it, which is found too."""
    names = {name for name in (pack.name for pack in FACE_PACKS) if os.path.isdir(root / name)}
    with contextlib.suppress(OSError):
        names |= {entry.name for entry in os.scandir(root / "models") if entry.is_dir()}
    return sorted(names)


def pack(name: str, root: Path, get: str) -> Finding:
    """A pack that is there, below a root; `get` says how one is got again."""
    from ..faces.insightface import find_pack

    if name == AURAFACE.name:
        return _open(root)
    place = next((place for place in (root / "models" / name, root / name) if os.path.isdir(place)), root)
    again = f"Remove the folder {place}. {get if name == PACK else f'Then unpack {name} again.'}"
    try:
        folder = find_pack(name, root)
        models = sorted(folder.glob("*.onnx"))
    except FaceError as error:
        return Finding(DAMAGED, f"the face pack {name}", str(error), again)
    except OSError as error:
        text = f"{place} cannot be read ({error.strerror or error})."
        return Finding(DAMAGED, f"the face pack {name}", text, "Allow reading it.")
    wrong = next(filter(None, map(_wrong_with, models)), None)
    if wrong is None and len(models) == 1:
        wrong = f"{folder} holds only {models[0].name}; a pack has a face detector and a recogniser."
    if wrong:
        return Finding(DAMAGED, f"the face pack {name}", wrong, again)
    names = ", ".join(model.name for model in models)
    if foreign := _beside_auraface(folder):
        text = f"{folder}: of its files only glintr100.onnx is AuraFace's ({AURAFACE.license}); {foreign} is InsightFace's, for {FACE_PACKS[0].license}."
        todo = f"For the free ones alone: glintr100.onnx and {YUNET.files[0]} in {folder.with_name(AURAFACE.name)}, and the pack `{AURAFACE.name}`."
        return Finding(NOTE, name, text, todo)
    return Finding(OK, name, f"{folder}: {names}; license of InsightFace's own packs: {FACE_PACKS[0].license}")


def _open(root: Path) -> Finding:
    """The pack of YuNet and AuraFace."""
    from ..faces.onnx_packs import open_files

    title = f"the face pack {AURAFACE.name}"
    try:
        detector, recognizer = open_files(root)
    except FaceError as error:
        foreign = error.code == "open-pack-with-insightface-files"
        return Finding(DAMAGED, title, str(error), "Remove what is named." if foreign else OPEN_DOWNLOAD)
    if wrong := next(filter(None, map(_wrong_with, (detector, recognizer))), None):
        return Finding(DAMAGED, title, wrong, f"Remove it. {OPEN_DOWNLOAD}")
    text = f"{detector.parent}: {detector.name} ({YUNET.title}, {YUNET.license}), {recognizer.name} ({AURAFACE.title}, {AURAFACE.license})"
    return Finding(OK, AURAFACE.name, text)


OPEN_DOWNLOAD = f"In the folder {PROJECT}: python -m dhumandiff download --portrait --items yunet auraface"


def _beside_auraface(folder: Path) -> str:
    """InsightFace's files in a folder with AuraFace's recognizer, as its repository has them; "" without."""
    from ..faces.onnx_packs import insightface_files
    from ..faces.same_recognizer import file_hash

    recognizer = folder / AURAFACE.files[0]
    if not recognizer.is_file() or file_hash(recognizer) != AURAFACE_RECOGNIZER[1]:
        return ""
    return ", ".join(insightface_files(folder))


def _wrong_with(model: Path) -> str | None:
    why = why_damaged(model)
    return why and f"{model} is damaged: {why}."


def _no_pack(folders: Folders, get: str, damaged: bool) -> list[Finding]:
    """What to say when no pack works: one elsewhere can be moved, else it has to be fetched."""
    here, there = folders.face_root / "models", folders.other_face_root
    for name in _pack_names(there) if there else []:
        if there and pack(name, there, get).state == OK:
            text = f"The InsightFace pack {name} lies in {there / 'models'}, but is looked for in {here}."
            todo = f"Copy the folder {there / 'models' / name} to {here / name}."
            return [Finding(MISSING, f"the face pack {name}", text, todo)]
    if damaged:
        return []
    if almost := not_a_pack_yet(folders.face_root, PACK):
        return [Finding(MISSING, f"the face pack {PACK}", *almost)]
    text = f"There is no InsightFace pack. {PACK} belongs into {here / PACK}. License of its models: {FACE_PACKS[0].license}."
    return [Finding(MISSING, f"the face pack {PACK}", text, get)]


def _get_pack(root: Path, comfyui: bool) -> str:
    if comfyui:
        fetch = "In the node Load Face Analysis switch `download` on."
    else:
        where = "" if root == expand_user(FACE_ROOT) else f", root='{root.as_posix()}'"
        fetch = (
            f'In the folder {PROJECT}: python -c "from dhumandiff.faces import InsightFaceAnalyzer as A; '
            f"A.from_pack('{PACK}'{where}, allow_download=True)\"."
        )
    return f"{fetch} By hand: unpack {PACK}.zip, from InsightFace's model zoo, to {root / 'models' / PACK}."
