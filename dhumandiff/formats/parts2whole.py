"""Parts2Whole's released folder, in diffusers' layout: `reference_unet/`, `pose_guider/` and `decoupled_attn.pth`.

    files = load(Path("models/dhumandiff/Parts2Whole"))
    files.reference, files.pose, files.decoupled          tensors under the names of the files

What else lies there (unet/, text_encoder/, vae/, image_encoder/) is the base's, which a host loads. `decoupled_attn.pth` is a
safetensors in spite of its name. The appearance encoder lacks, by design, what no layer reads: `ABSENT`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import AdapterError
from ..io import expand_user
from .reading import FAMILIES, OTHER_BASES, TensorFile, check_dtypes, looks_like, read_tensor_file

__all__ = [
    "ABSENT",
    "BASE_PARTS",
    "DECOUPLED",
    "NAME",
    "Parts2WholeFiles",
    "is_folder",
    "layers_of",
    "load",
    "read_unet",
]

NAME = "parts2whole"

REFERENCE, POSE, DECOUPLED = "reference_unet", "pose_guider", "decoupled_attn.pth"
BASE_PARTS = ("unet", "text_encoder", "vae", "image_encoder")
"""Folders of the base that the released folder holds, too; they may come from elsewhere."""
SCHEDULE = Path("scheduler") / "scheduler_config.json"
WEIGHTS = tuple(
    f"diffusion_pytorch_model{variant}.{ending}" for ending in ("safetensors", "bin") for variant in ("", ".fp16")
)
"""Names that diffusers gives a model's weights; the first that is there counts."""

_LAST = "up_blocks.3.attentions.2"
_LAST_BLOCK = f"{_LAST}.transformer_blocks.0"
ABSENT = frozenset(
    [
        *(
            f"{name}.{kind}"
            for name in ("conv_norm_out", "conv_out", f"{_LAST}.proj_out")
            for kind in ("weight", "bias")
        ),
        *(f"{_LAST_BLOCK}.{name}.{kind}" for name in ("norm2", "norm3") for kind in ("weight", "bias")),
        *(f"{_LAST_BLOCK}.ff.net.{name}.{kind}" for name in ("0.proj", "2") for kind in ("weight", "bias")),
        *(f"{_LAST_BLOCK}.{attn}.to_{name}.weight" for attn in ("attn1", "attn2") for name in ("q", "k", "v", "out.0")),
        *(f"{_LAST_BLOCK}.{attn}.to_out.0.bias" for attn in ("attn1", "attn2")),
    ]
)
"""The 24 tensors that an appearance encoder need not have: what comes behind the last layer that is read."""

_LAYER = re.compile(r"(.+\.transformer_blocks\.\d+)\.norm1\.weight")
_DECOUPLED = re.compile(r"(.+\.transformer_blocks\.\d+)\.attn2\.processor\.to_([kv])_dc\.weight")


@dataclass(frozen=True)
class Parts2WholeFiles:
    """What a released folder holds of the method.

    Attributes:
        folder: where it lies.
        config: of the appearance encoder, as diffusers writes it.
        reference: the appearance encoder's tensors, under diffusers' names.
        pose: the pose net's.
        decoupled: layer -> (to_k_dc, to_v_dc), each [width, width of an image token], in the order down, mid, up.
        schedule: what scheduler/scheduler_config.json says; empty without one.
        paths: of the files, by what they hold: reference, pose, decoupled.
    """

    folder: Path
    config: dict[str, Any]
    reference: dict[str, Tensor]
    pose: dict[str, Tensor]
    decoupled: dict[str, tuple[Tensor, Tensor]]
    schedule: dict[str, Any] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is meant to be Parts2Whole's, be it whole or not."""
    folder = expand_user(path)
    return any(os.path.exists(folder / name) for name in (DECOUPLED, REFERENCE, POSE))


def load(path: str | os.PathLike[str]) -> Parts2WholeFiles:
    """Read a released folder.

    Raises:
        AdapterError: a file is missing, damaged, or another model's; the message names it.
    """
    folder = expand_user(path)
    missing = [name for name in (REFERENCE, POSE, DECOUPLED) if not os.path.exists(folder / name)]
    if missing:
        raise AdapterError(
            f"{folder}: {_and(missing)} {'is' if len(missing) == 1 else 'are'} not there, so this is not the whole of "
            f"Parts2Whole ({REFERENCE}/, {POSE}/ and {DECOUPLED}). Fetch the folder again; what is there is kept.",
            code="parts2whole-incomplete",
        )
    reference = _read(_weights_of(folder / REFERENCE))
    pose = _read(_weights_of(folder / POSE))
    decoupled = _read(folder / DECOUPLED)
    layers = layers_of(reference.tensors)
    _check_encoder(reference, layers)
    schedule = _json(folder / SCHEDULE) if os.path.isfile(folder / SCHEDULE) else {}
    return Parts2WholeFiles(
        folder,
        _json(folder / REFERENCE / "config.json"),
        reference.tensors,
        pose.tensors,
        _decoupled(decoupled, reference, layers),
        schedule,
        {"reference": reference.path, "pose": pose.path, "decoupled": decoupled.path},
    )


