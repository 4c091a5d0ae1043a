"""Latents of many pictures: drawn, encoded and forgotten, chunk by chunk, so that a base can see more than a disk would hold.

latents/  00000.npz, 00001.npz, ... of `CHUNK` pictures each: latents float16 [n, C, h, w], scaled, boxes [n, 2, 4] px, and told,
          what `renders.describe_picture` says of each, as JSON
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from dhumandiff.io import atomic_write
from dhumandiff.miniature.base import SIZE
from dhumandiff.miniature.world import sample_pair

from .autoencoder import encode_all
from .renders import describe_picture

__all__ = ["Latents", "draw_latents"]

CHUNK = 500
"""Pictures of a file: what a killed run loses at most."""


@dataclass(frozen=True, eq=False)
class Latents:
    """Latents float16 [N, C, h, w], scaled; the faces' boxes [N, 2, 4] px, people in the order of the sentence; what is said."""

    latents: Tensor
    boxes: np.ndarray
    descriptions: list[dict[str, Any]]

    @classmethod
    def load(cls, folder: Path) -> Latents:
        """All chunks of a folder, in their order."""
        chunks = [dict(np.load(path)) for path in sorted(folder.glob("*.npz"))]
        told = [one for chunk in chunks for one in json.loads(str(chunk["told"]))]
        latents = torch.from_numpy(np.concatenate([chunk["latents"] for chunk in chunks]))
        return cls(latents, np.concatenate([chunk["boxes"] for chunk in chunks]), told)


def draw_latents(folder: Path, vae: nn.Module, count: int, first: int = 0) -> None:
    """Pictures of two strangers of the training split each, seeds from `first`; chunks that are there stay as they are.

    Args:
        folder: of the chunks.
        vae: the trained autoencoder, on any device.
        count: pictures.
        first: seed of the first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    device = next(vae.parameters()).device
    for start in tqdm(range(0, count, CHUNK), desc=folder.name, unit="chunk"):
        path = folder / f"{start // CHUNK:05d}.npz"
        if path.exists():
            continue
        samples = [
            sample_pair(first + seed, references=0, size=SIZE) for seed in range(start, min(start + CHUNK, count))
        ]
        pictures = np.stack([sample.picture for sample in samples])
        boxes = np.stack([[person.face_box for person in sample.people] for sample in samples])
        told = [describe_picture(sample.script, sample.seed) for sample in samples]
        arrays = {
            "latents": encode_all(vae, pictures, device=device).half().numpy(),
            "boxes": boxes.astype(np.float32),
            "told": np.array(json.dumps(told, ensure_ascii=False)),
        }
        with atomic_write(path) as part, part.open("wb") as file:
            np.savez(file, **arrays)
