"""The base: the UNet learns to draw what sentences say, without identity. The towers go on learning beside it.

Plain SDXL reads CLIP-L before its last layer; subject prompting reads the last layer after the final norm (METHOD section
1). This base saw either reading in half of its samples, so that a word's new embedding is not also a new dialect.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dhumandiff.hosts.diffusers_base import package
from dhumandiff.mini.autoencoder import PATCH
from dhumandiff.mini.base import SIZE, build_unet, compact_vocabulary
from dhumandiff.mini.weights import save_part
from dhumandiff.tiny import tiny_scheduler

from .autoencoder import face_weights
from .fit import fit
from .towers import Sentences, Towers

__all__ = ["TextToImage", "heads_of", "save_text_to_image", "train_text_to_image"]

BATCH = 32
GAMMA = 0.2
"""Min-SNR weighting (arXiv 2303.09556), far below its 5: at 16 x 12 latents what a sentence decides shows at high noise,
where the loss is small. Measured on a trained base, what the sentence takes off the loss, over the loss squared (the weight
that would make the most of it), goes 1 : 5 : 32 : 185 at the noise levels 300, 500, 700, 850; 1 / SNR goes 1 : 4 : 16 : 60."""
DROP_TEXT, UNKNOWN = 0.1, 0.02
"""Share of sentences left empty; share of words replaced by the row for words that the world does not use."""
ASKED = 0.02
"""Weight of what the towers are asked."""
HEAD = 3.0
"""How much more the places of a head count: there it is that words about looks show, and an adapter later on."""


class TextToImage(nn.Module):
    """Towers that know what a sentence says, and the UNet that learns to draw it."""

    def __init__(self, towers: Towers) -> None:
        super().__init__()
        self.towers = towers.requires_grad_(True)
        self.unet = build_unet()


def sizes(count: int) -> Tensor:
    """SDXL's six numbers for pictures as the world draws them, [count, 6]."""
    width, height = SIZE
    return torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32).expand(count, -1)


def heads_of(boxes: np.ndarray) -> Tensor:
    """The share of every latent place that a head with its hair covers: boxes [N, 2, 4] px -> [N, 12, 16]."""
    width, height = SIZE
    shares = []
    for some in np.array_split(boxes, max(len(boxes) // 256, 1)):
        inside = face_weights(some, (height, width)) > 1
        shares.append(F.avg_pool2d(inside.float(), PATCH)[:, 0])
    return torch.cat(shares)


def train_text_to_image(
    folder: Path, latents: Tensor, heads: Tensor, said: Sentences, towers: Towers, steps: int
) -> TextToImage:
    """latents [N, 16, 12, 16], scaled, of the pictures whose sentences are `said`; heads [N, 12, 16] 0..1: where they are."""
    torch.manual_seed(1)
    model = TextToImage(towers)
    scheduler = package("diffusers").DDPMScheduler.from_config(tiny_scheduler().config)
    alphas = scheduler.alphas_cumprod
    weights = (alphas / (1 - alphas)).clamp(max=GAMMA) / (alphas / (1 - alphas))
    places = torch.arange(said.low.shape[1])

    def losses(random: torch.Generator, _: int) -> dict[str, Tensor]:
        rows = torch.randint(len(latents), (BATCH,), generator=random)
        spoken = torch.where(torch.rand(BATCH, generator=random) < DROP_TEXT, len(latents), rows)
        inside = (places[None] > 0) & (places[None] < said.ends[spoken][:, None])
        unknown = inside & (torch.rand(BATCH, len(places), generator=random) < UNKNOWN)
        last = torch.rand(BATCH, generator=random) < 0.5
        text, pooled, asked = model.towers(said, spoken, last, unknown)
        noise = torch.randn(BATCH, *latents.shape[1:], generator=random)
        # As many at every height, and the higher the more: what a sentence decides shows in few of the low ones.
        even = (torch.arange(BATCH) + torch.rand(BATCH, generator=random)) / BATCH
        times = (even.sqrt() * len(alphas)).long().clamp(max=len(alphas) - 1)
        noisy = scheduler.add_noise(latents[rows], noise, times)
        added = {"text_embeds": pooled, "time_ids": sizes(BATCH)}
        made = model.unet(noisy, times, text, added_cond_kwargs=added).sample
        apart = (made - noise).square().mean(1)
        counts = 1 + HEAD * heads[rows]
        apart = (counts * apart).sum((1, 2)) / counts.sum((1, 2))
        return {"noise": (weights[times] * apart).mean(), "asked": ASKED * asked}

    # The decay holds the UNet's attention, which Muon would let grow without bounds.
    words = list(model.towers.parameters())
    fit(
        folder,
        "text_to_image",
        model,
        losses,
        steps=steps,
        rate=1e-3,
        turn=0.02,
        decay=0.1,
        plain=words,
        ema=0.999,
        seed=1,
    )
    return model


def save_text_to_image(model: TextToImage, folder: Path) -> None:
    """Write unet, text_encoder and text_encoder_2 as they ship, their tables cut down to the words that occur."""
    save_part("unet", model.unet.state_dict(), folder)
    for part, tower in zip(("text_encoder", "text_encoder_2"), model.towers.towers, strict=True):
        table = tower.get_input_embeddings()
        kept = {
            name: value
            for name, value in tower.state_dict().items()
            if "token_embedding" not in name and not name.endswith("position_ids")
        }
        ids = (table.lookup > 0).nonzero()[:, 0]
        save_part(part, compact_vocabulary(kept, ids, table.weight.data), folder)
