"""The base: the UNet learns to draw what sentences say, without identity. The towers stay as they are, as SDXL's did.

Plain SDXL reads CLIP-L before its last layer; subject prompting reads the last layer after the final norm
(docs/method.md#subject-augmented-conditioning). This base saw either reading in half of its samples, so that a word's new
embedding is not also a new dialect.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dhumandiff.conditioning.masks import layer_shape
from dhumandiff.hosts.diffusers.attention import cross_attention_layers
from dhumandiff.hosts.diffusers.parts import sdxl_scheduler
from dhumandiff.miniature.autoencoder import PATCH
from dhumandiff.miniature.base import SIZE, build_unet
from dhumandiff.optional import require

from .autoencoder import face_weights
from .fit import fit
from .towers import Sentences, TextEncoders, hide_words

__all__ = ["heads_of", "train_text_to_image"]

BATCH = 32
GAMMA = 0.3
"""Min-SNR weighting (arXiv 2303.09556), far below its 5: at 16 x 12 latents what a sentence decides shows at high noise,
where the loss is small. Measured on a trained base, what the sentence takes off the loss, over the loss squared (the weight
that would make the most of it), goes 1 : 5 : 32 : 185 at the noise levels 300, 500, 700, 850; 1 / SNR goes 1 : 4 : 16 : 60."""
DROP_TEXT = 0.1
"""Share of sentences left empty."""
HEAD = 5.0
"""How much more the places of a head count: there it is that words about looks show, and an adapter later on."""


ASTRAY, ASTRAY_FROM = 0.05, 0.5
"""Weight of `TextAttention.astray`, and the share of the steps after which it begins. From the first step on it does harm:
layers learn where words belong before they learn to read them, and after 1,200 steps clothes had no clear colors."""


def sizes(count: int, size: tuple[int, int] = SIZE) -> Tensor:
    """SDXL's six numbers for whole pictures of (width, height) px, [count, 6]."""
    width, height = size
    return torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32).expand(count, -1)


def heads_of(boxes: np.ndarray, size: tuple[int, int] = SIZE) -> Tensor:
    """The share of every latent place that a head with its hair covers: boxes [N, 2, 4] px -> [N, h, w]."""
    width, height = size
    shares = []
    for some in np.array_split(boxes, max(len(boxes) // 256, 1)):
        inside = face_weights(some, (height, width)) > 1
        shares.append(F.avg_pool2d(inside.float(), PATCH)[:, 0])
    return torch.cat(shares)


class TextAttention:
    """Listens to a UNet's cross-attention: what its layers look at, of the last call."""

    def __init__(self, unet: nn.Module) -> None:
        self._layers = [module for _, module in cross_attention_layers(unet)]
        self._heard: dict[nn.Module, Tensor] = {}
        for layer in self._layers:
            for part in (layer.to_q, layer.to_k):
                part.register_forward_hook(lambda module, _, out: self._heard.update({module: out}))

    def astray(self, placed: Tensor, middle: Tensor) -> Tensor:
        """The share of the attention to words about one side that comes from the other side of the picture.

        As FastComposer localises its subjects (arXiv 2305.10431), but for the base's own words: without it the UNet draws
        both colors long before it learns whose is which. placed [B, L]: 0 left, 1 right, else neither; middle [B]: where
        the one side ends, 0..1 of the width.
        """
        words = torch.stack([placed == 0, placed == 1], dim=-1).float()  # [B, L, sides]
        shares = []
        for layer in self._layers:
            query, key = (
                rearrange(self._heard[part], "b n (h d) -> b h n d", h=layer.heads) for part in (layer.to_q, layer.to_k)
            )
            given = ((query * query.shape[-1] ** -0.5) @ key.mT).softmax(dim=-1)
            given = (given @ words[:, None]).mean(dim=1)  # [B, places, sides]
            columns = layer_shape((SIZE[1] // PATCH, SIZE[0] // PATCH), given.shape[1])[1]
            across = (torch.arange(given.shape[1], device=given.device) % columns + 0.5) / columns
            right = (across > middle[:, None]).float()
            other = torch.stack([right, 1 - right], dim=-1)
            shares.append((given * other).sum() / given.sum().clamp(min=1e-6))
        return torch.stack(shares).mean()


def train_text_to_image(
    folder: Path,
    latents: Tensor,
    boxes: np.ndarray,
    sentences: Sentences,
    encoders: TextEncoders,
    steps: int,
    accelerator: Any,
) -> nn.Module:
    """The UNet.

    latents [N, 16, 12, 16], scaled, of the pictures whose sentences are `said`; boxes [N, 2, 4] px: of the faces.
    accelerator: Accelerate's; its processes share each batch.
    """
    torch.manual_seed(1)
    unet = build_unet()
    scheduler = require("diffusers").DDPMScheduler.from_config(sdxl_scheduler().config)
    alphas = scheduler.alphas_cumprod
    weights = (alphas / (1 - alphas)).clamp(max=GAMMA) / (alphas / (1 - alphas))
    heads, middles = heads_of(boxes), torch.tensor(boxes[:, :, ::2].mean(axis=(1, 2)) / SIZE[0])
    attention = TextAttention(unet)
    mine = slice(accelerator.process_index, None, accelerator.num_processes)  # rows of the batch

    def losses(random: torch.Generator, step: int) -> dict[str, Tensor]:
        rows = torch.randint(len(latents), (BATCH,), generator=random)
        spoken = torch.where(torch.rand(BATCH, generator=random) < DROP_TEXT, len(latents), rows)[mine]
        hidden = hide_words(sentences, spoken, random)
        last = (torch.rand(BATCH, generator=random) < 0.5)[mine]
        noise = torch.randn(BATCH, *latents.shape[1:], generator=random)[mine]
        # As many at every height, and the higher the more: what a sentence decides shows in few of the low ones.
        even = (torch.arange(BATCH) + torch.rand(BATCH, generator=random)) / BATCH
        times = (even.sqrt() * len(alphas)).long().clamp(max=len(alphas) - 1)[mine]
        rows = rows[mine]
        with torch.no_grad():
            text, pooled, _ = encoders(sentences, spoken, last, hidden)
        noisy = scheduler.add_noise(latents[rows], noise, times)
        added = {"text_embeds": pooled, "time_ids": sizes(len(rows))}
        made = unet(noisy, times, text, added_cond_kwargs=added).sample
        apart = (made - noise).square().mean(1)
        counts = 1 + HEAD * heads[rows]
        apart = (counts * apart).sum((1, 2)) / counts.sum((1, 2))
        localised = step >= ASTRAY_FROM * steps
        astray = attention.astray(sentences.placed[spoken], middles[rows]) if localised else torch.zeros(())
        return {"noise": (weights[times] * apart).mean(), "astray": ASTRAY * astray}

    # The decay holds the UNet's attention, which Muon would let grow without bounds.
    fit(
        folder,
        "text_to_image",
        unet,
        losses,
        steps=steps,
        learning_rate=1e-3,
        muon_lr=0.02,
        weight_decay=0.1,
        ema=0.999,
        seed=1,
        accelerator=accelerator,
    )
    return unet
