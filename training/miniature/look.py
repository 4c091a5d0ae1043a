"""What a base that is being trained draws by now, beside what the world draws: `python -m training mini --out FOLDER --look 40`.

The averaged weights of its last checkpoint become FOLDER/weights/unet.safetensors, so that with DHUMANDIFF_MINI=FOLDER/weights
everything else can be tried on them, too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from dhumandiff.hosts.diffusers.pipeline import PortraitPipeline
from dhumandiff.io import write_png
from dhumandiff.miniature.base import SIZE, build_unet, mini_pipeline
from dhumandiff.miniature.weights import save_part
from dhumandiff.miniature.world import draw_script, people, sample_script, write_caption

from .sampling import GenerationRequest, Sampling, sample_portraits

__all__ = ["average_of", "look"]

SEEDS = 700_000_000
"""Of scripts that no stage draws."""
COLUMNS = 4
"""Pairs of pictures in a line."""


def average_of(folder: Path, name: str, model: nn.Module) -> int:
    """Put the averaged weights of a run of `fit` into a model; gives the steps that it has done."""
    kept = torch.load(folder / f"{name}.pt", weights_only=True, map_location="cpu")
    for parameter, average in zip(model.parameters(), kept["mean"], strict=True):
        parameter.data.copy_(average)
    return kept["step"]


def look(folder: Path, count: int) -> Path:
    """Draw `count` held-out pairs, each by the world (left) and, out of the same sentence, by the base (right).

    Returns:
        look_<steps>.png in the folder.
    """
    unet = build_unet()
    steps = average_of(folder, "base", unet)
    save_part("unet", unet.state_dict(), folder / "weights")
    pool = people("test", 2 * count)
    scripts = [sample_script(SEEDS + n, (pool[2 * n], pool[2 * n + 1])) for n in range(count)]
    drawn = [draw_script(script, n, SIZE).picture for n, script in enumerate(scripts)]
    texts = [write_caption(script, SEEDS + n, looks=True)[1].text for n, script in enumerate(scripts)]
    requests = [GenerationRequest(text, (), n) for n, text in enumerate(texts)]
    pipeline = mini_pipeline()
    pipeline.unet = unet.requires_grad_(False).eval()
    made = sample_portraits(PortraitPipeline(pipeline), None, requests, Sampling.of(mode="none"))
    pairs = [np.concatenate(both, axis=1) for both in zip(drawn, made, strict=True)]
    pairs += [np.full_like(pairs[0], 255)] * (-count % COLUMNS)
    rows = [np.concatenate(pairs[n : n + COLUMNS], axis=1) for n in range(0, len(pairs), COLUMNS)]
    path = folder / f"look_{steps:06d}.png"
    write_png(Image.fromarray(np.concatenate(rows)), path, {})
    return path
