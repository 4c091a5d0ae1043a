"""Everything a run needs before its first step: data, frozen base, adapter, optimizer, and the checkpoint to resume from."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dhumandiff.io import expand_user

from .. import TrainingError
from ..data.balance import Balance
from ..data.batch import BatchMaker
from ..data.dataset import PreparedDataset, open_datasets
from ..data.seeding import seeded_rng
from ..data.stream import Position, Prefetcher, SampleStream
from ..objectives.losses import build_objectives, check_data
from ..objectives.protocol import Objective
from ..wording import counted
from .base import BaseModel, check_shards_compatible, load_base
from .checkpoint import Checkpoint, RunFolder, random_state, set_random_state
from .checkpoint_checks import check_moments, damaged_checkpoint
from .config import TrainConfig
from .contents import check_contents, contents_of, validation_changed
from .data_notes import data_notes
from .frozen import BlockOffload, compile_layers, quantize
from .init import cast_frozen, init_weights
from .low_rank import file_name, full_metadata, kept_tensors
from .model import TrainableModel, build_model
from .optim import EMA, GROUP_STATE, ScheduleFreeAverage, make_optimizer, make_scheduler, parameter_groups
from .parts import distributed_state, gathered, gathered_state, local, part_of
from .precision import DTYPES, choose_precision
from .prompts import PromptWatcher, watch_prompts
from .resume import check_fingerprint, report_changes, resume_fingerprint
from .sharding import check_sharding, is_sharded, shard
from .trackers import check_trackers
from .weights import Weights, identity_of, metadata_of

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["TrainState", "open_stream", "setup"]

Data = tuple[list[PreparedDataset], list[float]]
"""Prepared folders, and the weight of each in the mix."""


@dataclass
class TrainState:
    """A run between two steps. A checkpoint holds all of it that changes (`state_dict`).

    Attributes:
        config: the settings.
        accelerator: Accelerate's; devices, processes and precision.
        run: the folder of checkpoints.
        data: what is trained on.
        validation: what the validation loss is computed on; None: the training loss is the score.
        objectives: the parts of the loss.
        base: the frozen base.
        adapter: what is trained.
        model: base and adapter.
        parallel_model: the model as Accelerate distributes it over processes; for forward passes with gradients.
        optimizer: moves the weights.
        scheduler: of the learning rate.
        ema: the averaged weights.
        fp32_frozen: float32 values of weights that are not trained and that the adapter holds in less precision.
        prompts: draws `logging.prompts`; None without any, and in all processes but the main one where each has all of the base.
        full_adapter: what a low-rank run's files say of the full adapter; empty where everything is trained.
        fingerprint: what a run that resumes must have in common with this one.
        contents: checksums of data and base, which a run that resumes must have, too.
        step: optimizer steps done.
        smoothed_loss: moving average of the training loss; NaN before the first step.
        stream_positions: index of a sample stream of this process -> its position in the data.
    """

    config: TrainConfig
    accelerator: Accelerator
    run: RunFolder
    data: Data
    validation: Data | None
    objectives: list[Objective]
    base: BaseModel
    adapter: Weights
    model: TrainableModel
    parallel_model: nn.Module
    optimizer: Any
    scheduler: Any
    ema: EMA
    fp32_frozen: dict[str, Tensor]
    fingerprint: dict[str, Any]
    contents: dict[str, Any] = field(default_factory=dict)
    full_adapter: dict[str, str] = field(default_factory=dict)
    prompts: PromptWatcher | None = None
    step: int = 0
    smoothed_loss: float = math.nan
    stream_positions: dict[int, Position] = field(default_factory=dict)

    @property
    def trained(self) -> list[Tensor]:
        """The parameters that are trained."""
        return [parameter for parameter in self.adapter.parameters() if parameter.requires_grad]

    @property
    def done(self) -> bool:
        """All steps are done."""
        return self.step >= self.config.steps

    def report(self, line: str) -> None:
        """Print a line, once for all processes."""
        if self.accelerator.is_main_process:
            print(line)

    def advance(self, loss: float, positions: dict[int, Position]) -> None:
        """Count a step. positions: of the streams, behind the step's batches."""
        self.step, self.stream_positions = self.step + 1, positions
        self.smoothed_loss = (
            loss if math.isnan(self.smoothed_loss) else self.smoothed_loss + 0.02 * (loss - self.smoothed_loss)
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes while a run trains. Collective: every process calls it, and gets that of all."""
        from accelerate.utils import gather_object

        scaler = self.accelerator.scaler
        processes = gather_object([{"positions": dict(self.stream_positions), "random": random_state()}])
        weights = {name: gathered(local(value), value) for name, value in kept_tensors(self.adapter).items()}
        weights |= self.fp32_frozen
        ema = {file_name(name): value for name, value in self.ema.snapshot().items()}
        return {
            "step": self.step,
            "smoothed_loss": self.smoothed_loss,
            "stream_positions": {
                index: position for each in processes for index, position in each["positions"].items()
            },
            "adapter": weights,
            "ema": {**weights, **ema} if ema else {},
            "ema_steps": self.ema.steps,
            "optimizer": gathered_state(self.optimizer.optimizer),
            "optimizer_groups": [
                {name: group[name] for name in GROUP_STATE.get(self.config.optimizer.name, ()) if name in group}
                for group in self.optimizer.param_groups
            ],
            "scheduler": self.scheduler.last_epoch,
            "scaler": scaler.state_dict() if scaler is not None else {},
            "random": [process["random"] for process in processes],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state. The optimizer's settings come from the configuration, not from the state."""
        self.step, self.smoothed_loss = state["step"], state["smoothed_loss"]
        self.stream_positions = {int(index): position for index, position in state["stream_positions"].items()}
        with torch.no_grad():
            for name, value in kept_tensors(self.adapter).items():
                local(value).copy_(part_of(state["adapter"][name], value))
        self.fp32_frozen = {name: state["adapter"][name] for name in self.fp32_frozen}
        ema = state["ema"] or state["adapter"]
        self.ema.load_state_dict({name: ema[file_name(name)] for name in self.ema.weights}, state["ema_steps"])
        groups = self.optimizer.optimizer.state_dict()["param_groups"]
        moments = distributed_state(self.optimizer.optimizer, state["optimizer"])
        self.optimizer.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        for group, values in zip(self.optimizer.param_groups, state.get("optimizer_groups") or [], strict=False):
            group.update(values)
        self.scheduler.last_epoch = state["scheduler"]
        highest, factors = self.scheduler.base_lrs, self.scheduler.lr_lambdas
        for group, learning_rate, factor in zip(self.optimizer.param_groups, highest, factors, strict=True):
            group["lr"] = learning_rate * factor(self.scheduler.last_epoch)
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if len(state["random"]) == self.accelerator.num_processes:
            set_random_state(state["random"][self.accelerator.process_index])

    def checkpoint(self, score: float, config: dict[str, Any]) -> Checkpoint:
        """This state as a checkpoint. Collective, as `state_dict`."""
        metadata = {**metadata_of(self.adapter), **self.full_adapter}
        return Checkpoint(self.state_dict(), metadata, score, config, self.fingerprint, self.contents)


def setup(config: TrainConfig) -> TrainState:
    """Load and make everything; resume from the run's last checkpoint, where there is one.

    Raises:
        TrainingError: settings, data, base or checkpoint cannot be used.
        AdapterError: init.weights holds no adapter.
        HostError: there is no such base.
    """
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    # What can be refused without a model is refused first.
    data = open_datasets(config.data.folders)
    validation = open_datasets(config.data.validation, "validation") if config.data.validation else None
    folders = data[0]
    objectives = build_objectives(config.objectives, folders)
    check_data(objectives, [*folders, *(validation[0] if validation else [])])
    check_trackers(config.logging.trackers)
    accelerator = Accelerator(
        mixed_precision=choose_precision(config.precision),
        log_with=list(config.logging.trackers) or None,
        project_dir=str(expand_user(config.run)),
    )
    _check_processes(config, accelerator)
    set_seed(config.seed)
    run = RunFolder(config.run, config.checkpoints.keep)
    if accelerator.is_main_process:
        run.clean()
    accelerator.wait_for_everyone()

    # The frozen base, and the adapter that is trained.
    dtype = DTYPES[accelerator.mixed_precision]
    sharded = is_sharded(accelerator)
    draws = accelerator.is_main_process or sharded  # with parts of a base no process can draw alone
    draws_samples = draws and config.logging.samples_every > 0
    base = load_base(
        config.base.path,
        text_encoder=config.init.subject_path,
        vae=draws_samples or any(objective.needs_vae for objective in objectives),
        dtype=dtype,
    )
    check_shards_compatible(base, folders)
    adapter = init_weights(config, base, folders[0])
    model = build_model(config, base, adapter, folders[0], objectives)
    contents = contents_of(base, folders, validation[0] if validation else ())  # of the base as it was loaded
    quantize(base.unet, config.base)
    if config.base.offload:
        BlockOffload(base.unet, accelerator.device)
    base.to(accelerator.device, unet=not config.base.offload and not sharded)
    if config.base.gradient_checkpointing:
        base.unet.enable_gradient_checkpointing()
        base.unet.train()  # diffusers asks for it; there is no dropout in it
    if config.base.compile:
        compile_layers(base.unet)
    fp32_frozen = cast_frozen(adapter, dtype)
    full_adapter = full_metadata(config.init, adapter)
    if full_adapter:
        fp32_frozen = {}  # read again from init.weights, never saved
    if sharded:
        shard(model, accelerator)
    else:
        model.to(accelerator.device)

    # What moves the weights.
    optimizer = make_optimizer(config.optimizer, parameter_groups(config.optimizer, adapter), sharded)
    scheduler = make_scheduler(config.optimizer, optimizer, config.steps)
    if sharded:
        parallel_model, optimizer = model, accelerator.prepare_optimizer(optimizer)
    else:
        parallel_model, optimizer = accelerator.prepare(model, optimizer)
    ema = EMA(adapter, config.optimizer.ema_decay, "cpu" if config.optimizer.ema_device == "cpu" else None)
    if config.optimizer.name == "schedulefree":
        ema = ScheduleFreeAverage(adapter, optimizer.optimizer)
    state = TrainState(
        config=config,
        accelerator=accelerator,
        run=run,
        data=data,
        validation=validation,
        objectives=objectives,
        base=base,
        adapter=adapter,
        model=model,
        parallel_model=parallel_model,
        optimizer=optimizer,
        scheduler=scheduler,
        ema=ema,
        fp32_frozen=fp32_frozen,
        full_adapter=full_adapter,
        fingerprint=resume_fingerprint(config, base, adapter, folders) | full_adapter,
        contents=contents,
    )
    resume(state)
    if config.logging.prompts and draws:
        state.prompts = watch_prompts(config.logging, base, accelerator.device, config.dual.drawn())
    if accelerator.is_main_process:  # comparing the people of large data takes a while
        state.report(_summary(state))
    return state


def resume(state: TrainState) -> None:
    """Continue where an earlier process of this run got to; nothing without a checkpoint."""
    steps = state.run.steps()
    if not steps:
        return
    found = state.run.load(steps[-1])
    state.run.best()  # reads what all checkpoints say, so that a damaged one is named now
    check_fingerprint(state.run.folder, found, state.fingerprint)
    check_contents(state.run.folder, found.contents, state.contents, state.base.name)
    report_changes(found, state.config, state.report)
    if validation_changed(found.contents, state.contents):
        state.report(
            "The validation data hold something else than at the checkpoint: scores before and after are not comparable, "
            "and neither is the choice of the best checkpoint among them."
        )
    with damaged_checkpoint(state.run.path(found.step)):
        state.load_state_dict(found.state)
        check_moments(state.optimizer.optimizer)
    state.report(f"Resuming from {state.run.path(state.step)}.")


def open_stream(state: TrainState) -> Prefetcher:
    """The batches of this process's part of every step, made ahead in a thread, from where the state is in the data."""
    config, accelerator, (folders, weights) = state.config.data, state.accelerator, state.data
    passes, seed = config.gradient_accumulation_steps, state.config.seed
    make = BatchMaker(
        folders,
        state.config.augment,
        identity_of(state.adapter).info.identity_key,
        lambda *names: seeded_rng(seed, "change", *names),
        accelerator.device.type == "cuda",
    )
    size = {
        "streams": passes,
        "batch_size": config.micro_batch_size,
        "seed": seed,
        "buffer_size": max(1, config.shuffle_buffer // passes),
        "balance": _balance(state) if config.balance else None,
    }
    own = range(accelerator.process_index, passes, accelerator.num_processes)
    # The checkpoint's positions are taken up here.
    with damaged_checkpoint(state.run.path(state.step)) if state.step else nullcontext():
        streams = [
            SampleStream(
                folders, weights, index=index, position=state.stream_positions[index] if state.step else None, **size
            )
            for index in own
        ]
    return Prefetcher(streams, make, config.prefetch)


def _balance(state: TrainState) -> Balance:
    """How often which people are drawn.

    Raises:
        TrainingError: the data do not say who is on them.
    """
    config, (folders, weights) = state.config.data, state.data
    headers, paths = [folder.header for folder in folders], [folder.path for folder in folders]
    return Balance(headers, paths, weights, config.balance, config.balance_most)


def _check_processes(config: TrainConfig, accelerator: Accelerator) -> None:
    check_sharding(config, accelerator)
    processes = accelerator.num_processes
    passes = config.data.gradient_accumulation_steps
    if passes % processes:
        raise TrainingError(
            f"data.batch_size / data.micro_batch_size makes {passes} passes a step, which {processes} processes cannot share. "
            f"Make it a multiple of {processes}.",
            code="passes-not-shared",
        )


def _summary(state: TrainState) -> str:
    config, (folders, _) = state.config, state.data
    accelerator, data = state.accelerator, config.data
    samples = sum(folder.samples for folder in folders)
    shards = sum(len(folder.shards) for folder in folders)
    trained = sum(parameter.numel() for parameter in state.trained)
    epochs = config.steps * data.batch_size / samples
    notes = [f"\nNote: {note}" for note in data_notes(config, folders, state.validation[0] if state.validation else ())]
    balanced = [f"\nBalanced: {line}." for line in _balance(state).describe()] if data.balance else []
    return (
        f"{trained / 1e6:.1f} M weights are trained (initialized from {config.init.weights}); base {state.base.name}, "
        f"{identity_of(state.adapter).info.layers} layers, predicts {state.base.sizes['prediction']}.\n"
        f"{counted(samples, 'sample')} in {counted(shards, 'shard')}; {config.steps} steps of {data.batch_size} samples "
        f"({data.gradient_accumulation_steps} passes of {data.micro_batch_size}) on "
        f"{accelerator.num_processes} x {accelerator.device}, {epochs:.1f} epochs." + "".join([*balanced, *notes])
    )
