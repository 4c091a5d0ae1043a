"""Reading an expression and the turn of a head off a drawn face: a small classifier that conditions nothing.

It learned from drawings of the judge's people that went through the autoencoder, found by the detector, as it meets them when it scores. How often it
errs on held-out drawings of people whom it never saw is the row `told_ceiling`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dhumandiff.miniature.faces import ALIGNED, SEEN, Block
from dhumandiff.miniature.weights import load_part, save_part
from dhumandiff.miniature.world import EXPRESSIONS

from .faces import augment_crops
from .fit import fit
from .told_data import HEADS

__all__ = ["PART", "FaceReader", "load_reader", "save_reader", "train_reader"]

BATCH, WIDTH = 64, 16
PART = "reader"
"""Name of its weights."""


class FaceReader(nn.Module):
    """Aligned faces [B, 3, 56, 56] -1..1 -> logits [B, 4] of `EXPRESSIONS` and [B, 3] of `HEADS`."""

    def __init__(self) -> None:
        super().__init__()
        w = WIDTH
        self.body = nn.Sequential(
            nn.Conv2d(3, w, 3, 2, 1), nn.SiLU(), Block(w, 2 * w, 2), Block(2 * w, 4 * w, 2), Block(4 * w, 4 * w)
        )
        self.narrow = nn.Conv2d(4 * w, 16, 1)
        self.out = nn.Linear(16 * 49, len(EXPRESSIONS) + len(HEADS))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        x = F.silu(self.narrow(self.body(pixels)))
        expression, head = self.out(x.flatten(1)).split((len(EXPRESSIONS), len(HEADS)), dim=-1)
        return expression, head

    @torch.no_grad()
    def read(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Aligned faces uint8 [N, 64, 64, 3] -> numbers [N] in `EXPRESSIONS` and in `HEADS`."""
        edge = (ALIGNED - SEEN) // 2
        middle = np.ascontiguousarray(crops[:, edge:-edge, edge:-edge])
        expression, head = self(torch.from_numpy(middle).permute(0, 3, 1, 2).float() / 127.5 - 1)
        return expression.argmax(1).numpy(), head.argmax(1).numpy()


def train_reader(folder: Path, faces: Path, steps: int) -> FaceReader:
    """The reader; faces: the file of `told_data.render_told_faces`."""
    torch.manual_seed(10)
    model = FaceReader()
    data = dict(np.load(faces))
    labels = torch.from_numpy(np.stack([data["expressions"], data["heads"]]))

    def losses(random: torch.Generator, _: int) -> dict[str, Tensor]:
        rows = torch.randint(labels.shape[1], (BATCH,), generator=random)
        found = model(augment_crops(torch.from_numpy(data["crops"][rows.numpy()]), random))
        entropies = [F.cross_entropy(logits, wanted[rows]) for logits, wanted in zip(found, labels, strict=True)]
        return {"expression": entropies[0], "head": entropies[1]}

    fit(folder, "told_reader", model, losses, steps=steps, learning_rate=2e-3, bf16=True, seed=10)
    return model


def load_reader(folder: Path) -> FaceReader:
    """The trained reader of a folder of weights."""
    reader = FaceReader()
    reader.load_state_dict(load_part(PART, folder))
    return reader.requires_grad_(False).eval()


def save_reader(reader: FaceReader, folder: Path) -> None:
    """Write its weights."""
    save_part(PART, reader.state_dict(), folder)
