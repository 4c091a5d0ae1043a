"""Model folders, through ComfyUI's folder_paths, so that extra_model_paths.yaml works.

models/dhumandiff/              adapters: folders with the four released files, or one .safetensors each
models/dhumandiff/references/   people, encoded once
models/ipadapter/               IP-Adapter Plus (Face) SDXL ViT-H files
models/withanyone/              WithAnyone's weights for FLUX.1
models/insightface/models/      InsightFace packs
models/clip_vision/             SigLIP's vision tower, beside CLIP's
"""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import comfy.model_management as model_management
import folder_paths
from comfyui_version import __version__ as comfyui_version

from ...dhumandiff import formats
from ...dhumandiff.catalogue import BASE, DHUMANDIFF, FACE_PACKS, IMAGE_ENCODER, IP_ADAPTER, PARTS2WHOLE, WITHANYONE
from ...dhumandiff.doctor import FACE_ROOT, Folders, Report, examine
from ...dhumandiff.errors import AdapterError, FaceError, FaceReferenceError, short_error
from ...dhumandiff.faces.onnx_packs import JUDGE, OPEN
from ...dhumandiff.io import LONGEST_NAME, expand_user

log = logging.getLogger(__name__)

ADAPTERS = DHUMANDIFF.folder
REFERENCES = "references"
IP_ADAPTERS = IP_ADAPTER.folder
FLUX_ADAPTERS = WITHANYONE.folder

# First, as with ComfyUI's own kinds: people are saved there, not on an extra disk.
folder_paths.add_model_folder_path(ADAPTERS, os.path.join(folder_paths.models_dir, ADAPTERS), is_default=True)
folder_paths.add_model_folder_path(FLUX_ADAPTERS, os.path.join(folder_paths.models_dir, FLUX_ADAPTERS))


def adapter_choices() -> list[str]:
    """Names of everything in the model folders that is an adapter."""
    return sorted(_adapters())


def adapter_path(name: str) -> Path:
    """Path of a choice.

    Raises:
        AdapterError: it is not there (any more).
    """
    found = _adapters()
    if not isinstance(name, str) or name not in found:  # a linked input brings whatever the other node gives
        raise AdapterError(
            f"The adapter {name!r} is not in {' or '.join(_folders(ADAPTERS))}. Put the folder with the four DHumanDiff "
            f"files, or one .safetensors, there, then press R. To fetch the released ones: {download_command()}",
            code="adapter-missing",
        )
    return found[name]


def full_adapters() -> list[Path]:
    """All choices, among which a low-rank file finds the adapter that it changes; and the one that ships."""
    return [*_adapters().values(), formats.low_rank.SHIPPED]


def download_command() -> str:
    """The command that fetches the released weights to where this ComfyUI looks for them."""
    pack = Path(__file__).resolve().parents[2]
    return f'cd "{pack}" && "{sys.executable}" -m dhumandiff download --to "{_folders(ADAPTERS)[0]}"'


def _folders(kind: str) -> list[str]:
    if kind in folder_paths.folder_names_and_paths:
        return list(folder_paths.get_folder_paths(kind))
    return [os.path.join(folder_paths.models_dir, kind)]


def _adapters() -> dict[str, Path]:
    """Name -> path. The first folder wins where two have a name in common, as everywhere in ComfyUI."""
    found: dict[str, Path] = {}
    for folder in map(Path, _folders(ADAPTERS)):
        others = _parts_below(folder)
        for path in _files(folder, ".safetensors"):
            if any(path.is_relative_to(other) for other in others):  # another method's, with a node of its own
                continue
            if REFERENCES not in path.relative_to(folder).parts[:1]:
                found.setdefault(path.relative_to(folder).as_posix(), path)
        for path in _files(folder, "ip_adapter_ca.pt"):
            name = path.parent.relative_to(folder).as_posix()
            found.setdefault(folder.name if name == "." else name, path.parent)
    for folder in map(Path, _folders(IP_ADAPTERS)):
        for path in _files(folder, ".safetensors", ".bin"):
            if _is_plus_sdxl(path):
                found.setdefault(f"{IP_ADAPTERS}/{path.relative_to(folder).as_posix()}", path)
    return found


