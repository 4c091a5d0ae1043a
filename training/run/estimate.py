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
from ..objectives.losses import build_objectives, check_data
from ..objectives.protocol import Objective
from ..wording import counted
from .base import BaseModel, check_shards_compatible, meta_base
from .config import TrainConfig
from .data_notes import data_notes
from .frozen import BYTES, offloaded_blocks
from .init import init_weights
from .model import TrainableModel, build_model
from .sharding import OPTIMIZERS
from .time_estimate import operations, time_line
from .weights import identity_of

__all__ = ["Estimate", "dry_run", "estimate", "estimated", "estimates"]

OPTIMIZER_BYTES = {"adamw": 8, "adamw8bit": 2, "muon": 4, "adafactor": 0.1, "prodigy": 16, "schedulefree": 8}
"""Bytes of the optimizer's state per trained weight."""

SDXL_VAE = {
    "latent_channels": 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
"""The sizes of SDXL's autoencoder (its config.json on Hugging Face)."""

CUDA_OVERHEAD = 1.0
"""GB that CUDA, its libraries and fragmentation take, about."""

CHECKPOINTED = ("BasicTransformerBlock", "ResnetBlock2D")
"""Classes of modules that gradient checkpointing runs again one at a time."""


@dataclass(frozen=True)
class Estimate:
    """Memory on one device.

    Attributes:
        parts: what for -> gigabytes (2^30 bytes).
    """

    parts: dict[str, float]

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self.parts.values())


def dry_run(config: TrainConfig) -> str:
    """What `train` would do with this configuration, in words.

    Raises:
        TrainingError: what `train` would raise before loading weights.
    """
    folders, objectives, base, model, memory = _estimated(config)
    validation = open_datasets(config.data.validation, "validation")[0] if config.data.validation else []
    samples = sum(folder.samples for folder in folders)
    shards = sum(len(folder.shards) for folder in folders)
    counts = {name: _count(part.parameters()) for name, part in model.weights.named_children()}
    trained = _count(value for value in model.weights.parameters() if value.requires_grad)
    lines = [
        f"Base      {base.name}: UNet of {_millions(_count(base.unet.parameters()))}, {len(base.sizes['hidden'])} "
        f"cross-attention layers, predicts {base.sizes['prediction']}; frozen",
        f"Adapter   from {config.init.weights}: "
        + ", ".join(
            f"{name} {_millions(count)}{'' if name in config.init.train else ' (frozen)'}"
            for name, count in counts.items()
        ),
        f"          {_millions(trained)} weights are trained",
        f"Data      {counted(samples, 'sample')} in {counted(shards, 'shard')}; pictures of "
        + ", ".join(
            sorted({f"{width} x {height}" for folder in folders for height, width in folder.header["buckets"]})
        ),
        f"Steps     {config.steps} of {config.data.batch_size} samples ({config.data.gradient_accumulation_steps} passes of {config.data.micro_batch_size}): "
        f"{config.steps * config.data.batch_size / samples:.1f} epochs",
        f"Loss      {' + '.join(f'{objective.weight:g} {objective.name}' for objective in objectives)}",
        f"Time      {_time(config, folders, base, model)}",
        f"Memory    about {memory.total:.1f} GB on each GPU. An estimate from shapes, not measured:",
        *(f"          {size:6.2f} GB  {what}" for what, size in memory.parts.items()),
        *_sharded_lines(config, base, model, memory),
        *(f"Note      {note}" for note in data_notes(config, folders, validation)),
        "Nothing was trained. Leave out --dry_run to do it.",
    ]
    return "\n".join(lines)


def estimated(config: TrainConfig) -> Estimate:
    """Memory of a run with this configuration. Raises what `dry_run` raises."""
    return _estimated(config)[-1]


def _estimated(
    config: TrainConfig,
) -> tuple[list[PreparedDataset], list[Objective], BaseModel, TrainableModel, Estimate]:
    folders, _ = open_datasets(config.data.folders)
    objectives = build_objectives(config.objectives, folders)
    check_data(objectives, folders)
    base, model = _meta_model(config, folders, objectives)
    return folders, objectives, base, model, estimate(config, folders, base, model)


def estimates(config: TrainConfig, processes: Sequence[int]) -> dict[int, float]:
    """GB on each GPU where so many processes share base and adapter by FSDP; 1: without it. Raises what `dry_run` raises."""
    _, _, base, model, memory = _estimated(config)
    return _shared(config, base, model, memory, processes)


