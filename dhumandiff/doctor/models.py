"""Model files: which are there, what they are, and for those that are not what they are called and where they belong."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..catalogue import BASE, DHUMANDIFF, FACE_PACKS, IMAGE_ENCODER
from ..errors import AdapterError, FaceError
from .findings import DAMAGED, MISSING, NOTE, OK, Finding
from .folders import FACE_ROOT, PROJECT, Folders, files_in
from .misplaced import adapter_elsewhere, encoder_elsewhere, not_a_pack_yet
from .onnx_bytes import why_damaged

__all__ = ["adapters", "checkpoints", "face_packs", "image_encoder"]

PACK = FACE_PACKS[0].name


def adapters(folders: Folders) -> tuple[list[Finding], set[int]]:
    """Every adapter in words, and the widths of the image encoders that those which work were trained with."""
    found, widths = [], set()
    candidates = _candidates(folders)
    for path in candidates:
        finding, width = _adapter(path, _again(path, folders))
        found.append(finding)
        widths |= width
    for path in _ip_adapters(folders):
        finding, width = _adapter(path, "Nothing, if another pack uses it. Else get it again, or remove it.")
        found.append(_harmless(finding))
        widths |= width
    if widths:  # what works is enough; what does not is still told
        found = [_harmless(finding) for finding in found]
    if not any(os.path.isdir(path) for path in candidates):
        place = folders.adapters[0] / DHUMANDIFF.name
        text = f"DHumanDiff's released weights (four files) are not there. They belong into {place}. Licence: "
        text += f"{DHUMANDIFF.license}; ask them before you use the weights for more than a look."
        todo = how_to_download(folders)
        if lies := adapter_elsewhere(folders, DHUMANDIFF.files[-1]):
            text = f"DHumanDiff's released weights lie in {lies}, but are looked for in {place}."
            todo = f"Move the files {', '.join(DHUMANDIFF.files)} to {place}."
        enough = bool(widths or candidates)  # one of one's own does, or is to be mended
        found.append(Finding(NOTE if enough else MISSING, "the adapter", text, todo))
    return found, widths


def _adapter(path: Path, todo: str) -> tuple[Finding, set[int]]:
    """A file or folder in words, and the width of its image encoder if it works; `todo` is said if it does not."""
    from ..describe import describe, in_a_sentence

    try:
        facts = describe(path)
    except AdapterError as error:
        return Finding(DAMAGED, f"the adapter {path.name}", str(error), todo), set()
    return Finding(OK, path.name, f"{path}: {in_a_sentence(facts)}"), {facts["clip_width"]}


def _again(path: Path, folders: Folders) -> str:
    if path.name != DHUMANDIFF.name:
        return "Get it again from where you had it, or remove it."
    return f"Remove what is wrong there. {how_to_download(folders)} Licence: {DHUMANDIFF.license}."


def _harmless(finding: Finding) -> Finding:
    return replace(finding, state=NOTE) if finding.in_the_way else finding


def how_to_download(folders: Folders) -> str:
    """The command that fetches the released weights, and what to do without a network."""
    return (
        f"In the folder {PROJECT}: python -m dhumandiff download --to {_as_argument(folders.adapters[0])}. By hand: get "
        f"{', '.join(DHUMANDIFF.files)} from {DHUMANDIFF.url} and put them into "
        f"{folders.adapters[0] / DHUMANDIFF.name}."
    )


def _as_argument(folder: Path) -> str:
    """A folder as it is typed in the project's: short, and without a name in it, when the two lie in one ComfyUI."""
    folder = Path(os.path.realpath(folder))
    comfyui = PROJECT.parents[1] if PROJECT.parent.name == "custom_nodes" else PROJECT
    text = (Path(os.path.relpath(folder, PROJECT)) if folder.is_relative_to(comfyui) else folder).as_posix()
    return f'"{text}"' if " " in text else text


