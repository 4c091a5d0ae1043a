"""SigLIP towers of random weights: transformers' model, its tensors as the published file names them, and files of both."""

from __future__ import annotations

from math import prod
from pathlib import Path

import torch
from torch import Tensor

from support.withanyone_files import write

SMALL = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 3, "num_hidden_layers": 2, "image_size": 64}
"""Another layout with the same 16 px patches: 16 tokens."""


def siglip_tower(seed: int = 0, **sizes: int):
    """transformers' vision tower in float32, its weights far from 0 and its norms far from 1."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    tower = SiglipVisionModel(SiglipVisionConfig(**{"image_size": 256, **sizes})).eval().requires_grad_(False)
    random = torch.Generator().manual_seed(seed)
    for name, parameter in tower.named_parameters():
        noise = torch.randn(parameter.shape, generator=random)
        is_norm = "norm" in name and name.endswith("weight")
        is_matrix = parameter.ndim > 1 and "position" not in name
        parameter.copy_(1 + 0.1 * noise if is_norm else noise * (parameter[0].numel() ** -0.5 if is_matrix else 0.02))
    return tower


def siglip_tensors(tower) -> dict[str, Tensor]:
    """The tower's tensors under the file's names; versions of transformers disagree about the prefix."""
    return {
        name if name.startswith("vision_model.") else f"vision_model.{name}": value.contiguous()
        for name, value in tower.state_dict().items()
    }


def siglip_file(path: Path) -> Path:
    """A file that Load SigLIP Vision takes: of the published size, in float16, one pattern of noise in every matrix.

    Layers after the first are zeros, which pass on what they get and take no disk: 13 MB of 170.
    """
    from dhumandiff.formats.siglip import _shapes

    noise = torch.randn(2**20 - 3, generator=torch.Generator().manual_seed(0))

    def tensor(name: str) -> Tensor | None:
        shape = shapes[name]
        if ".layers." in name and ".layers.0." not in name:
            return None
        if len(shape) == 1:
            return torch.full(shape, float("norm" in name and name.endswith("weight"))).half()
        size = prod(shape)
        return (noise.repeat(size // len(noise) + 1)[:size] * shape[-1] ** -0.5).half().view(shape)

    shapes = _shapes()
    path.parent.mkdir(parents=True, exist_ok=True)
    return write(path, shapes, torch.float16, tensor)
