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
from ...formats.checkpoint import SDXL, check_vae, examine
from ...io import expand_user
from ...optional import require
from .single_file import PARTS, check_whole, load_parts, load_vae
from .vision import IMAGE_ENCODER, ClipVision

__all__ = [
    "BUILT_IN",
    "DTYPES",
    "IMAGE_ENCODER",
    "ClipVision",
    "check_base",
    "check_file",
    "choose_device",
    "choose_dtype",
    "load_encoders",
    "load_pipeline",
]

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}

BUILT_IN = {"mini": "miniature.base:mini_pipeline", "tiny": "testing:tiny_pipeline"}
"""Bases that ship, name -> "module of dhumandiff:function": the drawn world's, which is trained, and one of random weights. A
folder called like one is given as ./mini."""


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


def load_pipeline(base: str | Path, dtype: torch.dtype, vae: str | Path | None = None) -> Any:
    """A StableDiffusionXLPipeline from a diffusers folder, a checkpoint in one .safetensors, or by a name of `BUILT_IN`.

    Nothing is looked up on a network.

    Args:
        base: which.
        dtype: of its parts.
        vae: a VAE in a file of its own, in place of the base's.

    Raises:
        HostError: there is no such base, or it is not SDXL's.
    """
    pipeline_class = require("diffusers").StableDiffusionXLPipeline
    if base in BUILT_IN:
        module, function = BUILT_IN[str(base)].split(":")
        pipeline = getattr(import_module(f"...{module}", __package__), function)()
        return pipeline if dtype == torch.float32 else pipeline.to(dtype)
    path, own_vae = expand_user(base), None if vae is None else expand_user(vae)
    check_base(path, own_vae)
    if not path.is_dir():
        parts = load_parts(path, dtype, PARTS[SDXL], vae=own_vae)
        return pipeline_class(**parts, force_zeros_for_empty_prompt=True, add_watermarker=False)
    settings: dict[str, Any] = {"torch_dtype": dtype, "add_watermarker": False}
    settings |= {"use_safetensors": True, "local_files_only": True, "variant": _variant(path)}
    if own_vae is not None:
        settings["vae"] = load_vae(own_vae, dtype)
    try:
        return pipeline_class.from_pretrained(str(path), **settings)
    except Exception as error:  # diffusers, hub, network and safetensors have a family of errors each
        raise HostError(
            f"The base {path} cannot be loaded: {short_error(error)}. Get the folder again, with all its .safetensors.",
            code="base-not-loaded",
        ) from error


def load_encoders(base: str | Path, dtype: torch.dtype) -> dict[str, Any]:
    """VAE, text encoders and tokenizers of a base, by their names in a pipeline. Of a checkpoint file the UNet is not read.

    Raises:
        HostError: there is no such base, or it is not SDXL's.
    """
    wanted = [part for part in PARTS[SDXL] if part not in ("unet", "scheduler")]
    path = expand_user(base)
    if base in BUILT_IN or path.is_dir():
        pipeline = load_pipeline(base, dtype)
        return {part: getattr(pipeline, part) for part in wanted}
    check_file(path)
    return load_parts(path, dtype, wanted)


def check_base(base: str | Path, vae: str | Path | None = None) -> None:
    """Refuse what is no SDXL base, without loading it.

    Args:
        base: folder, file or name.
        vae: a VAE in a file of its own.

    Raises:
        HostError: the message says what it is instead.
    """
    own_vae = None if vae is None else expand_user(vae)
    if own_vae is not None:
        _check_vae(own_vae, base)
    if base in BUILT_IN:
        return
    path = expand_user(base)
    if path.is_dir():
        _check_folder(path)
    else:
        check_file(path)
        check_whole(examine(path), own_vae)


def _check_vae(vae: Path, base: str | Path) -> None:
    if base in BUILT_IN:
        raise HostError(f"The base {base} has a VAE of its own: leave --vae away.", code="vae-beside-a-base-that-ships")
    if not vae.is_file():
        raise HostError(f"There is no file --vae {vae}. Name a VAE in one .safetensors.", code="vae-missing")
    check_vae(vae)


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


def check_file(path: Path) -> None:
    """Refuse a base that is not there, and files that may carry code. HostError."""
    if not path.exists():
        raise HostError(
            f"There is no base {path}. Give a diffusers folder or a checkpoint .safetensors of SDXL, for instance after "
            "`hf download stabilityai/stable-diffusion-xl-base-1.0 --local-dir sdxl-base-1.0`; or mini, which ships.",
            code="base-missing",
        )
    if path.suffix != ".safetensors":
        raise HostError(
            f"The base {path} is not a .safetensors, and other files may carry code. Choose the safe file.",
            code="unsafe-file",
        )


def _variant(folder: Path) -> str | None:
    """ "fp16" for a folder that holds its weights in that variant only."""
    unet = folder / "unet"
    plain = [path for path in unet.glob("*.safetensors") if ".fp16" not in path.name]
    return "fp16" if not plain and any(unet.glob("*.fp16*.safetensors")) else None
