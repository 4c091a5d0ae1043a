"""Random files in exactly the layouts of WithAnyone, small or of full size.

    withanyone_file(tmp_path / "withanyone.safetensors")                      both branches, a FLUX of width 32 and 5 blocks
    withanyone_file(tmp_path / "withanyone.safetensors", **FULL)              FLUX.1's own sizes, 2.78 B parameters
    branch_file(tmp_path / "arc.safetensors", "arc")                          one branch, names without suffix

Tensors are written one after another, so that a full file can be made on a machine that could not hold it twice.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from math import prod
from os import SEEK_CUR
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FULL: dict[str, Any] = {"width": 3072, "inner": 1536, "blocks": 57}
"""The released sizes, as keywords for any builder here."""

NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float8_e4m3fn: "F8_E4M3"}


def shapes(
    branches: tuple[str, ...] = ("arc", "sig"),
    width: int = 32,
    inner: int = 128,
    blocks: int = 5,
    flux: bool = False,
    unused: bool = False,
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the merged file.

    Args:
        branches: which are there.
        width: of FLUX. inner: of queries. blocks: double and single.
        flux: whether tensors of FLUX lie beside.
        unused: whether the ArcFace branch's unused SigLIP projection does.
    """
    found: dict[str, tuple[int, ...]] = {}
    for branch in branches:
        found |= _projector(f"arcface_in_{branch}", 512, 4 * width, 8 * width)
        for block in range(blocks):
            layer = f"ipa_{branch}.{block}"
            found |= {f"{layer}.{norm}.{of}": (width,) for norm in ("norm1", "norm2") for of in ("weight", "bias")}
            found |= {
                f"{layer}.to_q.weight": (inner, width),
                f"{layer}.to_kv.weight": (2 * inner, width),
                f"{layer}.to_out.weight": (width, inner),
            }
    if "sig" in branches:
        found |= _projector("siglip_in_sig", 768, width, width)
    if unused:
        found |= _projector("siglip_in_arc", 768, 4 * width, 8 * width)
    if flux:
        found |= {
            "img_in.weight": (width, 64),
            "double_blocks.0.img_attn.qkv.weight": (3 * width, width),
            "single_blocks.0.linear1.weight": (7 * width, width),
        }
    return found


def _projector(name: str, width: int, wide: int, out: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}.0.weight": (wide, width),
        f"{name}.0.bias": (wide,),
        f"{name}.2.weight": (wide,),
        f"{name}.2.bias": (wide,),
        f"{name}.3.weight": (out, wide),
        f"{name}.3.bias": (out,),
    }


def tensors(seed: int = 0, **sizes: Any) -> dict[str, Tensor]:
    """Random tensors, scaled so that tokens and residuals are about 1."""
    generator = torch.Generator().manual_seed(seed)
    return {name: _random(name, shape, generator) for name, shape in shapes(**sizes).items()}


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    around = 1.0 if len(shape) == 1 and name.endswith("weight") else 0.0
    return around + torch.randn(shape, generator=generator) * shape[-1] ** -0.5


def withanyone_file(
    path: Path,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    changed: Mapping[str, Any] | None = None,
    **sizes: Any,
) -> Path:
    """The merged file. `changed`: name -> tensor to put there instead, or None to leave it out."""
    made = tensors(seed, **sizes) | dict(changed or {})
    kept = {name: tensor.to(dtype) for name, tensor in made.items() if tensor is not None}
    return write(path, {name: tuple(tensor.shape) for name, tensor in kept.items()}, dtype, kept.__getitem__)


def branch_file(
    path: Path, branch: str, seed: int = 0, dtype: torch.dtype = torch.float32, unused: bool = False, **sizes: Any
) -> Path:
    """The file of one branch, which has no suffixes."""
    made = {
        name.replace(f"_{branch}.", ".", 1): tensor.to(dtype)
        for name, tensor in tensors(seed, branches=(branch,), unused=unused, **sizes).items()
    }
    return write(path, {name: tuple(tensor.shape) for name, tensor in made.items()}, dtype, made.__getitem__)


def full_file(path: Path, dtype: torch.dtype = torch.bfloat16, **sizes: Any) -> Path:
    """A large file, of which one pattern of noise fills every tensor: fast, and with one tensor in memory at a time."""
    noise = torch.randn(2**20 - 3, generator=torch.Generator().manual_seed(0))

    def tensor(name: str) -> Tensor:
        shape = layout[name]
        flat = noise.mul(shape[-1] ** -0.5).to(dtype).repeat(prod(shape) // len(noise) + 1)[: prod(shape)]
        return flat.view(shape)

    layout = shapes(**sizes)
    return write(path, layout, dtype, tensor)


def write(
    path: Path, layout: Mapping[str, tuple[int, ...]], dtype: torch.dtype, tensor: Callable[[str], Tensor | None]
) -> Path:
    """A .safetensors whose tensors are asked for one after another; None: zeros, which take no disk."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in layout.items():
        start, end = end, end + prod(shape) * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in layout:
            if (values := tensor(name)) is None:
                file.seek(prod(layout[name]) * dtype.itemsize, SEEK_CUR)
            else:
                file.write(memoryview(values.contiguous().view(torch.uint8).numpy().reshape(-1)))
        file.truncate()
    return path
