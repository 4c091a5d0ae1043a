"""CLIP's image encoder in one file, as ComfyUI has it in models/clip_vision.

    config, tensors = clip_vision.read(Path("models/clip_vision/CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"))

Both layouts are read: transformers' (`vision_model.*`) and OpenCLIP's (`visual.*`); what else lies in the file, such as the
text tower, stays on the disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import AdapterError
from . import clip
from .header import read_header
from .reading import TensorFile, check_dtypes, looks_like, read_tensor_file

__all__ = ["KINDS", "read", "width"]

KINDS: dict[int, dict[str, Any]] = {
    1280: {
        "title": "CLIP ViT-H/14",
        "layers": 32,
        "config": {
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_attention_heads": 16,
            "num_hidden_layers": 32,
            "hidden_act": "gelu",
            "projection_dim": 1024,
            "image_size": 224,
            "patch_size": 14,
        },
    },
    1024: {
        "title": "CLIP ViT-L/14",
        "layers": 24,
        "config": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "hidden_act": "quick_gelu",
            "projection_dim": 768,
            "image_size": 224,
            "patch_size": 14,
        },
    },
}
"""Width of the tower -> what it is. Files have no configuration in them, and heads and activation leave no trace in shapes."""

_PATCHES = {"transformers": "vision_model.embeddings.patch_embedding.weight", "OpenCLIP": "visual.conv1.weight"}


def width(path: Path) -> int | None:
    """Width of the image encoder in a .safetensors, of whatever kind; None for other files. Only the head is read.

    Raises:
        AdapterError: the file cannot be read.
    """
    entries, _ = read_header(path)
    if "vision_model.embeddings.class_embedding" not in entries and _PATCHES["OpenCLIP"] not in entries:
        return None  # SigLIP has no class token
    shapes = [entries[name].shape for name in _PATCHES.values() if name in entries]
    return shapes[0][0] if shapes and len(shapes[0]) == 4 else None


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """transformers' configuration and the tensors under its names (without `vision_model.`), memory-mapped.

    Raises:
        AdapterError: the file is damaged, incomplete, or holds something else; the message says what.
    """
    file = read_tensor_file(path)
    tensors = _tower(file)
    patches = tensors.get("embeddings.patch_embedding.weight")
    places = tensors.get("embeddings.position_embedding.weight")
    size = patches.shape[0] if patches is not None and patches.ndim == 4 else 0
    kind = KINDS.get(size)
    if kind is None:
        known = " and ".join(known["title"] for known in KINDS.values())
        raise AdapterError(
            f"{path}: an image encoder of width {size or 'unknown'}; of those in one file {known} are known. Give a folder with "
            "config.json and model.safetensors instead.",
            code="image-encoder-of-another-size",
        )
    config = kind["config"]
    tokens = (config["image_size"] // config["patch_size"]) ** 2 + 1
    if places is None or places.shape[0] != tokens or clip.layers_in(tensors) != kind["layers"]:
        found = f"{clip.layers_in(tensors)} layers and {0 if places is None else places.shape[0]} positions"
        raise AdapterError(
            f"{path}: as wide as {kind['title']}, but with {found}, where that has {kind['layers']} and {tokens}. "
            "Give a folder with config.json and model.safetensors, if it is another model; else get the file again.",
            code="image-encoder-of-another-size",
        )
    check_dtypes(TensorFile(path, tensors))
    return dict(config), tensors


def _tower(file: TensorFile) -> dict[str, Tensor]:
    names: Mapping[str, Tensor] = file.tensors
    if clip.is_open_clip(names, "visual."):
        return clip.as_transformers(clip.inside(names, "visual."))
    tower = clip.inside(names, "vision_model.")
    if "embeddings.class_embedding" not in tower:
        kind = "SigLIP, which WithAnyone looks with" if tower else looks_like(names)
        raise AdapterError(
            f"{file.path}: this is no CLIP image encoder, it looks like {kind}. Choose CLIP ViT-H/14, for instance "
            "models/image_encoder/model.safetensors of h94/IP-Adapter on Hugging Face.",
            code="no-image-encoder",
        )
    tower.pop("embeddings.position_ids", None)
    return tower | {name: names[name] for name in ("visual_projection.weight",) if name in names}
