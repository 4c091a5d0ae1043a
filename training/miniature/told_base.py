"""The base that ships, taught further on pictures whose sentences say expressions and turns of heads.

As text_to_image.py; but the towers are frozen, computing is in bfloat16 with plain attention as in base.py, and faces count more. It
moves so far that the adapter that ships knows nobody on it (the row told_shipped); NOTES.md says what moves it less.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from dhumandiff.hosts.diffusers.parts import sdxl_scheduler
from dhumandiff.miniature.base import mini_unet
from dhumandiff.optional import require

from .base import Texts
from .fit import fit
from .latents import Latents
from .text_to_image import DROP_TEXT, GAMMA, heads_of, sizes
from .towers import Sentences, hide_words

__all__ = ["train_told_base"]

BATCH = 24
FACE = 12.0
"""How much more a head counts; text_to_image.HEAD is 5."""
DECAY = 0.8
"""Share of the steps over which the rates fall."""


def train_told_base(folder: Path, data: Latents, texts: Texts, steps: int) -> nn.Module:
    """The UNet.

    Args:
        folder: of the run.
        data: latents with what their sentences say.
        texts: the towers that know the words.
        steps: optimizer steps.
    """
    torch.manual_seed(9)
    sentences = Sentences.of(data.descriptions)
    unet = mini_unet().requires_grad_(True).train()
    unet.set_attn_processor(require("diffusers.models.attention_processor").AttnProcessor())
    scheduler = require("diffusers").DDPMScheduler.from_config(sdxl_scheduler().config)
    alphas = scheduler.alphas_cumprod
    weights = (alphas / (1 - alphas)).clamp(max=GAMMA) / (alphas / (1 - alphas))
    heads = heads_of(data.boxes)

    def losses(random: torch.Generator, _: int) -> dict[str, Tensor]:
        rows = torch.randint(len(data.latents), (BATCH,), generator=random)
        spoken = torch.where(torch.rand(BATCH, generator=random) < DROP_TEXT, len(data.latents), rows)
        hidden = hide_words(sentences, spoken, random)
        last = torch.rand(BATCH, generator=random) < 0.5
        clean = data.latents[rows].float()
        noise = torch.randn(clean.shape, generator=random)
        even = (torch.arange(BATCH) + torch.rand(BATCH, generator=random)) / BATCH
        times = (even.sqrt() * len(alphas)).long().clamp(max=len(alphas) - 1)
        text, pooled = texts(sentences.low[spoken], sentences.big[spoken], last, hidden)
        added = {"text_embeds": pooled, "time_ids": sizes(BATCH)}
        made = unet(scheduler.add_noise(clean, noise, times), times, text, added_cond_kwargs=added).sample.float()
        counts = 1 + FACE * heads[rows]
        apart = (counts * (made - noise).square().mean(1)).sum((1, 2)) / counts.sum((1, 2))
        return {"noise": (weights[times] * apart).mean()}

    how = {"learning_rate": 5e-4, "muon_lr": 0.01, "weight_decay": 0.1, "ema": 0.99, "decay": DECAY}
    fit(folder, "told_base", unet, losses, steps=steps, save_every=500, save_minutes=3.0, bf16=True, seed=9, **how)
    return unet