def estimate(
    config: TrainConfig, folders: Sequence[PreparedDataset], base: BaseModel, model: TrainableModel
) -> Estimate:
    """Memory of a run, for the largest picture size in the shards and prompts of 77 tokens."""
    bytes_each = 4 if config.precision == "no" else 2
    parts = _weight_parts(config, base, model, 1)
    identity = bool(config.objectives.identity.weight or config.objectives.identity.infonce_weight)
    if config.logging.samples_every or identity:
        used = [
            what
            for what, used in (("sample grids", config.logging.samples_every), ("identity losses", identity))
            if used
        ]
        parts[f"VAE for {' and '.join(used)} (SDXL's, float32)"] = 84e6 * 4
    if identity:
        faces = 2 * config.data.micro_batch_size
        parts[f"decoding {faces} faces for identity losses (SDXL's VAE)"] = _decoding(config, folders)
    activations = _activations(config, folders, base, model, torch.float32 if bytes_each == 4 else torch.bfloat16)
    again = ", layers run again in the backward pass" if config.base.gradient_checkpointing else ""
    parts[f"activations of {config.data.micro_batch_size} sample(s){again}"] = activations
    in_gb = {what: size / 2**30 for what, size in parts.items()}
    return Estimate({**in_gb, "CUDA's own, a guess": CUDA_OVERHEAD})


def _weight_parts(config: TrainConfig, base: BaseModel, model: TrainableModel, processes: int) -> dict[str, float]:
    """Bytes of everything that has the size of weights, in each of these processes."""
    bytes_each = 4 if config.precision == "no" else 2
    weights = list(model.weights.parameters())
    trained = _count(value for value in weights if value.requires_grad)
    frozen = _frozen_bytes(config, base, bytes_each, processes)
    # Of a sharded adapter one layer of keys and values is whole at a time, with its gradients; other parts are for a whole pass.
    whole_once = 0 if processes == 1 else trained - sum(layers := _trained_layers(model)) + max(layers)
    kept = trained / processes + whole_once
    few = f", Linear layers in {config.base.quantization}" if config.base.quantization != "none" else ""
    parts = {
        f"frozen base{few}{', all but one block on the CPU' if config.base.offload else ''}": frozen,
        "adapter (float32 where it is trained)": kept * 4 + (_count(weights) - trained) / processes * bytes_each,
        "gradients, float32": kept * 4,
        f"optimizer ({config.optimizer.name})": trained / processes * OPTIMIZER_BYTES[config.optimizer.name],
    }
    has_ema = config.optimizer.ema_decay > 0 and config.optimizer.name != "schedulefree"
    if has_ema and config.optimizer.ema_device == "same":
        parts["EMA weights"] = trained / processes * 4
    if bytes_each == 2:
        parts["trained weights, as cast for computing"] = trained * 2
    return parts


def _trained_layers(model: TrainableModel) -> list[int]:
    """Trained weights of each layer of keys and values."""
    layers = identity_of(model.weights).attention
    return [_count(value for value in layer.parameters() if value.requires_grad) for layer in layers]


def _frozen_bytes(config: TrainConfig, base: BaseModel, bytes_each: int, processes: int) -> float:
    """The base's weights on the device."""
    blocks = [_count(block.parameters()) for block in offloaded_blocks(base.unet)]
    weights = float(_count(base.unet.parameters()))
    if config.base.offload:
        weights += max(blocks) - sum(blocks)
    elif processes > 1:  # one block computes while the next one is fetched
        weights += 2 * max(blocks) - sum(blocks) * (1 - 1 / processes)
    if base.text_encoder is not None:
        weights += _count(base.text_encoder.parameters())
    if config.base.quantization == "none":
        return weights * bytes_each
    linear = sum(module.weight.numel() for module in base.unet.modules() if isinstance(module, nn.Linear))
    return (weights - linear) * bytes_each + linear * BYTES[config.base.quantization]


def _sharded_lines(config: TrainConfig, base: BaseModel, model: TrainableModel, memory: Estimate) -> list[str]:
    """What FSDP would leave on each GPU, for what does not fit one."""
    if config.base.quantization != "none" or config.base.offload or config.optimizer.name not in OPTIMIZERS:
        return []
    sizes = [f"{size:.1f} GB" for size in _shared(config, base, model, memory, (2, 4, 8)).values()]
    return [
        f"          over 2, 4 or 8 GPUs by FSDP {', '.join(sizes)} on each (docs/training.md#what-does-not-fit-one-gpu-fsdp)"
    ]


