"""A released folder of Parts2Whole with random weights: Stable Diffusion 1.5's layout with small widths, for tests.

folder = parts_folder(tmp_path / "Parts2Whole")          what the method needs, as it is released
unet = small_unet(seed=1)                                a UNet that draws
part = random_part("face", (8, 8))
"""

import torch
from safetensors.torch import save_file

from dhumandiff.formats.parts2whole import ABSENT, layers_of
from dhumandiff.methods.parts2whole import Part

WIDTHS = (16, 24, 32, 32)
CONTEXT = 24
IMAGE = 24


def small_unet(seed=0, widths=WIDTHS, context=CONTEXT, heads=4, groups=8):
    """A UNet2DConditionModel of Stable Diffusion 1.5's blocks: 16 transformer blocks."""
    from diffusers import UNet2DConditionModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=widths,
            cross_attention_dim=context,
            attention_head_dim=heads,  # the number of heads, despite the name
            norm_num_groups=groups,
        )
        for name, parameter in unet.named_parameters():  # norms that do something, so that a forgotten one shows
            if "norm" in name:
                parameter.data += 0.3 * torch.randn_like(parameter)
    return unet.requires_grad_(False).eval()


def pose_tensors(channels, seed=0):
    """Random weights of the pose net, under the names of its file."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [(3, 16), (16, 16), (16, 32), (32, 32), (32, 96), (96, 96), (96, 256), (256, channels)]
    names = ["conv_in", *(f"blocks.{i}" for i in range(6)), "conv_out"]
    tensors = {}
    for name, (into, out) in zip(names, sizes, strict=True):
        tensors[f"{name}.weight"] = torch.randn(out, into, 3, 3, generator=generator) * (2 / (9 * into)) ** 0.5
        tensors[f"{name}.bias"] = torch.randn(out, generator=generator) * 0.1
    return tensors


def decoupled_tensors(unet, image=IMAGE, seed=0):
    """Random weights of decoupled cross-attention, under the names of its file."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{layer}.attn2.processor.to_{kind}_dc.weight": torch.randn(
            unet.get_submodule(layer).norm1.weight.shape[0], image, generator=generator
        )
        / image**0.5
        for layer in layers_of(dict(unet.named_parameters()))
        for kind in ("k", "v")
    }


def parts_folder(folder, seed=0, whole=False, dtype=torch.float32, image=None, **sizes):
    """Write reference_unet/, pose_guider/ and decoupled_attn.pth into a folder; `whole` keeps the 24 tensors that are absent in
    the released encoder. Gives the folder back."""
    encoder = small_unet(seed + 100, **sizes)
    encoder.to(dtype).save_pretrained(folder / "reference_unet")
    if not whole:
        path = folder / "reference_unet" / "diffusion_pytorch_model.safetensors"
        save_file({name: t for name, t in encoder.state_dict().items() if name not in ABSENT}, path)
    (folder / "pose_guider").mkdir()
    pose = {name: t.to(dtype) for name, t in pose_tensors(encoder.conv_in.out_channels, seed).items()}
    save_file(pose, folder / "pose_guider" / "diffusion_pytorch_model.safetensors")
    decoupled = decoupled_tensors(encoder, image or encoder.config.cross_attention_dim, seed)
    save_file({name: t.to(dtype) for name, t in decoupled.items()}, folder / "decoupled_attn.pth")
    return folder


def random_part(label="face", size=(8, 8), seed=0, masked=False, person=1, strength=1.0, context=CONTEXT):
    """A part of random numbers; `masked` with a mask of some rectangle, soft at its rim."""
    generator = torch.Generator().manual_seed(seed)
    mask = None
    if masked:
        height, width = 8 * size[0], 8 * size[1]
        mask = torch.zeros(1, 1, height, width)
        top, left = (int(torch.randint(1, side // 2, (1,), generator=generator)) for side in (height, width))
        mask[..., top : top + height // 3, left : left + width // 3] = 1
        mask[..., top - 1, left : left + width // 3] = 0.4
    return Part(
        label,
        torch.randn(1, 4, *size, generator=generator),
        mask,
        torch.randn(1, 77, context, generator=generator),
        torch.randn(1, context, generator=generator),
        person=person,
        strength=strength,
    )


def parts_base(folder, seed=0, whole=False):
    """`parts_folder` with the base beside it, as the released folder has it: unet/, vae/, text_encoder/, image_encoder/."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    from dhumandiff.hosts.diffusers.parts import untrained_text_encoders
    from dhumandiff.testing import fill_with_noise, tiny_vae

    parts_folder(folder, seed, whole)
    small_unet(seed + 1).save_pretrained(folder / "unet")
    tiny_vae().save_pretrained(folder / "vae")
    text, _ = untrained_text_encoders((CONTEXT, 32), heads=(2, 2))
    fill_with_noise(text, seed + 2).save_pretrained(folder / "text_encoder")
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=2,
        num_hidden_layers=2,
        image_size=56,
        patch_size=14,
        projection_dim=IMAGE,
    )
    fill_with_noise(CLIPVisionModelWithProjection(config), seed + 3).save_pretrained(folder / "image_encoder")
    return folder
