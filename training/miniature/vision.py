"""The CLIP-like vision tower: what a face looks like, by words and by likeness.

CLIP learnt faces from captions that name hair, beards and glasses, and from many pictures of the same people. Its stand-in
learns to tell which two drawings show one person, and to say the person's traits (`world.features`) from its last but one
hidden states, the ones that IP-Adapters read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dhumandiff.miniature.base import VISION_WIDTH, build_vision
from dhumandiff.miniature.world import features, people
from dhumandiff.references.encode import CLIP_MEAN, CLIP_STD

from .faces import degrade
from .fit import fit
from .renders import Renders

__all__ = ["train_image_encoder"]

TEMPERATURE = 0.07


def train_image_encoder(
    folder: Path, references: Renders, pair_images: Renders, steps: int, batch: int = 48
) -> nn.Module:
    """references, meetings: of the same people of the training split, in the same order."""
    torch.manual_seed(3)
    tower = build_vision()
    photos, heads, met = references["images"], pair_images["heads"], pair_images["people"].astype(int)
    traits = torch.from_numpy(np.stack([features(who) for who in people("train", len(photos))])).float()
    traits = (traits - traits.mean(0)) / (traits.std(0) + 1e-3)
    head = nn.Linear(VISION_WIDTH, traits.shape[1])
    model = nn.ModuleDict({"tower": tower, "head": head})
    appears: list[list[tuple[int, int]]] = [[] for _ in photos]
    for picture, pair in enumerate(met):
        for place, who in enumerate(pair):
            appears[who].append((picture, place))

    def losses(random: torch.Generator, _: int) -> dict[str, Tensor]:
        chosen = torch.randperm(len(photos), generator=random)[:batch].tolist()
        views = []
        for who in chosen:
            for _ in range(2):
                if appears[who] and torch.rand((), generator=random) < 0.35:
                    at = appears[who][int(torch.randint(len(appears[who]), (), generator=random))]
                    views.append(heads[at])
                else:
                    views.append(photos[who, int(torch.randint(photos.shape[1], (), generator=random))])
        out = tower(normalized(_moved(np.stack(views), random)), output_hidden_states=True)
        embeddings = F.normalize(out.image_embeds, dim=-1)
        likeness = embeddings[0::2] @ embeddings[1::2].T / TEMPERATURE
        same = torch.arange(len(chosen))
        said = head(out.hidden_states[-2].mean(dim=1))
        return {
            "likeness": 0.5 * (F.cross_entropy(likeness, same) + F.cross_entropy(likeness.T, same)),
            "traits": 2.0 * F.mse_loss(said, traits[chosen].repeat_interleave(2, dim=0)),
        }

    fit(folder, "vision", model, losses, steps=steps, muon_lr=0.02, seed=3)
    return tower


def normalized(pixels: Tensor) -> Tensor:
    """[B, 3, S, S] -1..1 -> as CLIP wants them."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return ((pixels + 1) / 2 - mean) / std


def _moved(pictures: np.ndarray, random: torch.Generator) -> Tensor:
    """uint8 [B, 96, 96, 3] -> -1..1 [B, 3, 96, 96], a little shifted and zoomed, in other light."""
    count, side = len(pictures), pictures.shape[1]
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    zoom = 0.95 + 0.1 * torch.rand(count, generator=random)
    matrix = torch.zeros(count, 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = zoom
    matrix[:, :, 2] = 0.08 * (torch.rand(count, 2, generator=random) - 0.5)
    grid = F.affine_grid(matrix, (count, 3, side, side), align_corners=False)
    return degrade(F.grid_sample(pixels, grid, padding_mode="border", align_corners=False), random)