def _candidates(folders: Folders) -> list[Path]:
    """What claims to be an adapter: single files, and folders that hold any of the four files, or bear the name."""
    found: dict[Path, None] = {}
    for folder in folders.adapters:
        for path in files_in(folder, ".safetensors", *DHUMANDIFF.files):
            if path.name in DHUMANDIFF.files:
                found.setdefault(path.parent)
            elif path.relative_to(folder).parts[0] != "references":  # people, who are nobody's business
                found.setdefault(path)
        named = folder / DHUMANDIFF.name
        if os.path.isdir(named) and not any(path.is_relative_to(named) for path in found):
            found.setdefault(named)  # begun and empty, or still a zip
    return list(found)


def _ip_adapters(folders: Folders) -> list[Path]:
    """Files that are an IP-Adapter Plus for SDXL, or bear such a name: other kinds there are other packs' business."""
    from ..formats import ip_adapter

    found = []
    for folder in folders.ip_adapters:
        for path in files_in(folder, ".safetensors", ".bin"):
            named = "plus" in path.name.lower() and "sdxl" in path.name.lower()
            if named or (path.suffix == ".safetensors" and ip_adapter.fits(path)):
                found.append(path)
    return found


def face_packs(folders: Folders, comfyui: bool) -> list[Finding]:
    """InsightFace's packs where they count, and one that lies elsewhere when none of them works."""
    names, get = _pack_names(folders.face_root), _get_pack(folders.face_root, comfyui)
    found = [_pack(name, folders.face_root, get) for name in names]
    if not any(finding.state == OK for finding in found):
        return found + _no_pack(folders, get, damaged=bool(found))
    found = [_harmless(finding) for finding in found]
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


def _pack(name: str, root: Path, get: str) -> Finding:
    from ..faces.insightface import find_pack

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
    return Finding(OK, name, f"{folder}: {names}; licence of InsightFace's own packs: {FACE_PACKS[0].license}")


def _wrong_with(model: Path) -> str | None:
    why = why_damaged(model)
    return why and f"{model} is damaged: {why}."


def _no_pack(folders: Folders, get: str, damaged: bool) -> list[Finding]:
    """What to say when no pack works: one elsewhere can be moved, else it has to be fetched."""
    here, there = folders.face_root / "models", folders.other_face_root
    for name in _pack_names(there) if there else []:
        if there and _pack(name, there, get).state == OK:
            text = f"The InsightFace pack {name} lies in {there / 'models'}, but is looked for in {here}."
            todo = f"Copy the folder {there / 'models' / name} to {here / name}."
            return [Finding(MISSING, f"the face pack {name}", text, todo)]
    if damaged:
        return []
    if almost := not_a_pack_yet(folders.face_root, PACK):
        return [Finding(MISSING, f"the face pack {PACK}", *almost)]
    text = f"There is no InsightFace pack. {PACK} belongs into {here / PACK}. Licence of its models: {FACE_PACKS[0].license}."
    return [Finding(MISSING, f"the face pack {PACK}", text, get)]


def _get_pack(root: Path, comfyui: bool) -> str:
    if comfyui:
        fetch = "In the node Load Face Analysis switch `download` on."
    else:
        where = "" if root == FACE_ROOT.expanduser() else f", root='{root.as_posix()}'"
        fetch = (
            f'In the folder {PROJECT}: python -c "from dhumandiff.faces import InsightFaceAnalyzer as A; '
            f"A.from_pack('{PACK}'{where}, allow_download=True)\"."
        )
    return f"{fetch} By hand: unpack {PACK}.zip, from InsightFace's model zoo, to {root / 'models' / PACK}."


