"""A base in one file, loaded part by part without a network: the small configuration files ship (`configs/`).

    parts = load_parts(Path("sd_xl_base_1.0.safetensors"), torch.float16, ("unet", "scheduler"))

diffusers converts UNet and VAE, with its own tables; the text encoders are renamed by formats/clip.py. Files are mapped, and
what is not asked for is not read.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import HostError, short_error
from ...formats import checkpoint, clip
from ...formats.checkpoint import SD15, SDXL, Checkpoint
from ...formats.reading import read_tensor_file
from ...optional import require
from .parts import sdxl_tokenizer

__all__ = ["CONFIGS", "PARTS", "check_whole", "fill", "load_parts", "load_vae", "meta_parts"]

CONFIGS = Path(__file__).parent / "configs"
"""SDXL's and Stable Diffusion 1.5's, one folder each in diffusers' layout."""

PARTS = {
    SDXL: ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler"),
    SD15: ("unet", "vae", "text_encoder", "tokenizer", "scheduler"),
}

_TOWERS = {
    (SDXL, "text_encoder"): "conditioner.embedders.0.transformer.",
    (SDXL, "text_encoder_2"): "conditioner.embedders.1.model.",
    (SD15, "text_encoder"): "cond_stage_model.transformer.",
}
"""Where a checkpoint keeps each text encoder."""


def check_whole(facts: Checkpoint, vae: Path | None = None, parts: Collection[str] | None = None) -> None:
    """Refuse a checkpoint that lacks what is asked for.

    Args:
        facts: of the file.
        vae: a VAE in a file of its own.
        parts: of `PARTS`; None: all.

    Raises:
        HostError: naming what is lacking and where to get it.
    """
    wanted = PARTS[facts.family] if parts is None else parts
    there = {"VAE": "vae" in wanted and vae is None, "text encoders": any("text_encoder" in part for part in wanted)}
    lacking = [part for part in facts.lacking if there[part]]
    if not lacking:
        return
    title = checkpoint.TITLES[facts.family]
    todo = f"Choose a whole {title} checkpoint."
    if lacking == ["VAE"]:
        vaes = checkpoint.VAES[facts.family]
        todo = f"Get {vaes} from Hugging Face, which `generate` takes with --vae, or choose a whole {title} checkpoint."
    raise HostError(f"The base {facts.path} has no {' and no '.join(lacking)}. {todo}", code="base-lacks-parts")


def load_parts(
    path: Path, dtype: torch.dtype, parts: Collection[str], *, family: str = SDXL, vae: Path | None = None
) -> dict[str, Any]:
    """Load parts of a checkpoint.

    Args:
        path: of a .safetensors.
        dtype: of what is computed with.
        parts: of `PARTS`.
        family: that the checkpoint must be of.
        vae: a VAE in a file of its own, in place of the checkpoint's.

    Raises:
        HostError: it is another model, lacks a part, or cannot be loaded.
    """
    facts = checkpoint.examine(path, family)
    check_whole(facts, vae, parts)
    made: dict[str, Any] = {}
    if "unet" in parts:
        made["unet"] = _converted("UNet2DConditionModel", path, family, "unet", dtype)
    if "vae" in parts:
        made["vae"] = load_vae(vae, dtype, family) if vae else _converted("AutoencoderKL", path, family, "vae", dtype)
    towers = [part for part in ("text_encoder", "text_encoder_2") if part in parts]
    if towers:
        tensors = read_tensor_file(path).tensors
        made |= {part: _text_encoder(tensors, path, family, part, dtype) for part in towers}
    if "tokenizer" in parts:
        made["tokenizer"] = sdxl_tokenizer()  # CLIP's own, which Stable Diffusion 1.5 has too
    if "tokenizer_2" in parts:
        made["tokenizer_2"] = sdxl_tokenizer(second=True)
    if "scheduler" in parts:
        made["scheduler"] = _scheduler(facts)
    return made


def load_vae(path: Path, dtype: torch.dtype, family: str = SDXL) -> Any:
    """A VAE from a file of its own, in diffusers' layout or the original one. HostError for what is none."""
    checkpoint.check_vae(path)
    return _converted("AutoencoderKL", path, family, "vae", dtype)


