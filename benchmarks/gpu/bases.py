"""Models of SDXL's own sizes with random weights, made in seconds; tiny ones where the command is only tried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dhumandiff.hosts.diffusers.attention import cross_attention_layers
from dhumandiff.hosts.diffusers.single_file import CONFIGS
from dhumandiff.optional import require
from dhumandiff.references import FaceReference
from dhumandiff.testing import random_adapter, tiny_unet

from .setup import Setup

__all__ = ["Inputs", "adapter_for", "empty_sdxl", "fill", "people_for", "sdxl_unet", "two_sides"]

NOISE = 2**20 + 7
"""Random numbers that weights are filled with, over and over: speed does not depend on them."""


def fill(module: nn.Module) -> nn.Module:
    """Random weights that keep activations of the size they come in; as fast as memory is written. Returns the module, frozen."""
    block = torch.randn(NOISE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
                continue
            count = parameter.numel()
            noise = (block * parameter[0].numel() ** -0.5).to(parameter)
            # As a whole, not piece by piece: a weight may lie in memory in another order (`--force-channels-last`).
            parameter.copy_(noise.repeat(-(-count // NOISE))[:count].view(parameter.shape))
    return module.requires_grad_(False).eval()


def empty_sdxl(kind: str, part: str) -> nn.Module:
    """A part of SDXL on the device "meta", by the configuration that ships: `UNet2DConditionModel` of "unet", ..."""
    model_class = getattr(require("diffusers"), kind)
    with torch.device("meta"):
        return model_class.from_config(model_class.load_config(str(CONFIGS / "sdxl" / part)))


def sdxl_unet(setup: Setup, dtype: torch.dtype) -> Any:
    """SDXL's UNet with random weights on the device."""
    if setup.small:
        return tiny_unet().to(setup.device, dtype)
    unet = empty_sdxl("UNet2DConditionModel", "unet").to(dtype)
    return fill(unet.to_empty(device=setup.device))


def adapter_for(unet: Any) -> Any:
    """DHumanDiff's weights for all layers of a UNet, on its device; the projections in front, which run once, are narrow."""
    layers = [module for _, module in cross_attention_layers(unet)]
    adapter = random_adapter([module.inner_dim for module in layers], layers[0].cross_attention_dim)
    return adapter.to(unet.device, unet.dtype)


def people_for(adapter: Any) -> list[FaceReference]:
    """Two people."""
    random = torch.Generator().manual_seed(1)
    hidden = [torch.randn(1, 50, adapter.info.clip_width, generator=random) for _ in range(3)]
    return [
        FaceReference(
            identity=torch.nn.functional.normalize(torch.randn(1, 512, generator=random), dim=-1),
            clip_hidden=hidden[person],
            clip_hidden_zero=hidden[2],
        )
        for person in (0, 1)
    ]


def two_sides(height: int, width: int) -> Tensor:
    """Masks [2, 1, H, W]: person 1 left, person 2 right."""
    masks = torch.zeros(2, 1, height, width)
    masks[0, ..., : width // 2] = masks[1, ..., width // 2 :] = 1
    return masks


@dataclass
class Inputs:
    """What a UNet of SDXL's kind reads in a guided call for some pictures.

    Args:
        unet: which one.
        images: pictures.
        side: of the latents.
    """

    unet: Any
    images: int
    side: int

    def noise(self) -> Tensor:
        """[images, 4, side, side], float32 on the CPU."""
        return torch.randn(self.images, 4, self.side, self.side, generator=torch.Generator().manual_seed(0))

    def conditions(self) -> dict[str, Any]:
        """Text and sizes, [unconditional; conditional]."""
        config, rows = self.unet.config, 2 * self.images
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        where = {"device": self.unet.device, "dtype": self.unet.dtype}
        return {
            "encoder_hidden_states": torch.randn(rows, 77, config.cross_attention_dim, **where),
            "added_cond_kwargs": {
                "text_embeds": torch.randn(rows, pooled, **where),
                "time_ids": torch.full((rows, 6), float(8 * self.side), **where),
            },
        }
