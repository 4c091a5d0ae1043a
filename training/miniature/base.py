"""The base of the second design: the UNet learns to draw what sentences say, without identity.

As text_to_image.py, but it predicts the velocity (arXiv 2202.00512) and computes in bfloat16, on any device. The noise of a
picture says little where there is next to nothing else, and that is where a sentence decides; the velocity is the picture there.
The text towers are those that ship. They stay as they are, and either reading of CLIP-L is seen in half of the samples.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dhumandiff.hosts.diffusers.parts import sdxl_scheduler
from dhumandiff.miniature.base import SIZE, build_unet
from dhumandiff.miniature.weights import load_part
from dhumandiff.optional import require

from .fit import fit
from .latents import Latents
from .text_to_image import ASTRAY, DROP_TEXT, HEAD, TextAttention, heads_of, sizes
from .towers import Sentences, hide_words

__all__ = ["Texts", "train_base"]

BATCH = {"cpu": 32, "cuda": 256}
"""Samples of a step: what keeps the device busy."""
ASTRAY_FROM, ASTRAY_EVERY = 4000, 4
"""The step from which attention astray counts, in which steps; layers first learn to read, see text_to_image.py."""
SETTLED, DECAY = 2750, 0.725
"""The step from which all noise levels are drawn as often, and the share of the steps over which the rates fall. Before, the
higher levels are drawn more, since it is there that sentences are read; faces become sharp at the lower ones. Full rates had
come to an end by then: from step 1,900 to 2,750 the loss stood at .470, and 400 further steps with falling rates took it to .424."""
EMA = 0.99
"""Short: the rates fall to next to nothing. Averaged over 2,000 steps (0.9995), the weights had 2 % more loss than the last ones on 192
pictures that they had not seen (.289 and .283)."""
SAVE_MINUTES = 3.0


class Texts(nn.Module):
    """The frozen text towers, which say of sentences what the UNet reads.

    Args:
        towers: CLIP-L and CLIP-G, as `dhumandiff.miniature.base.mini_pipeline` has them.
    """

    def __init__(self, *towers: nn.Module) -> None:
        super().__init__()
        self.towers = nn.ModuleList(towers).requires_grad_(False).eval()
        known = set(load_part("text_encoder")["token_ids"].tolist())
        self._unknown = next(word for word in range(1, len(known) + 2) if word not in known)

    @torch.no_grad()
    def forward(self, low: Tensor, big: Tensor, last: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids [B, 77] for either tower, last [B] bool: read CLIP-L after its last layer, hidden [B, 77] bool: words to hide.

        Returns context [B, 77, 160] and pooled [B, 96].
        """
        first, second = (
            tower(torch.where(hidden, self._unknown, ids), output_hidden_states=True)
            for tower, ids in zip(self.towers, (low, big), strict=True)
        )
        states = torch.where(last[:, None, None], first.last_hidden_state, first.hidden_states[-2])
        return torch.cat([states, second.hidden_states[-2]], dim=-1), second.text_embeds


def train_base(
    folder: Path, data: Latents, texts: Texts, steps: int, accelerator: Any, batch: int | None = None
) -> nn.Module:
    """The UNet.

    Args:
        folder: of the run.
        data: latents with what their sentences say.
        texts: the towers.
        steps: optimizer steps. A run that has fewer goes on when it is called with more.
        accelerator: Accelerate's; its processes share each batch, on its device.
        batch: samples of a step; None: `BATCH` of the device.
    """
    torch.manual_seed(1)
    device, sentences = accelerator.device, Sentences.of(data.descriptions)
    unet = build_unet().to(device)
    if device.type == "cpu":  # PyTorch's fused attention takes 40 % of a training step there, the plain products 20 %
        unet.set_attn_processor(require("diffusers.models.attention_processor").AttnProcessor())
    texts = texts.to(device)
    scheduler = require("diffusers").DDPMScheduler.from_config(sdxl_scheduler().config, prediction_type="v_prediction")
    heights, heads = len(scheduler.alphas_cumprod), heads_of(data.boxes)
    middles = torch.tensor(data.boxes[:, :, ::2].mean(axis=(1, 2)) / SIZE[0])
    attention, count = TextAttention(unet), batch or BATCH[device.type]
    mine = slice(accelerator.process_index, None, accelerator.num_processes)  # samples of the batch

    def losses(random: torch.Generator, step: int) -> dict[str, Tensor]:
        rows = torch.randint(len(data.latents), (count,), generator=random)
        spoken = torch.where(torch.rand(count, generator=random) < DROP_TEXT, len(data.latents), rows)[mine]
        hidden = hide_words(sentences, spoken, random)
        last = (torch.rand(count, generator=random) < 0.5)[mine]
        noise = torch.randn(count, *data.latents.shape[1:], generator=random)[mine].to(device)
        even = (torch.arange(count) + torch.rand(count, generator=random)) / count
        even = even if step >= SETTLED else even.sqrt()
        times = (even * heights).long().clamp(max=heights - 1)[mine].to(device)
        rows = rows[mine]
        text, pooled = texts(*(one.to(device) for one in (sentences.low[spoken], sentences.big[spoken], last, hidden)))
        clean = data.latents[rows].to(device).float()
        noisy = scheduler.add_noise(clean, noise, times)
        added = {"text_embeds": pooled, "time_ids": sizes(len(rows)).to(device)}
        made = unet(noisy, times, text, added_cond_kwargs=added).sample.float()
        apart = (made - scheduler.get_velocity(clean, noise, times)).square().mean(1)
        counts = (1 + HEAD * heads[rows]).to(device)
        parts = {"velocity": ((counts * apart).sum((1, 2)) / counts.sum((1, 2))).mean(), "astray": apart.new_zeros(())}
        if step >= ASTRAY_FROM and step % ASTRAY_EVERY == 0:
            placed = sentences.placed[spoken].to(device)
            parts["astray"] = ASTRAY * ASTRAY_EVERY * attention.astray(placed, middles[rows].to(device))
        return parts

    # The weight decay holds the UNet's attention, which Muon would let grow without bounds.
    fit(
        folder,
        "base",
        unet,
        losses,
        steps=steps,
        learning_rate=1e-3,
        muon_lr=0.02,
        weight_decay=0.1,
        ema=EMA,
        save_every=2000,
        save_minutes=SAVE_MINUTES,
        decay=DECAY,
        bf16=True,
        seed=1,
        accelerator=accelerator,
    )
    return unet
