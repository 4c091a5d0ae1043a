"""The image encoders with transformers: CLIP's, and SigLIP's for WithAnyone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import catalogue
from ...errors import HostError, short_error
from ...formats import clip_vision, siglip
from ...io import expand_user
from ...optional import require
from .single_file import fill

__all__ = ["IMAGE_ENCODER", "ClipVision", "SiglipVision", "load_file"]

IMAGE_ENCODER = f"{catalogue.IMAGE_ENCODER.repository}/{catalogue.IMAGE_ENCODER.inside}"
"""The CLIP ViT-H/14 that the released adapter was trained with, on Hugging Face."""


class ClipVision:
    """A CLIP vision model of transformers as `protocols.ImageEncoder`: pixels [N, 3, S, S] -> hidden_states[-2] [N, T, C]."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.image_size = model.config.image_size

    @classmethod
    def from_pretrained(
        cls, source: str | Path = IMAGE_ENCODER, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> ClipVision:
        """Load one file, a folder with config.json and model.safetensors, or `owner/name[/folder/inside]` on Hugging Face.

        One file is CLIP ViT-H/14 (or L/14) as ComfyUI has it in models/clip_vision, in transformers' or OpenCLIP's layout.

        Raises:
            HostError: transformers is missing, or there is no such model.
            AdapterError: the file is damaged, or holds something else.
        """
        transformers = require("transformers")
        if expand_user(source).is_file():
            return cls(load_file(expand_user(source), dtype).to(device))
        if Path(source).is_dir():
            where, inside = str(source), ""
        else:
            owner, name, inside = [*str(source).split("/", 2), "", ""][:3]
            where = f"{owner}/{name}"
        try:
            model = transformers.CLIPVisionModelWithProjection.from_pretrained(
                where, subfolder=inside, use_safetensors=True, torch_dtype=dtype
            )
        except Exception as error:  # hub, network, disk and safetensors have a family of errors each
            raise HostError(
                f"The image encoder {source} cannot be loaded: {short_error(error)}. Give CLIP ViT-H/14 as one .safetensors, or a "
                f"folder with config.json and model.safetensors, for instance from {IMAGE_ENCODER} on Hugging Face.",
                code="image-encoder-not-loaded",
            ) from error
        return cls(model.requires_grad_(False).eval().to(device))

    def __call__(self, pixels: Tensor) -> Tensor:
        weight = next(self.model.parameters())
        with torch.no_grad():
            out = self.model(pixels.to(weight), output_hidden_states=True)
        return out.hidden_states[-2].float().cpu()


def load_file(path: Path, dtype: torch.dtype) -> Any:
    """A CLIPVisionModelWithProjection from one file. Raises as `formats.clip_vision.read` does."""
    transformers = require("transformers")
    config, tensors = clip_vision.read(path)
    with torch.device("meta"):
        model = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**config))
    return fill(model, tensors, dtype, f"The image encoder {path}")


class SiglipVision:
    """SigLIP's vision tower of transformers as `protocols.ImageEncoder`: pixels [N, 3, 256, 256] -> last hidden states [N, 256, 768].

    encode_reference(photos, None, faces, siglip=SiglipVision.from_file("siglip/model.safetensors"))
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.image_size = model.config.image_size

    @classmethod
    def from_file(
        cls, path: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> SiglipVision:
        """Load model.safetensors of google/siglip-base-patch16-256-i18n.

        Raises:
            HostError: transformers is missing.
            AdapterError: the file is damaged, or holds something else.
        """
        transformers = require("transformers")
        tensors = siglip.read(Path(path))
        sizes = {**siglip.CONFIG, "layer_norm_eps": siglip.LAYER_NORM_EPS, "vision_use_head": False}
        model = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**sizes))
        # Versions of transformers disagree about the prefix, and old ones make the pooling head all the same.
        bare = {name.removeprefix("vision_model."): tensor for name, tensor in tensors.items()}
        wanted = {name: name.removeprefix("vision_model.") for name in model.state_dict()}
        found = {name: bare[inside] for name, inside in wanted.items() if not inside.startswith("head.")}
        model.load_state_dict(found, strict=False, assign=True)
        return cls(model.requires_grad_(False).eval().to(device=device, dtype=dtype))

    def __call__(self, pixels: Tensor) -> Tensor:
        weight = next(self.model.parameters())
        with torch.no_grad():
            return self.model(pixels.to(weight)).last_hidden_state.float().cpu()
