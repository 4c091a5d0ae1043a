"""What a training asks of a GPU's memory, for each preset and each way to need less: estimates from shapes, not measured.

    python -m benchmarks.cards                        # about 3 minutes; SDXL's shapes, no weights, no GPU

`train --dry_run` says the same of a configuration of your own.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import struct
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import torch

from .comfyui import ROOT
from .results import machine, save

CONFIGS = ROOT / "training" / "configs"
SDXL = ROOT / "dhumandiff" / "hosts" / "diffusers" / "configs" / "sdxl"
PARTS = ("unet", "text_encoder", "scheduler")

ROWS: dict[str, tuple[str, list[str]]] = {
    "12 GB": ("sdxl_12gb.yaml", []),
    "12 GB, fp8": ("sdxl_12gb.yaml", ["--base.quantization", "fp8"]),
    "12 GB, nf4": ("sdxl_12gb.yaml", ["--base.quantization", "nf4"]),
    "12 GB, offload": ("sdxl_12gb.yaml", ["--base.offload", "true"]),
    "16 GB": ("sdxl_16gb.yaml", []),
    "16 GB, fp8": ("sdxl_16gb.yaml", ["--base.quantization", "fp8"]),
    "16 GB, offload": ("sdxl_16gb.yaml", ["--base.offload", "true"]),
    "24 GB": ("sdxl_24gb.yaml", []),
    "24 GB, fp8": ("sdxl_24gb.yaml", ["--base.quantization", "fp8"]),
    "48 GB": ("sdxl_48gb.yaml", []),
    "couple": ("couple.yaml", ["--base.quantization", "none"]),
    "couple, fp8": ("couple.yaml", []),
    "couple, nf4": ("couple.yaml", ["--base.quantization", "nf4"]),
    "couple, offload": ("couple.yaml", ["--base.quantization", "none", "--base.offload", "true"]),
}
"""Row -> a file on top of sdxl.yaml, and what is changed of it."""

STARTS = {"couple.yaml": "IP-Adapter Plus Face", "sdxl_12gb.yaml": "released"}
"""Presets that train on from weights."""

PICTURES = {"512": (512, 2), "1024": (1024, 1)}
"""Column -> side of the pictures in px, samples of a micro batch."""

PROCESSES = (2, 4, 8)


def main(arguments: list[str] | None = None) -> None:
    """Estimate, and keep the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cards", description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", choices=ROWS, help="rows to print, without keeping a result")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        made = _inputs(Path(name))
        rows = {row: {column: _estimates(row, column, made) for column in PICTURES} for row in given.only or ROWS}
    if given.only:
        print(json.dumps(rows, indent=1))
        return
    presets = {row.partition(", ")[0]: preset for row, (preset, _) in ROWS.items()}
    settings = {"processes": list(PROCESSES), "pictures": PICTURES, "presets": presets}
    save("cards", {"machine": machine(), "settings": settings, "gigabytes": rows})


def _estimates(row: str, column: str, made: dict[str, Path]) -> dict[str, float]:
    """GB on one GPU, and on each of several with FSDP: number of processes -> GB; nothing where these settings do not go together."""
    from training.parsing import parse
    from training.run.config import TrainConfig
    from training.run.estimate import estimates
    from training.run.sharding import OPTIMIZERS

    preset, more = ROWS[row]
    micro_batch = PICTURES[column][1]
    words = [
        "--config",
        str(CONFIGS / "sdxl.yaml"),
        "--config",
        str(CONFIGS / preset),
        "--base.path",
        str(made["base"]),
    ]
    words += ["--precision", "bf16", "--data.micro_batch_size", str(micro_batch), *more]
    words += ["--data.folders", json.dumps([{"path": str(made[column])}])]
    if preset in STARTS:
        words += ["--init.weights", str(made[STARTS[preset]])]
    config, _ = parse(TrainConfig, "train", words, {})
    whole = config.base.quantization != "none" or config.base.offload or config.optimizer.name not in OPTIMIZERS
    found = estimates(config, (1,) if whole else (1, *PROCESSES))
    return {str(processes): round(size, 1) for processes, size in found.items()}


def _inputs(folder: Path) -> dict[str, Path]:
    """A base and prepared data that have SDXL's shapes, and adapters of both kinds to start from, all of zeros."""
    from dhumandiff.formats.native import stamped
    from training.data.config import FolderConfig
    from training.data.dataset import open_datasets
    from training.run.base import meta_base
    from training.run.config import InitConfig
    from training.run.init import init_adapter

    base = folder / "base"
    for part in PARTS:
        shutil.copytree(SDXL / part, base / part)
    made = {"base": base}
    for column, (side, _) in PICTURES.items():
        made[column] = _shards(folder / column, side)
    folders, _ = open_datasets([FolderConfig(path=str(made["512"]))])
    unet = meta_base(str(base), text_encoder=True)
    for kind in STARTS.values():
        like = InitConfig() if kind == "released" else InitConfig(shared=True, subject_path=False)
        adapter = init_adapter(like, unet, folders[0], 0, "meta")
        made[kind] = folder / f"{kind}.safetensors"
        _zeros(made[kind], dict(adapter.state_dict()), stamped(adapter.info.metadata, adapter.info.shared))
    return made


def _zeros(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """A .safetensors of zeros that takes no room on the disk."""
    head: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, tensor in tensors.items():
        head[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [end, end + 2 * tensor.numel()]}
        end += 2 * tensor.numel()
    text = json.dumps(head).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def _shards(folder: Path, side: int) -> Path:
    """One sample, prepared for SDXL with CLIP ViT-H and a recognizer of 512 numbers."""
    from safetensors.torch import save as as_bytes
    from safetensors.torch import save_file

    folder.mkdir()
    context, width, tokens = 2048, 1280, 257
    common = {
        "clip_hidden_zero": torch.zeros(1, tokens, width, dtype=torch.float16),
        "empty_text": torch.zeros(77, context, dtype=torch.float16),
        "empty_ids_l": torch.zeros(77, dtype=torch.int32),
        "empty_pooled": torch.zeros(1280),
    }
    save_file(common, folder / "common.safetensors")
    contents = {"safetensors": as_bytes({"latent_mean": torch.zeros(4, 1, 1)}), "json": b'{"persons": [{}, {}]}'}
    with tarfile.open(folder / "000000.tar", "w") as tar:
        for ending, content in contents.items():
            entry = tarfile.TarInfo(f"00000000.{ending}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    sizes = {"context_width": context, "pooled_width": 1280, "text_width": 768, "latent_channels": 4}
    header = {
        "format": "dhumandiff-shards",
        "format_version": "1",
        "base": {"name": "sdxl", "scaling_factor": 0.13025, **sizes},
        "vision": {"name": "ViT-H/14", "clip_width": width, "tokens": tokens},
        "recogniser": {"name": "antelopev2", "width": 512},
        "buckets": [[side, side]],
        "sources": [{"name": "zeros", "weight": 1.0, "samples": 1}],
        "shards": [{"name": "000000.tar", "samples": 1}],
        "counts": {"samples": 1, "set_aside": 0},
    }
    (folder / "dataset.json").write_text(json.dumps(header), encoding="utf-8")
    return folder


if __name__ == "__main__":
    main()