def image_encoder(folders: Folders, widths: set[int]) -> list[Finding]:
    """CLIP image encoders for ComfyUI.

    Args:
        folders: where they are looked for.
        widths: of the encoders that the adapters want; empty: CLIP ViT-H/14's.
    """
    from ..formats.reading import OTHER_ENCODERS

    wanted = widths or {1280}
    found, fitting = [], False
    for path in _of(folders.clip_vision, ".safetensors", ".bin", ".pt", ".pth"):
        try:
            width = _encoder_width(path)
        except AdapterError as error:
            found.append(Finding(NOTE, path.name, str(error), "Get it again from where you had it, or remove it."))
            continue
        if width in wanted:
            kind = "CLIP ViT-H/14" if width == 1280 else f"an image encoder of width {width}"
            found.append(Finding(OK, path.name, f"{path}: {kind}, which the adapter wants"))
            fitting = True
        else:
            kind = OTHER_ENCODERS.get(width, f"width {width}") if width else "no CLIP image encoder"
            found.append(Finding(OK, path.name, f"{path}: {kind}; not for this pack"))
    if not fitting:
        text = (
            f"The image encoder CLIP ViT-H/14 is not there. It belongs into {folders.clip_vision[0]}, under any name. "
        )
        text += f"Licence: {IMAGE_ENCODER.license}."
        todo = f"Get {IMAGE_ENCODER.inside}/model.safetensors from {IMAGE_ENCODER.url} and put it there."
        if lies := encoder_elsewhere(folders, lambda path: _fits(path, wanted)):
            text = (
                f"The image encoder CLIP ViT-H/14 lies in {lies.parent}, but is looked for in {folders.clip_vision[0]}."
            )
            todo = f"Move {lies} to {folders.clip_vision[0]}."
        found.append(Finding(MISSING, "the image encoder", text, todo))
    return found


def _encoder_width(path: Path) -> int | None:
    """Width of a CLIP image encoder, as transformers, open_clip or whoever names its first layer; None for others."""
    from ..formats.reading import read_tensor_file

    names = ("embeddings.patch_embedding.weight", "visual.conv1.weight")
    for name, tensor in read_tensor_file(path).tensors.items():
        if name.endswith(names) and tensor.ndim == 4:
            return tensor.shape[0]
    return None


def _fits(path: Path, wanted: set[int]) -> bool:
    try:
        return _encoder_width(path) in wanted
    except AdapterError:  # not whole, or no tensor file: not what is looked for
        return False


def cached_image_encoder() -> list[Finding]:
    """The same without ComfyUI, where transformers keeps it in Hugging Face's cache."""
    if all(_is_cached(IMAGE_ENCODER.repository, f"{IMAGE_ENCODER.inside}/{file}") for file in IMAGE_ENCODER.files):
        return [Finding(OK, "the image encoder", "The image encoder CLIP ViT-H/14 is in Hugging Face's cache.")]
    text = f"The image encoder CLIP ViT-H/14 is not in Hugging Face's cache. Licence: {IMAGE_ENCODER.license}."
    todo = f"Nothing: the first portrait fetches it. Without a network: copy {IMAGE_ENCODER.repository}/{IMAGE_ENCODER.inside} here, and say where with --image-encoder."
    return [Finding(NOTE, "the image encoder", text, todo)]


def _is_cached(repository: str, file: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    found: Any = try_to_load_from_cache(repository, file)
    return isinstance(found, str) and os.path.isfile(found)


_SDXL = f"Get one, for example {BASE.repository} on Hugging Face. Licence: {BASE.license}."


def checkpoints(folders: Folders) -> list[Finding]:
    """How many checkpoints ComfyUI has. Which of them are SDXL's is not looked at: they are large, and many."""
    count = len(_of(folders.checkpoints, ".safetensors", ".ckpt"))
    if count:
        where = ", ".join(str(folder) for folder in folders.checkpoints)
        return [Finding(OK, "checkpoints", f"{count} checkpoint{'s' * (count > 1)} in {where}; choose one for SDXL")]
    text = f"There is no checkpoint. One for SDXL belongs into {folders.checkpoints[0]}."
    return [Finding(MISSING, "an SDXL checkpoint", text, _SDXL)]


def named_base() -> list[Finding]:
    """Without ComfyUI the base may lie anywhere."""
    text = "The SDXL base is not looked for: --base says where it is, a diffusers folder or one .safetensors."
    return [Finding(NOTE, "an SDXL base", text, _SDXL)]


def _of(folders: Sequence[Path], *endings: str) -> list[Path]:
    return list(dict.fromkeys(path for folder in folders for path in files_in(folder, *endings)))