def read_unet(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], Path]:
    """A UNet's settings, tensors and weights file. Decoupled attention that lies in it as well is left.

    Raises:
        AdapterError: a file is missing or damaged.
    """
    file = _read(_weights_of(folder))
    tensors = {name: tensor for name, tensor in file.tensors.items() if not _DECOUPLED.fullmatch(name)}
    return _json(folder / "config.json"), tensors, file.path


def layers_of(names: Mapping[str, Any]) -> list[str]:
    """The transformer blocks of a UNet whose tensors have these names, in the order down, mid, up."""

    def place(layer: str) -> tuple[int, list[int]]:
        return ("down", "mid_", "up_b").index(layer[:4]), [int(number) for number in re.findall(r"\d+", layer)]

    found = [match[1] for name in names if (match := _LAYER.fullmatch(name))]
    return sorted((layer for layer in found if layer[:4] in ("down", "mid_", "up_b")), key=place)


def _weights_of(folder: Path) -> Path:
    for name in WEIGHTS:
        if os.path.isfile(folder / name):
            return folder / name
    raise AdapterError(
        f"{folder}: {WEIGHTS[0]} is not there. The folder was not fetched to its end: fetch it again.",
        code="parts2whole-incomplete",
    )


def _read(path: Path) -> TensorFile:
    file = read_tensor_file(path)
    check_dtypes(file)
    return file


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AdapterError(
            f"{path}: there is no such file. The folder was not fetched to its end: fetch it again.",
            code="parts2whole-incomplete",
        ) from error
    except (OSError, ValueError) as error:
        raise AdapterError(
            f"{path}: this is no JSON ({error}). Get the file again.", code="parts2whole-json"
        ) from error
    if not isinstance(content, dict):
        raise AdapterError(f"{path}: this is no JSON of settings. Get the file again.", code="parts2whole-json")
    return content


def _check_encoder(file: TensorFile, layers: list[str]) -> None:
    if not layers or "conv_in.weight" not in file.tensors:
        raise AdapterError(
            f"{file.path}: this looks like {looks_like(file.tensors)}; Parts2Whole's appearance encoder, a UNet in "
            "diffusers' layout, was expected. Get the file again.",
            code="no-appearance-encoder",
        )
    context = file.tensors.get(f"{layers[0]}.attn2.to_k.weight")
    family = FAMILIES.get(context.shape[1]) if context is not None else None
    if family in ("sdxl", "sd2"):
        other = OTHER_BASES.get(context.shape[1], "SDXL") if context is not None else ""
        raise AdapterError(
            f"{file.path}: this UNet is {other}'s (context {context.shape[1] if context is not None else 0}), but "
            "Parts2Whole is for Stable Diffusion 1.5. Get the released folder.",
            code="encoder-of-another-base",
        )


def _decoupled(file: TensorFile, reference: TensorFile, layers: list[str]) -> dict[str, tuple[Tensor, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in file.tensors.items():
        match = _DECOUPLED.fullmatch(name)
        if not match:
            raise AdapterError(
                f"{file.path}: the tensor {name!r} does not belong to decoupled attention (...attn2.processor.to_k_dc). The "
                f"file looks like {looks_like(file.tensors)}. Get it again.",
                code="no-decoupled-attention",
            )
        found.setdefault(match[1], {})[match[2]] = tensor
    lacking = [layer for layer in layers if set(found.get(layer, ())) != {"k", "v"}]
    if lacking or len(found) != len(layers):
        odd = lacking or sorted(set(found) - set(layers))
        raise AdapterError(
            f"{file.path}: its layers are not those of {REFERENCE}/ ({odd[0]}{', ...' if len(odd) > 1 else ''}). Get both from "
            "the same release.",
            code="decoupled-layers",
        )
    token = found[layers[0]]["k"].shape[-1]
    for layer in layers:
        width = reference.tensors[f"{layer}.norm1.weight"].shape[0]
        if any(tuple(tensor.shape) != (width, token) for tensor in found[layer].values()):
            raise AdapterError(
                f"{file.path}: to_k_dc and to_v_dc of {layer} have the shapes {list(found[layer]['k'].shape)} and "
                f"{list(found[layer]['v'].shape)}, [{width}, {token}] was expected. Get the file again.",
                code="decoupled-shapes",
            )
    return {layer: (found[layer]["k"], found[layer]["v"]) for layer in layers}


def _and(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
