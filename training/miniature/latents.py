"""Latents of many pictures: drawn, encoded and forgotten, chunk by chunk, so that a base can see more than a disk would hold.

latents/  00000.npz, 00001.npz, ... of `CHUNK` pictures each: latents float16 [n, C, h, w], scaled, boxes [n, 2, 4] px, and told,
          what `renders.describe_picture` says of each, as JSON
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from dhumandiff.io import atomic_write
from dhumandiff.miniature.autoencoder import PATCH
from dhumandiff.miniature.base import SIZE
from dhumandiff.miniature.world import sample_pair, sample_script, sample_strangers, say_faces
from dhumandiff.miniature.world.dice import Dice

from .autoencoder import encode_all
from .renders import describe_picture

__all__ = ["Drawing", "Latents", "describe_strangers", "draw_latents", "draw_strangers"]

Drawing = tuple[np.ndarray, np.ndarray, dict[str, Any]]
"""A picture [H, W, 3] uint8, the boxes [2, 4] px of its faces, and what its sentence says."""

FACES_SAID = 0.5
"""Share of sentences that say what faces do. Both would be more words than CLIP reads."""
CHUNK = 500
"""Pictures of a file: what a killed run loses at most."""


@dataclass(frozen=True, eq=False)
class Latents:
    """Latents float16 [N, C, h, w], scaled; the faces' boxes [N, 2, 4] px, people in the order of the sentence; what is said."""

    latents: Tensor
    boxes: np.ndarray
    descriptions: list[dict[str, Any]]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) px of the pictures."""
        height, width = self.latents.shape[2:]
        return width * PATCH, height * PATCH

    @classmethod
    def load(cls, folder: Path) -> Latents:
        """All chunks of a folder, in their order."""
        chunks = [dict(np.load(path)) for path in sorted(folder.glob("*.npz"))]
        told = [one for chunk in chunks for one in json.loads(str(chunk["told"]))]
        latents = torch.from_numpy(np.concatenate([chunk["latents"] for chunk in chunks]))
        return cls(latents, np.concatenate([chunk["boxes"] for chunk in chunks]), told)


def draw_strangers(seed: int, size: tuple[int, int] = SIZE) -> Drawing:
    """The seed's picture of two strangers of the training split, (width, height) px, and what is said of it."""
    sample = sample_pair(seed, references=0, size=size)
    boxes = np.array([person.face_box for person in sample.people], np.float32)
    return sample.picture, boxes, describe_strangers(seed)


def describe_strangers(seed: int) -> dict[str, Any]:
    """What is said of it: what people look like, or what their faces do, expression and turn of the head."""
    script = sample_script(seed, sample_strangers(seed))
    if Dice("faces said", seed).chance(FACES_SAID):
        return describe_picture(say_faces(script, seed), seed, looks=False)
    return describe_picture(script, seed)


def draw_latents(
    folder: Path,
    vae: nn.Module,
    count: int,
    first: int = 0,
    workers: int = 1,
    draw: Callable[[int], Drawing] = draw_strangers,
) -> None:
    """Pictures of two people each, seeds from `first`; chunks that are there stay as they are.

    Args:
        folder: of the chunks.
        vae: the trained autoencoder, on any device.
        count: pictures.
        first: seed of the first.
        workers: processes that draw.
        draw: a seed's picture.
    """
    folder.mkdir(parents=True, exist_ok=True)
    device = next(vae.parameters()).device
    chunks = {folder / f"{start // CHUNK:05d}.npz": start for start in range(0, count, CHUNK)}
    lacking = {path: start for path, start in chunks.items() if not path.exists()}
    seeds = [first + seed for start in lacking.values() for seed in range(start, min(start + CHUNK, count))]
    # spawn: a fork of a process that holds CUDA or threads is not safe
    pools = nullcontext() if workers == 1 else ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    with pools as pool:
        drawn = map(draw, seeds) if pool is None else pool.map(draw, seeds, chunksize=16)
        for path, start in tqdm(lacking.items(), desc=folder.name, unit="chunk"):
            pictures, boxes, told = zip(*islice(drawn, min(CHUNK, count - start)), strict=True)
            arrays = {
                "latents": encode_all(vae, np.stack(pictures), device=device).half().numpy(),
                "boxes": np.stack(boxes),
                "told": np.array(json.dumps(told, ensure_ascii=False)),
            }
            with atomic_write(path) as part, part.open("wb") as file:
                np.savez(file, **arrays)
