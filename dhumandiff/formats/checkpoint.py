"""A base model in one file, as ComfyUI has it in models/checkpoints: what it is, by names and shapes.

    facts = examine(Path("models/checkpoints/sd_xl_base_1.0.safetensors"))
    facts.family, facts.lacking, facts.prediction

Only the head is read. Community files differ in precision, in what was pruned (position ids, noise schedule, EMA) and in
whether a VAE is in them; none of that changes what the file is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import AdapterError, HostError
from .header import Entry, read_header
from .reading import looks_like

__all__ = ["SD15", "SDXL", "Checkpoint", "check_vae", "examine", "family_of"]

SDXL, SD15 = "sdxl", "sd15"

TITLES = {SDXL: "SDXL", SD15: "Stable Diffusion 1.5"}

VAES = {
    SDXL: "stabilityai/sdxl-vae (sdxl_vae.safetensors, 335 MB, MIT)",
    SD15: "stabilityai/sd-vae-ft-mse-original (vae-ft-mse-840000-ema-pruned.safetensors, 335 MB, MIT)",
}
"""Where to get one that fits, on Hugging Face."""

_UNET = "model.diffusion_model."
_CONTEXT = f"{_UNET}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
_LATENT = f"{_UNET}input_blocks.0.0.weight"
_DEEPEST = f"{_UNET}middle_block.1.transformer_blocks.9.attn2.to_k.weight"
_FLOATS = ("F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2")

_TEXT = {
    SDXL: ("conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.1.model."),
    SD15: ("cond_stage_model.transformer.",),
}
_VAE = "first_stage_model.decoder."

_OTHERS = (
    (r"^(model\.diffusion_model\.)?double_blocks\.", "FLUX"),
    (r"^(model\.diffusion_model\.)?joint_blocks\.", "Stable Diffusion 3"),
    (
        r"^(model\.diffusion_model\.)?(transformer_blocks|blocks|layers|single_transformer_blocks)\.",
        "a diffusion transformer",
    ),
)


@dataclass(frozen=True)
class Checkpoint:
    """What a file is, and how it wants to be sampled."""

    path: Path
    family: str
    """`SDXL` or `SD15`."""
    lacking: tuple[str, ...]
    """What a whole checkpoint has and this one does not: "text encoders", "VAE"."""
    prediction: str = "epsilon"
    """What its UNet predicts: "epsilon", or "v_prediction" where the file says so."""
    zero_snr: bool = False
    """Whether it was trained with a noise schedule that ends in pure noise, as the file says."""


def family_of(path: Path) -> str | None:
    """`SDXL` or `SD15` for a checkpoint that can draw with an adapter; None for whatever else, and for what cannot be read."""
    try:
        return examine(path, None).family
    except HostError:
        return None


def examine(path: Path, family: str | None = SDXL) -> Checkpoint:
    """Say what a .safetensors is, and refuse what is no base of this family.

    Args:
        path: of the file.
        family: that is wanted; None: either.

    Raises:
        HostError: it is damaged or something else; the message says what, and what to do.
    """
    try:
        entries, metadata = read_header(path)
    except AdapterError as error:
        raise HostError(f"The base cannot be read: {error}", code="base-damaged") from error
    found = _family(path, entries, TITLES[family or SDXL])
    if family is not None and found != family:
        raise HostError(
            f"The base {path} is not {TITLES[family]} (a checkpoint of another family: {TITLES[found]}), which the adapter needs.",
            code="base-of-another-family",
        )
    _check_unet(path, entries, found)
    there = {
        "text encoders": all(any(name.startswith(prefix) for name in entries) for prefix in _TEXT[found]),
        "VAE": any(name.startswith(_VAE) for name in entries),
    }
    says_v = "v_pred" in entries or metadata.get("modelspec.prediction_type", "").lower() in ("v", "v_prediction")
    return Checkpoint(
        path,
        found,
        tuple(part for part, is_there in there.items() if not is_there),
        "v_prediction" if says_v else "epsilon",
        "ztsnr" in entries,
    )


def check_vae(path: Path) -> None:
    """Refuse what is no VAE of SDXL's or Stable Diffusion 1.5's shape. Which of the two it is, no shape tells.

    Raises:
        HostError: it cannot be read, or is something else.
    """
    try:
        entries, _ = read_header(path)
    except AdapterError as error:
        raise HostError(f"The VAE cannot be read: {error}", code="vae-damaged") from error
    bare = {name.removeprefix("first_stage_model.").removeprefix("vae."): entry for name, entry in entries.items()}
    first = bare.get("decoder.conv_in.weight")
    if first is None or first.shape[1:] != (4, 3, 3):
        what = f"one of {first.shape[1]} latent channels" if first and len(first.shape) == 4 else looks_like(entries)
        raise HostError(
            f"--vae {path} is no VAE for this base: {what}. Get {VAES[SDXL]} from Hugging Face for SDXL.",
            code="vae-of-another-family",
        )


def _family(path: Path, entries: Mapping[str, Entry], wanted: str) -> str:
    """The family of a checkpoint in the original layout; HostError names what it is instead."""
    attention = entries.get(_CONTEXT)
    context = attention.shape[-1] if attention is not None and attention.shape else None
    if context == 1280:
        raise HostError(
            f"The base {path} is SDXL's refiner, which only finishes pictures. Choose the SDXL base itself.",
            code="base-is-a-refiner",
        )
    if context in (2048, 768):
        return SDXL if context == 2048 else SD15
    other = next((title for pattern, title in _OTHERS if _any(pattern, entries)), None)
    if _any(r"lora_|\.lora[._]|\.hada_|\.lokr_|\.dora_scale", entries):
        raise HostError(
            f"The base {path} is a LoRA: a small change to a base, which draws nothing alone. Choose the {wanted} checkpoint "
            "that it was made for; LoRAs are loaded in ComfyUI, with Load LoRA.",
            code="base-is-a-lora",
        )
    if _any(r"^down_blocks\.\d", entries):
        raise HostError(
            f"The base {path} is a UNet alone, from a folder in diffusers' layout. Give the folder that holds model_index.json, "
            "unet/, vae/ and text_encoder/, or one whole checkpoint.",
            code="base-is-a-unet",
        )
    if _any("^model.diffusion_model.|^input_blocks", entries) or other:
        if other is None and context == 1024:
            other = "Stable Diffusion 2"
        kind = f": {other}" if other else ""
        raise HostError(
            f"The base {path} is not {wanted} (a checkpoint of another family{kind}), which the adapter needs.",
            code="base-of-another-family",
        )
    parts = _any(r"^(conditioner|cond_stage_model|first_stage_model)\.", entries)
    what = "it has no UNet" if parts else f"it looks like {looks_like(entries)}"
    raise HostError(
        f"The base {path} is no checkpoint: {what}. Choose a checkpoint for {wanted}.",
        code="no-checkpoint",
    )


def _check_unet(path: Path, entries: Mapping[str, Entry], family: str) -> None:
    """Refuse relatives of a family that draw otherwise, and numbers that cannot be computed with."""
    title = TITLES[family]
    latent = entries.get(_LATENT)
    channels = latent.shape[1] if latent is not None and len(latent.shape) == 4 else 4
    if channels != 4:
        kind = "made for inpainting" if channels == 9 else "made to edit pictures"
        raise HostError(
            f"The base {path} is {kind} ({channels} channels go in, not 4), and no adapter here was trained for that. Choose "
            f"an ordinary {title} checkpoint.",
            code="base-is-for-inpainting",
        )
    if family == SDXL and latent is not None and _DEEPEST not in entries:
        raise HostError(
            f"The base {path} is a smaller model made from SDXL (such as SSD-1B or Vega) or a part of one: layers are not there, "
            "and an adapter for SDXL has none that fit. Choose SDXL itself, or a community checkpoint of its size.",
            code="base-of-another-depth",
        )
    if "edm_mean" in entries or "edm_vpred.sigma_max" in entries:
        raise HostError(
            f"The base {path} is sampled in another way (EDM, as Playground v2.5 and CosXL are), which the command line does not "
            "do. Choose another SDXL checkpoint, or use it in ComfyUI.",
            code="base-of-another-sampling",
        )
    odd = next(
        (entry.dtype for name, entry in entries.items() if name.startswith(_UNET) and entry.dtype not in _FLOATS), ""
    )
    if odd or any(name.endswith(("scaled_fp8", ".scale_weight", ".weight_scale")) for name in entries):
        raise HostError(
            f"The base {path} is quantized ({odd or 'scaled fp8'}), which the command line does not compute with. Choose the "
            "fp16 or bf16 file.",
            code="base-is-quantized",
        )


def _any(pattern: str, names: Mapping[str, object]) -> bool:
    return any(re.search(pattern, name) for name in names)
