"""SigLIP's vision tower, base-patch16-256-i18n: what WithAnyone looks at faces with.

    tensors = siglip.read(Path("models/clip_vision/siglip-base-patch16-256-i18n.safetensors"))      # vision_model.*, float tensors

The published file holds the text tower too, which is three quarters of it and stays on the disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import AdapterError
from .reading import TensorFile, check_dtypes, compare_shapes, looks_like, not_finite, read_tensor_file

__all__ = ["CONFIG", "LAYER_NORM_EPS", "OTHER_FILES", "read"]

CONFIG: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "patch_size": 16,
    "image_size": 256,
    "num_channels": 3,
    "hidden_act": "gelu_pytorch_tanh",
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
"""Of the vision tower, in ComfyUI's words."""

LAYER_NORM_EPS = 1e-6

_VISION = "vision_model."
_PATCHES = "vision_model.embeddings.patch_embedding.weight"
_PLACES = "vision_model.embeddings.position_embedding.weight"
_WORDS = "text_model.embeddings.token_embedding.weight"
_VOCABULARY = 250_000
"""Rows of the word table of base-patch16-256-i18n. The English one (32,000) and SigLIP 2 (256,000) have the very same layout of
the vision tower, and other numbers in it."""


OTHER_FILES = ("no-siglip", "siglip-without-vision", "clip-for-siglip")
"""Codes of `read` for what is no SigLIP at all; of the others it is, but not this one, or damaged."""


def read(path: Path) -> dict[str, Tensor]:
    """The vision tower's tensors of a file, memory-mapped, without the pooling head, which is not used.

    Raises:
        AdapterError: the file is damaged, or holds something else: which, the message says.
    """
    file = read_tensor_file(path)
    _check_kind(file)
    wanted = _shapes()
    # The pooling head sums up a picture; WithAnyone reads the tokens before it.
    unused = (f"{_VISION}head.", f"{_VISION}embeddings.position_ids")
    tensors = {
        name: tensor
        for name, tensor in file.tensors.items()
        if name.startswith(_VISION) and not name.startswith(unused)
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    compare_shapes(wanted, shapes, lambda name: (str(path), name))
    check_dtypes(TensorFile(path, tensors))
    if bad := not_finite(tensors):
        raise AdapterError(
            f"{path}: the tensor {bad[0]!r} holds NaN or infinite values. The file is damaged: get it again.",
            code="siglip-not-finite",
        )
    return tensors


def _check_kind(file: TensorFile) -> None:
    """Refuse what is no SigLIP, or another one."""
    names = file.tensors
    where = f"Get model.safetensors of google/siglip-base-patch16-256-i18n and put it into models/clip_vision ({file.path.name} is not it)."
    if not any(name.startswith(_VISION) for name in names):
        if any(name.startswith("text_model.") for name in names):
            raise AdapterError(
                f"{file.path}: this is a text encoder; the vision tower of SigLIP is missing. {where}",
                code="siglip-without-vision",
            )
        raise AdapterError(
            f"{file.path}: this is no SigLIP, it looks like {looks_like(names)}. {where}", code="no-siglip"
        )
    if f"{_VISION}embeddings.class_embedding" in names:
        raise AdapterError(
            f"{file.path}: this is a CLIP image encoder, not SigLIP. It belongs into Load CLIP Vision and clip_vision. {where}",
            code="clip-for-siglip",
        )
    # What is missing altogether is told by name, when all shapes are compared.
    wanted = {name: shape for name, shape in _shapes().items() if name in (_PATCHES, _PLACES)}
    found = {name: tuple(names[name].shape) if name in names else wanted[name] for name in wanted}
    if found != wanted:
        raise AdapterError(
            f"{file.path}: this is SigLIP of another size: patches {list(found[_PATCHES])} and positions {list(found[_PLACES])}, where "
            f"base-patch16-256 has {list(wanted[_PATCHES])} and {list(wanted[_PLACES])}. {where}",
            code="siglip-of-another-size",
        )
    words = names.get(_WORDS)
    if words is not None and words.shape[0] != _VOCABULARY:
        kind = {32_000: "the English SigLIP", 256_000: "SigLIP 2"}.get(words.shape[0], "another SigLIP")
        raise AdapterError(
            f"{file.path}: this is {kind} (its vocabulary has {words.shape[0]:,} words, not {_VOCABULARY:,}), which has the same "
            f"shapes and sees otherwise: nobody would be alike. {where}",
            code="siglip-of-another-training",
        )


def _shapes() -> dict[str, tuple[int, ...]]:
    """Name -> shape of all that the vision tower needs."""
    width, inner, patch = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["patch_size"]
    linear = {
        **dict.fromkeys((f"self_attn.{one}_proj" for one in ("q", "k", "v", "out")), (width, width)),
        "mlp.fc1": (inner, width),
        "mlp.fc2": (width, inner),
    }
    shapes: dict[str, tuple[int, ...]] = {
        _PATCHES: (width, CONFIG["num_channels"], patch, patch),
        f"{_VISION}embeddings.patch_embedding.bias": (width,),
        _PLACES: ((CONFIG["image_size"] // patch) ** 2, width),
    }
    norms = [f"{_VISION}post_layernorm"]
    for layer in range(CONFIG["num_hidden_layers"]):
        at = f"{_VISION}encoder.layers.{layer}"
        norms += [f"{at}.layer_norm1", f"{at}.layer_norm2"]
        for name, shape in linear.items():
            shapes |= {f"{at}.{name}.weight": shape, f"{at}.{name}.bias": shape[:1]}
    for norm in norms:
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    return shapes
