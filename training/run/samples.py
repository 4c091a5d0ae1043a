"""Sample grids: what the adapter draws at this moment, beside the reference faces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..data.batch import NO_AUGMENTATION, BatchMaker
from ..data.dataset import PreparedDataset, Sample
from ..data.seeding import seeded_rng
from .model import TrainableModel

__all__ = ["draw_grid"]

ROW_HEIGHT = 256
"""Height of a row of the grid, px."""


@torch.no_grad()
def draw_grid(
    model: TrainableModel,
    folder: PreparedDataset,
    *,
    count: int,
    steps: int,
    cfg: float,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager],
) -> Image.Image:
    """One row per pair: the faces of person 1 and 2, the picture they come from, and what is drawn instead of it.

    The first `count` samples of the folder, each from the same noise every time, so that grids can be compared. The
    scheduler is diffusers' DDIM with the base's noise schedule, guidance against the empty prompt and no faces.

    Args:
        model: base and adapter; the base has a VAE.
        folder: prepared data.
        count: pairs of people.
        steps: denoising steps.
        cfg: guidance scale.
        device: of the model.
        autocast: Accelerate's.
    """
    identity_key = model.adapter.info.identity_key
    make = BatchMaker([folder], NO_AUGMENTATION, identity_key, lambda *names: seeded_rng("grid", *names))
    rows = []
    for number, (index, name, meta, packed) in zip(range(count), folder.read(0), strict=False):
        sample = Sample((0, 0, index), name, meta, packed)
        batch = make([sample], [number], 0).to(device)
        with autocast():
            drawn = _draw(model, batch, folder.common, steps, cfg)
            known, made = (_decode(model.base.vae, latent) for latent in (batch.latents, drawn))
        faces = [known.crop(_inside(person["face_box"], known.size)) for person in meta["persons"]]
        rows.append([*faces, known, made])
    return _tiles(rows)


def _draw(model: TrainableModel, batch: Any, common: dict[str, Tensor], steps: int, cfg: float) -> Tensor:
    """Latents [1, c, h, w] of the batch's only sample."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_config(model.base.scheduler.config, clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(steps, device=batch.noise.device)
    model.begin(batch)
    text, _ = model.encode_text(batch)
    empty = common["empty_text"].to(text).repeat(1, batch.ids.shape[1], 1).reshape(text.shape)
    tokens = torch.cat(
        [model.face_tokens(batch.hidden, torch.full_like(batch.drop_identity, dropped)) for dropped in (True, False)]
    )
    pooled = None
    if batch.pooled is not None:
        pooled = torch.cat([common["empty_pooled"].to(batch.pooled)[None], batch.pooled])
    conditions = (torch.cat([empty, text]), pooled, batch.time_ids.repeat(2, 1), tokens)
    x = batch.noise * scheduler.init_noise_sigma
    for time in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, time).repeat(2, 1, 1, 1)
        uncond, cond = model.predict(scaled, time, *conditions).chunk(2)
        x = scheduler.step(uncond + cfg * (cond - uncond), time, x).prev_sample
    return x


def _decode(vae: Any, latent: Tensor) -> Image.Image:
    pixels = vae.decode((latent / vae.config.scaling_factor).to(vae.dtype)).sample[0].float()
    values = ((pixels / 2 + 0.5).clamp(0, 1).nan_to_num() * 255).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).cpu().numpy())


def _inside(box: Sequence[float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A box of at least one pixel inside a picture."""
    x0, y0 = (min(max(int(start), 0), side - 1) for start, side in zip(box[:2], size, strict=True))
    x1, y1 = (min(max(int(end), start + 1), side) for end, start, side in zip(box[2:], (x0, y0), size, strict=True))
    return x0, y0, x1, y1


def _tiles(rows: Sequence[Sequence[Image.Image]], gap: int = 4) -> Image.Image:
    """Pictures beside each other, all of one height, rows below each other."""
    scaled = [
        [picture.resize((max(1, round(picture.width * ROW_HEIGHT / picture.height)), ROW_HEIGHT)) for picture in row]
        for row in rows
    ]
    width = max(sum(picture.width + gap for picture in row) for row in scaled) - gap
    sheet = Image.new("RGB", (width, len(rows) * (ROW_HEIGHT + gap) - gap), "white")
    for number, row in enumerate(scaled):
        left = 0
        for picture in row:
            sheet.paste(picture, (left, number * (ROW_HEIGHT + gap)))
            left += picture.width + gap
    return sheet
