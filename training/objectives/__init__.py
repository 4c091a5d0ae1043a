"""The parts of the loss, one file each.

An objective is a class made of its configuration, with

    name     what logs call it
    weight   of this part
    needs    what it reads of a sample's tensors, as prefixes: "mask" stands for mask_1 and mask_2
    watches  which attention it looks at, of "faces" and "words"
    decodes  whether it needs the base's VAE
    __call__(Seen) -> Tensor, one number: the mean over the rows

To add one: a file with its class, its configuration as a field of `config.ObjectivesConfig`, and a line in OBJECTIVES.
A configuration of weight 0 switches an objective off; then nothing is computed for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from .. import TrainingError
from ..data.batch import Batch
from ..data.dataset import PreparedDataset, Sample
from ..run.base import Base
from ..run.config import DiffusionConfig, ObjectivesConfig
from . import diffusion, face_region, identity, localisation
from .seen import Objective, Seen

__all__ = ["OBJECTIVES", "Objective", "Seen", "build_objectives", "check_data", "losses_of"]

OBJECTIVES: dict[str, Callable[[Any, Sequence[PreparedDataset]], list[Objective]]] = {
    "diffusion": diffusion.build,
    "localisation": localisation.build,
    "face_region": face_region.build,
    "identity": identity.build,
}
"""Field of ObjectivesConfig -> what makes the objectives of that configuration; none when it is switched off."""


def build_objectives(config: ObjectivesConfig, folders: Sequence[PreparedDataset] = ()) -> list[Objective]:
    """Those that are switched on. folders: the data, for those that look at all of it."""
    return [objective for name, build in OBJECTIVES.items() for objective in build(getattr(config, name), folders)]


def check_data(objectives: Sequence[Objective], folders: Sequence[PreparedDataset]) -> None:
    """Refuse shards without what an objective reads, judged by the first sample of each folder. TrainingError."""
    for folder in folders:
        _, name, meta, packed = next(folder.read(0))
        have = set(Sample((0, 0, 0), name, meta, packed).tensors())
        for objective in objectives:
            lacking = sorted(
                f"{kind}_{person}" for kind in objective.needs for person in (1, 2) if f"{kind}_{person}" not in have
            )
            if lacking:
                raise TrainingError(
                    f"The objective {objective.name} needs {' and '.join(lacking)}, which {name} does not have. Set its "
                    f"weight to 0 (objectives.{objective.name.split('_words')[0]}.weight), or prepare the data again."
                )


def losses_of(
    model: nn.Module, batch: Batch, base: Base, objectives: Sequence[Objective], noise: DiffusionConfig
) -> list[Tensor]:
    """The value of every objective for one micro batch. model: a PairModel on that base, or what Accelerate made of it."""
    scheduler = base.scheduler
    times = (diffusion.noise_levels(batch.levels, noise.levels) * scheduler.config.num_train_timesteps).long()
    noisy = scheduler.add_noise(batch.latents, batch.noise, times)
    target = batch.noise
    if scheduler.config.prediction_type == "v_prediction":
        target = scheduler.get_velocity(batch.latents, batch.noise, times)
    prediction, maps = model(batch, noisy, times)
    row_weights = diffusion.min_snr_weights(scheduler, times, noise.min_snr_gamma)
    seen = Seen(batch, prediction, target, noisy, times, base, maps, row_weights)
    return [objective(seen) for objective in objectives]
