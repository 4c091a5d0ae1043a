"""What a folder of Parts2Whole is, as plain values and in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from ...catalogue import PARTS2WHOLE
from ...formats import parts2whole
from .model import Parts2Whole

__all__ = ["as_text", "describe", "in_a_sentence", "tensors_of"]


def describe(path: Path) -> dict[str, Any]:
    """Plain values under the names that `inspect --json` prints.

    Raises:
        AdapterError: a file is missing, damaged, or another model's.
    """
    weights = Parts2Whole.from_pretrained(path)
    tensors = tensors_of(path)
    parameters: dict[str, int] = {}
    for name, tensor in tensors.items():
        part = name.partition("/")[0]
        parameters[part] = parameters.get(part, 0) + tensor.numel()
    schedule = weights.info.schedule
    return {
        "path": str(path),
        "format": parts2whole.NAME,
        "base_family": "sd15",
        "layers": len(weights.info.layers),
        "hidden": list(weights.info.hidden),
        "context_width": weights.info.context_width,
        "image_width": weights.info.image_width,
        "pose_channels": weights.info.pose_channels,
        "absent": weights.info.absent,
        "beta_schedule": schedule.beta_schedule,
        "sigma_max": round(float(schedule.sigmas()[-1]), 2),
        "base_parts": [name for name in parts2whole.BASE_PARTS if (path / name).is_dir()],
        "licence": PARTS2WHOLE.license,
        "source": PARTS2WHOLE.url,
        "dtypes": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}),
        "parameters": parameters,
        "bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()),
    }


def tensors_of(path: Path) -> dict[str, Tensor]:
    """All tensors of the method, each under the name of its file and its own."""
    files = parts2whole.load(path)
    pairs = {
        f"{layer}.to_{kind}_dc": t
        for layer, pair in files.decoupled.items()
        for kind, t in zip("kv", pair, strict=True)
    }
    named = {"reference_unet": files.reference, "pose_guider": files.pose, "decoupled_attn": pairs}
    return {f"{part}/{name}": tensor for part, tensors in named.items() for name, tensor in tensors.items()}


def in_a_sentence(found: dict[str, Any]) -> str:
    """The little that tells one folder from another, for lists."""
    return (
        f"Parts2Whole (Stable Diffusion 1.5, {found['layers']} layers, {_base(found)}); {', '.join(found['dtypes'])}, "
        f"{found['bytes'] / 1e6:,.1f} MB; license: {found['licence']}"
    )


def as_text(found: dict[str, Any]) -> str:
    """The same for people."""
    hidden = found["hidden"]
    widths = ", ".join(f"{hidden.count(width)} of width {width}" for width in sorted(set(hidden)))
    parts = ", ".join(f"{part} {count / 1e6:,.1f} M" for part, count in found["parameters"].items())
    rows = {
        "this is": "Parts2Whole, which draws people from a picture for each part",
        "base": f"Stable Diffusion 1.5, {found['layers']} layers ({widths}); {_base(found)}",
        "image tokens": f"one a part, {found['image_width']} wide",
        "pose": f"adds to {found['pose_channels']} channels",
        "noise": f"{found['beta_schedule']} betas, sigma_max {found['sigma_max']}",
        "absent": f"{found['absent']} tensors of the appearance encoder, by design" if found["absent"] else "nothing",
        "parameters": f"{sum(found['parameters'].values()) / 1e6:,.1f} M ({parts})",
        "stored as": f"{', '.join(found['dtypes'])}, {found['bytes'] / 1e6:,.1f} MB",
        "licence": found["licence"],
        "source": found["source"],
    }
    return "\n".join([found["path"], *(f"  {name:<13} {value}" for name, value in rows.items())])


def _base(found: dict[str, Any]) -> str:
    lacking = [name for name in parts2whole.BASE_PARTS if name not in found["base_parts"]]
    return f"without {', '.join(lacking)}" if lacking else "whole with its base"
