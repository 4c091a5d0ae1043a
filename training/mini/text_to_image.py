"""The base: two text towers and the UNet, trained together on sentences and pictures, without identity.

As CLIP's towers know what a sentence says before SDXL meets them, so here: small heads read scene and clothing colours off
their pooled states beside the diffusion loss. They are thrown away.

Plain SDXL reads CLIP-L before its last layer; subject prompting reads the last layer after the final norm (METHOD section
1). This base saw either reading in half of its samples, so that a word's new embedding is not also a new dialect.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dhumandiff.hosts.diffusers_base import package
from dhumandiff.mini.base import SIZE, TEXT_WIDTHS, build_text_encoders, build_unet, compact_vocabulary
from dhumandiff.mini.weights import save_part
from dhumandiff.mini.world import COLOURS, SCENES
from dhumandiff.tiny import tiny_scheduler, tiny_tokenizer

from .fit import fit

__all__ = ["TextToImage", "save_text_to_image", "train_text_to_image"]

BATCH = 32
GAMMA = 5.0
"""Min-SNR weighting."""
DROP_TEXT, UNKNOWN = 0.1, 0.02
"""Share of sentences left empty; share of words replaced by the row for words that the world does not use."""


class Words(nn.Module):
    """A token table of the words that occur: `lookup` takes CLIP's token ids to its rows, row 0 stands for all others."""

    def __init__(self, ids: Tensor, vocabulary: int, width: int) -> None:
        super().__init__()
        lookup = torch.zeros(vocabulary, dtype=torch.long)
        lookup[ids] = torch.arange(1, len(ids) + 1)
        self.register_buffer("lookup", lookup)
        self.weight = nn.Parameter(torch.randn(len(ids) + 1, width) * 0.05)

    def forward(self, ids: Tensor) -> Tensor:
        """ids [B, T] -> [B, T, width]."""
        return F.embedding(self.lookup[ids], self.weight)


class TextToImage(nn.Module):
    """Towers, UNet and the heads that help the towers."""

    def __init__(self, words: Tensor) -> None:
        super().__init__()
        self.towers = nn.ModuleList(build_text_encoders())
        for tower, width in zip(self.towers, TEXT_WIDTHS, strict=True):
            tower.set_input_embeddings(Words(words, tower.config.vocab_size, width))
        self.unet = build_unet()
        self.heads = nn.ModuleList(nn.Linear(width, len(SCENES) + 2 * len(COLOURS)) for width in TEXT_WIDTHS)

    def text(self, ids: Sequence[Tensor], last: Tensor, unknown: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """ids: [B, 77] for each tower; last [B] bool: read CLIP-L after its last layer.

        Returns context [B, 77, 160], pooled [B, 96], and what the heads say [2, B, answers].
        """
        outs = []
        for tower, numbers in zip(self.towers, ids, strict=True):
            hook = None
            if unknown is not None:
                table = tower.get_input_embeddings()
                row = table.weight[0]

                def edit(_: nn.Module, __: tuple, found: Tensor, row: Tensor = row) -> Tensor:
                    return torch.where(unknown[..., None], row, found)

                hook = table.register_forward_hook(edit)
            outs.append(tower(numbers, output_hidden_states=True))
            if hook is not None:
                hook.remove()
        low, big = outs
        states = torch.where(last[:, None, None], low.last_hidden_state, low.hidden_states[-2])
        answers = torch.stack([self.heads[0](low.pooler_output), self.heads[1](big.text_embeds)])
        return torch.cat([states, big.hidden_states[-2]], dim=-1), big.text_embeds, answers


def sizes(count: int) -> Tensor:
    """SDXL's six numbers for pictures as the world draws them, [count, 6]."""
    width, height = SIZE
    return torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32).expand(count, -1)


