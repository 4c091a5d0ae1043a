"""The adapter's initial weights: fresh ones, or trained ones brought into the shape that training wants."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dhumandiff import Adapter
from dhumandiff.faces.same_recognizer import recognizer_note
from dhumandiff.formats.reading import not_finite
from dhumandiff.hosts.diffusers.attention import cross_attention_layers
from dhumandiff.io import expand_user
from dhumandiff.methods.dual_pathway.adapter import DualPathway
from dhumandiff.methods.dual_pathway.weights import Gates, Router, TextConsistency
from dhumandiff.methods.paired.projections import FaceProjection, IdentityProjection, SubjectMapping

from .. import TrainingError
from ..data.dataset import PreparedDataset
from .base import BaseModel
from .checkpoint import CONFIG_FILE, adapter_of_run
from .config import InitConfig, TrainConfig
from .low_rank import add_factors, check_full, source_adapter
from .weights import Weights, load_weights

__all__ = ["cast_frozen", "init_adapter", "init_weights"]

PERSONS = 2


def init_adapter(
    config: InitConfig, base: BaseModel, folder: PreparedDataset, seed: int, device: torch.device | str = "cpu"
) -> Adapter:
    """Make or read the adapter; float32, and only the parts of `config.train` with gradients.

    Args:
        config: where from, and sizes of what is fresh.
        base: whose layers it is for.
        folder: of the shards, whose image encoder and face recognizer it will read.
        seed: of fresh weights.
        device: where the adapter and the base's weights are; "meta" for estimates.

    Raises:
        TrainingError: weights that are incompatible with the base or the shards.
        AdapterError: a file that holds no adapter.
    """
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seed)
        fresh: list[str] = []
        if config.weights == "scratch":
            tensors, metadata = _init_from_scratch(config, base, folder)
        else:
            tensors, metadata = _read_weights(config, base)
            damaged = not_finite(tensors)
            if damaged:
                raise TrainingError(
                    f"init.weights: {config.weights} holds NaN or infinite values in {damaged[0]}. Get the file again, or start "
                    "from other weights.",
                    code="initial-weights-not-finite",
                )
        if not config.subject_path:
            tensors = {name: value for name, value in tensors.items() if not name.startswith(("identity_", "mapping."))}
        elif not any(name.startswith("mapping.") for name in tensors):
            tensors |= _init_subject_path(config, base, folder)
            fresh = ["identity_projection", "mapping"]
            metadata = {**metadata, "recogniser": _recognizer(folder)}
    # Copies: memory-mapped files must not be written to, and no two weights may share their memory.
    own = {name: value.to(device, torch.float32, copy=True) for name, value in tensors.items()}
    adapter = Adapter.from_tensors(own, metadata)
    _check_compatible(adapter, base, folder, config)
    if config.rank:
        with torch.random.fork_rng(devices=[]), torch.device(device):
            torch.manual_seed(seed)
            add_factors(adapter, config.train, config.rank, fresh)
        return adapter
    for part in config.train:
        module = getattr(adapter, part)
        if module is not None:
            module.requires_grad_(True)
    return adapter


def init_weights(
    config: TrainConfig, base: BaseModel, folder: PreparedDataset, device: torch.device | str = "cpu"
) -> Weights:
    """What `config.method` trains: `init_adapter`'s, or a dual pathway around it of which `config.dual.train` has gradients.

    Raises:
        TrainingError, AdapterError: as for `init_adapter`; `dual.weights` holds no dual pathway, or one of another base.
    """
    adapter = init_adapter(config.init, base, folder, config.seed, device)
    if config.method == "paired":
        return adapter
    dual = config.dual
    if not dual.train_identity:
        adapter.requires_grad_(False)
    found = _dual_parts(dual.weights) if dual.weights else {}
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(config.seed)
        info, heads = adapter.info, [module.heads for _, module in cross_attention_layers(base.unet)]
        if "tca" in dual.train and "tca" not in found:
            found["tca"] = TextConsistency(info.hidden, info.context_width, dual.rank).initialize()
        if "gates" in dual.train and "gates" not in found:
            found["gates"] = Gates.for_heads(heads, dual.head_groups)
        if "router" in dual.train and "router" not in found:
            found["router"] = Router(info.hidden, folder.header["vision"]["clip_width"], dual.router_width)
    parts = {name: part.to(device, torch.float32) for name, part in found.items()}
    metadata = {
        "pathway_licence": "see the model card",
        "pathway_source": f"python -m training, on {Path(base.name).name}",
        "pathway_identity": info.metadata["source"],
    }
    pathway = DualPathway(adapter, **parts, metadata=metadata)
    for name, part in parts.items():
        part.requires_grad_(name in dual.train)
    return pathway


def _dual_parts(weights: str) -> dict[str, Any]:
    """Copies of the trained parts of a file or run; memory-mapped files must not be written to."""
    path = expand_user(weights)
    found = adapter_of_run(path) if (path / CONFIG_FILE).is_file() else load_weights(path)
    if not isinstance(found, DualPathway):
        raise TrainingError(
            f"dual.weights: {weights} holds an adapter, but no dual pathway. Name it as init.weights, and leave dual.weights empty "
            "for fresh parts.",
            code="dual-weights-are-an-adapter",
        )
    parts = {name: getattr(found, name) for name in found.info.parts if name != "identity"}
    return {name: copy.deepcopy(part) for name, part in parts.items()}


def cast_frozen(adapter: Weights, dtype: torch.dtype) -> dict[str, Tensor]:
    """Keep the matrices that are not trained in the dtype that computes with them, as autocast would cast them anyway.

    Norms stay: on a CPU autocast leaves their inputs in float32, and they take no weights of another dtype.

    Returns:
        Their float32 values, for checkpoints; empty when nothing was cast.
    """
    parameters = adapter.named_parameters()
    frozen = {name: value for name, value in parameters if not value.requires_grad and value.ndim > 1}
    fp32_frozen = {name: value.detach().clone() for name, value in frozen.items()} if dtype != torch.float32 else {}
    for name in fp32_frozen:
        frozen[name].data = frozen[name].data.to(dtype)
    return fp32_frozen


def _read_weights(config: InitConfig, base: BaseModel) -> tuple[dict[str, Tensor], dict[str, str]]:
    if config.rank:
        check_full(config)
    adapter = source_adapter(config.weights)
    tensors = dict(adapter.state_dict())
    if adapter.info.shared and not config.shared:
        tensors = {copy: value for name, value in tensors.items() for copy in _for_both_persons(name)}
    metadata = adapter.info.metadata
    source = metadata["source"].removesuffix(", trained further")
    return tensors, {**metadata, "source": f"{source}, trained further"}


def _for_both_persons(name: str) -> list[str]:
    """The names under which an IP-Adapter's one key/value projection serves both persons."""
    if not name.startswith("attention."):
        return [name]
    front, _, last = name.rpartition("_ip.")
    return [f"{front}_ip{person + 1}.{last}" for person in range(PERSONS)]


