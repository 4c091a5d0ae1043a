"""The base of the second design: the UNet learns to draw what sentences say, without identity.

As text_to_image.py, but it predicts the velocity (arXiv 2202.00512) and computes in bfloat16, on any device. The noise of a
picture says little where there is next to nothing else, and that is where a sentence decides; the velocity is the picture there.
The text towers are those that ship. They stay as they are, and either reading of CLIP-L is seen in half of the samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dhumandiff.hosts.diffusers.parts import sdxl_scheduler
from dhumandiff.miniature.base import build_unet, mini_unet
from dhumandiff.miniature.weights import load_part
from dhumandiff.optional import require

from .fit import fit
from .latents import Latents
from .text_to_image import ASTRAY, DROP_TEXT, HEAD, TextAttention, heads_of, sizes
from .towers import Sentences, hide_words

__all__ = ["FRESH", "LONGER", "Course", "Texts", "train_base"]

ASTRAY_EVERY, SMALL_EVERY = 4, 8
"""In which steps attention astray counts, and which are of small pictures."""
SAVE_MINUTES = 3.0


@dataclass(frozen=True)
class Course:
    """One training of the base.

    Args:
        name: of its checkpoint and log in the run's folder.
        batch: samples of a step, by the type of the device.
        learning_rate: AdamW's.
        muon_lr: Muon's.
        ema: decay of the EMA, short: the rates fall to next to nothing. Averaged over 2,000 steps (0.9995), the weights had 2 %
            more loss than the last ones on 192 pictures that they had not seen (.289 and .283).
        decay: the share of the steps, at their end, over which the rates fall.
        seed: of the batches.
        settled: the step from which all noise levels are drawn as often. Before, the higher ones are drawn more, since it is
            there that sentences are read; faces become sharp at the lower ones.
        astray_from: the step from which attention astray counts; layers first learn to read, see text_to_image.py.
        on: from the weights in use; else from nothing.
    """

    name: str
    batch: Mapping[str, int]
    learning_rate: float
    muon_lr: float
    ema: float
    decay: float
    seed: int
    settled: int = 0
    astray_from: int = 0
    on: bool = False


FRESH = Course("base", {"cpu": 32, "cuda": 256}, 1e-3, 0.02, 0.99, 0.725, 1, settled=2750, astray_from=4000)
"""From nothing. From step 1,900 to 2,750 the loss stood at .470, and 400 further steps with falling rates took it to .424: so
they fall from there."""
LONGER = Course("base_longer", {"cpu": 256, "cuda": 256}, 7e-4, 0.014, 0.995, 0.95, 2, on=True)
"""Eight times as many samples a step, on from the weights that are there: that took the loss from .352 (10,000 steps of 32) to .342."""


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


class _Seen:
    """Latents as a step needs them: with their sentences, heads [N, h, w] and where the one side ends [N], 0..1 of the width."""

    def __init__(self, data: Latents) -> None:
        self.latents, self.size, self.sentences = data.latents, data.size, Sentences.of(data.descriptions)
        self.heads = heads_of(data.boxes, data.size)
        self.middles = torch.tensor(data.boxes[:, :, ::2].mean(axis=(1, 2)) / data.size[0])


def train_base(
    folder: Path,
    data: Latents,
    texts: Texts,
    steps: int,
    accelerator: Any,
    *,
    course: Course = FRESH,
    small: Latents | None = None,
    batch: int | None = None,
) -> nn.Module:
    """The UNet.

    Args:
        folder: of the run.
        data: latents with what their sentences say, of the size that the miniature draws.
        texts: the towers.
        steps: optimizer steps. A run that has fewer goes on when it is called with more.
        accelerator: Accelerate's; its processes share each batch, on its device.
        course: how it is trained.
        small: latents of smaller pictures, which every `SMALL_EVERY`th step sees, so that workflows of the first miniature
            go on drawing faces; None: none.
        batch: samples of a step; None: the course's for the device.
    """
    torch.manual_seed(1)
    device, seen = accelerator.device, [_Seen(one) for one in (data, small) if one is not None]
    unet = (mini_unet().requires_grad_(True).train() if course.on else build_unet()).to(device)
    if device.type == "cpu":  # PyTorch's fused attention takes 40 % of a training step there, the plain products 20 %
        unet.set_attn_processor(require("diffusers.models.attention_processor").AttnProcessor())
    texts = texts.to(device)
    scheduler = require("diffusers").DDPMScheduler.from_config(sdxl_scheduler().config, prediction_type="v_prediction")
    heights = len(scheduler.alphas_cumprod)
    attention, count = TextAttention(unet), batch or course.batch[device.type]
    mine = slice(accelerator.process_index, None, accelerator.num_processes)  # samples of the batch

    def losses(random: torch.Generator, step: int) -> dict[str, Tensor]:
        data = seen[-1 if step % SMALL_EVERY == 1 else 0]  # never a step that attention astray counts in
        sentences, total = data.sentences, len(data.latents)
        rows = torch.randint(total, (count,), generator=random)
        spoken = torch.where(torch.rand(count, generator=random) < DROP_TEXT, total, rows)[mine]
        hidden = hide_words(sentences, spoken, random)
        last = (torch.rand(count, generator=random) < 0.5)[mine]
        noise = torch.randn(count, *data.latents.shape[1:], generator=random)[mine].to(device)
        even = (torch.arange(count) + torch.rand(count, generator=random)) / count
        even = even if step >= course.settled else even.sqrt()
        times = (even * heights).long().clamp(max=heights - 1)[mine].to(device)
        rows = rows[mine]
        text, pooled = texts(*(one.to(device) for one in (sentences.low[spoken], sentences.big[spoken], last, hidden)))
        clean = data.latents[rows].to(device).float()
        noisy = scheduler.add_noise(clean, noise, times)
        added = {"text_embeds": pooled, "time_ids": sizes(len(rows), data.size).to(device)}
        made = unet(noisy, times, text, added_cond_kwargs=added).sample.float()
        apart = (made - scheduler.get_velocity(clean, noise, times)).square().mean(1)
        counts = (1 + HEAD * data.heads[rows]).to(device)
        parts = {"velocity": ((counts * apart).sum((1, 2)) / counts.sum((1, 2))).mean(), "astray": apart.new_zeros(())}
        if step >= course.astray_from and step % ASTRAY_EVERY == 0:
            placed = sentences.placed[spoken].to(device)
            parts["astray"] = ASTRAY * ASTRAY_EVERY * attention.astray(placed, data.middles[rows].to(device))
        return parts

    # The weight decay holds the UNet's attention, which Muon would let grow without bounds.
    fit(
        folder,
        course.name,
        unet,
        losses,
        steps=steps,
        learning_rate=course.learning_rate,
        muon_lr=course.muon_lr,
        weight_decay=0.1,
        ema=course.ema,
        save_every=2000,
        save_minutes=SAVE_MINUTES,
        decay=course.decay,
        bf16=True,
        seed=course.seed,
        accelerator=accelerator,
    )
    return unet
