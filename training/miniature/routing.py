"""How well a router knows where people are, beside what the identity attention says: overlap with the world's own masks.

    print(measure_routing(pathway, open_dataset("held_out/shards")))

Held-out drawings get noise of several heights, and the UNet, told who is there by words and references, looks at them once; no picture
is made, so the true masks are known. The attention's map is read as kindly as can be: each person's is cut where it covers as
much as that person does. The router's is not: a position is whom it fits best, or nobody's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dhumandiff.conditioning.masks import downsample_masks, layer_shape
from dhumandiff.evaluation.metrics import interval
from dhumandiff.methods.dual_pathway import DualPathway

from ..data.batch import NO_AUGMENTATION, BatchMaker
from ..data.dataset import PreparedDataset, Sample
from ..data.seeding import seeded_rng
from ..run.base import load_base
from ..run.dual_config import DualConfig
from ..run.dual_model import DualModel
from .scoring import RESAMPLES

__all__ = ["measure_routing", "overlap"]

LEVELS = (0.9, 0.7, 0.5, 0.3)
"""Noise levels that are looked at, 1 is pure noise."""
SMALLEST_LAYER = 48
"""Positions of a layer that counts, 8 x 6."""


def overlap(regions: Tensor, masks: Tensor) -> Tensor:
    """Intersection over union of soft regions, both [..., Q] 0..1 -> [...]."""
    return torch.minimum(regions, masks).sum(-1) / torch.maximum(regions, masks).sum(-1).clamp(min=1e-6)


@torch.no_grad()
def measure_routing(
    pathway: DualPathway, folder: PreparedDataset, base: str = "mini", min_layer_size: int = SMALLEST_LAYER
) -> dict[str, Any]:
    """Overlap with the people's masks, by noise level, mean over layers and both people; with 95 % intervals over pictures.

    Args:
        pathway: with a router; brought to float32.
        folder: prepared drawings of people whom nothing was trained on.
        base: that it was trained on.
        min_layer_size: fewest positions of a layer that counts.

    Returns:
        {"pictures", "levels": {level: {name: interval}}}: "router", "attention", "chance" (as the attention, of a map at random),
        "exchanged" (the router's regions, each held against the other person) and "people" (both together).
    """
    frozen = load_base(base, text_encoder=True, vae=False)
    zero = folder.common["clip_hidden_zero"]
    model = DualModel(
        frozen, pathway.float(), DualConfig(), zero, frozenset({"faces", "routes"}), min_layer_size
    ).eval()
    make = BatchMaker(
        [folder], NO_AUGMENTATION, pathway.identity.info.identity_key, lambda *names: seeded_rng("routing", *names)
    )
    samples = [
        Sample((0, shard, place), *rest) for shard in range(len(folder.shards)) for place, *rest in folder.read(shard)
    ]
    steps = frozen.scheduler.config.num_train_timesteps
    found: dict[float, list[np.ndarray]] = {level: [] for level in LEVELS}
    for some in _alike(samples):
        batch = make(some, [sample.location[-1] for sample in some], 0)
        for level in LEVELS:
            times = torch.full((len(some),), int(level * steps))
            noisy = frozen.scheduler.add_noise(batch.latents, batch.noise, times)
            found[level].append(_of_layers(model(batch, noisy, times)[1], batch.masks))
    names = ("router", "attention", "chance", "exchanged", "people")
    levels = {
        str(level): {name: interval(np.concatenate(rows)[:, k], RESAMPLES) for k, name in enumerate(names)}
        for level, rows in found.items()
    }
    return {"pictures": len(samples), "levels": levels}


def _alike(samples: Sequence[Sample], most: int = 16) -> Iterator[list[Sample]]:
    """Batches of samples of one picture size."""
    for _, group in groupby(sorted(samples, key=lambda sample: sample.group), key=lambda sample: sample.group):
        some = list(group)
        yield from (some[start : start + most] for start in range(0, len(some), most))


def _of_layers(layers: Sequence[Any], masks: Tensor) -> np.ndarray:
    """Of each sample the overlaps that `measure_routing` names, [B, 5]."""
    rows = []
    random = torch.Generator().manual_seed(0)
    for layer in layers:
        if layer.faces is None:  # a small one, of which the attention says little
            continue
        true = downsample_masks(masks, layer_shape(tuple(masks.shape[-2:]), layer.faces.shape[-1]))
        persons = true.shape[1]
        chosen = layer.routes.argmax(dim=1, keepdim=True)
        routed = torch.zeros_like(layer.routes).scatter_(1, chosen, 1.0)[:, :persons]
        chance = torch.rand(layer.faces.shape, generator=random)
        maps = (routed, _largest(layer.faces, true), _largest(chance, true), routed.flip(1))
        people = overlap(routed.sum(dim=1), true.sum(dim=1).clamp(max=1))
        rows.append(torch.stack([*(overlap(each, true).mean(dim=1) for each in maps), people], dim=1))
    return torch.stack(rows).mean(dim=0).numpy()


def _largest(maps: Tensor, true: Tensor) -> Tensor:
    """The positions [B, P, Q] at which a map is largest, as many as the person covers."""
    ranks = maps.argsort(dim=-1, descending=True).argsort(dim=-1)
    return (ranks < true.sum(dim=-1, keepdim=True).round()).float()
