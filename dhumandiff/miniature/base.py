"""The tiny base: SDXL's parts and names at small widths, for pictures of the drawn world; design.py says how large they are.

    pipeline = mini_pipeline()            # a StableDiffusionXLPipeline, what hosts/diffusers/loading.py hands out as "mini"

Block types, layer order, the two text encoders, pooled and size embeddings, and noise schedule are SDXL's.
Latents are 8 px wide, too; the autoencoder that makes them is the miniature's own. Trained by `python -m training mini` on the world of `dhumandiff.miniature.world`, without identity.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..hosts.diffusers.parts import sdxl_scheduler, sdxl_tokenizer, untrained_text_encoders
from ..hosts.diffusers.vision import ClipVision
from ..optional import require
from ..tokenizer import VOCABULARY
from .autoencoder import Autoencoder
from .design import DESIGN, Design
from .weights import FOLDER, load_part

__all__ = [
    "SIZE",
    "build_text_encoders",
    "build_unet",
    "build_vision",
    "compact_vocabulary",
    "mini_pipeline",
    "mini_scheduler",
    "mini_text_encoders",
    "mini_unet",
    "mini_vae",
    "mini_vision",
    "unet_arguments",
    "whole_vocabulary",
]

SIZE = DESIGN.size
"""Width and height of the pictures it was trained on, px."""

TEXT_WIDTHS = (64, 96)
TEXT_HEADS = (4, 6)
CONTEXT = sum(TEXT_WIDTHS)
VISION_WIDTH = 128

UNET_OF_ALL: dict[str, Any] = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "use_linear_projection": True,
    "cross_attention_dim": CONTEXT,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 32,
    "projection_class_embeddings_input_dim": TEXT_WIDTHS[1] + 6 * 32,
    "norm_num_groups": 32,
}
"""What all designs have in common."""


def unet_arguments(design: Design) -> dict[str, Any]:
    """Of UNet2DConditionModel."""
    return {"in_channels": design.latents, "out_channels": design.latents, **UNET_OF_ALL, **design.unet}


UNET = unet_arguments(DESIGN)

VISION: dict[str, Any] = {
    "hidden_size": VISION_WIDTH,
    "intermediate_size": 3 * VISION_WIDTH,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "image_size": 96,
    "patch_size": 12,
    "projection_dim": VISION_WIDTH,
    "hidden_act": "gelu",
}


def build_unet(design: Design = DESIGN) -> nn.Module:
    """The UNet2DConditionModel, untrained: 13 or 14 cross-attention layers, context 160 wide."""
    return require("diffusers").UNet2DConditionModel(**unet_arguments(design))


def mini_scheduler(design: Design = DESIGN) -> Any:
    """Euler with SDXL's noise schedule, for what this design's UNet predicts."""
    return require("diffusers").EulerDiscreteScheduler.from_config(
        sdxl_scheduler().config, prediction_type=design.prediction
    )


def build_text_encoders() -> tuple[nn.Module, nn.Module]:
    """(CLIP-L of width 64, CLIP-G of width 96 with a projection), untrained."""
    return untrained_text_encoders(TEXT_WIDTHS, TEXT_HEADS)


def build_vision() -> nn.Module:
    """The CLIP image encoder, untrained: 64 patches of 12 px and a class token, 128 wide."""
    transformers = require("transformers")
    return transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**VISION))


def mini_text_encoders(folder: Path = FOLDER) -> tuple[nn.Module, nn.Module]:
    """The trained text encoders, CLIP-L and CLIP-G; folder: of their weights."""
    first, second = build_text_encoders()
    for encoder, part in ((first, "text_encoder"), (second, "text_encoder_2")):
        _fill(encoder, whole_vocabulary(load_part(part, folder)))
    return first, second


def mini_unet(folder: Path = FOLDER) -> nn.Module:
    """The trained UNet; folder: of its weights."""
    return _fill(build_unet(), load_part("unet", folder))


def mini_pipeline(folder: Path = FOLDER) -> Any:
    """The trained base as a StableDiffusionXLPipeline, float32; folder: of text encoders and UNet."""
    first, second = mini_text_encoders(folder)
    return require("diffusers").StableDiffusionXLPipeline(
        vae=mini_vae(),
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=sdxl_tokenizer(),
        tokenizer_2=sdxl_tokenizer(second=True),
        unet=mini_unet(folder),
        scheduler=mini_scheduler(),
        add_watermarker=False,
    )


def mini_vae() -> Autoencoder:
    """The trained autoencoder."""
    vae = Autoencoder()
    _fill(vae, load_part("vae"))
    return vae


def mini_vision() -> ClipVision:
    """The trained image encoder as `protocols.ImageEncoder`: 96 px, hidden states [N, 65, 128]."""
    return ClipVision(_fill(build_vision(), load_part("vision")))


def _fill(module: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    """Put weights into a module, frozen. Versions of transformers disagree about the prefix "text_model."."""
    wanted = module.state_dict()
    for name in [name for name in tensors if name not in wanted]:
        other = name.removeprefix("text_model.") if name.startswith("text_model.") else f"text_model.{name}"
        if other in wanted:
            tensors[other] = tensors.pop(name)
    kept = {name: value for name, value in wanted.items() if name.endswith("position_ids")}
    module.load_state_dict({**kept, **tensors})
    return module.requires_grad_(False).eval()


TABLE = "text_model.embeddings.token_embedding.weight"


def whole_vocabulary(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Token tables of all of CLIP's words from the rows of the words that the world uses; row 0 stands for the others."""
    ids, rows = tensors.pop("token_ids"), tensors[TABLE]
    table = rows[:1].repeat(VOCABULARY, 1)
    table[ids.long()] = rows[1:]
    return {**tensors, TABLE: table}


def compact_vocabulary(tensors: dict[str, Tensor], ids: Tensor, rows: Tensor) -> dict[str, Tensor]:
    """A text encoder's tensors as they are kept: rows [1 + words, C] of the words `ids` and, first, of all others."""
    named = {name if name.startswith("text_") else f"text_model.{name}": value for name, value in tensors.items()}
    return {**named, TABLE: rows, "token_ids": ids.to(torch.int32)}