def tokens_of(captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token ids [N, 77] of all captions for either tower; they differ in padding."""
    found = []
    for tokenizer, padding in ((tiny_tokenizer(), None), (tiny_tokenizer(second=True), 0)):
        ids = tokenizer(list(captions), padding="max_length", max_length=77, truncation=True)["input_ids"]
        found.append(torch.tensor(ids))
        if padding is not None and not (found[-1][:, -1] == padding).all():
            raise ValueError("The second tokenizer should fill up with id 0.")
    return found[0], found[1]


def train_text_to_image(folder: Path, latents: Tensor, told: list[dict[str, Any]], steps: int) -> TextToImage:
    """latents [N, 8, 12, 16], scaled; told: the drawings' told.json."""
    torch.manual_seed(1)
    low, big = tokens_of([one["caption"] for one in told] + [""])
    model = TextToImage(torch.unique(torch.cat([low, big])))
    answers = torch.tensor([_answers(one) for one in told])
    scheduler = package("diffusers").DDPMScheduler.from_config(tiny_scheduler().config)
    alphas = scheduler.alphas_cumprod
    weights = (alphas / (1 - alphas)).clamp(max=GAMMA) / (alphas / (1 - alphas))
    ends = (low == 49407).int().argmax(dim=1)
    places = torch.arange(77)
    names = (len(SCENES), len(COLOURS), len(COLOURS))

    def losses(random: torch.Generator, _: int) -> dict[str, Tensor]:
        rows = torch.randint(len(latents), (BATCH,), generator=random)
        empty = torch.rand(BATCH, generator=random) < DROP_TEXT
        chosen = torch.where(empty, len(told), rows)
        spoken = (places[None] > 0) & (places[None] < ends[chosen][:, None])
        unknown = spoken & (torch.rand(BATCH, 77, generator=random) < UNKNOWN)
        last = torch.rand(BATCH, generator=random) < 0.5
        text, pooled, said = model.text((low[chosen], big[chosen]), last, unknown)
        noise = torch.randn(BATCH, *latents.shape[1:], generator=random)
        times = torch.randint(len(alphas), (BATCH,), generator=random)
        noisy = scheduler.add_noise(latents[rows], noise, times)
        added = {"text_embeds": pooled, "time_ids": sizes(BATCH)}
        made = model.unet(noisy, times, text, added_cond_kwargs=added).sample
        apart = (made - noise).square().mean((1, 2, 3))
        told_apart = sum(
            F.cross_entropy(logits[~empty], answers[rows][~empty, part])
            for tower in said
            for part, logits in enumerate(tower.split(names, dim=-1))
        )
        return {"noise": (weights[times] * apart).mean(), "words": 0.01 * told_apart}

    # Muon lets the towers' attention grow without bounds; AdamW does not, and the decay holds the UNet's.
    words = [*model.towers.parameters(), *model.heads.parameters()]
    fit(folder, "text_to_image", model, losses, steps=steps, turn=0.02, decay=0.1, plain=words, ema=0.999, seed=1)
    return model


def save_text_to_image(model: TextToImage, folder: Path) -> None:
    """Write unet, text_encoder and text_encoder_2 as they ship, their tables cut down to the words that occur."""
    save_part("unet", model.unet.state_dict(), folder)
    for part, tower in zip(("text_encoder", "text_encoder_2"), model.towers, strict=True):
        table = tower.get_input_embeddings()
        kept = {
            name: value
            for name, value in tower.state_dict().items()
            if "token_embedding" not in name and not name.endswith("position_ids")
        }
        ids = (table.lookup > 0).nonzero()[:, 0]
        save_part(part, compact_vocabulary(kept, ids, table.weight.data), folder)


def _answers(told: dict[str, Any]) -> list[int]:
    """[scene, colour on the left, colour on the right] as numbers."""
    colour = dict(zip(told["sides"], told["colours"], strict=True))
    colours = list(COLOURS)
    return [list(SCENES).index(told["scene"]), colours.index(colour["left"]), colours.index(colour["right"])]
