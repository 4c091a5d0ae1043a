"""Pictures of the world as the base draws them: noise is put over a picture's latents, and the base takes it away again.

What comes out is nearly the picture, wrong in the ways in which the base is wrong. A decoder that sees such latents learns to make
up for that (`autoencoder.train_sharp_decoder`); noise alone teaches it little, since a base's errors are no noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from dhumandiff.hosts.diffusers.parts import sdxl_scheduler
from dhumandiff.io import atomic_write
from dhumandiff.miniature.defaults import MINI

from .base import Texts
from .text_to_image import sizes
from .towers import Sentences

__all__ = ["redraw", "take_away"]

BATCH, STEPS = 20, 3
HEIGHTS = (100, 500)
"""Noise that is put over pictures, of SDXL's 1,000 heights: with more, other faces come out than those that went in."""


@torch.no_grad()
def redraw(
    path: Path,
    latents: Tensor,
    descriptions: Sequence[dict[str, Any]],
    unet: nn.Module,
    texts: Texts,
    device: str = "cpu",
) -> Tensor:
    """Scaled latents [N, C, h, w] as the base draws them anew, out of the pictures' own sentences; a finished file is only read.

    Args:
        path: of the .npy that keeps them.
        latents: of pictures, scaled, [N, C, h, w].
        descriptions: what is said of each.
        unet: the base's.
        texts: its towers.
        device: where it computes.
    """
    if path.exists():
        return torch.from_numpy(np.load(path)).float()
    said, random = Sentences.of(descriptions), torch.Generator().manual_seed(11)
    unet, texts = unet.to(device), texts.to(device)
    made = []
    for start in tqdm(range(0, len(latents), BATCH), desc=path.stem, unit="batch", mininterval=5):
        clean = latents[start : start + BATCH]
        rows = torch.arange(start, start + len(clean))
        both = torch.cat([rows, torch.full_like(rows, len(said.low) - 1)])  # and without a sentence, for guidance
        hidden, last = (
            torch.zeros(len(both), said.low.shape[1], dtype=torch.bool),
            torch.zeros(len(both), dtype=torch.bool),
        )
        text, pooled = texts(*(one.to(device) for one in (said.low[both], said.big[both], last, hidden)))
        heights = torch.randint(*HEIGHTS, (len(clean),), generator=random)
        noise = torch.randn(clean.shape, generator=random)
        with torch.autocast(device, torch.bfloat16):
            made.append(take_away(unet, clean.to(device), noise.to(device), heights.to(device), text, pooled).cpu())
    found = torch.cat(made)
    with atomic_write(path) as part, part.open("wb") as file:
        np.save(file, found.half().numpy())
    return found


def take_away(unet: nn.Module, clean: Tensor, noise: Tensor, heights: Tensor, text: Tensor, pooled: Tensor) -> Tensor:
    """Noise of these heights [B] over clean latents [B, C, h, w], taken away in `STEPS` steps of DDIM (arXiv 2010.02502) with guidance.

    text [2 B, 77, W] and pooled [2 B, W]: of the sentences, then of none.
    """
    products = sdxl_scheduler().alphas_cumprod.to(clean.device)
    added = {"text_embeds": pooled, "time_ids": sizes(2 * len(clean)).to(clean.device)}
    x, now = clean, heights
    for step in range(STEPS):
        kept, lost = (share.sqrt()[:, None, None, None] for share in (products[now], 1 - products[now]))
        noisy = kept * x + lost * noise
        said, unsaid = (
            unet(noisy.repeat(2, 1, 1, 1), now.repeat(2), text, added_cond_kwargs=added).sample.float().chunk(2)
        )
        velocity = unsaid + MINI["cfg"] * (said - unsaid)
        x, noise = kept * noisy - lost * velocity, lost * noisy + kept * velocity
        now = heights * (STEPS - 1 - step) // STEPS
    return x