def meta_parts(path: Path, text_encoder: bool) -> dict[str, Any]:
    """UNet, scheduler and CLIP-L of an SDXL checkpoint on the device "meta": shapes, without reading a number.

    Raises:
        HostError: it is no SDXL checkpoint.
    """
    facts = checkpoint.examine(path)
    diffusers = require("diffusers")
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel.from_config(
            diffusers.UNet2DConditionModel.load_config(str(CONFIGS / SDXL / "unet"))
        )
        encoder = _empty_text_encoder(SDXL, "text_encoder") if text_encoder else None
    return {"unet": unet, "scheduler": _scheduler(facts), "text_encoder": encoder}


def fill(model: nn.Module, tensors: dict[str, Tensor], dtype: torch.dtype, where: str) -> nn.Module:
    """Put a file's tensors into a model of transformers that was made on the device "meta".

    Args:
        model: empty.
        tensors: under transformers' names, with or without the prefix `text_model.` or `vision_model.`: its versions disagree.
        dtype: wanted.
        where: file and part, for messages.

    Raises:
        HostError: tensors are missing or have other shapes.
    """

    def bare(name: str) -> str:
        return name.removeprefix("text_model.").removeprefix("vision_model.")

    given = {bare(name): tensor for name, tensor in tensors.items()}
    wanted = model.state_dict()
    wrong = [
        name for name, empty in wanted.items() if bare(name) not in given or given[bare(name)].shape != empty.shape
    ]
    if wrong:
        raise HostError(
            f"{where}: {len(wrong)} tensors are missing or have another shape ({', '.join(wrong[:3])}). Get the file again.",
            code="text-encoder-tensors",
        )
    model.load_state_dict({name: given[bare(name)].to(dtype) for name in wanted}, assign=True)
    for name, buffer in list(model.named_buffers()):
        if buffer.is_meta:  # positions are counted, not stored
            owner = model.get_submodule(name.rpartition(".")[0])
            setattr(owner, name.rpartition(".")[2], torch.arange(buffer.shape[-1])[None])
    return model.requires_grad_(False).eval()


def _converted(kind: str, path: Path, family: str, part: str, dtype: torch.dtype) -> Any:
    model_class = getattr(require("diffusers"), kind)
    log = logging.getLogger("diffusers.models.modeling_utils")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns of modules to be kept in float32, and names none
    try:
        return model_class.from_single_file(
            str(path), config=str(CONFIGS / family), subfolder=part, torch_dtype=dtype, local_files_only=True
        ).eval()
    except Exception as error:  # diffusers and safetensors have a family of errors each
        why = "tensors are missing" if "meta tensor" in str(error) else short_error(error)
        raise HostError(
            f"The {part} of {path} cannot be loaded: {why}. The file is not whole, or a model of another size: get it again, or "
            "choose another.",
            code="base-not-loaded",
        ) from error
    finally:
        log.setLevel(level)


def _empty_text_encoder(family: str, part: str) -> Any:
    transformers = require("transformers")
    config = transformers.CLIPTextConfig.from_pretrained(str(CONFIGS / family / part))
    return getattr(transformers, config.architectures[0])(config)


def _text_encoder(tensors: dict[str, Tensor], path: Path, family: str, part: str, dtype: torch.dtype) -> Any:
    prefix = _TOWERS[family, part]
    tower = clip.inside(tensors, prefix)
    if clip.is_open_clip(tower):
        tower = clip.as_transformers(tower)
    elif not any(name.startswith(("text_model.encoder.", "encoder.")) for name in tower):
        raise HostError(
            f"The text encoder {prefix}* of {path} is in a layout that is not known here. Choose the checkpoint as its makers "
            "published it.",
            code="base-not-loaded",
        )
    with torch.device("meta"):
        model = _empty_text_encoder(family, part)
    return fill(model, tower, dtype, f"{path}, {part}")


def _scheduler(facts: Checkpoint) -> Any:
    """The noise schedule of the family, with what the file says of its prediction."""
    diffusers = require("diffusers")
    folder = CONFIGS / facts.family / "scheduler"
    config = diffusers.EulerDiscreteScheduler.load_config(str(folder))
    more: dict[str, Any] = {"prediction_type": facts.prediction}
    if facts.zero_snr:
        more |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return getattr(diffusers, config["_class_name"]).from_config({**config, **more})
