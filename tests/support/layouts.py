"""Random adapter files in exactly the released layouts, small or of full size.

    released_folder(tmp_path / "adapter")                        four small .pt files, 17 layers
    released_folder(tmp_path / "adapter", **FULL)                SDXL's own sizes, 70 layers, 3.3 GB in float32
    ip_adapter_file(tmp_path / "plus-face.safetensors")          the layout of IP-Adapter Plus (Face) SDXL; or .bin
    small_adapter()                                              the same tensors as an Adapter, without a file

Every builder takes the same keyword sizes (see `tensors`), so tests say only what matters to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

SDXL_HIDDEN = (640,) * 4 + (1280,) * 20 + (1280,) * 30 + (640,) * 6 + (1280,) * 10
"""Widths of SDXL's 70 cross-attention layers: down_blocks.1 and .2, up_blocks.0 and .1, mid_block."""

TINY_HIDDEN = (64,) * 2 + (128,) * 4 + (128,) * 6 + (64,) * 3 + (128,) * 2
"""The same blocks of a tiny SDXL: 17 layers, 64 wide where SDXL has 640, 128 where it has 1280."""

FULL: dict[str, Any] = {
    "hidden": SDXL_HIDDEN,
    "context_width": 2048,
    "clip_width": 1280,
    "face_width": 1280,
    "tokens": 16,
    "token_width": 1024,
    "identity_width": 512,
    "text_width": 768,
    "depth": 4,
}
"""The released sizes, as keywords for any builder here."""

FILES = {
    "face_projection": "face_projection.pt",
    "identity_projection": "face_projection2.pt",
    "mapping": "mapping.pt",
    "attention": "ip_adapter_ca.pt",
}