def parts_choices() -> list[str]:
    """Names of the folders that are Parts2Whole's, whole or not: what one lacks is said when it is loaded."""
    return sorted(_parts())


def parts_path(name: str) -> Path:
    """Path of a choice.

    Raises:
        AdapterError: it is not there (any more).
    """
    found = _parts()
    if not isinstance(name, str) or name not in found:
        raise AdapterError(
            f"The folder {str(name)[:80]!r} of Parts2Whole is not in {' or '.join(_folders(ADAPTERS))}. To fetch the released one "
            f"({PARTS2WHOLE.url}): {download_command()} --method parts2whole. Then press R.",
            code="parts2whole-missing",
        )
    return found[name]


def _parts() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in map(Path, _folders(ADAPTERS)):
        for place in _parts_below(folder):
            found.setdefault(place.name, place)
    return found


def _parts_below(folder: Path) -> list[Path]:
    return [place for place in (folder / name for name in _subfolders(folder)) if formats.parts2whole.is_folder(place)]


def _subfolders(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if os.path.isdir(folder / name))
    except OSError:
        return []


def _files(folder: Path, *endings: str) -> Iterator[Path]:
    """Files below a folder. A list of choices must never fail: ComfyUI would drop the whole pack over a broken link."""
    for path in _below(folder, frozenset()):
        if path.name in endings or path.suffix in endings:
            yield path


