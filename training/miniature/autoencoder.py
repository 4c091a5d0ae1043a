"""The autoencoder: it starts as the best linear code of patches and learns what that leaves out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from dhumandiff.miniature.autoencoder import NOISE, PATCH, Autoencoder

from .fit import fit
from .renders import Renders

__all__ = [
    "encode_all",
    "face_weights",
    "picture_of",
    "pixels_of",
    "train_autoencoder",
    "train_decoder",
    "train_sharp_decoder",
]

BATCH = 4
CROPS = 16
"""Crops of a batch, where pictures are too large to be taken whole."""
CROP = 96
"""Side of a crop, px."""
LARGEST_WHOLE = 128
"""Width of pictures of which all is taken, px."""
AT_FACES = 0.6
"""Share of crops with a face in the middle, about."""
FACE_WEIGHT = 3.0
"""A face is a twentieth of a picture and what the whole project is about."""
LINEAR_FROM = 500
"""Pictures that the linear code is made of."""
SIZE = 0.01
"""Weight that keeps every channel at the deviation it starts with."""
WRONG = 0.4
"""Largest deviation of the noise on latents in the decoders' own training."""
LIKENESS, PASSES, CRITIC_FROM = 0.05, 0.02, 300
"""Weights of what the critic says, and the steps in which they grow: first it has to learn."""


def train_autoencoder(folder: Path, renders: Renders, steps: int, device: str = "cpu", **how: Any) -> Autoencoder:
    """Absolute error of pixels and of their differences, most of it around faces. how: of `fit`."""
    torch.manual_seed(0)
    vae = Autoencoder()
    pixels = pixels_of(renders["images"][:LINEAR_FROM])
    vae.start_linear(pixels)
    with torch.no_grad():
        size = vae.code(pixels).square().mean((0, 2, 3)).to(device)
    vae.to(device)

    def losses(random: torch.Generator, _: int) -> dict[str, Tensor]:
        true, weight = (one.to(device) for one in _some(renders, random)[:2])
        code = vae.code(true)
        made = vae.picture(code + NOISE * torch.randn(code.shape, generator=random).to(device))
        return _apart(made, true, weight) | {"size": SIZE * (code.square().mean((0, 2, 3)) / size - 1).square().mean()}

    linear = (vae.to_code.weight, vae.to_patch.weight)
    fit(folder, "autoencoder", vae, losses, steps=steps, learning_rate=1e-3, muon_lr=0.02, adamw=linear, **how)
    return vae


def train_decoder(folder: Path, vae: Autoencoder, renders: Renders, steps: int) -> Autoencoder:
    """Teach the decoder that latents may be wrong, as those are that a small base draws: each a little, on its own.

    Decoded as they are, their errors show as a grid of 8 px. The encoder stays, so latents do.
    """
    learning = [*vae.to_patch.parameters(), *vae.decoder.parameters()]
    for parameter in learning:
        parameter.requires_grad_(True)

    def losses(random: torch.Generator, _: int) -> dict[str, Tensor]:
        true, weight, _ = _some(renders, random)
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


