"""ComfyUI's CLIP_VISION as a reference's image encoders: CLIP's hidden states, and SigLIP's, whose tower is loaded here."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.model_management as model_management
import torch
from torch import Tensor

from ...dhumandiff.errors import HostError
from ...dhumandiff.formats import siglip

__all__ = ["ClipVisionEncoder", "SiglipEncoder", "load_siglip", "make_clip_vision"]


def make_clip_vision(config: Mapping[str, Any]) -> comfy.clip_vision.ClipVisionModel:
    """CLIP_VISION of a layout, without weights yet."""
    with tempfile.TemporaryDirectory() as folder:  # older versions of ComfyUI read the configuration from a file only
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(dict(config)), encoding="utf-8")
        return comfy.clip_vision.ClipVisionModel(str(path))


def load_siglip(path: Path) -> comfy.clip_vision.ClipVisionModel:
    """SigLIP's vision tower as CLIP_VISION, under ComfyUI's memory management. ComfyUI's own loader does not know it.

    Raises:
        AdapterError: the file is damaged, or holds something else.
    """
    return make_siglip(siglip.read(path))


def make_siglip(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any] = siglip.CONFIG
) -> comfy.clip_vision.ClipVisionModel:
    """CLIP_VISION around the tensors of a SigLIP tower, in their own precision.

    ComfyUI keeps vision towers in float16, which takes hidden states some 0.002 off those of a file in float32, and gives their
    norms CLIP's epsilon, 1e-5. A face is looked at once, so neither saves anything worth that.
    """
    made = make_clip_vision(config)
    made.dtype = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors.values()))
    made.model.to(made.dtype)
    made.load_sd(dict(tensors))
    for module in made.model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = siglip.LAYER_NORM_EPS
    return made


class _Encoder:
    """CLIP_VISION without its own preprocessing: normalized pixels [N, 3, S, S] -> hidden states.

    Args:
        clip_vision: what is connected.

    Raises:
        HostError: there is no vision model in it.
    """

    def __init__(self, clip_vision: Any, wanted: str) -> None:
        if not hasattr(clip_vision, "patcher") or not hasattr(clip_vision, "model"):
            raise HostError(f"The CLIP_VISION input holds no vision model. Connect {wanted}.", code="no-vision-model")
        self.clip_vision = clip_vision
        self.image_size = int(getattr(clip_vision, "image_size", 224))

    def _run(self, pixels: Tensor, **options: Any) -> Any:
        model_management.load_model_gpu(self.clip_vision.patcher)
        with torch.no_grad():
            return self.clip_vision.model(pixel_values=pixels.float().to(self.clip_vision.load_device), **options)


class ClipVisionEncoder(_Encoder):
    """CLIP: the hidden states before the last layer.

    Goes around CLIP_VISION's own preprocessing, since the unconditional half needs a *normalized* picture of zeros.

    Args:
        clip_vision: from Load CLIP Vision.

    Raises:
        HostError: there is no vision model in it, or SigLIP.
    """

    def __init__(self, clip_vision: Any) -> None:
        super().__init__(clip_vision, "Load CLIP Vision (CLIP ViT-H/14)")
        if _is_siglip(clip_vision):
            raise HostError(
                "A SigLIP tower is connected to clip_vision. Connect it to siglip_vision, and Load CLIP Vision (CLIP ViT-H/14) to "
                "clip_vision, where a method reads it.",
                code="siglip-for-clip",
            )

    def __call__(self, pixels: Tensor) -> Tensor:
        """Hidden states [N, T, C] float32 on the CPU."""
        return self._run(pixels, intermediate_output=-2)[1].float().cpu()


class SiglipEncoder(_Encoder):
    """SigLIP: the last hidden states, after the last norm.

    Args:
        clip_vision: from Load SigLIP Vision.

    Raises:
        HostError: there is no vision model in it, or another one than WithAnyone's.
    """

    def __init__(self, clip_vision: Any) -> None:
        super().__init__(clip_vision, "Load SigLIP Vision")
        if not _is_siglip(clip_vision):
            raise HostError(
                "siglip_vision holds no SigLIP tower but another image encoder, such as CLIP's. Connect Load SigLIP Vision there, "
                "and CLIP ViT-H/14 to clip_vision.",
                code="not-siglip-vision",
            )
        tokens, width = clip_vision.model.vision_model.embeddings.position_embedding.weight.shape
        wanted = (siglip.CONFIG["image_size"] // siglip.CONFIG["patch_size"]) ** 2, siglip.CONFIG["hidden_size"]
        if (tokens, width, self.image_size) != (*wanted, siglip.CONFIG["image_size"]):
            raise HostError(
                f"siglip_vision holds SigLIP of another size: {tokens} tokens, {width} wide, pictures of {self.image_size} px; "
                f"WithAnyone reads {wanted[0]} tokens, {wanted[1]} wide, of 256 px. Connect Load SigLIP Vision with "
                "siglip-base-patch16-256-i18n.",
                code="siglip-vision-of-another-size",
            )

    def __call__(self, pixels: Tensor) -> Tensor:
        """Hidden states [N, 256, 768] float32 on the CPU."""
        return self._run(pixels)[0].float().cpu()


def _is_siglip(clip_vision: Any) -> bool:
    """Whether a vision model is of SigLIP's family: what ComfyUI norms as a whole, since there is no class token."""
    return bool(getattr(getattr(clip_vision.model, "vision_model", None), "output_layernorm", False))
