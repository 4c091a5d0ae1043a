"""Prepared data of random numbers, of the sizes that SDXL's have: what `python -m training prepare` would have written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from dhumandiff.testing import METADATA
from training.data.contract import FORMAT, FORMAT_VERSION
from training.data.encode import EncodedSample
from training.data.shards import ShardWriter, to_json, write_file

__all__ = ["REAL", "TINY", "write_shards"]

REAL = {"context": 2048, "pooled": 1280, "text": 768, "clip": 1280, "clip_tokens": 257}
TINY = {"context": 192, "pooled": 128, "text": 64, "clip": 64, "clip_tokens": 50}
"""Widths of SDXL with CLIP ViT-H/14, and of the tiny base."""

START, END, MAN, WOMAN = 49406, 49407, 786, 2308
IDENTITY = 512


def write_shards(folder: Path, size: int, samples: int, widths: dict[str, int]) -> Path:
    """A prepared folder with one shard, if it is not there: pictures of size x size px, a man on the left, a woman on the right."""
    if (folder / "dataset.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    random = torch.Generator().manual_seed(size)
    writer = ShardWriter(folder, 0, pictures=False)
    with writer.open():
        for number in range(samples):
            writer.add(_sample(number, size, widths, random))
    common = {
        "clip_hidden_zero": torch.randn(1, widths["clip_tokens"], widths["clip"], generator=random).half(),
        "empty_text": torch.randn(77, widths["context"], generator=random).half(),
        "empty_ids_l": torch.tensor([START] + [END] * 76, dtype=torch.int32),
        "empty_pooled": torch.randn(widths["pooled"], generator=random),
    }
    save_file(common, folder / "common.safetensors")
    names = {"context_width": "context", "pooled_width": "pooled", "text_width": "text"}
    base = {"name": "random", **{name: widths[short] for name, short in names.items()}}
    told: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "base": {**base, "latent_channels": 4, "scaling_factor": 0.13025},
        "vision": {"name": METADATA["clip_tower"], "clip_width": widths["clip"], "tokens": widths["clip_tokens"]},
        "recogniser": {"name": METADATA["recogniser"], "width": IDENTITY},
        "buckets": [[size, size]],
        "sources": [{"name": "random", "weight": 1.0, "samples": samples}],
        "shards": [{"name": writer.path.name, "samples": samples, "sha256": writer.sha256, "bytes": writer.size}],
        "counts": {"samples": samples, "set_aside": 0},
    }
    write_file(folder / "dataset.json", to_json(told))  # last: a folder with it is whole
    return folder


def _sample(number: int, size: int, widths: dict[str, int], random: torch.Generator) -> EncodedSample:
    side = size // 8
    tensors: dict[str, Tensor] = {
        "latent_mean": torch.randn(4, side, side, generator=random).half(),
        "latent_std": torch.full((4, side, side), 0.01).half(),
        "ids_l": torch.tensor([[START, 320, MAN, 537, 320, WOMAN, *[END] * 71]], dtype=torch.int32),
        "text": torch.randn(77, widths["context"], generator=random).half(),
        "pooled": torch.randn(widths["pooled"], generator=random),
    }
    persons = []
    for person, (word, start) in enumerate((("man", 2), ("woman", 12)), start=1):
        left = (person - 1) * size // 2
        mask, face = torch.zeros(2, side, side, dtype=torch.uint8)
        columns = slice(left // 8, left // 8 + side // 2)
        mask[:, columns] = 255
        face[side // 8 : side // 2, columns] = 255
        hidden = torch.randn(1, widths["clip_tokens"], widths["clip"], generator=random)
        identity = torch.nn.functional.normalize(torch.randn(1, IDENTITY, generator=random), dim=-1)
        tensors |= {
            f"mask_{person}": mask.clone(),
            f"face_{person}": face.clone(),
            f"ref_{person}.clip_hidden": hidden.half(),
            f"ref_{person}.identity": identity,
            f"ref_{person}.identity_swapped": identity.clone(),
        }
        persons.append(_person(number, size, person, word, start, left))
    described = {
        "caption": "a man and a woman",
        "source": "random",
        "bucket": [size, size],
        "original_size": [size, size],
        "crop": [0, 0],
        "target_size": [size, size],
        "persons": persons,
    }
    return EncodedSample(f"{number:08d}", described, tensors, np.zeros((1, 1, 3), np.uint8))


def _person(number: int, size: int, person: int, word: str, start: int, left: int) -> dict[str, Any]:
    token = 2 if person == 1 else 5
    across, down = left + size / 4, 3 * size / 10
    points = np.array([[-0.06, -0.05], [0.06, -0.05], [0, 0], [-0.05, 0.06], [0.05, 0.06]]) * size + (across, down)
    quality = {
        "face_size": size / 4,
        "sharpness": 0.1,
        "yaw": 0.0,
        "brightness": 0.5,
        "clipped": 0.0,
        "light_imbalance": 0.0,
    }
    return {
        "words": [{"start": start, "end": start + len(word), "word": word}],
        "tokens_first": [[0, token]],
        "tokens_all": [[0, token]],
        "gender": "male" if word == "man" else "female",
        "age_group": "adult",
        "identity": f"{number}-{person}",
        "face_box": [across - size / 8, size / 8, across + size / 8, size / 2],
        "person_box": [float(left), 0.0, float(left + size // 2), float(size)],
        "landmarks": points.tolist(),
        "references": [{"origin": "target", "augmented": False, "quality": quality}],
    }
