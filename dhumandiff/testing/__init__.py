"""A tiny SDXL, adapter, image encoder and face analyzer of random weights. Their pictures are noise.

For trying the machinery out in a second on a CPU, and for tests: the block types, layer order, tokenizer and tensor
names are SDXL's and the released adapter's, only the widths are small. The same seed gives the same weights.

    portrait = PortraitPipeline.from_base("tiny")                 # `tiny_pipeline` puts the base together
    adapter, vision, faces = tiny_adapter(), tiny_vision(), tiny_faces()

`depth` says how many transformer blocks the UNet's attention blocks have: "tiny" makes 17 cross-attention layers,
"sdxl" makes SDXL's own 70.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import HostError
from ..faces.face import Face
from ..faces.geometry import ARCFACE_TEMPLATE, crop_face
from ..hosts.diffusers.parts import sdxl_scheduler, sdxl_tokenizer, untrained_text_encoders
from ..hosts.diffusers.vision import ClipVision
from ..methods.paired.adapter import Adapter
from ..methods.paired.projections import FaceProjection, IdentityProjection, PairedKeysValues, SubjectMapping
from ..optional import require

__all__ = [
    "DEPTHS",
    "TinyFaces",
    "fill_with_noise",
    "random_adapter",
    "tiny_adapter",
    "tiny_faces",
    "tiny_pipeline",
    "tiny_text_encoders",
    "tiny_unet",
    "tiny_vae",
    "tiny_vision",
]

Depth = Literal["tiny", "sdxl"]

DEPTHS: dict[str, tuple[int, int, int]] = {"tiny": (1, 1, 2), "sdxl": (1, 2, 10)}
"""Transformer blocks an attention block, for each of the UNet's three levels (the first has no attention)."""

CHANNELS = (32, 64, 128)
TEXT_WIDTHS = (64, 128)
CONTEXT = sum(TEXT_WIDTHS)
VISION_WIDTH = 64
IDENTITY_WIDTH = 512

METADATA = {
    "base_family": "sdxl",
    "clip_tower": "dhumandiff.tiny (random weights)",
    "recogniser": "dhumandiff.tiny (random projection)",
    "identity_channels": "rgb-swapped",
    "licence": "Apache-2.0",
    "source": "dhumandiff.tiny: random weights, for trying and testing; pictures are noise",
}


def tiny_unet(seed: int = 0, depth: Depth = "tiny") -> nn.Module:
    """A UNet2DConditionModel of SDXL's block types: latents of 4 channels, context 192 wide, pooled text 128 wide."""
    blocks = _blocks(depth)
    unet = require("diffusers").UNet2DConditionModel(
        sample_size=64,
        in_channels=4,
        out_channels=4,
        block_out_channels=CHANNELS,
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=blocks,
        attention_head_dim=(1, 1, 2),  # the number of heads, despite the name: 64 channels each, as in SDXL
        use_linear_projection=True,
        cross_attention_dim=CONTEXT,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=TEXT_WIDTHS[1] + 6 * 256,
        norm_num_groups=32,
    )
    return _pass_input_through(fill_with_noise(unet, seed))


def tiny_text_encoders(seed: int = 0) -> tuple[nn.Module, nn.Module]:
    """(CLIP-L of width 64, CLIP-G of width 128 with a projection), three layers each, SDXL's vocabulary."""
    first, second = untrained_text_encoders(TEXT_WIDTHS, heads=(1, 2))
    return fill_with_noise(first, seed + 1), fill_with_noise(second, seed + 2)


def tiny_vae(seed: int = 0) -> nn.Module:
    """An AutoencoderKL: 8 pixels a latent pixel, 4 channels, SDXL's scaling factor."""
    vae = require("diffusers").AutoencoderKL(
        block_out_channels=(32,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=32,
        sample_size=512,
        scaling_factor=0.13025,
    )
    return fill_with_noise(vae, seed + 3)


def tiny_pipeline() -> Any:
    """The parts above as a StableDiffusionXLPipeline; the base "tiny"."""
    first, second = tiny_text_encoders()
    return require("diffusers").StableDiffusionXLPipeline(
        vae=tiny_vae(),
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=sdxl_tokenizer(),
        tokenizer_2=sdxl_tokenizer(second=True),
        unet=tiny_unet(),
        scheduler=sdxl_scheduler(),
        add_watermarker=False,
    )


def tiny_vision(seed: int = 0) -> ClipVision:
    """A CLIP image encoder (width 64, four layers, 50 tokens of 32 px at 224 px) as `protocols.ImageEncoder`."""
    transformers = require("transformers")
    config = transformers.CLIPVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=2 * VISION_WIDTH,
        num_hidden_layers=4,
        num_attention_heads=1,
        image_size=224,
        patch_size=32,
        projection_dim=VISION_WIDTH,
        hidden_act="gelu",
    )
    return ClipVision(fill_with_noise(transformers.CLIPVisionModelWithProjection(config), seed + 4))


