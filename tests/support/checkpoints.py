"""One-file checkpoints in the original layout, made from models in diffusers' and transformers' layout; and full-size ones.

Written from what such files look like, not from any converter: loading one and comparing every number checks the loader.

    save_file(checkpoint(unet, vae, text_encoder, text_encoder_2), path)
"""

import re

import torch

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTER = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VISION_OUTER = {
    "vision_model.embeddings.class_embedding": "class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "positional_embedding",
    "vision_model.pre_layrnorm.weight": "ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "ln_pre.bias",
    "vision_model.post_layernorm.weight": "ln_post.weight",
    "vision_model.post_layernorm.bias": "ln_post.bias",
}
TEXT_OUTER = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def checkpoint(unet, vae=None, first=None, second=None, family="sdxl"):
    """All tensors of a checkpoint, name -> tensor."""
    tensors = {f"model.diffusion_model.{name}": value for name, value in unet_tensors(unet).items()}
    if vae is not None:
        tensors |= {f"first_stage_model.{name}": value for name, value in vae_tensors(vae).items()}
    if first is not None:
        place = "conditioner.embedders.0.transformer" if family == "sdxl" else "cond_stage_model.transformer"
        tensors |= {f"{place}.text_model.{name}": value for name, value in bare(first).items()}
    if second is not None:
        tensors |= {f"conditioner.embedders.1.model.{name}": value for name, value in open_clip_text(second).items()}
    return {name: value.contiguous() for name, value in tensors.items()}


def unet_tensors(unet):
    """A UNet2DConditionModel's under the original names."""
    per = unet.config.layers_per_block + 1
    has_attention = {name.split(".attentions")[0] for name in unet.state_dict() if ".attentions." in name}
    return {unet_name(name, per, has_attention): value for name, value in unet.state_dict().items()}


def unet_name(name, per, has_attention):
    stem, kind = name.rsplit(".", 1)
    if stem in OUTER:
        return f"{OUTER[stem]}.{kind}"
    if match := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", name):
        place = {("resnets", "0"): 0, ("attentions", "0"): 1, ("resnets", "1"): 2}[match[1], match[2]]
        return f"middle_block.{place}.{inner(match[1], match[3])}"
    match = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name)
    way, block, part, number, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    if part == "downsamplers":
        return f"input_blocks.{(block + 1) * per}.0.op.{kind}"
    if part == "upsamplers":
        last = 2 if f"up_blocks.{block}" in has_attention else 1
        return f"output_blocks.{block * per + per - 1}.{last}.conv.{kind}"
    place = f"input_blocks.{1 + block * per + number}" if way == "down" else f"output_blocks.{block * per + number}"
    return f"{place}.{int(part == 'attentions')}.{inner(part, rest)}"


def inner(part, rest):
    if part != "resnets":
        return rest
    stem, kind = rest.rsplit(".", 1)
    return f"{RESNET[stem]}.{kind}"


def vae_tensors(vae):
    """An AutoencoderKL's under the original names."""
    blocks = len(vae.config.block_out_channels)
    found = {}
    for name, value in vae.state_dict().items():
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("conv_norm_out", "norm_out")
        name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
        name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{blocks - 1 - int(m[1])}.block", name)
        name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", name)
        name = name.replace("conv_shortcut", "nin_shortcut")
        if "attn_1" in name:
            for new, old in (
                ("group_norm", "norm"),
                ("to_q", "q"),
                ("to_k", "k"),
                ("to_v", "v"),
                ("to_out.0", "proj_out"),
            ):
                name = name.replace(f"attn_1.{new}.", f"attn_1.{old}.")
            value = value[..., None, None] if value.ndim == 2 else value
        found[name] = value
    return found


def bare(model):
    """transformers' names without the prefix that its versions disagree about."""
    return {name.removeprefix("text_model."): value for name, value in model.state_dict().items()}


def open_clip_text(model):
    """A CLIPTextModelWithProjection in OpenCLIP's layout."""
    return {
        **open_clip_tower(bare(model), TEXT_OUTER, ("text_projection.weight", "text_projection")),
        "logit_scale": torch.ones(()),
    }


def open_clip_vision(model):
    """A CLIPVisionModelWithProjection in OpenCLIP's layout, under `visual.`."""
    tower = open_clip_tower(model.state_dict(), VISION_OUTER, ("visual_projection.weight", "proj"), "vision_model.")
    return {f"visual.{name}": value.contiguous() for name, value in tower.items()}


def open_clip_tower(tensors, outer, projection, prefix=""):
    found, joined = {}, {}
    for name, value in tensors.items():
        match = re.fullmatch(rf"{prefix}encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if name in outer:
            found[outer[name]] = value
        elif name == projection[0]:
            found[projection[1]] = value.T
        elif match and match[2].endswith(("q_proj", "k_proj", "v_proj")):
            joined.setdefault((match[1], match[3]), {})[match[2][-6]] = value
        elif match:
            found[f"transformer.resblocks.{match[1]}.{LAYER[match[2]]}.{match[3]}"] = value
        else:
            raise AssertionError(name)
    for (layer, kind), parts in joined.items():
        found[f"transformer.resblocks.{layer}.attn.in_proj_{kind}"] = torch.cat([parts[one] for one in "qkv"])
    return found


def same_numbers(found, wanted, dtype=torch.float32):
    """See that two models hold the same numbers; the second one's as a file of that dtype holds them."""
    ours, theirs = found.state_dict(), wanted.state_dict()
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        assert torch.equal(ours[name].float(), value.to(dtype).float()), name
