"""The miniature inside ComfyUI: its weights in ComfyUI's own classes, under ComfyUI's memory management.

Neither diffusers nor a download: what the stock checkpoint loader does for SDXL is done here for SDXL's little sister.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar

import comfy.clip_vision
import comfy.latent_formats
import comfy.model_base
import comfy.model_management as model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import torch
from torch import Tensor

from ...dhumandiff.errors import AdapterError, HostError
from ...dhumandiff.miniature.autoencoder import LATENTS, Autoencoder
from ...dhumandiff.miniature.base import TEXT_HEADS, TEXT_WIDTHS, UNET, VISION, whole_vocabulary
from ...dhumandiff.miniature.design import DESIGN
from ...dhumandiff.miniature.faces import MiniFaces, mini_faces
from ...dhumandiff.miniature.weights import FOLDER, load_part
from ...dhumandiff.tokenizer import END, START
from .adapter import load_adapter
from .memory import managed
from .vision import make_clip_vision

log = logging.getLogger(__name__)

HEAD_CHANNELS = UNET["block_out_channels"][0] // UNET["attention_head_dim"][0]


# --- MODEL ------------------------------------------------------------------------------------------------------------


class _LevelWidth:
    """Channels of a level, where ComfyUI takes a whole number and multiplies it with the first level's: 64 x 1.5 is none."""

    def __init__(self, channels: int) -> None:
        self.channels = channels

    def __mul__(self, first: int) -> int:
        return self.channels

    __rmul__ = __mul__


class _MiniSDXL(comfy.model_base.SDXL):
    """SDXL with narrower embeddings of the picture's size."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.embedder = comfy.model_base.Timestep(UNET["addition_time_embed_dim"])

    def extra_conds(self, **given: Any) -> dict[str, Any]:
        if (noise := given.get("noise")) is not None:
            _note_size(8 * noise.shape[-1], 8 * noise.shape[-2])
        return super().extra_conds(**given)


@cache
def _note_size(width: int, height: int) -> None:
    """Say once of a size that the miniature knows no faces of it: an older workflow has that of an older miniature."""
    right_width, right_height = DESIGN.size
    if not 0.5 < width * height / (right_width * right_height) < 2:
        log.warning(
            "The miniature was trained on pictures of %d x %d px. At %d x %d px it loses faces: change the size of the empty latent.",
            *(right_width, right_height, width, height),
        )


class _MiniLatents(comfy.latent_formats.SDXL):
    """SDXL's scale; other channels, which have no colors for previews."""

    latent_channels = LATENTS

    def __init__(self) -> None:
        super().__init__()
        self.latent_rgb_factors = self.latent_rgb_factors_bias = self.taesd_decoder_name = None


class _MiniConfig(comfy.supported_models.SDXL):
    """Noise schedule and prompts are SDXL's; heads are narrower, and latents have more channels."""

    latent_format = _MiniLatents
    unet_extra_config: ClassVar[dict[str, int]] = {"num_heads": -1, "num_head_channels": HEAD_CHANNELS}

    def get_model(self, state_dict: dict[str, Tensor], prefix: str = "", device: Any = None) -> _MiniSDXL:
        predicts = comfy.model_base.ModelType.V_PREDICTION if DESIGN.prediction == "v_prediction" else None
        return _MiniSDXL(self, model_type=predicts or self.model_type(state_dict, prefix), device=device)


def _unet_config() -> dict[str, Any]:
    """`mini.base.UNET` in ComfyUI's words. Depths are listed per layer, those of the way down and up apart."""
    channels, layers = UNET["block_out_channels"], UNET["layers_per_block"]
    down, up = (
        [depth * ("CrossAttn" in kind) for depth, kind in zip(UNET["transformer_layers_per_block"], kinds, strict=True)]
        for kinds in (UNET["down_block_types"], reversed(UNET["up_block_types"]))
    )
    return {
        "image_size": 32,
        "in_channels": UNET["in_channels"],
        "out_channels": UNET["out_channels"],
        "model_channels": channels[0],
        "channel_mult": [_LevelWidth(width) for width in channels],
        "num_res_blocks": list(layers),
        "num_classes": "sequential",
        "adm_in_channels": UNET["projection_class_embeddings_input_dim"],
        "context_dim": UNET["cross_attention_dim"],
        "use_spatial_transformer": True,
        "use_linear_in_transformer": UNET["use_linear_projection"],
        "transformer_depth": [depth for depth, count in zip(down, layers, strict=True) for _ in range(count)],
        "transformer_depth_middle": down[-1],
        "transformer_depth_output": [depth for depth, count in zip(up, layers, strict=True) for _ in range(count + 1)],
        "legacy": False,
        "use_checkpoint": False,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
    }


