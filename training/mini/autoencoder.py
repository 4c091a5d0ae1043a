"""The autoencoder: 8 px a latent pixel, 8 channels, scaled so that SDXL's factor makes latents of deviation 1."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dhumandiff.mini.base import LATENTS, build_vae

from .drawings import Drawings
from .fit import fit

__all__ = ["encode_all", "train_autoencoder"]

SIDE, BATCH = 64, 8
"""Crops of the first part of the steps, px and number."""
WHOLE, BATCH_WHOLE = 0.6, 3
"""From this share of the steps on whole pictures, this many: group norms see the whole picture at inference."""
FACE_WEIGHT = 3.0
"""A face is a twentieth of a picture and what the whole project is about."""
NOISE = 0.05
"""Deviation of the noise on latents in training, which keeps near latents near pictures; it is also the posterior's."""
SMALL = 1e-3
"""Weight of the latents' mean square, in the place of the usual divergence."""


def train_autoencoder(folder: Path, drawings: Drawings, steps: int) -> nn.Module:
    """Absolute error of pixels and of their differences, most of it around faces; the latents are scaled at the end."""
    torch.manual_seed(0)
    vae = build_vae().to(memory_format=torch.channels_last)
    images, boxes = drawings["images"], drawings["boxes"]

    def losses(random: torch.Generator, step: int) -> dict[str, Tensor]:
        crops = _crops if step < WHOLE * steps else _whole
        pixels, weight = crops(images, boxes, random)
        posterior = vae.encode(pixels).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=random)
        apart = vae.decode(posterior.mean + NOISE * noise).sample - pixels
        return {
            "pixels": (weight * apart.abs()).mean(),
            "edges": 0.5 * sum((weight[..., : d.shape[2], : d.shape[3]] * d).mean() for d in _edges(apart)),
            "size": SMALL * posterior.mean.square().mean(),
        }

    fit(folder, "autoencoder", vae, losses, steps=steps, turn=0.05)
    with torch.no_grad():  # the posterior's deviation was not learnt
        vae.quant_conv.weight[LATENTS:] = 0
        vae.quant_conv.bias[LATENTS:] = 2 * math.log(NOISE)
    _scale(vae, images)
    return vae


@torch.no_grad()
def encode_all(vae: nn.Module, images: np.ndarray, batch: int = 64) -> Tensor:
    """The mean latents of all pictures, scaled, [N, 8, h, w]."""
    rows = []
    for start in range(0, len(images), batch):
        pixels = _as_pixels(images[start : start + batch])
        rows.append(vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor)
    return torch.cat(rows)


def _edges(difference: Tensor) -> tuple[Tensor, Tensor]:
    return difference.diff(dim=2).abs(), difference.diff(dim=3).abs()


def _crops(images: np.ndarray, boxes: np.ndarray, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pixels [B, 3, S, S] -1..1 and their weights [B, 1, S, S]."""
    height, width = images.shape[1:3]
    pixels = np.empty((BATCH, SIDE, SIDE, 3), dtype=np.uint8)
    weight = torch.ones(BATCH, 1, SIDE, SIDE)
    for row in range(BATCH):
        number, person = (int(torch.randint(end, (), generator=random)) for end in (len(images), 2))
        shift = torch.rand(2, generator=random).tolist()
        if torch.rand((), generator=random) < 0.7:
            x0, y0, x1, y1 = boxes[number, person]
            left = (x0 + x1 - SIDE) / 2 + 24 * (shift[0] - 0.5)
            top = (y0 + y1 - SIDE) / 2 + 24 * (shift[1] - 0.5)
        else:
            left, top = shift[0] * (width - SIDE), shift[1] * (height - SIDE)
        left, top = int(np.clip(left, 0, width - SIDE)), int(np.clip(top, 0, height - SIDE))
        crop = images[number, top : top + SIDE, left : left + SIDE]
        flip = bool(torch.rand((), generator=random) < 0.5)
        for x0, y0, x1, y1 in boxes[number] - [left, top, left, top]:
            sides = (SIDE - x1, SIDE - x0) if flip else (x0, x1)
            _weigh(weight[row, 0], sides[0], y0, sides[1], y1)
        pixels[row] = crop[:, ::-1] if flip else crop
    return _as_pixels(pixels), weight


def _whole(images: np.ndarray, boxes: np.ndarray, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """As `_crops`, but whole pictures, [B, 3, H, W] and [B, 1, H, W]."""
    height, width = images.shape[1:3]
    numbers = torch.randint(len(images), (BATCH_WHOLE,), generator=random).numpy()
    weight = torch.ones(BATCH_WHOLE, 1, height, width)
    for row, number in enumerate(numbers):
        for box in boxes[number]:
            _weigh(weight[row, 0], *box)
    return _as_pixels(images[numbers]), weight


def _weigh(weight: Tensor, x0: float, y0: float, x1: float, y1: float) -> None:
    """A face with its hair counts more."""
    rows = slice(max(int(y0) - 8, 0), max(int(y1) + 2, 0))
    weight[rows, max(int(x0) - 4, 0) : max(int(x1) + 4, 0)] = FACE_WEIGHT


def _as_pixels(pictures: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return tensor.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def _scale(vae: nn.Module, images: np.ndarray) -> None:
    """Move and stretch the latents to mean 0 and deviation 1 / scaling factor, the decoder taking it back."""
    latents = vae.encode(_as_pixels(images[:256])).latent_dist.mean
    mean = latents.mean((0, 2, 3))
    factor = 1 / (vae.config.scaling_factor * (latents - mean[:, None, None]).std())
    channels = len(mean)
    # quant_conv makes [means; log variances], post_quant_conv reads latents: both are 1 x 1 convolutions.
    vae.quant_conv.weight[:channels] *= factor
    vae.quant_conv.bias[:channels] = (vae.quant_conv.bias[:channels] - mean) * factor
    vae.quant_conv.bias[channels:] += 2 * factor.log()
    matrix = vae.post_quant_conv.weight[:, :, 0, 0]
    vae.post_quant_conv.bias += matrix @ mean
    vae.post_quant_conv.weight /= factor


def picture_of(pixels: Tensor) -> np.ndarray:
    """Pixels [N, 3, H, W] -1..1 as uint8 [N, H, W, 3]."""
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def psnr(made: Tensor, true: Tensor) -> float:
    """Peak signal to noise ratio, dB, of pixels -1..1."""
    return float(-10 * (F.mse_loss(made, true) / 4).log10())