class Critic(nn.Module):
    """Tells drawn pictures from decoded ones, patch by patch of 22 px: pixels [B, 3, H, W] -> its layers' outputs, logits last."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(3, width, 4, 2, 1),
                nn.Conv2d(width, 2 * width, 4, 2, 1),
                nn.Conv2d(2 * width, 2 * width, 3, 1, 1),
                nn.Conv2d(2 * width, 1, 3, 1, 1),
            ]
        )

    def forward(self, pixels: Tensor) -> list[Tensor]:
        seen = [pixels]
        for number, layer in enumerate(self.layers):
            seen.append(layer(seen[-1] if number == 0 else F.leaky_relu(seen[-1], 0.2)))
        return seen[1:]


def train_sharp_decoder(
    folder: Path, vae: Autoencoder, renders: Renders, steps: int, redrawn: Tensor | None = None, **how: Any
) -> Autoencoder:
    """As `train_decoder`, and decoded pictures shall pass for drawn ones: a critic learns to tell them apart (hinge loss, as of
    VQGAN, arXiv 2012.09841), and its layers say how far apart two pictures are to the eye (arXiv 1512.09300).

    Where latents are wrong, the absolute error alone makes a decoder blur. redrawn: scaled latents of the first of the pictures as
    the base draws them, [N, C, h, w]; half of what is decoded are such. how: of `fit`.
    """
    torch.manual_seed(7)
    device = vae.device
    critic = Critic().to(device)
    for parameter in (*vae.to_patch.parameters(), *vae.decoder.parameters()):
        parameter.requires_grad_(True)

    def losses(random: torch.Generator, step: int) -> dict[str, Tensor]:
        true, weight, wrong = (one if one is None else one.to(device) for one in _some(renders, random, redrawn))
        with torch.no_grad():
            code = vae.code(true)
        size = WRONG * torch.rand(len(code), 1, 1, 1, generator=random).square().to(device)
        code = code + size * torch.randn(code.shape, generator=random).to(device)
        if wrong is not None:
            code = torch.cat([wrong, code[len(wrong) :]])
        made = vae.picture(code)
        fixed = {
            name: value.detach() for name, value in critic.named_parameters()
        }  # the picture's gradient is not the critic's
        *near, passes = functional_call(critic, fixed, (made,))
        with torch.no_grad():
            *wanted, _ = critic(true)
        real, fake = critic(true)[-1], critic(made.detach())[-1]
        on = min(step / CRITIC_FROM, 1.0)
        return _apart(made, true, weight) | {
            "likeness": on * LIKENESS * sum((a - b).abs().mean() for a, b in zip(near, wanted, strict=True)),
            "passes": -on * PASSES * passes.mean(),
            "critic": F.relu(1 - real).mean() + F.relu(1 + fake).mean(),
        }

    both = nn.ModuleDict({"vae": vae, "critic": critic})
    aside = [vae.to_patch.weight, *critic.parameters()]
    fit(folder, "decoder", both, losses, steps=steps, learning_rate=5e-4, muon_lr=0.01, adamw=aside, seed=7, **how)
    return vae


def _some(
    renders: Renders, random: torch.Generator, redrawn: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Pixels of a batch, how much each counts, and of the first half what `redrawn` has in their place, if it is there."""
    images, boxes = renders["images"], renders["boxes"]
    height, width = images.shape[1:3]
    small = width <= LARGEST_WHOLE
    numbers = torch.randint(len(images), (BATCH if small else CROPS,), generator=random).numpy()
    if small:
        return pixels_of(images[numbers]), face_weights(boxes[numbers], (height, width)), None
    pictures, weights, wrong = [], [], []
    if redrawn is not None:
        numbers[: CROPS // 2] %= len(redrawn)
    for number in numbers:
        x, y = (torch.rand(2, generator=random).numpy() * (width, height)).tolist()
        if torch.rand((), generator=random) < AT_FACES:
            x0, y0, x1, y1 = boxes[number, int(torch.randint(2, (), generator=random))]
            x, y = (x0 + x1) / 2 + 0.15 * (x - width / 2), (y0 + y1) / 2 + 0.15 * (y - height / 2)
        left, top = (
            min(max(round((at - CROP / 2) / PATCH) * PATCH, 0), side - CROP) for at, side in ((x, width), (y, height))
        )
        pictures.append(images[number, top : top + CROP, left : left + CROP])
        weight = face_weights(boxes[number : number + 1], (height, width))
        weights.append(weight[..., top : top + CROP, left : left + CROP])
        if redrawn is not None and len(wrong) < CROPS // 2:
            y, x, side = top // PATCH, left // PATCH, CROP // PATCH
            wrong.append(redrawn[number, :, y : y + side, x : x + side])
    return pixels_of(np.stack(pictures)), torch.cat(weights), torch.stack(wrong) if wrong else None


def _apart(made: Tensor, true: Tensor, weight: Tensor) -> dict[str, Tensor]:
    apart = made - true
    edges = apart.diff(dim=2).abs(), apart.diff(dim=3).abs()
    return {
        "pixels": (weight * apart.abs()).mean(),
        "edges": 0.5 * sum((weight[..., : d.shape[2], : d.shape[3]] * d).mean() for d in edges),
    }


@torch.no_grad()
def encode_all(vae: nn.Module, images: np.ndarray, batch: int = 64, device: torch.device | None = None) -> Tensor:
    """The mean latents of all pictures, scaled, [N, C, h, w] on the CPU; device: where the autoencoder is."""
    scale = vae.config.scaling_factor
    starts = range(0, len(images), batch)
    pixels = (pixels_of(images[n : n + batch]).to(device) for n in starts)
    return torch.cat([(vae.encode(some).latent_dist.mean * scale).cpu() for some in pixels])


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