def _recognizer(folder: PreparedDataset) -> str:
    """What the weights will say of the recognizer that the data was prepared with."""
    told = folder.header["recogniser"]
    return recognizer_note(str(told.get("name", "")), str(told.get("sha256", "")))


def _init_from_scratch(
    config: InitConfig, base: BaseModel, folder: PreparedDataset
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Fresh projections of the released kind; keys start as the base's own for text, values at zero.

    So the first prediction is the base's. Both are this project's choice; IP-Adapter's code starts from the base's keys and
    values alike.
    """
    vision = folder.header["vision"]
    face = FaceProjection(
        tokens=config.face_tokens,
        **_perceiver(config.face_width, vision["clip_width"], base.sizes["context_width"], config.face_depth),
    )
    with torch.no_grad():  # short latents drown in what they read, and a person's tokens come out alike
        face.latents.normal_()
    tensors = _named("face_projection", face)
    for number, (_, module) in enumerate(cross_attention_layers(base.unet)):
        for suffix in [""] if config.shared else [str(person + 1) for person in range(PERSONS)]:
            keys = module.to_k.weight.detach().float()
            tensors[f"attention.{number}.to_k_ip{suffix}.weight"] = keys
            tensors[f"attention.{number}.to_v_ip{suffix}.weight"] = torch.zeros_like(keys)
    return tensors, {
        "base_family": "sdxl" if base.sizes["pooled_width"] else "sd15",
        "clip_tower": str(vision.get("name", "")),
        "recogniser": _recognizer(folder),
        "identity_channels": config.identity_channels,
        "licence": "see the model card",
        "source": f"python -m training, from scratch on {Path(base.name).name}",
    }


def _init_subject_path(config: InitConfig, base: BaseModel, folder: PreparedDataset) -> dict[str, Tensor]:
    """Fresh identity projection and mapping; at first the mapping makes words of an ordinary length, not noise.

    A fresh layer's output would be twenty times longer than CLIP's token embeddings, and drown the sentence.
    """
    if base.text_encoder is None:
        raise TrainingError(
            f"The base {base.name} has no CLIP-L text encoder, which the subject path needs.",
            code="base-without-text-encoder",
        )
    table = base.text_encoder.get_input_embeddings().weight.detach().float()
    text_width, width = table.shape[1], config.token_width
    clip_width = folder.header["vision"]["clip_width"]
    identity = IdentityProjection(
        folder.header["recogniser"]["width"], width, width, _perceiver(width, clip_width, width, config.identity_depth)
    )
    mapping = SubjectMapping(text_width + width, config.mapping_width, text_width)
    with torch.no_grad():
        spread = mapping(torch.randn(256, text_width + width)).std()
        mapping.fc2.weight.mul_(table.std() / spread)
        mapping.fc2.bias.copy_(table.mean(dim=0))
    return _named("identity_projection", identity) | _named("mapping", mapping)


def _perceiver(width: int, hidden_width: int, out_width: int, depth: int) -> dict[str, int]:
    return {
        "width": width,
        "hidden_width": hidden_width,
        "out_width": out_width,
        "inner": width,
        "ffn_width": 4 * width,
        "depth": depth,
    }


def _named(part: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{part}.{name}": value.detach() for name, value in module.state_dict().items()}


def _check_compatible(adapter: Adapter, base: BaseModel, folder: PreparedDataset, config: InitConfig) -> None:
    """Refuse weights for another image encoder, face recognizer or text encoder than the shards were made with."""
    info, header = adapter.info, folder.header
    widths: list[tuple[str, Any, Any]] = [
        ("an image encoder of width", info.clip_width, header["vision"]["clip_width"]),
        ("face embeddings of width", info.identity_width, header["recogniser"]["width"]),
        ("a CLIP-L of width", info.text_width, header["base"]["text_width"]),
    ]
    for what, wanted, there in widths:
        if wanted is not None and wanted != there:
            raise TrainingError(
                f"The weights {config.weights} read {what} {wanted}, but {folder.path} was prepared with {there}. "
                "Prepare the data with the adapter's encoders, or start from other weights.",
                code="weights-for-another-encoder",
            )
    expected: Mapping[str, Any] = base.sizes
    if list(info.hidden) != expected["hidden"] or info.context_width != expected["context_width"]:
        raise TrainingError(
            f"The weights {config.weights} are for {info.layers} cross-attention layers with a context of "
            f"{info.context_width}, the base {base.name} has {len(expected['hidden'])} with {expected['context_width']}. "
            "Start from weights of this base.",
            code="weights-for-another-base",
        )
