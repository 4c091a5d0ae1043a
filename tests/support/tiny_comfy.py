"""The tiny base (dhumandiff.tiny) inside ComfyUI: the same weights, so that both hosts can be compared."""

import json
import tempfile
from pathlib import Path

import comfy.clip_vision
import comfy.model_base
import comfy.model_management as mm
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import dhd_pack.dhumandiff.testing as tiny
import torch

DEPTHS = {
    "tiny": {
        "transformer_depth": [0, 0, 1, 1, 2, 2],
        "transformer_depth_middle": 2,
        "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
    },
    "sdxl": {
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_middle": 10,
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    },
}


def unet_config(depth="tiny", dtype=torch.float32):
    return {
        "use_checkpoint": False,
        "image_size": 32,
        "out_channels": 4,
        "use_spatial_transformer": True,
        "legacy": False,
        "num_classes": "sequential",
        "adm_in_channels": 128 + 6 * 256,
        "dtype": dtype,
        "in_channels": 4,
        "model_channels": 32,
        "num_res_blocks": [2, 2, 2],
        "channel_mult": [1, 2, 4],
        "use_linear_in_transformer": True,
        "context_dim": 192,
        "num_head_channels": 64,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
        **DEPTHS[depth],
    }


def comfy_unet_weights(unet, depth="tiny"):
    """A diffusers UNet's weights under ComfyUI's names."""
    names = comfy.utils.unet_to_diffusers(unet_config(depth))
    return {names[name]: tensor.clone() for name, tensor in unet.state_dict().items()}


def model_patcher(unet=None, depth="tiny", dtype=torch.float32):
    """MODEL with the tiny UNet's weights."""
    unet = tiny.tiny_unet(depth=depth) if unet is None else unet
    config = comfy.supported_models.SDXL(unet_config(depth, dtype))
    config.set_inference_dtype(dtype, None)
    model = comfy.model_base.SDXL(config, device=mm.unet_offload_device())
    model.diffusion_model.load_state_dict({k: v.to(dtype) for k, v in comfy_unet_weights(unet, depth).items()})
    return comfy.model_patcher.ModelPatcher(model, mm.get_torch_device(), mm.unet_offload_device())


def _tower(config, **options):
    return comfy.sd1_clip.SDClipModel(
        textmodel_json_config=config, layer="hidden", layer_idx=-2, layer_norm_hidden_state=False, **options
    )


class TinySDXLClipModel(comfy.sdxl_clip.SDXLClipModel):
    """SDXL's text model with the tiny towers."""

    def __init__(self, device="cpu", dtype=None, model_options=None):
        torch.nn.Module.__init__(self)
        options = {"device": device, "dtype": dtype, "model_options": model_options or {}}
        low, big = tiny.tiny_text_encoders()
        self.clip_l = _tower({**low.config.to_dict(), "bos_token_id": 49406}, **options)
        self.clip_g = _tower(
            {**big.config.to_dict(), "bos_token_id": 49406},
            special_tokens={"start": 49406, "end": 49407, "pad": 0},
            return_projected_pooled=True,
            **options,
        )
        self.dtypes = {dtype}

    def load_sd(self, sd):
        return self.load_state_dict(sd, strict=False)


def text_weights():
    """The tiny text encoders' weights under ComfyUI's names."""
    low, big = tiny.tiny_text_encoders()
    weights = {}
    for tower, encoder in (("clip_l", low), ("clip_g", big)):
        for name, tensor in encoder.state_dict().items():
            if not name.startswith("text_projection"):
                name = name if name.startswith("text_model.") else f"text_model.{name}"
            weights[f"{tower}.transformer.{name}"] = tensor.clone()
    weights.setdefault("clip_l.transformer.text_projection.weight", torch.eye(64))
    return weights


def clip(embedding_directory=None):
    """CLIP with the tiny text encoders' weights and SDXL's real tokenizers."""
    target = comfy.supported_models_base.ClipTarget(comfy.sdxl_clip.SDXLTokenizer, TinySDXLClipModel)
    options = {"dtype": torch.float32}  # ComfyUI's default is fp16, also on the CPU
    made = comfy.sd.CLIP(target, embedding_directory, parameters=1_000_000, model_options=options)
    missing, unexpected = made.cond_stage_model.load_state_dict(text_weights(), strict=False)
    assert not unexpected, unexpected
    assert all("logit_scale" in name or "position_ids" in name for name in missing), missing
    return made