class _Random:
    """Seeded tensors, scaled so that activations neither die out nor blow up through four layers."""

    def __init__(self, seed: int, dtype: torch.dtype, cheap: bool) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype = dtype
        self.pattern = torch.randn(4099, generator=self.generator) if cheap else None

    def __call__(self, *shape: int, scale: float | None = None, around: float = 0.0) -> Tensor:
        scale = shape[-1] ** -0.5 if scale is None else scale
        if self.pattern is None:
            return (around + scale * torch.randn(shape, generator=self.generator)).to(self.dtype)
        count = int(torch.Size(shape).numel())  # a repeated pattern is filled a hundred times faster than noise
        start = int(torch.randint(4099, (1,), generator=self.generator))
        values = (around + scale * self.pattern.roll(start)).to(self.dtype)
        return values.repeat(-(-count // 4099))[:count].clone().reshape(shape)


def _norm(random: _Random, name: str, width: int) -> dict[str, Tensor]:
    return {
        f"{name}.weight": random(width, scale=0.1, around=1.0),
        f"{name}.bias": random(width, scale=0.1),
    }


def _linear(random: _Random, name: str, width_in: int, width_out: int, bias: bool = True) -> dict[str, Tensor]:
    out = {f"{name}.weight": random(width_out, width_in)}
    if bias:
        out[f"{name}.bias"] = random(width_out, scale=0.1)
    return out


def _perceiver(random: _Random, width: int, clip_width: int, out_width: int, depth: int) -> dict[str, Tensor]:
    out = {
        **_linear(random, "proj_in", clip_width, width),
        **_linear(random, "proj_out", width, out_width),
        **_norm(random, "norm_out", out_width),
    }
    for i in range(depth):
        out |= {
            **_norm(random, f"layers.{i}.0.norm1", width),
            **_norm(random, f"layers.{i}.0.norm2", width),
            **_linear(random, f"layers.{i}.0.to_q", width, width, bias=False),
            **_linear(random, f"layers.{i}.0.to_kv", width, 2 * width, bias=False),
            **_linear(random, f"layers.{i}.0.to_out", width, width, bias=False),
            **_norm(random, f"layers.{i}.1.0", width),
            **_linear(random, f"layers.{i}.1.1", width, 4 * width, bias=False),
            **_linear(random, f"layers.{i}.1.3", 4 * width, width, bias=False),
        }
    return out


def tensors(
    *,
    hidden: Sequence[int] = TINY_HIDDEN,
    layers: int | None = None,
    context_width: int = 96,
    clip_width: int = 80,
    face_width: int = 128,
    tokens: int = 16,
    token_width: int = 64,
    identity_width: int = 512,
    text_width: int = 32,
    mapping_width: int | None = None,
    depth: int = 4,
    names: Sequence[str] = ("1", "2"),
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    cheap: bool = False,
) -> dict[str, dict[str, Tensor]]:
    """Tensors of the released layout: `{"face_projection": {...}, "identity_projection": ..., "mapping", "attention"}`.

    `hidden` gives one width a cross-attention layer; `layers` cuts or cycles it to that many. `names` are the suffixes
    of the K/V projections: ("1", "2") as released, ("",) for one K/V as in an IP-Adapter. `cheap` repeats a pattern
    instead of drawing noise, for files of full size.
    """
    if layers is not None:
        hidden = [hidden[i % len(hidden)] for i in range(layers)]
    random = _Random(seed, dtype, cheap)
    face = {
        "latents": random(1, tokens, face_width),
        **_perceiver(random, face_width, clip_width, context_width, depth),
    }
    identity = {
        **_linear(random, "proj.0", identity_width, 2 * identity_width),
        **_linear(random, "proj.2", 2 * identity_width, token_width),
        **_norm(random, "norm", token_width),
    }
    perceiver = _perceiver(random, token_width, clip_width, token_width, depth)
    identity |= {f"perceiver_resampler.{name}": tensor for name, tensor in perceiver.items()}
    mapping_in = text_width + token_width
    mapping_width = mapping_width or token_width
    mapping = {
        **_norm(random, "layernorm", mapping_in),
        **_linear(random, "fc1", mapping_in, mapping_width),
        **_linear(random, "fc2", mapping_width, text_width),
    }
    attention = {}
    for k, width in enumerate(hidden):
        for name in names:
            attention[f"{2 * k + 1}.to_k_ip{name}.weight"] = random(width, context_width)
            attention[f"{2 * k + 1}.to_v_ip{name}.weight"] = random(width, context_width)
    return {"face_projection": face, "identity_projection": identity, "mapping": mapping, "attention": attention}


def released_folder(path: Path, **sizes: Any) -> Path:
    """Write the four released files (plain dicts of tensors, torch.save) into `path` and return it."""
    path.mkdir(parents=True, exist_ok=True)
    for part, content in tensors(**sizes).items():
        torch.save(content, path / FILES[part])
    return path


def ip_adapter_file(path: Path, **sizes: Any) -> Path:
    """Write an IP-Adapter Plus (Face) SDXL file: flat keys in .safetensors, the nested dict of the original in .bin."""
    parts = tensors(**{"names": ("",), **sizes})
    nested = {"image_proj": parts["face_projection"], "ip_adapter": parts["attention"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({f"{part}.{name}": t for part, content in nested.items() for name, t in content.items()}, path)
    else:
        torch.save(nested, path)
    return path


def small_adapter(*, operations: Any = torch.nn, **sizes: Any) -> Any:
    """The random tensors as an Adapter of the released kind (names=("",): of an IP-Adapter's), without a file."""
    from dhumandiff import Adapter
    from dhumandiff.formats.released import AS_RELEASED

    parts = tensors(**sizes)
    own = {}
    for part, content in parts.items():
        if part in ("identity_projection", "mapping") and sizes.get("names") == ("",):
            continue
        for name, tensor in content.items():
            index, _, rest = name.partition(".")
            own[f"attention.{int(index) // 2}.{rest}" if part == "attention" else f"{part}.{name}"] = tensor
    return Adapter.from_tensors(own, AS_RELEASED, operations=operations)


def random_reference(info: Any = None, *, photos: int = 1, seed: int = 0, clip_tokens: int = 9, **widths: int) -> Any:
    """A FaceReference of random values that fits `info` (an AdapterInfo), or the widths given by keyword.

    Widths: clip_width (80), identity_width (512). `clip_tokens` is 257 for CLIP ViT-H/14.
    """
    from dhumandiff.references.reference import FaceReference

    clip_width = widths.get("clip_width") or (info.clip_width if info else 80)
    identity_width = widths.get("identity_width") or (info and info.identity_width) or 512
    generator = torch.Generator().manual_seed(1000 + seed)

    def unit(*shape: int) -> Tensor:
        return torch.nn.functional.normalize(torch.randn(shape, generator=generator), dim=-1)

    one = unit(1, identity_width)  # photos of one person resemble each other
    return FaceReference(
        identity=torch.nn.functional.normalize(one + 0.3 * unit(photos, identity_width), dim=-1),
        clip_hidden=torch.randn(photos, clip_tokens, clip_width, generator=generator),
        clip_hidden_zero=torch.randn(1, clip_tokens, clip_width, generator=generator),
        identity_swapped=torch.nn.functional.normalize(-one + 0.3 * unit(photos, identity_width), dim=-1),
        name=f"person {seed}",
    )
