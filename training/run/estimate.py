"""`train --dry_run`: what would be trained, and the memory it needs, estimated from shapes.

The real UNet and adapter run forward on tensors without values (device "meta"), and what autograd keeps for the backward
pass is added up. So the estimate follows the code, but not the allocator: fragments and the GPU's own libraries are a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..data.dataset import PreparedDataset, open_datasets
from ..objectives import Objective, build_objectives, check_data
from .base import Base, check_shards_fit, outline_base
from .config import TrainConfig
from .init import start_adapter
from .model import PairModel

__all__ = ["Estimate", "dry_run", "estimate"]

STATE = {"adamw": 8, "adamw8bit": 2, "muon": 4, "adafactor": 0.1}
"""Bytes of the optimiser's state, a weight."""

SDXL_VAE = {
    "latent_channels": 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
"""The sizes of SDXL's autoencoder (its config.json on Hugging Face)."""

OWN = 1.0
"""GB that CUDA, its libraries and fragments take, about."""

SEGMENTS = ("BasicTransformerBlock", "ResnetBlock2D")
"""Modules that gradient checkpointing runs again one at a time."""


@dataclass(frozen=True)
class Estimate:
    """Gigabytes (2^30) on one device. parts: what for."""

    parts: dict[str, float]

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self.parts.values())


def dry_run(config: TrainConfig) -> str:
    """What `train` would do with this configuration, in words. Raises what `train` would raise before loading weights."""
    folders, _ = open_datasets(config.data.folders)
    objectives = build_objectives(config.objectives, folders)
    check_data(objectives, folders)
    base, pair = _outline(config, folders, objectives)
    memory = estimate(config, folders, base, pair)
    samples = sum(folder.samples for folder in folders)
    shards = sum(len(folder.shards) for folder in folders)
    counts = {name: _count(part.parameters()) for name, part in pair.adapter.named_children()}
    learning = _count(value for value in pair.adapter.parameters() if value.requires_grad)
    lines = [
        f"Base      {base.name}: UNet of {_millions(_count(base.unet.parameters()))}, {len(base.sizes['hidden'])} "
        f"cross-attention layers, predicts {base.sizes['prediction']}; frozen",
        f"Adapter   from {config.start.weights}: "
        + ", ".join(
            f"{name} {_millions(count)}{'' if name in config.start.train else ' (frozen)'}"
            for name, count in counts.items()
        ),
        f"          {_millions(learning)} weights learn",
        f"Data      {samples} samples in {shards} shards; pictures of "
        + ", ".join(
            sorted({f"{width} x {height}" for folder in folders for height, width in folder.header["buckets"]})
        ),
        f"Steps     {config.steps} of {config.data.batch} samples ({config.data.passes} passes of {config.data.micro_batch}): "
        f"{config.steps * config.data.batch / samples:.1f} epochs",
        f"Loss      {' + '.join(f'{objective.weight:g} {objective.name}' for objective in objectives)}",
        "Time      unknown before it runs; the first console line tells samples a second and the time left",
        f"Memory    about {memory.total:.1f} GB on each GPU. An estimate from shapes, not measured:",
        *(f"          {size:6.2f} GB  {what}" for what, size in memory.parts.items()),
        "Next: the same command without --dry_run.",
    ]
    return "\n".join(lines)


def estimate(config: TrainConfig, folders: Sequence[PreparedDataset], base: Base, pair: PairModel) -> Estimate:
    """Memory of a run, for the largest picture size in the shards and prompts of 77 tokens."""
    bytes_each = 4 if config.precision == "no" else 2
    weights = list(pair.adapter.parameters())
    learning = _count(value for value in weights if value.requires_grad)
    frozen = _count(base.unet.parameters())
    if base.text_encoder is not None:
        frozen += _count(base.text_encoder.parameters())
    parts = {
        "frozen base": frozen * bytes_each,
        "adapter (float32 where it learns)": learning * 4 + (_count(weights) - learning) * bytes_each,
        "gradients, float32": learning * 4,
        f"optimiser ({config.optimiser.kind})": learning * STATE[config.optimiser.kind],
    }
    if config.optimiser.ema > 0 and config.optimiser.ema_device == "same":
        parts["averages"] = learning * 4
    if bytes_each == 2:
        parts["what learns, as cast for computing"] = learning * 2
    looks = bool(config.objectives.identity.weight or config.objectives.identity.contrast)
    if config.watch.samples_every or looks:
        used = [
            what for what, used in (("sample grids", config.watch.samples_every), ("identity losses", looks)) if used
        ]
        parts[f"VAE for {' and '.join(used)} (SDXL's, float32)"] = 84e6 * 4
    if looks:
        faces = 2 * config.data.micro_batch
        parts[f"decoding {faces} faces for identity losses (SDXL's VAE)"] = _decoded(config, folders)
    kept = _kept(config, folders, base, pair, torch.float32 if bytes_each == 4 else torch.bfloat16)
    again = ", layers run again in the backward pass" if config.base.gradient_checkpointing else ""
    parts[f"activations of {config.data.micro_batch} sample(s){again}"] = kept
    in_gb = {what: size / 2**30 for what, size in parts.items()}
    return Estimate({**in_gb, "the GPU's own, a guess": OWN})


