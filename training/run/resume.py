"""Going on from a checkpoint: what must agree with it, what goes into it, and taking it up."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dhumandiff import Adapter

from .. import TrainingError
from ..data.dataset import PreparedDataset
from ..parsing import as_dict, differences
from .base import Base
from .checkpoint import RUN_FILE, Checkpoint, Run, random_state, set_random_state
from .config import TrainConfig
from .optim import Averages

__all__ = ["check_agreement", "gather", "restore", "what_must_agree"]


def gather(
    told: Mapping[str, Any],
    positions: Mapping[int, Any],
    adapter: Adapter,
    exact: Mapping[str, Tensor],
    optimiser: Any,
    schedule: Any,
    averages: Averages,
    accelerator: Any,
) -> Checkpoint | None:
    """The checkpoint of this moment; every process has to ask for it, the main one gets it.

    told: plain values that belong into it. positions: of this process's lanes in the data. exact: weights that
    the adapter holds in less precision (`start.lighten`).
    """
    from accelerate.utils import gather_object

    everywhere = gather_object([{"positions": dict(positions), "random": random_state()}])
    if not accelerator.is_main_process:
        return None
    weights = {**adapter.state_dict(), **exact}
    return Checkpoint(
        weights=weights,
        average={**weights, **averages.values} if averages.values else {},
        metadata=adapter.info.metadata,
        state={
            "optimiser": optimiser.optimizer.state_dict()["state"],
            "scheduled": schedule.last_epoch,
            "averaged": averages.steps,
            "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else {},
            "random": [process["random"] for process in everywhere],
        },
        told={**told, "positions": {lane: place for each in everywhere for lane, place in each["positions"].items()}},
    )


def what_must_agree(
    config: TrainConfig, base: Base, adapter: Adapter, folders: Sequence[PreparedDataset]
) -> dict[str, Any]:
    """What a checkpoint must have been made with to be gone on from: sizes, data, and what places in the data mean."""
    return {
        "base": base.sizes,
        "adapter": {name: list(value.shape) for name, value in adapter.state_dict().items()},
        "learning": config.start.train,
        "shards": [folder.shards for folder in folders],
        "seed": config.seed,
        "data.batch": config.data.batch,
        "data.micro_batch": config.data.micro_batch,
        "data.shuffle": config.data.shuffle,
        "optimiser.kind": config.optimiser.kind,
    }


def check_agreement(
    run: Run, found: Mapping[str, Any], agree: Mapping[str, Any], config: TrainConfig, say: Callable[[str], None]
) -> None:
    """Refuse a checkpoint of another base, adapter or data; say what else has changed."""
    now = json.loads(json.dumps(agree))
    differing = differences(found["agree"], now)
    if differing:
        more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
        raise TrainingError(
            f"{run.folder} holds a run of another configuration: {'; '.join(differing[:4])}{more}. Go on with the one it was "
            f"started with ({run.folder / RUN_FILE}), or choose another folder (--run); start.weights: {run.folder} would "
            "start from its weights."
        )
    changed = differences(found["config"], json.loads(json.dumps(as_dict(config))))
    if changed:
        say(f"Changed since the checkpoint: {'; '.join(changed)}.")


def restore(
    found: Checkpoint, adapter: nn.Module, optimiser: Any, schedule: Any, averages: Averages, accelerator: Any
) -> None:
    """Take up a checkpoint. Settings of the optimiser come from the configuration, not from the checkpoint."""
    with torch.no_grad():
        for name, value in adapter.state_dict().items():
            value.copy_(found.weights[name])
    groups = optimiser.optimizer.state_dict()["param_groups"]
    optimiser.optimizer.load_state_dict({"state": found.state["optimiser"], "param_groups": groups})
    schedule.last_epoch = found.state["scheduled"]
    for group, rate, factor in zip(optimiser.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
        group["lr"] = rate * factor(schedule.last_epoch)
    averages.load(found.average or found.weights, found.state["averaged"])
    if accelerator.scaler is not None and found.state["scaler"]:
        accelerator.scaler.load_state_dict(found.state["scaler"])
    if len(found.state["random"]) == accelerator.num_processes:
        set_random_state(found.state["random"][accelerator.process_index])
