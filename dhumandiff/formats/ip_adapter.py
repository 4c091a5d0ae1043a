"""IP-Adapter Plus and Plus-Face for SDXL with ViT-H: `image_proj.*` and `ip_adapter.{i}.to_k_ip.weight`.

Published as a flat .safetensors or as a torch file with two nested dicts; both read the same. Its projection has the
layout of the released face projection; its one key/value projection a layer serves every person, and it has no subject
path. Other kinds of IP-Adapter have other image projections and are refused by name.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import AdapterError
from .reading import (
    OTHER_BASES,
    OTHER_ENCODERS,
    TensorFile,
    Weights,
    check_dtypes,
    looks_like,
    number_layers,
    read_tensor_file,
)

__all__ = ["NAME", "fits", "load", "matches"]

NAME = "ip-adapter-plus"

METADATA = {
    "base_family": "sdxl",
    "clip_tower": "CLIP ViT-H/14 (IP-Adapter image encoder)",
    "recogniser": "",
    "identity_channels": "bgr",
    "licence": "Apache-2.0",
    "source": "IP-Adapter Plus for SDXL",
}


def matches(file: TensorFile) -> bool:
    """Whether this is some kind of IP-Adapter file (`load` says which kinds fit)."""
    return any(name.startswith("image_proj.") for name in file.tensors) and any(
        name.startswith("ip_adapter.") for name in file.tensors
    )


def fits(path: Path) -> bool:
    """Whether a file is an IP-Adapter Plus for SDXL with ViT-H, for lists of choices. Only names and shapes are read."""
    try:
        weights = load(read_tensor_file(path))
    except AdapterError:
        return False
    encoder = weights.tensors.get("face_projection.proj_in.weight")
    keys = weights.tensors.get("attention.0.to_k_ip.weight")
    if encoder is None or keys is None or encoder.ndim != 2 or keys.ndim != 2:
        return False
    return encoder.shape[1] not in OTHER_ENCODERS and keys.shape[1] not in OTHER_BASES


def load(file: TensorFile) -> Weights:
    """Turn an IP-Adapter Plus file into face projection and shared paired attention."""
    kind = looks_like(file.tensors)
    if kind != "an IP-Adapter Plus":
        raise AdapterError(
            f"{file.path}: this looks like {kind}. Of the IP-Adapters only Plus and Plus-Face for SDXL with ViT-H fit "
            "(ip-adapter-plus_sdxl_vit-h, ip-adapter-plus-face_sdxl_vit-h).",
            code="another-ip-adapter",
        )
    check_dtypes(file)
    tensors = {
        f"face_projection.{name.removeprefix('image_proj.')}": tensor
        for name, tensor in file.tensors.items()
        if name.startswith("image_proj.")
    }
    tensors |= number_layers(file, "ip_adapter.")
    metadata = {**METADATA, "source": f"{METADATA['source']} ({file.path.name})"}
    return Weights(NAME, tensors, metadata, dict.fromkeys(("face_projection", "attention"), str(file.path)))
