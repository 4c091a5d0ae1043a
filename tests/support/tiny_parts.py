"""Parts2Whole inside ComfyUI: a tiny Stable Diffusion 1.5 that the stock loader knows, its text encoder, autoencoder and CLIP."""

import comfy.model_detection
import comfy.sd
import comfy.supported_models
import torch

from support import small_parts

WIDTHS = (32, 64, 128, 128)
CONTEXT = 24
SIZES = {"widths": WIDTHS, "context": CONTEXT, "heads": 8, "groups": 32}
"""For `small_parts`: widths whose groups are ComfyUI's, and its number of heads."""


class TinySD15(comfy.supported_models.SD15):
    """As wide as `SIZES`."""

    unet_config = {**comfy.supported_models.SD15.unet_config, "context_dim": CONTEXT, "model_channels": WIDTHS[0]}


SERVER_CONTEXT, SERVER_IMAGE = 192, 64
"""Widths that fit the tiny SDXL's text encoders and the tiny vision tower, which a server has (tiny_nodes knows such a UNet)."""


def know_tiny_sd15(monkeypatch):
    """Let the stock loader tell the tiny UNet by its tensors, as it tells Stable Diffusion 1.5's."""
    monkeypatch.setattr(comfy.supported_models, "models", [*comfy.supported_models.models, TinySD15])


def released(folder, seed=0, image=None, **changes):
    """A released folder, with the UNet that draws; `changes` of `SIZES`."""
    sizes = {**SIZES, **changes}
    small_parts.parts_folder(folder, seed, image=image, **sizes)
    small_parts.small_unet(seed + 1, **sizes).save_pretrained(folder / "unet")
    return folder


def conditioning(seed):
    """Random CONDITIONING."""
    return [[torch.randn(1, 77, CONTEXT, generator=torch.Generator().manual_seed(seed)), {}]]


class Clip:
    """CLIP of the tiny width: a text gives numbers of its own."""

    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, text):
        seed = sum(map(ord, text))
        return conditioning(seed)


class Vae:
    """VAE that gives a latent of the right size for pixels [1, H, W, 3]."""

    def encode(self, pixels):
        assert pixels.shape[-1] == 3
        small = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8)
        return torch.cat([small, small.mean(dim=1, keepdim=True)], dim=1)


class Vision:
    """CLIP_VISION with an embedding as wide as the weights want."""

    image_size = 56

    def encode_image(self, picture, crop):
        assert picture.shape == (1, 56, 56, 3)
        assert not crop
        return {"image_embeds": picture.flatten(1)[:, : small_parts.IMAGE]}