def _names(config: dict[str, Any]) -> dict[str, str]:
    """diffusers' names of the UNet's tensors -> ComfyUI's, whose own list counts on equally many layers in all levels."""
    layers = {"down": config["num_res_blocks"], "up": config["num_res_blocks"][::-1]}

    def right(diffusers: str, ours: str) -> str:
        found = re.match(r"(down|up)_blocks\.(\d+)\.", diffusers)
        if found is None:
            return ours
        block, number, rest = ours.split(".", 2)
        level = int(found[2])
        moved = sum(layers[found[1]][:level]) - level * layers[found[1]][level]
        return f"{block}.{int(number) + moved}.{rest}"

    return {name: right(name, ours) for name, ours in comfy.utils.unet_to_diffusers(config).items()}


def mini_model() -> comfy.model_patcher.ModelPatcher:
    """MODEL: the base that was trained on drawn pairs."""
    device = model_management.get_torch_device()
    config = _MiniConfig(_unet_config())
    names = _names(config.unet_config)
    with _shipped("unet"):
        weights = {names[name]: tensor for name, tensor in load_part("unet").items()}
    parameters = sum(tensor.numel() for tensor in weights.values())
    dtype = model_management.unet_dtype(model_params=parameters, supported_dtypes=config.supported_inference_dtypes)
    config.set_inference_dtype(
        dtype, model_management.unet_manual_cast(dtype, device, config.supported_inference_dtypes)
    )
    model = config.get_model(weights, device=model_management.unet_inital_load_device(parameters, dtype))
    with _shipped("unet"):
        model.diffusion_model.load_state_dict(weights)
    return managed(model)


# --- CLIP -------------------------------------------------------------------------------------------------------------


def _text_encoder(width: int, heads: int, activation: str, **options: Any) -> comfy.sd1_clip.SDClipModel:
    config = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_attention_heads": heads,
        "num_hidden_layers": 3,
        "hidden_act": activation,
        "max_position_embeddings": 77,
        "eos_token_id": END,
    }
    return comfy.sd1_clip.SDClipModel(
        textmodel_json_config=config, layer="hidden", layer_idx=-2, layer_norm_hidden_state=False, **options
    )


class _MiniTextModel(comfy.sdxl_clip.SDXLClipModel):
    """SDXL's text model with the miniature's encoders."""

    def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict[str, Any] | None = None) -> None:
        torch.nn.Module.__init__(self)  # SDXL's own would build its large encoders
        options = {"device": device, "dtype": dtype, "model_options": model_options or {}}
        low, big = TEXT_WIDTHS
        self.clip_l = _text_encoder(low, TEXT_HEADS[0], "quick_gelu", **options)
        self.clip_g = _text_encoder(
            big, TEXT_HEADS[1], "gelu", special_tokens={"start": START, "end": END, "pad": 0}, **options
        )
        self.dtypes = {dtype}


def mini_clip() -> comfy.sd.CLIP:
    """CLIP: two small text encoders behind SDXL's own tokenizers."""
    weights: dict[str, Tensor] = {"clip_l.transformer.text_projection.weight": torch.eye(TEXT_WIDTHS[0])}  # unused
    for encoder, part in (("clip_l", "text_encoder"), ("clip_g", "text_encoder_2")):
        with _shipped(part):
            tensors = whole_vocabulary(load_part(part))
        weights |= {f"{encoder}.transformer.{name}": tensor for name, tensor in tensors.items()}
    target = comfy.supported_models_base.ClipTarget(comfy.sdxl_clip.SDXLTokenizer, _MiniTextModel)
    made = comfy.sd.CLIP(target, parameters=sum(tensor.numel() for tensor in weights.values()))
    with _shipped("text_encoder", "text_encoder_2"):
        missing, unexpected = made.load_sd(weights, full_model=True)
        _complete([name for name in missing if "logit_scale" not in name], unexpected)
    return made


