"""From latents to a picture."""

from __future__ import annotations

import logging
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .memory import is_out_of_memory
from .sampling import check_finite

log = logging.getLogger(__name__)

TILE = (64, 512)
"""Sides of a tile, of the latent and in px. SDXL's VAE would take 1024 px, which saves a picture of that size nothing."""

__all__ = ["decode"]


def decode(vae: Any, latent: Tensor) -> Image.Image:
    """The picture of a latent [1, 4, h, w].

    Raises:
        HostError: NaN came out.
    """
    if vae.dtype == torch.float16 and vae.config.force_upcast:  # SDXL's VAE overflows in float16
        vae.to(torch.float32)
    latent = (latent / vae.config.scaling_factor).to(next(vae.parameters()))
    with torch.no_grad():
        picture = _decoded(vae, latent).float()
    check_finite(picture, "decoding the picture")
    values = ((picture / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).cpu().numpy())


def _decoded(vae: Any, latent: Tensor) -> Tensor:
    """The picture -1..1, [3, H, W]: at once, or in tiles where the memory is too small for that."""
    try:
        return vae.decode(latent).sample[0]
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    # Not inside of `except`, which would keep what the first try computed.
    log.info("No memory to decode the picture at once: it is decoded in tiles.")
    if latent.device.type == "cuda":
        torch.cuda.empty_cache()
    own = vae.tile_latent_min_size, vae.tile_sample_min_size
    vae.enable_tiling()
    try:
        vae.tile_latent_min_size, vae.tile_sample_min_size = (
            min(side, tile) for side, tile in zip(own, TILE, strict=True)
        )
        return vae.decode(latent).sample[0]
    finally:
        vae.disable_tiling()
        vae.tile_latent_min_size, vae.tile_sample_min_size = own
