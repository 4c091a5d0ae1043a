"""Weights under ComfyUI's memory management: it counts, loads and offloads them like any other model."""

from __future__ import annotations

from typing import Any

import comfy.model_management as model_management
import comfy.model_patcher
import torch
from torch import nn

__all__ = ["compute_dtype", "managed"]


def managed(
    module: nn.Module, load_device: torch.device | None = None, offload_device: torch.device | None = None
) -> Any:
    """A ModelPatcher around a module, of the kind that this ComfyUI uses for its own models.

    One of another kind among the models of a run switches dynamic VRAM off around it: text encoders and VAE are thrown out then.

    Args:
        module: the weights.
        load_device: where they compute; None: where ComfyUI's models do.
        offload_device: where they wait; None: where ComfyUI's UNets do.
    """
    kind = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    return kind(
        module,
        load_device=load_device or model_management.get_torch_device(),
        offload_device=offload_device or model_management.unet_offload_device(),
    )


def compute_dtype(model: Any) -> torch.dtype:
    """What ComfyUI computes a MODEL in, as nodes left it."""
    return model.get_model_object("manual_cast_dtype") or model.model.get_dtype()
