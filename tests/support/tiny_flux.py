"""FLUX, tiny and of random weights, inside ComfyUI: FLUX.1's own layers under their own names, two heads of 128 wide.

model = model_patcher()                  # MODEL, 2 double and 3 single blocks
model = model_patcher(depth="flux")      # with FLUX.1's 19 and 38
write_models(base / "models")            # files for a server, read by UNETLoader, DualCLIPLoader and VAELoader
"""

import comfy.ldm.flux.model
import comfy.model_base
import comfy.model_management as mm
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.text_encoders.flux
import comfy.text_encoders.sd3_clip
import torch

from support import tiny_comfy

WIDTH, HEADS, TEXT, POOLED = 256, 2, 64, 64
DEPTHS = {"tiny": (2, 3), "flux": (19, 38)}
"""Double and single blocks."""


def unet_config(depth="tiny", guidance=True):
    """What ComfyUI detects in a file of FLUX.1's layout and this width."""
    double, single = DEPTHS[depth]
    return {
        "image_model": "flux",
        "in_channels": 16,
        "out_channels": 16,
        "patch_size": 2,
        "vec_in_dim": POOLED,
        "context_in_dim": TEXT,
        "hidden_size": WIDTH,
        "mlp_ratio": 4.0,
        "num_heads": HEADS,
        "depth": double,
        "depth_single_blocks": single,
        "axes_dim": [16, 56, 56],
        "theta": 10000,
        "qkv_bias": True,
        "guidance_embed": guidance,
        **_since_flux2(),
    }


def _since_flux2():
    """A setting that the class asks for since Flux.2."""
    fields = comfy.ldm.flux.model.FluxParams.__dataclass_fields__
    return {"txt_ids_dims": []} if "txt_ids_dims" in fields else {}


def model_patcher(depth="tiny", dtype=torch.float32, guidance=True, storage=None):
    """MODEL of random weights, computed in `dtype` and kept in `storage` (fp8, for instance), if given."""
    config = comfy.supported_models.Flux(unet_config(depth, guidance))
    config.set_inference_dtype(storage or dtype, dtype if storage else None)
    model = comfy.model_base.Flux(config, device=mm.unet_offload_device())
    weights = flux_weights(model.diffusion_model)
    model.diffusion_model.load_state_dict({name: tensor.to(storage or dtype) for name, tensor in weights.items()})
    return comfy.model_patcher.ModelPatcher(
        model.eval().requires_grad_(False), mm.get_torch_device(), mm.unet_offload_device()
    )


def flux_weights(module=None, depth="tiny", seed=3):
    """Random weights for a FLUX, under ComfyUI's names for it; large enough that every block tells."""
    if module is None:
        module = model_patcher(depth).model.diffusion_model
    return random_weights(module.state_dict(), seed, gain=1.5)


def random_weights(like, seed, gain=1.0):
    """Random tensors of the same names and shapes: matrices keep the size of what goes through, norms are about 1."""
    random = torch.Generator().manual_seed(seed)
    found = {}
    for name, tensor in like.items():
        values = torch.randn(tensor.shape, generator=random)
        if tensor.ndim > 1:
            found[name] = gain * values / tensor[0].numel() ** 0.5
        else:
            found[name] = 0.1 * values + (1.0 if "norm" in name and not name.endswith("bias") else 0.0)
    return found


def conditioning(seed=0, tokens=24, guidance=4.0, references=()):
    """Random CONDITIONING of FLUX's form; `references`: latents that Kontext looks at."""
    random = torch.Generator().manual_seed(seed)
    context, pooled = torch.randn(1, tokens, TEXT, generator=random), torch.randn(1, POOLED, generator=random)
    more = {"reference_latents": list(references)} if references else {}
    return [[context, {"pooled_output": pooled, "guidance": guidance, **more}]]


def picture(height=24, width=20, images=1, seed=5):
    """A noisy latent, [images, 16, height, width]."""
    return torch.randn(images, 16, height, width, generator=torch.Generator().manual_seed(seed))


# --- files that the stock loaders read (tiny_nodes teaches them the sizes) ------------------------------------------------

VAE_PARAMS = {
    "ddconfig": {**tiny_comfy.VAE_PARAMS["ddconfig"], "z_channels": 16},
    "embed_dim": 16,
}
T5 = {"d_model": TEXT, "d_ff": 128, "d_kv": 32, "num_heads": 2, "num_layers": 2}


class TinyT5(comfy.text_encoders.sd3_clip.T5XXLModel):
    """The T5 of FLUX with another size."""

    def __init__(self, *args, model_options=None, **options):
        super().__init__(*args, model_options={**(model_options or {}), "t5xxl_model_config": T5}, **options)


class TinyFluxClipModel(comfy.text_encoders.flux.FluxClipModel):
    """FLUX's text model with the tiny towers."""

    def __init__(self, device="cpu", dtype=None, model_options=None):
        torch.nn.Module.__init__(self)
        import dhd_pack.dhumandiff.testing as tiny

        options = {"device": device, "dtype": dtype, "model_options": model_options or {}}
        config = {**tiny.tiny_text_encoders()[0].config.to_dict(), "bos_token_id": 49406}
        self.clip_l = comfy.sd1_clip.SDClipModel(textmodel_json_config=config, return_projected_pooled=False, **options)
        self.t5xxl = TinyT5(**options)
        self.dtypes = {dtype}

    def load_sd(self, sd):
        tower = self.clip_l if any(name.startswith("text_model.") for name in sd) else self.t5xxl
        return tower.load_sd(sd)


def clip(clip_l=None, t5=None):
    """CLIP of both towers, with FLUX's real tokenizers."""
    target = comfy.supported_models_base.ClipTarget(comfy.text_encoders.flux.FluxTokenizer, TinyFluxClipModel)
    made = comfy.sd.CLIP(target, None, parameters=1_000_000, model_options={"dtype": torch.float32})
    for weights in (clip_l or clip_l_weights(), t5 or t5_weights()):
        made.cond_stage_model.load_sd(weights)
    return made


def clip_l_weights():
    """CLIP-L's file: the same tiny tower as the tiny SDXL's."""
    prefix = "clip_l.transformer."
    return {n.removeprefix(prefix): t for n, t in tiny_comfy.text_weights().items() if n.startswith(prefix)}


def t5_weights():
    """T5's file: the encoder of a tiny one."""
    return random_weights(TinyT5(dtype=torch.float32).transformer.state_dict(), seed=6)


def vae_weights():
    """FLUX's autoencoder, tiny: 16 channels."""
    return tiny_comfy.vae_weights(VAE_PARAMS)


FILES = {
    "diffusion_models": "tiny_flux.safetensors",
    "text_encoders": ("tiny_clip_l.safetensors", "tiny_t5xxl.safetensors"),
    "vae": "tiny_ae.safetensors",
}


def write_models(models, depth="tiny"):
    """Fill a ComfyUI models folder with a tiny FLUX, under `FILES`; QK norms are named as in the published files."""
    from safetensors.torch import save_file

    flux = {name.replace("_norm.weight", "_norm.scale"): t for name, t in flux_weights(depth=depth).items()}
    towers = dict(zip(FILES["text_encoders"], (clip_l_weights(), t5_weights()), strict=True))
    files = {
        "diffusion_models": {FILES["diffusion_models"]: flux},
        "text_encoders": towers,
        "vae": {FILES["vae"]: vae_weights()},
    }
    for folder, contents in files.items():
        (models / folder).mkdir(parents=True, exist_ok=True)
        for name, tensors in contents.items():
            save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, models / folder / name)
