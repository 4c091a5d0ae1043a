"""ComfyUI's CLIP_VISION as the vision tower of the reference encoder."""

from __future__ import annotations

from typing import Any

import comfy.model_management as model_management
import torch
from torch import Tensor

from ...dhumandiff.errors import HostError


class VisionTower:
    """Normalised pixels [N, 3, S, S] -> hidden states before the last layer, [N, T, C] float32 on the CPU.

    Goes around CLIP_VISION's own preprocessing, since the unconditional half needs a *normalised* picture of zeros.
    """

    def __init__(self, clip_vision: Any) -> None:
        if not hasattr(clip_vision, "patcher") or not hasattr(clip_vision, "model"):
            raise HostError("The CLIP_VISION input holds no vision model. Connect Load CLIP Vision (CLIP ViT-H/14).")
        self.clip_vision = clip_vision
        self.image_size = getattr(clip_vision, "image_size", 224)

    def __call__(self, pixels: Tensor) -> Tensor:
        model_management.load_model_gpu(self.clip_vision.patcher)
        with torch.no_grad():
            out = self.clip_vision.model(
                pixel_values=pixels.float().to(self.clip_vision.load_device), intermediate_output=-2
            )
        return out[1].float().cpu()
