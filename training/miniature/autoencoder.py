"""The autoencoder: it starts as the best linear code of patches and learns what that leaves out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dhumandiff.miniature.autoencoder import NOISE, Autoencoder

from .fit import fit
from .renders import Renders

__all__ = ["encode_all", "face_weights", "picture_of", "pixels_of", "train_autoencoder", "train_decoder"]

BATCH = 4
FACE_WEIGHT = 3.0
"""A face is a twentieth of a picture and what the whole project is about."""
LINEAR_FROM = 500
"""Pictures that the linear code is made of."""
SIZE = 0.01
"""Weight that keeps every channel at the deviation it starts with."""
WRONG = 0.4
"""Largest deviation of the noise on latents in `train_decoder`."""


def train_autoencoder(folder: Path, renders: Renders, steps: int) -> Autoencoder:
    """Absolute error of pixels and of their differences, most of it around faces."""
    torch.manual_seed(0)
    vae = Autoencoder()
    pixels = pixels_of(renders["images"][:LINEAR_FROM])
    vae.start_linear(pixels)
    with torch.no_grad():
        size = vae.code(pixels).square().mean((0, 2, 3))

    def losses(random: torch.Generator, _: int) -> dict[str, Tensor]:
        true, weight = _some(renders, random)
        code = vae.code(true)
        made = vae.picture(code + NOISE * torch.randn(code.shape, generator=random))
        return _apart(made, true, weight) | {"size": SIZE * (code.square().mean((0, 2, 3)) / size - 1).square().mean()}

    linear = (vae.to_code.weight, vae.to_patch.weight)
    fit(folder, "autoencoder", vae, losses, steps=steps, learning_rate=1e-3, muon_lr=0.02, adamw=linear)
    return vae


def train_decoder(folder: Path, vae: Autoencoder, renders: Renders, steps: int) -> Autoencoder:
    """Teach the decoder that latents may be wrong, as those are that a small base draws: each a little, on its own.

    Decoded as they are, their errors show as a grid of 8 px. The encoder stays, so latents do.
    """
    learning = [*vae.to_patch.parameters(), *vae.decoder.parameters()]
    for parameter in learning:
        parameter.requires_grad_(True)

    def losses(random: torch.Generator, _: int) -> dict[str, Tensor]:
        true, weight = _some(renders, random)
        with torch.no_grad():
            code = vae.code(true)
        size = WRONG * torch.rand(len(code), 1, 1, 1, generator=random)
        return _apart(vae.picture(code + size * torch.randn(code.shape, generator=random)), true, weight)

    fit(
        folder,
        "decoder",
        vae,
        losses,
        steps=steps,
        learning_rate=5e-4,
        muon_lr=0.01,
        adamw=[vae.to_patch.weight],
        seed=7,
    )
    return vae


def _some(renders: Renders, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pixels of a batch, and how much each counts."""
    images, boxes = renders["images"], renders["boxes"]
    numbers = torch.randint(len(images), (BATCH,), generator=random).numpy()
    return pixels_of(images[numbers]), face_weights(boxes[numbers], images.shape[1:3])


def _apart(made: Tensor, true: Tensor, weight: Tensor) -> dict[str, Tensor]:
    apart = made - true
    edges = apart.diff(dim=2).abs(), apart.diff(dim=3).abs()
    return {
        "pixels": (weight * apart.abs()).mean(),
        "edges": 0.5 * sum((weight[..., : d.shape[2], : d.shape[3]] * d).mean() for d in edges),
    }


@torch.no_grad()
def encode_all(vae: nn.Module, images: np.ndarray, batch: int = 64) -> Tensor:
    """The mean latents of all pictures, scaled, [N, C, h, w]."""
    scale = vae.config.scaling_factor
    starts = range(0, len(images), batch)
    return torch.cat([vae.encode(pixels_of(images[n : n + batch])).latent_dist.mean * scale for n in starts])


def face_weights(boxes: np.ndarray, size: tuple[int, int]) -> Tensor:
    """How much each pixel counts, [B, 1, H, W]: faces with their hair count more."""
    weight = torch.ones(len(boxes), 1, *size)
    for row, faces in enumerate(boxes):
        for x0, y0, x1, y1 in faces:
            rows, columns = slice(max(int(y0) - 8, 0), int(y1) + 2), slice(max(int(x0) - 4, 0), int(x1) + 4)
            weight[row, 0, rows, columns] = FACE_WEIGHT
    return weight


def pixels_of(pictures: np.ndarray) -> Tensor:
    """Pictures uint8 [N, H, W, 3] as pixels [N, 3, H, W] -1..1."""
    return torch.tensor(pictures).permute(0, 3, 1, 2).float().contiguous() / 127.5 - 1


def picture_of(pixels: Tensor) -> np.ndarray:
    """Pixels [N, 3, H, W] -1..1 as pictures uint8 [N, H, W, 3]."""
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