def _shared(
    config: TrainConfig, base: BaseModel, model: TrainableModel, memory: Estimate, processes: Sequence[int]
) -> dict[int, float]:
    """`memory.total`, where so many processes have a part of the weights each."""
    weights = {each: sum(_weight_parts(config, base, model, each).values()) / 2**30 for each in (1, *processes)}
    return {each: memory.total - weights[1] + weights[each] for each in processes}


def _meta_model(
    config: TrainConfig, folders: Sequence[PreparedDataset], objectives: Sequence[Objective]
) -> tuple[BaseModel, TrainableModel]:
    base = meta_base(config.base.path, text_encoder=config.init.subject_path)
    check_shards_compatible(base, folders)
    weights = init_weights(config, base, folders[0], device="meta")
    return base, build_model(config, base, weights, folders[0], objectives)


def _time(config: TrainConfig, folders: Sequence[PreparedDataset], base: BaseModel, model: TrainableModel) -> str:
    """How long the run would take here. Behind `estimate`, which has set precision and checkpointing."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    a_pass = operations(_forward_pass(config, folders, base, model))
    return time_line(a_pass * config.data.gradient_accumulation_steps, config.steps, device, base.unet.dtype)


def _activations(
    config: TrainConfig, folders: Sequence[PreparedDataset], base: BaseModel, model: TrainableModel, dtype: torch.dtype
) -> float:
    """Bytes that autograd keeps between forward and backward of one micro batch."""
    nn.Module.to(base.unet, dtype)  # diffusers' own `to` warns about values, of which there are none
    model.to(dtype)
    run = _forward_pass(config, folders, base, model)
    total, largest = _saved(run, base.unet, set(map(id, model.parameters())))
    if not config.base.gradient_checkpointing:
        return total
    base.unet.enable_gradient_checkpointing()
    base.unet.train()
    return _saved(run, base.unet, set(map(id, model.parameters())))[0] + largest


def _forward_pass(
    config: TrainConfig, folders: Sequence[PreparedDataset], base: BaseModel, model: TrainableModel
) -> Callable[[], Tensor]:
    """The prediction for one micro batch of the largest pictures, without values."""
    height, width = max(
        (bucket for folder in folders for bucket in folder.header["buckets"]), key=lambda b: b[0] * b[1]
    )
    samples, sizes, vision = config.data.micro_batch_size, base.sizes, folders[0].header["vision"]

    def run() -> Tensor:
        hidden = torch.empty(samples, 2, vision["tokens"], vision["clip_width"], device="meta")
        tokens = model.face_tokens(hidden, torch.zeros(samples, 2, dtype=torch.bool, device="meta"))
        text = torch.empty(samples, 77, sizes["context_width"], device="meta", requires_grad=True)
        noisy = torch.empty(samples, sizes["latent_channels"], height // 8, width // 8, device="meta")
        pooled = torch.empty(samples, sizes["pooled_width"], device="meta") if sizes["pooled_width"] else None
        timesteps = torch.zeros(samples, dtype=torch.long, device="meta")
        time_ids = torch.zeros(samples, 6, device="meta")
        return model.predict(noisy, timesteps, text, pooled, time_ids, tokens, record=bool(model.recorded))

    return run


def _decoding(config: TrainConfig, folders: Sequence[PreparedDataset]) -> float:
    """Bytes that autograd keeps of decoding the faces of one micro batch, all of them at a noise level that counts.

    By SDXL's decoder in float32, whose file need not be there: the crop around every face, or every picture once.
    """
    from diffusers import AutoencoderKL

    crop, samples = config.objectives.identity.decode_crop, config.data.micro_batch_size
    largest = max((bucket for folder in folders for bucket in folder.header["buckets"]), key=lambda b: b[0] * b[1])
    sides = [side // 8 for side in largest]
    cropped = 0 < crop < max(sides)
    shape = [min(crop, side) for side in sides] if cropped else sides
    with torch.device("meta"):
        vae = AutoencoderKL(**SDXL_VAE).requires_grad_(False)
        latents = torch.empty(samples * (2 if cropped else 1), 4, *shape, requires_grad=True)
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
        if type(module).__name__ in CHECKPOINTED:
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
