"""Parts2Whole on the miniature: its UNet learns to draw two people from pictures of their parts.

As published (arXiv 2404.15267 and the authors' training code): one loss, the noise; a copy of the UNet as appearance encoder; all
of both UNets, the pose net and the image projections trained; pose dropped in 20 %, all parts in 20 %, each part in 20 %, and
sentence with image tokens in 10 % of all cases. Otherwise than published: pictures have two people, each half of a picture reads one
person's parts, and noise levels are drawn and weighted as for this base (text_to_image.py).
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dhumandiff.formats.parts2whole import DECOUPLED, POSE, REFERENCE, SCHEDULE, WEIGHTS, Parts2WholeFiles, layers_of
from dhumandiff.hosts.diffusers.parts import sdxl_scheduler
from dhumandiff.hosts.diffusers.parts2whole import make_encoder
from dhumandiff.methods.parts2whole import LABELS, Parts2Whole
from dhumandiff.methods.parts2whole.pose_guider import PoseGuider
from dhumandiff.miniature.base import VISION, unet_arguments
from dhumandiff.miniature.design import DESIGN
from dhumandiff.optional import require

from .fit import fit
from .parts_batch import PartsBatch
from .parts_data import SLOTS, bits
from .sampling import Parts
from .text_to_image import GAMMA, sizes

__all__ = ["begin", "save_weights", "train_parts"]

COUPLES, EACH = 6, 4
"""Couples of a batch, and pictures of each: the appearance encoder runs once a couple."""
NO_TEXT, NO_POSE, NO_PARTS, NO_PART = 0.1, 0.2, 0.2, 0.2
"""How often sentence and image tokens, the pose, all parts and each part are dropped."""
POSE_WIDTHS = (16, 32, 64, 64)
"""Of the pose net; the released one has 16, 32, 96, 256."""
TEXT_TIME = ("addition_embed_type", "addition_time_embed_dim", "projection_class_embeddings_input_dim")


def begin(parts: Parts) -> tuple[nn.Module, Parts2Whole]:
    """The UNet that draws and the method's weights, as training begins: both UNets are the miniature's, what is new adds nothing.

    SDXL's pooled text and size embeddings are the same for every part, so the appearance encoder has them as a bias and is
    called as Stable Diffusion 1.5's is.
    """
    torch.manual_seed(7)
    unet = copy.deepcopy(parts.portrait.pipeline.unet)
    tensors = {name: value.clone() for name, value in unet.state_dict().items()}
    pooled = parts.portrait.encode("")[1]
    with torch.no_grad():
        ids = unet.add_time_proj(sizes(1).flatten()).reshape(1, -1)
        constant = unet.add_embedding(torch.cat([pooled, ids], dim=-1))[0]
    tensors["time_embedding.linear_2.bias"] += constant
    reference = {name: value for name, value in tensors.items() if not name.startswith("add_embedding")}
    config = {name: value for name, value in unet_arguments(DESIGN).items() if name not in TEXT_TIME}
    pose = PoseGuider(_pose_shapes(unet.conv_in.out_channels))
    nn.init.zeros_(pose.conv_out.weight)
    nn.init.zeros_(pose.conv_out.bias)
    decoupled = {}
    for layer in layers_of(reference):
        width = reference[f"{layer}.norm1.weight"].shape[0]
        decoupled[layer] = (
            0.05 * torch.randn(width, VISION["projection_dim"]),
            torch.zeros(width, VISION["projection_dim"]),
        )
    folder = Path("miniature")
    paths = dict.fromkeys(("reference", "pose", "decoupled"), folder)
    files = Parts2WholeFiles(folder, config, reference, pose.state_dict(), decoupled, _schedule(), paths)
    return unet, Parts2Whole(files)


def save_weights(folder: Path, unet: nn.Module, weights: Parts2Whole, steps: int) -> None:
    """Write a folder in the layout of the released one, in half precision, with the UNet that draws, and training.json of how long it
    was trained."""

    def write(path: Path, tensors: dict[str, Tensor]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value.detach().half().contiguous() for name, value in tensors.items()}, path)

    encoder = weights.encoder
    if encoder is None:
        raise ValueError("These weights have no appearance encoder: train them first.")
    write(folder / REFERENCE / WEIGHTS[0], encoder.state_dict())
    write(folder / POSE / WEIGHTS[0], weights.pose_guider.state_dict())
    write(folder / "unet" / WEIGHTS[0], unet.state_dict())
    projections = {
        f"{layer}.attn2.processor.{name}.weight": value
        for layer, one in zip(weights.info.layers, weights.image_projections, strict=True)
        for name, value in one.state_dict().items()
    }
    write(folder / DECOUPLED, projections)
    (folder / SCHEDULE).parent.mkdir(exist_ok=True)
    for path, content in (
        (folder / REFERENCE / "config.json", weights.files.config),
        (folder / "unet" / "config.json", unet_arguments(DESIGN)),
        (folder / SCHEDULE, _schedule()),
        (folder / "training.json", {"steps": steps, "pictures": steps * COUPLES * EACH}),
    ):
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def train_parts(
    folder: Path, parts: Parts, data: dict[str, Tensor], steps: int, save_minutes: float = 3.0
) -> tuple[nn.Module, Parts2Whole]:
    """Train; a run that is finished is only loaded.

    Args:
        folder: keeps the run.
        parts: the miniature's frozen parts.
        data: of `parts_data.load_parts_data`.
        steps: optimizer steps.
        save_minutes: between checkpoints.

    Returns:
        The UNet that draws, and the method's weights.
    """
    unet, weights = begin(parts)
    weights.encoder = make_encoder(weights.files)
    model = nn.ModuleList([unet, weights.encoder, weights.pose_guider, weights.image_projections])
    model.requires_grad_(True)
    batch = PartsBatch(unet, weights)
    labels = torch.cat([parts.portrait.encode(label)[0] for label in LABELS])
    nothing = parts.portrait.encode("")
    scheduler = require("diffusers").DDPMScheduler.from_config(
        sdxl_scheduler().config, prediction_type=DESIGN.prediction
    )
    alphas = scheduler.alphas_cumprod
    signal = alphas / (1 - alphas)
    counts = signal.clamp(max=GAMMA) / (signal if DESIGN.prediction == "epsilon" else signal + 1)
    couples, pictures = data["latents"].shape[:2]

    def losses(random: torch.Generator, _: int) -> dict[str, Tensor]:
        def dropped(share: float, *shape: int) -> Tensor:
            return torch.rand(shape, generator=random) < share

        rows = torch.randint(couples, (COUPLES,), generator=random)
        which = torch.randint(pictures, (COUPLES, EACH), generator=random).flatten()
        of = rows.repeat_interleave(EACH)
        count = len(of)
        latents = data["latents"][of, which].float()
        noise = torch.randn(latents.shape, generator=random)
        even = (torch.arange(count) + torch.rand(count, generator=random)) / count
        even = even[torch.randperm(count, generator=random)]
        times = (even.sqrt() * len(alphas)).long().clamp(max=len(alphas) - 1)
        seen = (data["labels"][rows] >= 0) & ~dropped(NO_PARTS, COUPLES, 1) & ~dropped(NO_PART, COUPLES, SLOTS)
        batch.encode(
            data["part_latents"][rows][seen].float(),
            labels[data["labels"][rows][seen]],
            bits(data["masks"][rows][seen])[:, None].float(),
            seen,
            EACH,
        )
        without = dropped(NO_TEXT, count)
        batch.embeds = torch.where(without[:, None, None], 0, data["embeds"][of].float())
        batch.first_is_left = data["first_is_left"][of, which]
        batch.pose = weights.pose_guider(bits(data["poses"][of, which]).float()) * ~dropped(NO_POSE, count, 1, 1, 1)
        text = torch.where(without[:, None, None], nothing[0], data["text"][of, which].float())
        pooled = torch.where(without[:, None], nothing[1], data["pooled"][of, which].float())
        noisy = scheduler.add_noise(latents, noise, times)
        added = {"text_embeds": pooled, "time_ids": sizes(count)}
        made = unet(noisy, times, text, added_cond_kwargs=added).sample
        wanted = noise if DESIGN.prediction == "epsilon" else scheduler.get_velocity(latents, noise, times)
        return {"noise": (counts[times] * (made - wanted).square().mean((1, 2, 3))).mean()}

    fit(
        folder,
        "parts2whole",
        model,
        losses,
        steps=steps,
        learning_rate=7e-4,
        muon_lr=0.014,
        weight_decay=0.1,
        ema=0.995,
        save_minutes=save_minutes,
        decay=0.5,
        seed=7,
    )
    batch.detach()
    return unet, weights


def _pose_shapes(channels: int) -> dict[str, tuple[int, ...]]:
    a, b, c, d = POSE_WIDTHS
    blocks = [(a, a), (b, a), (b, b), (c, b), (c, c), (d, c)]
    shapes = {"conv_in": (a, 3, 3, 3), **{f"blocks.{n}": (*pair, 3, 3) for n, pair in enumerate(blocks)}}
    return {**shapes, "conv_out": (channels, d, 3, 3)}


def _schedule() -> dict[str, Any]:
    """Of the miniature's base: SDXL's noise, not the released weights'."""
    config = sdxl_scheduler().config
    names = ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps")
    return {**{name: config[name] for name in names}, "prediction_type": DESIGN.prediction}