def adapter_patcher(depth="tiny", adapter=None):
    """DHD_ADAPTER as Load DHumanDiff Adapter makes it."""
    from dhd_pack.dhumandiff.methods.paired.adapter import Adapter

    if adapter is None:
        plain = tiny.tiny_adapter(depth=depth)
        adapter = Adapter.from_tensors(plain.state_dict(), plain.info.metadata, operations=comfy.ops.manual_cast)
        adapter.compute_dtype = torch.float32
    return comfy.model_patcher.ModelPatcher(adapter, mm.get_torch_device(), mm.unet_offload_device())


def reference(seed=1, photos=1, like=None):
    """A random person for the tiny adapter."""
    from dhd_pack.dhumandiff.references.reference import FaceReference

    random = torch.Generator().manual_seed(seed)
    return FaceReference(
        identity=torch.nn.functional.normalize(torch.randn(photos, 512, generator=random), dim=-1),
        clip_hidden=torch.randn(photos, 50, 64, generator=random),
        clip_hidden_zero=torch.randn(1, 50, 64, generator=torch.Generator().manual_seed(0)),
        name=f"person {seed}",
    )


def conditioning(seed=0, tokens=77):
    """Random CONDITIONING of SDXL's form."""
    random = torch.Generator().manual_seed(seed)
    context, pooled = torch.randn(1, tokens, 192, generator=random), torch.randn(1, 128, generator=random)
    sizes = {"width": 512, "height": 512, "crop_w": 0, "crop_h": 0, "target_width": 512, "target_height": 512}
    return [[context, {"pooled_output": pooled, **sizes}]]


# --- files that the stock loaders read (tiny_nodes teaches them how) ------------------------------------------------

VAE_PARAMS = {
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
    "embed_dim": 4,
}


def vae_weights(params=None):
    """Random weights of a tiny autoencoder under ComfyUI's names."""
    from comfy.ldm.models.autoencoder import AutoencoderKL

    random = torch.Generator().manual_seed(9)
    weights = {}
    for name, tensor in AutoencoderKL(**params or VAE_PARAMS).state_dict().items():
        if tensor.ndim > 1:
            weights[name] = torch.randn(tensor.shape, generator=random) / tensor[0].numel() ** 0.5
        else:
            weights[name] = torch.ones_like(tensor) if name.endswith("weight") else torch.zeros_like(tensor)
    return weights


def clip_vision(weights=None):
    """CLIP_VISION with the tiny vision tower's weights."""
    tower = tiny.tiny_vision().model
    config = tower.config.to_dict()
    with tempfile.TemporaryDirectory() as folder:  # older versions of ComfyUI read it from a file only
        path = Path(folder) / "config.json"
        path.write_text(json.dumps({**config, "model_type": "clip_vision_model", "num_channels": 3}, default=str))
        vision = comfy.clip_vision.ClipVisionModel(str(path))
    missing, unexpected = vision.load_sd(weights or {k: v.clone() for k, v in tower.state_dict().items()})
    assert not [name for name in missing if "position_ids" not in name], missing
    assert not [name for name in unexpected if "position_ids" not in name], unexpected
    return vision


def write_models(models):
    """Fill a ComfyUI models folder with the tiny base."""
    import safetensors.torch

    parts = {
        "model.diffusion_model.": comfy_unet_weights(tiny.tiny_unet()),
        "conditioner.tiny.": text_weights(),
        "first_stage_model.": vae_weights(),
    }
    checkpoint = {prefix + name: t.contiguous() for prefix, part in parts.items() for name, t in part.items()}
    for folder in ("checkpoints", "clip_vision", "dhumandiff", "insightface/models"):
        (models / folder).mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(checkpoint, models / "checkpoints" / "tiny_sdxl.safetensors")
    tower = {name: tensor.contiguous() for name, tensor in tiny.tiny_vision().model.state_dict().items()}
    safetensors.torch.save_file(tower, models / "clip_vision" / "tiny_vision.safetensors")
    tiny.tiny_adapter().save_pretrained(models / "dhumandiff" / "tiny_adapter.safetensors")
