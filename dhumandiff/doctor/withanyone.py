"""WithAnyone on FLUX.1: what a first picture with it needs, for those who have begun with it.

Whoever draws with SDXL needs none of it, and reads one line.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from ..catalogue import FLUX, SIGLIP, WITHANYONE, WITHANYONE_FACE_PACK
from ..errors import AdapterError, short_error
from .adapters import describe_file, how_to_download
from .base_models import encoder_width, siglip_or_why_not
from .face_packs import pack
from .findings import DAMAGED, MISSING, NOTE, OK, Finding
from .folders import Folders, files_in

__all__ = ["withanyone"]

ENDINGS = (".safetensors", ".bin", ".pt")


def withanyone(folders: Folders) -> list[Finding]:
    """Weights, SigLIP, face pack and FLUX.1 in ComfyUI; a note where nobody has begun with any of it."""
    files = [path for folder in folders.withanyone for path in files_in(folder, *ENDINGS)]
    strays = [path for path in _elsewhere(folders) if path not in files]
    if not files and not strays:
        text = "WithAnyone, which draws up to four people with FLUX.1, is not there. Portraits with SDXL need nothing of it."
        return [Finding(NOTE, WITHANYONE.title, text, f"Nothing, or: {_get(folders)}")]
    found = [_file(path, folders) for path in files]
    if any(finding.state == OK for finding in found):  # what works is enough; what does not is still told
        found = [finding.as_note() for finding in found]
    elif strays:
        text = f"WithAnyone's weights lie in {strays[0].parent}, but are looked for in {_place(folders)}."
        found.append(Finding(MISSING, WITHANYONE.title, text, f"Move {strays[0]} to {_place(folders)}."))
    return [*found, _siglip(folders), _face_pack(folders), _flux(folders)]


def _place(folders: Folders) -> Path:
    return folders.withanyone[0]


def _get(folders: Folders) -> str:
    return f"{how_to_download(_place(folders), WITHANYONE, '--method withanyone ')} License: {WITHANYONE.license}."


def _file(path: Path, folders: Folders) -> Finding:
    from ..formats import withanyone as file_format

    todo = f"Remove it. {_get(folders)}"
    try:
        if not file_format.is_file(path):
            file_format.load(path)  # raises, and says what it is
    except AdapterError as error:
        return Finding(DAMAGED, f"the file {path.name}", str(error), todo)
    except Exception as error:  # one file never takes the report down
        text = f"{path} cannot be read ({short_error(error, kind=True)})."
        return Finding(DAMAGED, f"the file {path.name}", text, todo)
    return describe_file(path, todo)[0]


def _elsewhere(folders: Folders) -> list[Path]:
    """The published file under its own name in a folder of other models; others' ports look for it there."""
    places = (*folders.diffusion_models, *folders.adapters, *folders.checkpoints)
    return [path for folder in places for path in files_in(folder, *WITHANYONE.files)]


def _siglip(folders: Folders) -> Finding:
    for path in (path for folder in folders.clip_vision for path in files_in(folder, *ENDINGS)):
        with contextlib.suppress(AdapterError):  # told where all image encoders are listed
            if siglip_or_why_not(path, encoder_width(path)) == (True, None):
                return Finding(OK, SIGLIP.title, f"{path}: {SIGLIP.title}")
    place = folders.clip_vision[0]
    text = f"{SIGLIP.title}, WithAnyone's image encoder, is not there. It belongs into {place}, under any name. License: {SIGLIP.license}."
    return Finding(MISSING, SIGLIP.title, text, f"Get {SIGLIP.files[0]} from {SIGLIP.url} and put it there.")


def _face_pack(folders: Folders) -> Finding:
    name, place = WITHANYONE_FACE_PACK.name, folders.face_root / "models"
    get = f"Unpack {name}.zip, from InsightFace's model zoo, to {place / name}."
    if (place / name).is_dir() or (folders.face_root / name).is_dir():
        return pack(name, folders.face_root, get)
    text = f"The InsightFace pack {name}, which WithAnyone was trained with, is not there. It belongs into {place / name}; another "
    text += f"pack's faces are refused. License of its models: {WITHANYONE_FACE_PACK.license}."
    return Finding(MISSING, f"the face pack {name}", text, get)


def _flux(folders: Folders) -> Finding:
    """By name: FLUX models are large, of many kinds, and often quantized."""
    every = [
        path
        for folder in (*folders.diffusion_models, *folders.checkpoints)
        for path in files_in(folder, ".safetensors", ".gguf", ".ckpt", ".sft")
    ]
    named = [path for path in every if "flux" in path.name.lower()]
    if named:
        more = f" and {len(named) - 1} more" if len(named) > 1 else ""
        return Finding(OK, "FLUX.1", f"{named[0]}{more}: FLUX by its name; Load WithAnyone Adapter is for FLUX.1")
    place, get = folders.diffusion_models[0], f"Get {FLUX.files[0]} from {FLUX.url}, or a GGUF of it."
    if any(path.is_relative_to(folder) for path in every for folder in folders.diffusion_models):
        text = f"None of the models in {place} is called FLUX; one may be all the same."
        return Finding(NOTE, "FLUX.1", text, f"Choose a FLUX.1, or: {get}")
    text = f"There is no FLUX.1 model. It belongs into {place}. License: {FLUX.license}; a GGUF or fp8 of it, Krea and Kontext do as well."
    return Finding(MISSING, "a FLUX.1 model", text, get)
