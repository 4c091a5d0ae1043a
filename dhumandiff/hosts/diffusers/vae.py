"""From latents to a picture."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .sampling import check_finite

__all__ = ["decode"]


def decode(vae: Any, latent: Tensor) -> Image.Image:
    """The picture of a latent [1, 4, h, w].

    Raises:
        HostError: NaN came out.
    """
    if vae.dtype == torch.float16 and vae.config.force_upcast:  # SDXL's VAE overflows in float16
        vae.to(torch.float32)
    with torch.no_grad():
        picture = vae.decode((latent / vae.config.scaling_factor).to(vae.dtype)).sample[0].float()
    check_finite(picture, "decoding the picture")
    values = ((picture / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).cpu().numpy())