# --- VAE --------------------------------------------------------------------------------------------------------------


def mini_vae() -> comfy.sd.VAE:
    """VAE: 8 pixels a latent pixel, as SDXL's, with channels and an architecture of its own."""
    with _shipped("vae"):
        model = Autoencoder()
        model.load_state_dict(load_part("vae"))
    # ComfyUI recognizes autoencoders by their weights; it gets the smallest one that it knows, which then makes room.
    made = comfy.sd.VAE(sd=_placeholder(), config={"params": _PLACEHOLDER})
    model = model.requires_grad_(False).eval().to(made.vae_dtype)
    made.first_stage_model, made.latent_channels = _Latents(model), LATENTS
    made.patcher = managed(made.first_stage_model, made.device, model_management.vae_offload_device())
    return made


class _Latents(torch.nn.Module):
    """The autoencoder in ComfyUI's words: pixels <-> latents."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels -1..1 [B, 3, H, W] -> latents [B, C, H / 8, W / 8]."""
        return self.model.encode(pixels).latent_dist.mean

    def decode(self, latents: Tensor, **_: Any) -> Tensor:
        """Latents -> pixels -1..1."""
        return self.model.decode(latents).sample


_PLACEHOLDER = {
    "embed_dim": 4,
    "ddconfig": {
        "double_z": True,
        "z_channels": 4,
        "resolution": 64,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1, 1, 1, 1],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "dropout": 0.0,
    },
}


def _placeholder() -> dict[str, Tensor]:
    from comfy.ldm.models.autoencoder import AutoencoderKL

    return AutoencoderKL(**_PLACEHOLDER).state_dict()


# --- what looks at references, and the adapter ------------------------------------------------------------------------


def mini_clip_vision() -> comfy.clip_vision.ClipVisionModel:
    """CLIP_VISION: pictures of 96 px, hidden states [N, 65, 128]."""
    made = make_clip_vision({**VISION, "model_type": "clip_vision_model", "num_channels": 3})
    with _shipped("vision"):
        _complete(*made.load_sd(load_part("vision")))
    return made


def mini_face_analysis() -> MiniFaces:
    """FACE_ANALYSIS: finds drawn faces and tells them apart; what `Encode Reference Face` asks an analyzer for."""
    with _shipped("detector", "recogniser"):
        return mini_faces()


def mini_adapter_patcher() -> comfy.model_patcher.ModelPatcher:
    """DHD_ADAPTER: the adapter that was trained for all of the above, as Load DHumanDiff Adapter hands it out."""
    with _shipped("adapter"):
        return load_adapter(FOLDER / "adapter.safetensors")


# --- files that do not fit --------------------------------------------------------------------------------------------


@contextmanager
def _shipped(*parts: str) -> Iterator[None]:
    """Errors of files that can be read but hold something else, told as those of unreadable ones are (`load_part`)."""
    try:
        yield
    except (AdapterError, IndexError, KeyError, RuntimeError) as error:
        files = " or ".join(str(FOLDER / f"{part}.safetensors") for part in parts)
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise HostError(
            f"The miniature's weights {files} do not fit this version of the project ({reason}). They ship with it: "
            "install it again.",
            code="miniature-weights-unusable",
        ) from error


def _complete(missing: Any, unexpected: Any) -> None:
    """Refuse weights that ComfyUI would load in part, with no more than a line in the log."""
    missing, unexpected = (sorted(n for n in names if "position_ids" not in n) for names in (missing, unexpected))
    if missing or unexpected:
        raise KeyError(f"missing: {missing[:3] or 'nothing'}; not known: {unexpected[:3] or 'nothing'}")
