"""The towers of CLIP in one layout, whichever of the two they were published in: transformers' or OpenCLIP's.

    tensors = as_transformers({"transformer.resblocks.0.ln_1.weight": ..., ...})

OpenCLIP keeps query, key and value of a layer in one tensor, and its projections the other way round. Tensors stay views
of the mapped file: splitting and turning copy nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from torch import Tensor

__all__ = ["as_transformers", "inside", "is_open_clip", "layers_in"]

_LAYER = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")

_IN_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}

_OUTSIDE = {
    "positional_embedding": "embeddings.position_embedding.weight",
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "class_embedding": "embeddings.class_embedding",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "ln_pre.weight": "pre_layrnorm.weight",  # transformers' own spelling
    "ln_pre.bias": "pre_layrnorm.bias",
    "ln_post.weight": "post_layernorm.weight",
    "ln_post.bias": "post_layernorm.bias",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
    "text_projection.weight": "text_projection.weight",
}

_TURNED = {"proj": "visual_projection.weight", "text_projection": "text_projection.weight"}


def inside(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """What lies under a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def is_open_clip(names: Mapping[str, object], prefix: str = "") -> bool:
    """Whether a tower under this prefix is in OpenCLIP's layout."""
    return any(name.startswith(f"{prefix}transformer.resblocks.") for name in names)


def layers_in(names: Mapping[str, object]) -> int:
    """How many layers a tower has, in either layout."""
    found = [re.search(r"(?:resblocks|encoder\.layers)\.(\d+)\.", name) for name in names]
    return len({match[1] for match in found if match})


def as_transformers(tower: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A tower of OpenCLIP's under transformers' names, without the prefix `text_model.` or `vision_model.`; what no model
    needs (logit_scale, attn_mask) is left out."""
    return {name: tensor for old, values in tower.items() for name, tensor in _renamed(old, values)}


def _renamed(old: str, values: Tensor) -> Iterator[tuple[str, Tensor]]:
    if old in _OUTSIDE:
        yield _OUTSIDE[old], values
    elif old in _TURNED:
        yield _TURNED[old], values.T
    elif match := _LAYER.fullmatch(old):
        at = f"encoder.layers.{match[1]}"
        if match[2].startswith("attn.in_proj_"):
            kind = match[2].removeprefix("attn.in_proj_")
            for one, part in zip(("q", "k", "v"), values.chunk(3), strict=True):
                yield f"{at}.self_attn.{one}_proj.{kind}", part
        else:
            part, _, kind = match[2].rpartition(".")
            if part in _IN_LAYER:
                yield f"{at}.{_IN_LAYER[part]}.{kind}", values
