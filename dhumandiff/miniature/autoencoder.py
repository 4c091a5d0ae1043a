"""The miniature's autoencoder: the best linear code of 8 x 8 px patches, and small networks for what it leaves out.

AutoencoderKL, trained for 22 minutes on one core, came to 23.2 dB with 8 channels; a linear code of 16 has 23.9 dB at once.
A latent is 8 px wide, as SDXL's; latents have a mean square of 1 after hosts multiplied them by SCALING.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .design import DESIGN, Design

__all__ = ["LATENTS", "PATCH", "SCALING", "Autoencoder"]

PATCH = 8
"""Px of a latent pixel."""
LATENTS = DESIGN.latents
"""Channels of a latent. SDXL's 4 do for its 1024 px; at 128 x 96 px a face is 3.5 latents wide. The best linear code of 4
channels keeps 19.1 dB of these pictures, of 8 channels 21.4 dB, of 16 channels 23.9 dB, with which faces begin to be
somebody's. At 256 x 192 px they keep 20.7, 23.4 and 26.3 dB, and a face has four times the latents."""
SCALING = 0.13025
"""SDXL's, too."""
NOISE = 0.05
"""Deviation of the noise on latents of deviation 1 in training, which keeps near latents near pictures."""


class Block(nn.Module):
    """x + two convolutions, which begin as nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, 1, 1)
        self.second = nn.Conv2d(width, width, 3, 1, 1)
        for parameter in self.second.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, h, w] -> the same."""
        return x + self.second(F.silu(self.first(F.silu(x))))


class Autoencoder(nn.Module):
    """Pixels [B, 3, H, W] -1..1 <-> latents [B, C, H / 8, W / 8]; in the words of diffusers' AutoencoderKL.

    `encode(x).latent_dist` has mean, std, mode() and sample(); `decode(z).sample` is the picture. config: what hosts ask.
    """

    def __init__(self, design: Design = DESIGN) -> None:
        super().__init__()
        latents, fine, coarse = design.latents, design.fine, design.coarse
        self.config = SimpleNamespace(
            scaling_factor=SCALING,
            latent_channels=latents,
            block_out_channels=(0,) * 4,  # four levels: 8 px a latent pixel
            force_upcast=False,
        )
        self.middle = nn.Parameter(torch.zeros(3 * PATCH**2))
        self.to_code = nn.Linear(3 * PATCH**2, latents, bias=False)
        self.to_patch = nn.Linear(latents, 3 * PATCH**2, bias=False)
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, fine, 3, 1, 1),
            Block(fine),
            Block(fine),
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * fine, coarse, 1),
            *(Block(coarse) for _ in range(2)),
            nn.SiLU(),
            nn.Conv2d(coarse, latents, 3, 1, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(latents, coarse, 3, 1, 1),
            *(Block(coarse) for _ in range(design.depth[1])),
            nn.Conv2d(coarse, 4 * fine, 1),
            nn.PixelShuffle(2),
            *(Block(fine) for _ in range(design.depth[0])),
            nn.SiLU(),
            nn.Conv2d(fine, 48, 3, 1, 1),
            nn.PixelShuffle(4),
        )
        for last in (self.encoder[-1], self.decoder[-2]):
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.middle.dtype

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return self.middle.device

    def code(self, pixels: Tensor) -> Tensor:
        """Pixels -> scaled latents."""
        patches = F.pixel_unshuffle(pixels, PATCH).permute(0, 2, 3, 1) - self.middle
        return self.to_code(patches).permute(0, 3, 1, 2) + self.encoder(pixels)

    def picture(self, code: Tensor) -> Tensor:
        """Scaled latents -> pixels."""
        patches = (self.to_patch(code.permute(0, 2, 3, 1)) + self.middle).permute(0, 3, 1, 2)
        return F.pixel_shuffle(patches, PATCH) + self.decoder(code)

    def encode(self, pixels: Tensor) -> Any:
        """Pixels -> `.latent_dist`, latents to be multiplied by SCALING."""
        return SimpleNamespace(latent_dist=Gaussian(self.code(pixels) / SCALING))

    def decode(self, latents: Tensor, **_: Any) -> Any:
        """Latents of deviation 1 / SCALING -> `.sample`, pixels."""
        return SimpleNamespace(sample=self.picture(latents * SCALING))

    @torch.no_grad()
    def start_linear(self, pixels: Tensor) -> None:
        """Take the principal components of these pictures' patches for the linear code.

        Their deviations are evened out half-way, to a mean square of 1: what matters most stays the largest, so that the
        base draws it first.
        """
        patches = F.pixel_unshuffle(pixels, PATCH).permute(0, 2, 3, 1).flatten(0, 2)
        self.middle.copy_(patches.mean(0))
        values, vectors = torch.linalg.eigh((patches - self.middle).T.cov())
        kept = vectors[:, -len(self.to_code.weight) :].flip(1)
        values = values[-len(self.to_code.weight) :].flip(0)
        wanted = values**0.25
        size = values.sqrt() / (wanted / wanted.square().mean().sqrt())
        self.to_code.weight.copy_((kept / size).T)
        self.to_patch.weight.copy_(kept * size)


class Gaussian:
    """A posterior of constant deviation."""

    def __init__(self, mean: Tensor) -> None:
        self.mean, self.std = mean, torch.full_like(mean, NOISE / SCALING)

    def mode(self) -> Tensor:
        """The mean."""
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Drawn at random."""
        noise = torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        return self.mean + self.std * noise
