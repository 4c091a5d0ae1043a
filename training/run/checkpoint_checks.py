"""Whether a checkpoint holds what a run resumes from, before anything of it is taken over."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from dhumandiff.errors import short_error

from .. import TrainingError

__all__ = ["check_config", "check_info", "check_moments", "check_state", "damaged_checkpoint", "tensors_in"]


@contextmanager
def damaged_checkpoint(path: Path) -> Iterator[None]:
    """Whatever goes wrong with the contents of a checkpoint, as an error that names it."""
    try:
        yield
    except TrainingError:
        raise
    except Exception as error:  # what wrong types and shapes raise has no common base
        raise TrainingError(
            f"The checkpoint {path} is damaged ({short_error(error, kind=True)}). Remove this folder; the run then resumes "
            "from the one before it.",
            code="checkpoint-damaged",
        ) from error


def check_info(info: Mapping[str, Any], step: int) -> None:
    """Refuse a state.json of another step, or whose values are of other kinds. ValueError."""
    for name, kind in (("score", (int, float)), ("smoothed", (int, float)), ("positions", dict), ("agree", dict)):
        _check(isinstance(info[name], kind) and not isinstance(info[name], bool), f"{name} is {info[name]!r:.40}")
    _check(not math.isnan(info["score"]), "score is NaN")
    _check(type(info["step"]) is int and info["step"] == step, f"step is {info['step']!r:.40}")
    shards = info["agree"]["shards"]
    pairs = isinstance(shards, list) and all(
        isinstance(folder, list)
        and all(isinstance(shard, list) and len(shard) == 2 and isinstance(shard[1], int) for shard in folder)
        for folder in shards
    )
    _check(pairs, f"agree.shards is {shards!r:.40}")


def check_config(config: Any) -> None:
    """Refuse a configuration without its parts. ValueError."""
    for name in ("base", "data", "init", "augment", "objectives", "optimizer"):
        _check(isinstance(config.get(name), dict), f"config lacks {name}")
    _check(isinstance(config["data"]["folders"], list), "config lacks data.folders")
    decay = config["optimizer"]["ema_decay"]
    _check(isinstance(decay, (int, float)), f"optimizer.ema_decay is {decay!r:.40}")


def check_state(state: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Refuse a state that lacks the averages it must have, or holds other kinds, shapes or no numbers. ValueError."""
    weights, ema = state["adapter"], state["ema"]
    _check(bool(ema) or not config["optimizer"]["ema_decay"], "average.safetensors is missing")
    shapes = ({name: tuple(value.shape) for name, value in part.items()} for part in (weights, ema))
    _check(
        not ema or len(set(map(repr, (sorted(part.items()) for part in shapes)))) == 1, "the average has other tensors"
    )
    for name, kind in (("ema_steps", int), ("scheduler", int), ("optimizer", dict), ("scaler", dict), ("random", list)):
        _check(isinstance(state[name], kind), f"{name} is a {type(state[name]).__name__}")
    _check(state["ema_steps"] >= 0 and state["scheduler"] >= 0, "its counts are below 0")
    for name in ("adapter", "ema", "optimizer"):
        finite = all(bool(tensor.isfinite().all()) for tensor in tensors_in(state[name]) if tensor.is_floating_point())
        _check(finite, f"{name} holds NaN or infinite numbers")


def check_moments(optimizer: Any) -> None:
    """Refuse moments that are not their weights' size, where the optimizer keeps one for each value. ValueError."""
    for parameter, moments in optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq", "momentum_buffer"):
            if isinstance(moments.get(name), Tensor) and moments[name].is_floating_point():
                _check(moments[name].shape == parameter.shape, f"{name} has the shape {list(moments[name].shape)}")


def tensors_in(values: Any) -> Iterator[Tensor]:
    """All tensors of nested dicts and lists."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from tensors_in(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from tensors_in(value)


def _check(right: bool, what: str) -> None:
    if not right:
        raise ValueError(what)
