"""CLIP image encoders and SDXL bases, with ComfyUI and without."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..catalogue import BASE, IMAGE_ENCODER, SIGLIP
from ..errors import AdapterError
from .findings import MISSING, NOTE, OK, Finding
from .folders import Folders, files_in
from .misplaced import encoder_elsewhere

__all__ = ["checkpoints", "encoder_width", "image_encoder", "own_base", "own_image_encoder", "siglip_or_why_not"]

_SDXL = f"Get one, for example {BASE.repository} on Hugging Face. License: {BASE.license}."


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
            width = encoder_width(path)
        except AdapterError as error:
            found.append(Finding(NOTE, path.name, str(error), "Get it again from where you had it, or remove it."))
            continue
        siglip, why_not = (False, None) if width in wanted else siglip_or_why_not(path, width)
        if siglip and why_not:
            found.append(Finding(NOTE, path.name, why_not, "Nothing, if another pack uses it. Else remove it."))
        elif siglip:
            found.append(Finding(OK, path.name, f"{path}: {SIGLIP.title}, which WithAnyone reads"))
        elif width in wanted:
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
        text += f"License: {IMAGE_ENCODER.license}."
        todo = f"Get {IMAGE_ENCODER.inside}/model.safetensors from {IMAGE_ENCODER.url} and put it there."
        if lies := encoder_elsewhere(folders, lambda path: _fits(path, wanted)):
            text = (
                f"The image encoder CLIP ViT-H/14 lies in {lies.parent}, but is looked for in {folders.clip_vision[0]}."
            )
            todo = f"Move {lies} to {folders.clip_vision[0]}."
        found.append(Finding(MISSING, "the image encoder", text, todo))
    return found


def siglip_or_why_not(path: Path, width: int | None) -> tuple[bool, str | None]:
    """Whether an image encoder is a SigLIP of this width, and, if WithAnyone cannot read it, why not."""
    from ..formats import siglip

    if width != siglip.CONFIG["hidden_size"]:
        return False, None
    try:
        siglip.read(path)
    except AdapterError as error:
        other = error.code in siglip.OTHER_FILES
        return not other, None if other else str(error)
    return True, None


def encoder_width(path: Path) -> int | None:
    """Width of a CLIP image encoder, as transformers, open_clip or whoever names its first layer; None for others.

    Raises:
        AdapterError: the file cannot be read.
    """
    from ..formats.reading import read_tensor_file

    names = ("embeddings.patch_embedding.weight", "visual.conv1.weight")
    for name, tensor in read_tensor_file(path).tensors.items():
        if name.endswith(names) and tensor.ndim == 4:
            return tensor.shape[0]
    return None


def _fits(path: Path, wanted: set[int]) -> bool:
    try:
        return encoder_width(path) in wanted
    except AdapterError:  # not whole, or no tensor file: not what is looked for
        return False


def own_image_encoder(folders: Folders, widths: set[int]) -> list[Finding]:
    """The same without ComfyUI: in the models folder, or where transformers keeps it in Hugging Face's cache."""
    files = [path for path in _of(folders.clip_vision, ".safetensors") if _fits(path, widths or {1280})]
    if files:
        text = f"{files[0]}: an image encoder that the adapter wants; `generate` finds it."
        if len(files) == 1:
            return [Finding(OK, files[0].name, text)]
        return [
            Finding(NOTE, "image encoders", f"{len(files)} fit in {files[0].parent}.", "Name one: --image-encoder.")
        ]
    if all(_is_cached(IMAGE_ENCODER.repository, f"{IMAGE_ENCODER.inside}/{file}") for file in IMAGE_ENCODER.files):
        return [Finding(OK, "the image encoder", "The image encoder CLIP ViT-H/14 is in Hugging Face's cache.")]
    text = f"The image encoder CLIP ViT-H/14 is not in Hugging Face's cache, nor in {folders.clip_vision[0]}. "
    text += f"License: {IMAGE_ENCODER.license}."
    todo = "Nothing: the first portrait fetches it. Without a network: copy the one file that ComfyUI has in models/clip_vision, "
    todo += "and say where with --models or --image-encoder."
    return [Finding(NOTE, "the image encoder", text, todo)]


def _is_cached(repository: str, file: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    found: Any = try_to_load_from_cache(repository, file)
    return isinstance(found, str) and os.path.isfile(found)


def checkpoints(folders: Folders) -> list[Finding]:
    """How many checkpoints ComfyUI has. Which of them are SDXL's is not looked at: they are large, and many."""
    count = len(_of(folders.checkpoints, ".safetensors", ".ckpt"))
    if count:
        where = ", ".join(str(folder) for folder in folders.checkpoints)
        return [Finding(OK, "checkpoints", f"{count} checkpoint{'s' * (count > 1)} in {where}; choose one for SDXL")]
    text = f"There is no checkpoint. One for SDXL belongs into {folders.checkpoints[0]}."
    return [Finding(MISSING, "an SDXL checkpoint", text, _SDXL)]


def own_base(folders: Folders) -> list[Finding]:
    """Without ComfyUI: what `generate` finds in the models folder; the base may lie anywhere else, too."""
    from ..formats import checkpoint

    files = _of(folders.checkpoints, ".safetensors")
    fitting = [path for path in files if checkpoint.family_of(path) == checkpoint.SDXL]
    if len(fitting) == 1:
        return [Finding(OK, fitting[0].name, f"{fitting[0]}: an SDXL checkpoint; `generate` finds it.")]
    if fitting:
        text = f"{len(fitting)} SDXL checkpoints are in {folders.checkpoints[0]}."
        return [Finding(NOTE, "SDXL checkpoints", text, "Name one: --base.")]
    text = f"No SDXL checkpoint is in {folders.checkpoints[0]}: --base says where one is, a diffusers folder or one .safetensors."
    return [Finding(NOTE, "an SDXL base", text, f"{_SDXL} Or: python -m dhumandiff download --portrait.")]


def _of(folders: Sequence[Path], *endings: str) -> list[Path]:
    return list(dict.fromkeys(path for folder in folders for path in files_in(folder, *endings)))