def tiny_adapter(seed: int = 0, depth: Depth = "tiny") -> Adapter:
    """An adapter of the released kind (two persons, subject path) for `tiny_unet`, `tiny_vision` and `tiny_faces`."""
    _, middle, deep = _blocks(depth)
    narrow, wide = CHANNELS[1:]
    # Down, up, mid; SDXL's down blocks have two attention blocks, its up blocks three.
    hidden = [narrow] * 2 * middle + [wide] * 2 * deep + [wide] * 3 * deep + [narrow] * 3 * middle + [wide] * deep
    return random_adapter(hidden, CONTEXT, seed)


def random_adapter(hidden: Sequence[int], context: int, seed: int = 0) -> Adapter:
    """An adapter of the released kind with random weights, for a base of any widths; the rest is `tiny_adapter`'s.

    Args:
        hidden: width of every cross-attention layer, in the adapter's order (down, up, mid).
        context: width of the text that the base reads.
        seed: of the weights.
    """
    inside = {"width": 64, "hidden_width": VISION_WIDTH, "inner": 64, "ffn_width": 256, "depth": 2}
    with torch.device("meta"):  # names and shapes only
        parts: dict[str, nn.Module] = {
            "face_projection": FaceProjection(tokens=16, out_width=context, **inside),
            "identity_projection": IdentityProjection(IDENTITY_WIDTH, 128, 64, {**inside, "out_width": 64}),
            "mapping": SubjectMapping(TEXT_WIDTHS[0] + 64, 64, TEXT_WIDTHS[0]),
            "attention": nn.ModuleList(PairedKeysValues(context, width) for width in hidden),
        }
    random = torch.Generator().manual_seed(seed + 5)
    tensors = {
        f"{part}.{name}": _random(name, meta.shape, random)
        for part, module in parts.items()
        for name, meta in module.state_dict().items()
    }
    return Adapter.from_tensors(tensors, METADATA)


def tiny_faces(seed: int = 0) -> TinyFaces:
    """A face analyzer without models; see `TinyFaces`."""
    return TinyFaces(seed)


class TinyFaces:
    """A `protocols.FaceAnalyzer` that takes the middle of every picture for its one face.

    The identity is a fixed random projection of the head crop's pixels, so the same picture is the same person and
    nothing else is.
    """

    name = "tiny"
    _SIDE = 16

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed + 6)
        self._projection = torch.randn(IDENTITY_WIDTH, 3 * self._SIDE**2 + 1, generator=generator).numpy()

    def detect(self, image: np.ndarray) -> list[Face]:
        """One face: a square of 0.6 of the short side, in the middle."""
        height, width = image.shape[:2]
        side = 0.6 * min(height, width)
        corner = np.array([(width - side) / 2, (height - side) / 2], dtype=np.float32)
        return [Face(np.concatenate([corner, corner + side]), corner + ARCFACE_TEMPLATE / 112 * side)]

    def identity(self, image: np.ndarray, face: Face, swap_channels: bool = False) -> np.ndarray:
        """Unit-length float32 [512] of the crop's pixels, red and blue exchanged if `swap_channels`."""
        crop, _, _ = crop_face(image, face, self._SIDE)
        if swap_channels:
            crop = crop[..., ::-1]
        values = crop.astype(np.float32).ravel() / 255
        values = (values - values.mean()) / (values.std() + 1e-3)
        vector = self._projection @ np.append(values, np.float32(1))  # the 1 keeps a grey picture from being nobody
        return vector / np.linalg.norm(vector)


def _blocks(depth: str) -> tuple[int, int, int]:
    if depth not in DEPTHS:
        raise HostError(f"The tiny base knows the depths {' and '.join(DEPTHS)}, not {depth!r}.", code="unknown-depth")
    return DEPTHS[depth]


def fill_with_noise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights in place of a library's own, which change with its versions. Returns the module, frozen."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(_random(name, parameter.shape, random))
    return module.requires_grad_(False).eval()


def _random(name: str, shape: torch.Size, random: torch.Generator) -> Tensor:
    """Noise that keeps activations of the size they come in: variance 1 / fan-in, norms at 1, biases at 0."""
    if len(shape) < 2:
        return torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)
    return torch.randn(shape, generator=random) * math.prod(shape[1:]) ** -0.5


def _pass_input_through(unet: Any) -> nn.Module:
    """Let the UNet predict its own input plus a little of what its layers make.

    A random network's prediction has nothing to do with the noise, and sampling would only add to it. Most of a noisy
    latent *is* noise, so with its input handed through (it rides on the outermost skip connection) sampling ends in
    latents of ordinary size that still depend on every layer. silu(x) - silu(-x) = x, hence the two signs.
    """
    last = unet.up_blocks[-1].resnets[-1]
    skip = last.conv_shortcut.in_channels - CHANNELS[0]  # the skip's channels come last in the concatenation
    with torch.no_grad():
        unet.conv_in.weight[:8] = 0
        unet.conv_out.weight.mul_(0.2)
        unet.conv_out.weight[:, :8] = 0
        last.conv_shortcut.weight[:8] = 0
        last.conv2.weight[:8] = 0
        for channel in range(4):
            for offset, sign in ((0, 1.0), (4, -1.0)):
                unet.conv_in.weight[channel + offset, channel, 1, 1] = sign
                last.conv_shortcut.weight[channel + offset, skip + channel + offset] = 1.0
                unet.conv_out.weight[channel, channel + offset, 1, 1] = sign
    return unet
