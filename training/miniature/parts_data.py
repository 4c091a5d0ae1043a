"""Couples with parts as arrays, encoded once: what Parts2Whole trains on in the miniature's world.

parts_pictures/  00000.npz, 00001.npz, ... of `CHUNK` couples each. Of a couple's parts, three slots a person: latents
                 [n, 6, C, h, w], masks in bits, CLIP embeddings, and each label's number, -1 for a part that is not there. Of
                 its targets: latents [n, T, C, h, w], poses in bits, embeddings of the sentences, and whether person 1 is on the left
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dhumandiff.io import atomic_write
from dhumandiff.methods.parts2whole import LABELS
from dhumandiff.methods.parts2whole.pictures import clip_input
from dhumandiff.miniature.base import SIZE
from dhumandiff.miniature.world import people, sample_couple
from dhumandiff.miniature.world.dice import Dice

from .autoencoder import encode_all
from .parts_drawing import Couple, PartPicture, draw_couple
from .sampling import Parts

__all__ = ["SLOTS", "bits", "draw_parts_data", "encode_part_pictures", "in_slots", "load_parts_data"]

CHUNK = 200
SLOTS = 6
"""Parts of a couple: face, hair or headwear, and clothes of person 1, then those of person 2."""
TARGETS = 3
"""Pictures of each couple."""
FIRST_SEED = 40_000_000
COLORS_SAID = 0.5
"""Share of sentences that say the first color of the clothes; where none do, it has to come from the parts."""


def encode_part_pictures(parts: Parts, pictures: Sequence[PartPicture]) -> tuple[Tensor, Tensor]:
    """Of part pictures the latents [N, C, h, w], scaled, and CLIP's embeddings [N, E]."""
    latents = encode_all(parts.portrait.pipeline.vae, np.stack([part.picture for part in pictures]))
    model: Any = parts.vision.model  # type: ignore[attr-defined]  # of transformers, with its projection
    pixels = torch.cat([clip_input(part.picture, model.config.image_size) for part in pictures])
    with torch.no_grad():
        return latents, model(pixels).image_embeds


def draw_parts_data(folder: Path, parts: Parts, couples: int, pool: int) -> None:
    """Draw and encode couples of the first `pool` people of the training split; chunks that are there stay as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    everybody = people("train", pool)
    for start in tqdm(range(0, couples, CHUNK), desc=folder.name, unit="chunk"):
        path = folder / f"{start // CHUNK:05d}.npz"
        if path.exists():
            continue
        seeds = range(FIRST_SEED + start, FIRST_SEED + min(start + CHUNK, couples))
        rows = [_encoded(parts, draw_couple(seed, sample_couple(seed, everybody), TARGETS), seed) for seed in seeds]
        arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        with atomic_write(path) as part, part.open("wb") as file:
            np.savez(file, **arrays)


def load_parts_data(folder: Path) -> dict[str, Tensor]:
    """All chunks of a folder, as they were written."""
    chunks = [dict(np.load(path)) for path in sorted(folder.glob("*.npz"))]
    return {name: torch.from_numpy(np.concatenate([chunk[name] for chunk in chunks])) for name in chunks[0]}


def in_slots(couple: Couple) -> list[PartPicture | None]:
    """A couple's parts in `SLOTS` places: face, hair or headwear, clothes of person 1, then those of person 2."""
    slots: list[PartPicture | None] = [None] * SLOTS
    for person, own in enumerate(couple.parts):
        for part in own:
            slots[3 * person + min(LABELS.index(part.label), 2)] = part
    return slots


def _encoded(parts: Parts, couple: Couple, seed: int) -> dict[str, np.ndarray]:
    width, height = SIZE
    slots = in_slots(couple)
    there = [part for part in slots if part is not None]
    latents, embeds = encode_part_pictures(parts, there)
    at = [n for n, part in enumerate(slots) if part is not None]
    arrays = {
        "part_latents": np.zeros((SLOTS, *latents.shape[1:]), np.float16),
        "masks": np.zeros((SLOTS, height, width // 8), np.uint8),
        "embeds": np.zeros((SLOTS, embeds.shape[1]), np.float16),
        "labels": np.full(SLOTS, -1, np.int64),
    }
    arrays["part_latents"][at], arrays["embeds"][at] = latents.numpy(), embeds.numpy()
    arrays["masks"][at] = np.packbits(np.stack([part.mask for part in there]) > 0, axis=-1)
    arrays["labels"][at] = [LABELS.index(part.label) for part in there]
    dice = Dice("colors said", seed)
    said = [target.text_colors if dice.chance(COLORS_SAID) else target.text for target in couple.targets]
    encoded = [parts.portrait.encode(text) for text in said]
    pictures = np.stack([target.picture for target in couple.targets])
    return arrays | {
        "latents": encode_all(parts.portrait.pipeline.vae, pictures).numpy().astype(np.float16),
        "poses": np.packbits(np.stack([target.pose for target in couple.targets]), axis=-1),
        "text": torch.cat([text for text, _ in encoded]).numpy().astype(np.float16),
        "pooled": torch.cat([pooled for _, pooled in encoded]).numpy().astype(np.float16),
        "first_is_left": np.array([target.script.first_is_left for target in couple.targets]),
    }


def bits(packed: Tensor) -> Tensor:
    """Masks in bits, uint8 [..., W / 8] -> [..., W]."""
    return torch.from_numpy(np.unpackbits(packed.numpy(), axis=-1))
