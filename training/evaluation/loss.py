"""The loss of an adapter on data that nothing was trained on, as `train` computes it before a checkpoint."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .. import TrainingError
from ..data.config import DataConfig, FolderConfig
from ..data.dataset import open_datasets
from ..run.config import BaseConfig, TrainConfig
from .config import EvaluateConfig

if TYPE_CHECKING:
    from ..run.weights import Weights

__all__ = ["describe", "folders_of", "validation_config", "validation_loss"]


def validation_config(config: EvaluateConfig, trained: TrainConfig | None, base: str) -> TrainConfig:
    """What the loss is computed with: the run's configuration, or the usual one, on the folders asked for.

    Args:
        config: of the command.
        trained: the run's configuration, if it is a run.
        base: the base model.

    Raises:
        TrainingError: no folder is named, and the run held nothing out.
    """
    folders = [FolderConfig(path) for path in config.data] or (trained.data.validation if trained else [])
    if not folders:
        raise TrainingError(
            f"On the base {base} the loss is what can be judged, and there is no data for it"
            f"{': this run held nothing out' if trained else ''}. Prepare pictures of other people and name the folder: "
            "--data+ shards-of-others.",
            code="no-validation-data",
        )
    if trained is None:
        trained = TrainConfig(data=DataConfig(folders=folders))
    batches = config.batches or trained.data.validation_batches
    data = replace(trained.data, validation=folders, validation_batches=batches)
    return replace(trained, base=replace(trained.base if config.run else BaseConfig(), path=base), data=data)


def folders_of(config: TrainConfig) -> str:
    """The names of the folders that are held out."""
    return ", ".join(folder.path for folder in config.data.validation)


def describe(config: TrainConfig) -> str:
    """What `validation_loss` would do, from small files only."""
    datasets, _ = open_datasets(config.data.validation, "validation")
    return (
        f"Validation loss over {config.data.validation_batches} batches of {config.data.micro_batch_size} out of "
        f"{sum(dataset.samples for dataset in datasets)} samples of {folders_of(config)}."
    )


def validation_loss(config: TrainConfig, weights: Weights) -> float:
    """The mean loss over the validation batches of a configuration.

    Raises:
        DHumanDiffError: data or a base that cannot be had, or that do not belong together.
    """
    from accelerate import Accelerator

    from ..objectives.losses import build_objectives, check_data
    from ..run.base import check_shards_compatible, load_base
    from ..run.model import build_model
    from ..run.precision import DTYPES, choose_precision
    from ..run.validation import validate
    from ..run.weights import identity_of

    validation = open_datasets(config.data.validation, "validation")
    objectives = build_objectives(config.objectives, validation[0])
    check_data(objectives, validation[0])
    accelerator = Accelerator(mixed_precision=choose_precision(config.precision))
    dtype = DTYPES[accelerator.mixed_precision]
    needs_vae = any(objective.needs_vae for objective in objectives)
    base = load_base(config.base.path, text_encoder=identity_of(weights).has_subject_path, vae=needs_vae, dtype=dtype)
    check_shards_compatible(base, validation[0])
    model = build_model(config, base, weights, validation[0][0], objectives)
    base.to(accelerator.device)
    model.to(accelerator.device)
    with accelerator.autocast():
        return validate(model, objectives, config, validation, accelerator)
