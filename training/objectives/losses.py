"""The loss of a micro batch: every objective that is switched on, computed from one forward pass.

To add an objective:
1. a file here with its class, as protocol.Objective describes it, and `build(config, folders) -> list[Objective]`;
2. its settings in config.py, and a field for them in `ObjectivesConfig`;
3. a line in OBJECTIVES.
A weight of 0 switches an objective off; then nothing is computed for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from .. import TrainingError
from ..data.batch import Batch
from ..data.dataset import PreparedDataset, Sample
from ..run.base import BaseModel
from . import diffusion, face_region, identity, localization, routing, text_consistency
from .config import DiffusionConfig, ObjectivesConfig
from .protocol import ForwardOutput, Objective

__all__ = ["OBJECTIVES", "build_objectives", "check_data", "compute_losses", "weighted_sum"]

OBJECTIVES: dict[str, Callable[[Any, Sequence[PreparedDataset]], list[Objective]]] = {
    "diffusion": diffusion.build,
    "localization": localization.build,
    "face_region": face_region.build,
    "identity": identity.build,
    "text_consistency": text_consistency.build,
    "routing": routing.build,
}
"""Field of ObjectivesConfig -> what makes the objectives of these settings; none when they are switched off."""


def build_objectives(config: ObjectivesConfig, folders: Sequence[PreparedDataset] = ()) -> list[Objective]:
    """The objectives that are switched on. folders: the training data, which some look through once."""
    return [objective for name, build in OBJECTIVES.items() for objective in build(getattr(config, name), folders)]


def check_data(objectives: Sequence[Objective], folders: Sequence[PreparedDataset]) -> None:
    """Refuse shards without what an objective reads, by the first sample of each folder.

    Raises:
        TrainingError: a tensor is missing.
    """
    for folder in folders:
        _, name, meta, packed = next(folder.read(0))
        have = set(Sample((0, 0, 0), name, meta, packed).tensors())
        for objective in objectives:
            needed = [f"{kind}_{person}" for kind in objective.required_tensors for person in (1, 2)]
            missing = sorted(tensor for tensor in needed if tensor not in have)
            if missing:
                raise TrainingError(
                    f"The objective {objective.name} needs {' and '.join(missing)}, which {name} does not have. Set its "
                    f"weight to 0 ({objective.setting}), or prepare the data again.",
                    code="sample-without-a-tensor",
                )


def compute_losses(
    model: nn.Module, batch: Batch, base: BaseModel, objectives: Sequence[Objective], config: DiffusionConfig
) -> list[Tensor]:
    """The loss of every objective for one micro batch, not weighted yet.

    Args:
        model: a `TrainableModel` on that base, or what Accelerate made of it.
        batch: B samples on the model's device.
        base: has the noise schedule.
        objectives: what is computed.
        config: how timesteps are sampled and weighted.
    """
    scheduler = base.scheduler
    sampled = diffusion.sample_timesteps(batch.levels, config.timestep_sampling)
    timesteps = (sampled * scheduler.config.num_train_timesteps).long()
    noisy_latents = scheduler.add_noise(batch.latents, batch.noise, timesteps)
    target = batch.noise
    if scheduler.config.prediction_type == "v_prediction":
        target = scheduler.get_velocity(batch.latents, batch.noise, timesteps)
    base_prediction = None
    if any(getattr(objective, "needs_base_prediction", False) for objective in objectives):
        # First: the layers that gradient checkpointing runs again have to find what the student's pass left.
        base_prediction = getattr(model, "module", model).words_alone(batch, noisy_latents, timesteps)
    prediction, attention_maps = model(batch, noisy_latents, timesteps)
    weights = diffusion.min_snr_weights(scheduler, timesteps, config.min_snr_gamma)
    output = ForwardOutput(
        batch, prediction, target, noisy_latents, timesteps, base, attention_maps, weights, base_prediction
    )
    return [objective(output) for objective in objectives]


def weighted_sum(objectives: Sequence[Objective], losses: Sequence[Any]) -> Any:
    """The total loss. losses: one number or tensor per objective."""
    return sum(objective.weight * loss for objective, loss in zip(objectives, losses, strict=True))