def _outline(
    config: TrainConfig, folders: Sequence[PreparedDataset], objectives: Sequence[Objective]
) -> tuple[Base, PairModel]:
    base = outline_base(config.base.path, text_encoder=config.start.subject_path)
    check_shards_fit(base, folders)
    adapter = start_adapter(config.start, base, folders[0], config.seed, device="meta")
    watched = frozenset(what for objective in objectives for what in objective.watches)
    zero = folders[0].common["clip_hidden_zero"].to("meta")
    return base, PairModel(base, adapter, zero, watched, config.objectives.localisation.smallest)


def _kept(
    config: TrainConfig, folders: Sequence[PreparedDataset], base: Base, pair: PairModel, dtype: torch.dtype
) -> float:
    """Bytes that autograd keeps between forward and backward of one micro batch."""
    height, width = max(
        (bucket for folder in folders for bucket in folder.header["buckets"]), key=lambda b: b[0] * b[1]
    )
    rows, sizes, vision = config.data.micro_batch, base.sizes, folders[0].header["vision"]
    nn.Module.to(base.unet, dtype)  # diffusers' own `to` warns about values, of which there are none
    pair.to(dtype)

    def run() -> Tensor:
        hidden = torch.empty(rows, 2, vision["tokens"], vision["clip_width"], device="meta")
        tokens = pair.face_tokens(hidden, torch.zeros(rows, 2, dtype=torch.bool, device="meta"))
        text = torch.empty(rows, 77, sizes["context_width"], device="meta", requires_grad=True)
        noisy = torch.empty(rows, sizes["latent_channels"], height // 8, width // 8, device="meta")
        pooled = torch.empty(rows, sizes["pooled_width"], device="meta") if sizes["pooled_width"] else None
        times = torch.zeros(rows, dtype=torch.long, device="meta")
        size = torch.zeros(rows, 6, device="meta")
        return pair.predict(noisy, times, text, pooled, size, tokens, watching=bool(pair.watch))

    total, largest = _saved(run, base.unet, set(map(id, pair.parameters())))
    if not config.base.gradient_checkpointing:
        return total
    base.unet.enable_gradient_checkpointing()
    base.unet.train()
    return _saved(run, base.unet, set(map(id, pair.parameters())))[0] + largest


def _decoded(config: TrainConfig, folders: Sequence[PreparedDataset]) -> float:
    """Bytes that autograd keeps of decoding the faces of one micro batch, all of them at a noise level that counts.

    By SDXL's decoder in float32, whose file need not be there: every face's window, or every picture once.
    """
    from diffusers import AutoencoderKL

    window, rows = config.objectives.identity.window, config.data.micro_batch
    largest = max((bucket for folder in folders for bucket in folder.header["buckets"]), key=lambda b: b[0] * b[1])
    sides = [side // 8 for side in largest]
    windows = 0 < window < max(sides)
    shape = [min(window, side) for side in sides] if windows else sides
    with torch.device("meta"):
        vae = AutoencoderKL(**SDXL_VAE).requires_grad_(False)
        latents = torch.empty(rows * (2 if windows else 1), 4, *shape, requires_grad=True)
    return _saved(lambda: vae.decode(latents).sample, vae, set())[0]


def _saved(run: Callable[[], Tensor], unet: nn.Module, parameters: set[int]) -> tuple[float, float]:
    """Bytes saved by a forward pass, weights aside; and the most that one checkpointed segment saves."""
    storages: dict[int, torch.UntypedStorage] = {}
    parameters = parameters | set(map(id, unet.parameters()))
    total, largest, starts = 0.0, 0.0, []

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        storage = tensor.untyped_storage()
        # Kept in the dict, so that no later storage gets the same number.
        if id(tensor) not in parameters and storage._cdata not in storages:
            storages[storage._cdata] = storage
            total += storage.nbytes()
        return tensor

    def leave(*_: object) -> None:
        nonlocal largest
        largest = max(largest, total - starts.pop())

    hooks = []
    for module in unet.modules():
        if type(module).__name__ in SEGMENTS:
            hooks.append(module.register_forward_pre_hook(lambda *_: starts.append(total)))
            hooks.append(module.register_forward_hook(leave))
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return total, largest


def _count(parameters: Iterable[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M"