def _below(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """Every file below a folder, through links too, but not through one to a folder that it lies in. What cannot be read is
    passed over."""
    try:
        status = os.stat(folder)
        names = sorted(os.listdir(folder))
    except OSError:
        return
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    paths = [folder / name for name in names]
    yield from (path for path in paths if os.path.isfile(path))
    for path in paths:
        if os.path.isdir(path):
            yield from _below(path, above | {here})


def _is_plus_sdxl(path: Path) -> bool:
    """Whether an IP-Adapter file is a choice. Whatever is wrong with one file, the others are still offered."""
    try:
        return _fits(path, path.stat().st_mtime_ns)
    except Exception as error:  # what a damaged file raises has no common base
        log.warning("%s is left out of the adapters: %s", path, short_error(error, kind=True))
        return False


@functools.lru_cache(maxsize=256)
def _fits(path: Path, modified: int) -> bool:
    """Looked up once per file: the page asks for the list at every refresh."""
    if path.suffix == ".bin":  # reading all of a pickle only for a list would be slow; loading checks it
        return "plus" in path.name.lower() and "sdxl" in path.name.lower()
    return formats.ip_adapter.fits(path)


def withanyone_choices() -> list[str]:
    """Names of the files in models/withanyone. Another model's file is refused when it is read."""
    return sorted(_weights_in(FLUX_ADAPTERS))


def withanyone_path(name: str) -> Path:
    """Path of a choice.

    Raises:
        AdapterError: it is not there (any more).
    """
    found = _weights_in(FLUX_ADAPTERS)
    if not isinstance(name, str) or name not in found:
        raise AdapterError(
            f"The WithAnyone file {str(name)[:80]!r} is not in {' or '.join(_folders(FLUX_ADAPTERS))}. Get withanyone.safetensors from "
            "Hugging Face (WithAnyone/WithAnyone), put it there, then press R.",
            code="withanyone-not-in-folder",
        )
    return found[name]


def siglip_choices() -> list[str]:
    """Names of the vision towers, those called SigLIP first."""
    return sorted(_weights_in(IMAGE_ENCODER.folder), key=lambda name: ("siglip" not in name.lower(), name))


def siglip_path(name: str) -> Path:
    """Path of a choice.

    Raises:
        AdapterError: it is not there (any more).
    """
    found = _weights_in(IMAGE_ENCODER.folder)
    if not isinstance(name, str) or name not in found:
        raise AdapterError(
            f"The vision tower {name!r} is not in {' or '.join(_folders(IMAGE_ENCODER.folder))}. Put model.safetensors of "
            "google/siglip-base-patch16-256-i18n (Hugging Face) there, under a name of your choice, then press R.",
            code="siglip-missing",
        )
    return found[name]


def _weights_in(kind: str) -> dict[str, Path]:
    """Name -> path of the files with weights in the folders of a kind."""
    found: dict[str, Path] = {}
    for folder in map(Path, _folders(kind)):
        for path in _files(folder, ".safetensors", ".bin", ".pt"):
            found.setdefault(path.relative_to(folder).as_posix(), path)
    return found


def reference_choices() -> list[str]:
    """Names of the saved people."""
    return sorted(_references())


def reference_path(name: str) -> Path:
    """Path of a saved person.

    Raises:
        FaceReferenceError: there is none of that name.
    """
    found = _references()
    if not isinstance(name, str) or name not in found:
        raise FaceReferenceError(
            f"There is no saved reference {name!r} in {' or '.join(_folders(ADAPTERS))} (folder {REFERENCES}). "
            "Save it with Save Reference first, then press R.",
            code="reference-missing",
        )
    return found[name]


def new_reference_path(name: str) -> Path:
    """Where a person of that name is saved.

    Raises:
        FaceReferenceError: the name is no plain file name.
    """
    name = name.strip()
    allowed = name and len(name) <= 80 and all(c.isalnum() or c in " -_()'," for c in name)
    allowed = allowed and len(f"{name}.safetensors".encode()) <= LONGEST_NAME
    # Names that Windows keeps for devices, whatever their ending.
    if (
        not allowed
        or name.upper() in {"CON", "PRN", "AUX", "NUL"}
        or (len(name) == 4 and name.upper()[:3] in {"COM", "LPT"})
    ):
        raise FaceReferenceError(
            f"{name!r} cannot be a file name. Name the person with up to 80 letters, digits, spaces, - and _ (of those "
            "that take more than one byte in a file name, such as Chinese ones, fewer: 57 to 76).",
            code="no-file-name",
        )
    return Path(_folders(ADAPTERS)[0]) / REFERENCES / f"{name}.safetensors"


def _references() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in map(Path, _folders(ADAPTERS)):
        for path in _files(folder / REFERENCES, ".safetensors"):
            found.setdefault(path.stem, path)
    return found


def insightface_root() -> Path:
    """InsightFace's root: its packs lie in ``models/`` below it."""
    return Path(folder_paths.models_dir) / "insightface"


def face_pack_choices() -> list[str]:
    """Face packs: those that are there first, then the ones InsightFace can fetch, then the open ones."""
    packs = insightface_root() / "models"
    try:
        there = sorted(name for name in os.listdir(packs) if os.path.isdir(packs / name))
    except OSError:
        there = []
    return there + [name for name in (*(pack.name for pack in FACE_PACKS), OPEN, JUDGE) if name not in there]


def face_pack(name: str) -> str:
    """A choice of face packs, looked up: the library itself takes any folder, a workflow does not.

    Raises:
        FaceError: it is none of them.
    """
    choices = face_pack_choices()
    if not isinstance(name, str) or name not in choices:
        raise FaceError(
            f"There is no face model pack {str(name)[:80]!r} in {insightface_root() / 'models'}: choose one of "
            f"{', '.join(choices)}, or put its folder there and press R.",
            code="pack-not-a-choice",
        )
    return name


def every_folder() -> Folders:
    """Where this ComfyUI looks for each kind of model, for the doctor."""
    kinds = {
        "adapters": ADAPTERS,
        "ip_adapters": IP_ADAPTERS,
        "clip_vision": IMAGE_ENCODER.folder,
        "checkpoints": BASE.folder,
        "withanyone": FLUX_ADAPTERS,
        "diffusion_models": "diffusion_models",
    }
    return Folders(
        **{name: tuple(map(Path, _folders(kind))) for name, kind in kinds.items()},
        face_root=insightface_root(),
        other_face_root=expand_user(FACE_ROOT),
    )


def examine_comfyui() -> Report:
    """What the doctor finds in this ComfyUI."""
    return examine(every_folder(), comfyui_version, str(model_management.get_torch_device()))
