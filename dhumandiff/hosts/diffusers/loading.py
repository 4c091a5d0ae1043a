"""An SDXL base, loaded with diffusers from files that may be anything.

Weights come from .safetensors only: nothing in a file is executed.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ...errors import HostError, short_error
from ...io import expand_user
from ...optional import require
from .vision import IMAGE_ENCODER, ClipVision

__all__ = [
    "BUILT_IN",
    "DTYPES",
    "IMAGE_ENCODER",
    "ClipVision",
    "check_base",
    "choose_device",
    "choose_dtype",
    "load_pipeline",
]

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}

BUILT_IN = {"mini": "miniature.base:mini_pipeline", "tiny": "testing:tiny_pipeline"}
"""Bases that ship, name -> "module of dhumandiff:function": the drawn world's, which is trained, and one of random weights. A
folder called like one is given as ./mini."""

CONTEXT_WIDTH = 2048
"""Of SDXL's cross-attention."""


def choose_device(name: str = "auto") -> str:
    """ "cuda", "mps" or "cpu": the one asked for, or the best there is.

    Raises:
        HostError: this PyTorch cannot use it.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(device for device, available in there.items() if available)
    if not there.get(name.partition(":")[0], False):
        usable = ", ".join(device for device, available in there.items() if available)
        raise HostError(
            f"The device {name!r} is not available to this PyTorch ({torch.__version__}). Usable: {usable}.",
            code="device-not-available",
        )
    return name


def choose_dtype(name: str, device: str) -> torch.dtype:
    """The dtype of a name of `DTYPES`; "auto" is fp32 on the CPU, which is slow in anything less, and fp16 elsewhere."""
    if name == "auto":
        name = "fp32" if device == "cpu" else "fp16"
    if name not in DTYPES:
        raise HostError(f"The dtype {name!r} is not known. Choose auto, {', '.join(DTYPES)}.", code="unknown-dtype")
    return DTYPES[name]


def load_pipeline(base: str | Path, dtype: torch.dtype) -> Any:
    """A StableDiffusionXLPipeline from a diffusers folder, a checkpoint in one .safetensors, or by a name of `BUILT_IN`.

    Raises:
        HostError: there is no such base, or it is not SDXL's.
    """
    pipeline_class = require("diffusers").StableDiffusionXLPipeline
    if base in BUILT_IN:
        module, function = BUILT_IN[str(base)].split(":")
        pipeline = getattr(import_module(f"...{module}", __package__), function)()
        return pipeline if dtype == torch.float32 else pipeline.to(dtype)
    path = expand_user(base)
    settings: dict[str, Any] = {"torch_dtype": dtype, "add_watermarker": False}
    check_base(path)
    if path.is_dir():
        load = pipeline_class.from_pretrained
        settings |= {"use_safetensors": True, "local_files_only": True, "variant": _variant(path)}
        advice = "Get the folder again, with all its .safetensors."
    else:
        load = pipeline_class.from_single_file
        advice = (
            "diffusers takes SDXL's configuration for a checkpoint file from Hugging Face. Without a network, use the "
            "base as a diffusers folder (model_index.json, unet/, vae/, ...)."
        )
    try:
        return load(str(path), **settings)
    except Exception as error:  # diffusers, hub, network and safetensors have a family of errors each
        raise HostError(
            f"The base {path} cannot be loaded: {short_error(error)}. {advice}", code="base-not-loaded"
        ) from error


def check_base(base: str | Path) -> None:
    """Refuse what is no SDXL base, without loading it.

    Raises:
        HostError: the message says what it is instead.
    """
    if base in BUILT_IN:
        return
    path = expand_user(base)
    if path.is_dir():
        _check_folder(path)
    else:
        _check_file(path)


def _check_folder(folder: Path) -> None:
    """A folder in diffusers' layout, judged by its small files."""
    index = folder / "model_index.json"
    if not index.is_file():
        files = sorted(folder.glob("*.safetensors"))
        hint = (
            f"To use {files[0].name}, give the file itself."
            if files
            else "Give the folder that holds model_index.json, unet/, vae/, text_encoder/ and text_encoder_2/."
        )
        raise HostError(
            f"The folder {folder} is no diffusers base: model_index.json is not there. {hint}", code="no-base-in-folder"
        )
    try:
        parts = json.loads(index.read_text(encoding="utf-8"))
        kind = str(parts["_class_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HostError(f"{index} cannot be read ({error!r}). Get the folder again.", code="base-damaged") from error
    if not kind.startswith("StableDiffusionXL"):
        raise HostError(
            f"The base {folder} is a {kind}, but the adapter needs SDXL. Choose an SDXL base.",
            code="base-of-another-family",
        )
    if None in (parts.get("text_encoder") or [None]):
        raise HostError(
            f"The base {folder} has no first text encoder: it is SDXL's refiner. Choose the SDXL base itself.",
            code="base-is-a-refiner",
        )


def _check_file(path: Path) -> None:
    """A whole checkpoint, judged by the names and shapes of its tensors."""
    if not path.exists():
        raise HostError(
            f"There is no base {path}. Give a diffusers folder or a checkpoint .safetensors of SDXL, for instance after "
            "`hf download stabilityai/stable-diffusion-xl-base-1.0 --local-dir sdxl-base`; or mini, which ships.",
            code="base-missing",
        )
    if path.suffix != ".safetensors":
        raise HostError(
            f"The base {path} is not a .safetensors, and other files may carry code. Choose the safe file.",
            code="unsafe-file",
        )
    from safetensors import SafetensorError, safe_open

    attention = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            width = file.get_slice(attention).get_shape()[1] if attention in names else None
    except (SafetensorError, OSError) as error:
        raise HostError(
            f"The base {path} cannot be read: {error}. The file is damaged: get it again.", code="base-damaged"
        ) from error
    whole = {
        "text encoders": any(name.startswith("conditioner.embedders.1.") for name in names),
        "VAE": any(name.startswith("first_stage_model.decoder.") for name in names),
    }
    if width != CONTEXT_WIDTH:
        unet = any(name.startswith("model.diffusion_model.") for name in names)
        what = "a checkpoint of another family" if unet else "no checkpoint (an adapter, a LoRA or a UNet alone?)"
        raise HostError(
            f"The base {path} is {what}, but the adapter needs SDXL. Choose an SDXL checkpoint.",
            code="base-of-another-family",
        )
    lacking = [part for part, there in whole.items() if not there]
    if lacking:
        raise HostError(
            f"The base {path} has no {' and no '.join(lacking)}. Choose a whole SDXL checkpoint.",
            code="base-lacks-parts",
        )


def _variant(folder: Path) -> str | None:
    """ "fp16" for a folder that holds its weights in that variant only."""
    unet = folder / "unet"
    plain = [path for path in unet.glob("*.safetensors") if ".fp16" not in path.name]
    return "fp16" if not plain and any(unet.glob("*.fp16*.safetensors")) else None
