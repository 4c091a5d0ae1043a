"""Whether a prepared folder and its samples hold what training reads, of the right sizes, in finite numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["check_common", "check_header", "check_sample"]

VOCABULARY, CHUNK = 49408, 77
"""Tokens of CLIP, and how many a chunk of text has, start and end included."""


def check_header(header: Mapping[str, Any]) -> None:
    """Refuse a dataset.json that lacks something, or has it of another kind. ValueError, KeyError or TypeError."""
    for part, names in (
        ("base", ("context_width", "latent_channels", "text_width")),
        ("vision", ("clip_width",)),
        ("recogniser", ("width",)),
    ):
        for name in names:
            _check(_is_count(header[part][name], 1), f"{part}.{name} is {header[part][name]!r:.40}")
    _check(_is_count(header["base"].get("pooled_width") or 0), "base.pooled_width is no count")
    for shard in header["shards"]:
        right = isinstance(shard["name"], str) and _is_count(shard["samples"]) and _is_count(shard.get("bytes", 0))
        _check(right, f"a shard is {shard!r:.60}")
    for bucket in header["buckets"]:
        _check(len(bucket) == 2 and all(_is_count(side, 1) for side in bucket), f"a bucket is {bucket!r:.40}")
    for source in header.get("sources", []):
        weight = source.get("weight", 1.0)
        right = isinstance(weight, (int, float)) and math.isfinite(weight) and weight >= 0
        _check(isinstance(source["name"], str) and right, f"a source is {source!r:.60}")
    counts = {shard["name"]: shard["samples"] for shard in header["shards"]}
    for name, keys in header.get("validation", {}).get("samples", {}).items():
        right = isinstance(keys, list) and len({*keys}) == len(keys) <= counts.get(name, 0)
        _check(right, f"the samples held out of {name!r:.40} are not those of a shard")
    for couple in header.get("couples", []):
        right = _is_count(couple["samples"]) and all(isinstance(person, dict) for person in couple["people"])
        _check(right, f"a couple is {couple!r:.60}")


def check_common(common: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Refuse a common.safetensors that lacks a tensor, or has it of another size. ValueError or KeyError."""
    _check_finite(common)
    base = header["base"]
    _check_shape(common, "clip_hidden_zero", (1, header["vision"].get("tokens"), header["vision"]["clip_width"]))
    _check_shape(common, "empty_text", (CHUNK, base["context_width"]))
    if base.get("pooled_width"):
        _check_shape(common, "empty_pooled", (base["pooled_width"],))


def check_sample(metadata: Mapping[str, Any], tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Refuse a sample that cannot be trained on as what it says. ValueError, KeyError or TypeError."""
    _check_finite(tensors)
    base, vision, chunks = header["base"], header["vision"], metadata["chunks"]
    _check_shape(tensors, "latent_mean", (base["latent_channels"], None, None))
    shape = tuple(tensors["latent_mean"].shape)
    _check_shape(tensors, "latent_std", shape)
    height, width = metadata["bucket"]
    factor = height // shape[1]
    _check(
        factor > 0 and (shape[1] * factor, shape[2] * factor) == (height, width), f"its bucket is {height} x {width}"
    )
    _check_shape(tensors, "text", (CHUNK * chunks, base["context_width"]))
    _check_shape(tensors, "ids_l", (chunks, CHUNK))
    ids = tensors["ids_l"]
    _check(not ids.is_floating_point() and int(ids.min()) >= 0 and int(ids.max()) < VOCABULARY, "ids_l are no tokens")
    if base.get("pooled_width"):
        _check_shape(tensors, "pooled", (base["pooled_width"],))
    for name in ("original_size", "crop", "target_size"):
        _check_numbers(metadata[name], (2,), name)
    _check(len(metadata["persons"]) == 2, f"it has {len(metadata['persons'])} persons instead of 2")
    for number, person in enumerate(metadata["persons"], 1):
        _check_person(number, person, tensors, header, vision.get("tokens"))
        for name in ("tokens_first", "tokens_all"):
            for chunk, position in person[name]:
                right = _is_count(chunk) and chunk < chunks and _is_count(position, 1) and position < CHUNK - 1
                _check(right, f"{name} of person {number} name position {position} of chunk {chunk}")
    for kind in ("mask", "face"):
        have = [f"{kind}_{number}" for number in (1, 2) if f"{kind}_{number}" in tensors]
        _check(len(have) != 1, f"of {kind}_1 and {kind}_2 it has {have} alone")
        for name in have:
            _check_shape(tensors, name, shape[1:])


def _check_person(
    number: int, person: Mapping[str, Any], tensors: Mapping[str, Tensor], header: Mapping[str, Any], tokens: int | None
) -> None:
    references = len(person["references"])
    _check(references > 0, f"person {number} has no reference")
    _check_shape(tensors, f"ref_{number}.clip_hidden", (references, tokens, header["vision"]["clip_width"]))
    for name in (f"ref_{number}.identity", f"ref_{number}.identity_swapped"):
        _check_shape(tensors, name, (references, header["recogniser"]["width"]))
        _check(
            bool(tensors[name].float().norm(dim=-1).min() > 1e-3), f"{name} has a row of zeros, which is nobody's face"
        )
    _check_numbers(person["landmarks"], (5, 2), f"landmarks of person {number}")


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            _check(tensor.element_size() > 1, f"{name} is stored as {tensor.dtype}")
            _check(bool(tensor.isfinite().all()), f"{name} holds NaN or infinite numbers")


def _check_shape(tensors: Mapping[str, Tensor], name: str, shape: Sequence[int | None]) -> None:
    """None: any size from 1 on."""
    if name not in tensors:
        raise ValueError(f"{name} is missing")
    found = tuple(tensors[name].shape)
    fits = len(found) == len(shape) and all(
        have > 0 and want in (None, have) for want, have in zip(shape, found, strict=True)
    )
    _check(fits, f"{name} has the shape {list(found)}")


def _check_numbers(values: Any, shape: tuple[int, ...], name: str) -> None:
    numbers = torch.tensor(values, dtype=torch.float64)
    _check(tuple(numbers.shape) == shape and bool(numbers.isfinite().all()), f"{name} is {values!r:.60}")


def _is_count(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _check(right: bool, what: str) -> None:
    if not right:
        raise ValueError(what)
