"""The training loop, top to bottom. `python -m training train --config training/configs/sdxl.yaml`

One process or many (`accelerate launch -m training train ...`): each optimiser step consists of `data.passes` forward passes
that the processes share, so the result is the same.
"""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dhumandiff import Adapter
from dhumandiff.errors import DHumanDiffError

from .. import TrainingError
from ..data.batch import Batch, BatchMaker
from ..data.dataset import PreparedDataset, open_datasets
from ..data.seeding import seeded_rng
from ..data.stream import Prefetcher, SampleStream
from ..objectives import build_objectives, check_data, losses_of
from ..objectives.diffusion import noise_levels
from ..parsing import as_dict
from .base import Base, check_shards_fit, load_base
from .checkpoint import RUN_FILE, Run
from .config import TrainConfig
from .init import lighten, start_adapter
from .logging import Clock, Stop, Watch
from .model import PairModel
from .optim import Averages, make_optimiser, make_schedule
from .resume import check_agreement, gather, restore, what_must_agree
from .samples import draw_grid
from .validate import DTYPES, choose_precision, validate

__all__ = ["Ended", "train"]


@dataclass
class Ended:
    """How a run ended. signal: what ended it early, or 0. loss: smoothed. plot: the picture of the losses."""

    run: Path
    checkpoint: Path
    step: int
    signal: int
    loss: float
    plot: Path | None
    grid: Path | None


def train(config: TrainConfig) -> Ended:
    """Train until `config.steps`, a signal, or something that cannot be gone on from. Goes on from the run's last checkpoint.

    Raises:
        TrainingError and its family: what cannot be used or written, NaN. The last checkpoint is intact in any case.
    """
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    # What can be refused without a model is refused first.
    folders, weights = open_datasets(config.data.folders)
    validation = open_datasets(config.data.validation) if config.data.validation else None
    objectives = build_objectives(config.objectives, folders)
    check_data(objectives, [*folders, *(validation[0] if validation else [])])

    def weigh(values: Sequence[Any]) -> Any:
        return sum(objective.weight * value for objective, value in zip(objectives, values, strict=True))

    accelerator = Accelerator(mixed_precision=choose_precision(config.precision))
    device, main = accelerator.device, accelerator.is_main_process
    say: Callable[[str], None] = print if main else lambda _: None
    passes, rank, processes = config.data.passes, accelerator.process_index, accelerator.num_processes
    if passes % processes:
        raise TrainingError(
            f"data.batch / data.micro_batch makes {passes} passes a step, which {processes} processes cannot share. Make it "
            f"a multiple of {processes}."
        )
    set_seed(config.seed)
    run = Run(config.run, config.checkpoints.keep)
    if main:
        run.clean()
    accelerator.wait_for_everyone()

    # The frozen base, and the adapter that learns.
    dtype = DTYPES[accelerator.mixed_precision]
    base = load_base(
        config.base.path,
        text_encoder=config.start.subject_path,
        vae=(main and config.watch.samples_every > 0) or any(objective.decodes for objective in objectives),
        dtype=dtype,
    )
    check_shards_fit(base, folders)
    adapter = start_adapter(config.start, base, folders[0], config.seed)
    watched = frozenset(what for objective in objectives for what in objective.watches)
    smallest = config.objectives.localisation.smallest
    pair = PairModel(base, adapter, folders[0].common["clip_hidden_zero"], watched, smallest)
    base.to(device)
    if config.base.gradient_checkpointing:
        base.unet.enable_gradient_checkpointing()
        base.unet.train()  # diffusers asks for it; there is no dropout in it
    exact = lighten(adapter, dtype)
    learning = [parameter for parameter in adapter.parameters() if parameter.requires_grad]
    pair.to(device)
    optimiser = make_optimiser(config.optimiser, learning)
    schedule = make_schedule(config.optimiser, optimiser, config.steps)
    model, optimiser = accelerator.prepare(pair, optimiser)
    averages = Averages(adapter, config.optimiser.ema, "cpu" if config.optimiser.ema_device == "cpu" else None)

    # Where an earlier process of this run got to.
    identity = adapter.info.identity_key
    agree = what_must_agree(config, base, adapter, folders)
    step, positions, smoothed = 0, {}, math.nan
    if run.steps():
        found = run.load(run.steps()[-1])
        check_agreement(run, found.told, agree, config, say)
        restore(found, adapter, optimiser, schedule, averages, accelerator)
        exact = {name: found.weights[name] for name in exact}
        step, smoothed = found.told["step"], found.told["smoothed"]
        positions = {int(index): position for index, position in found.told["positions"].items()}
        say(f"Going on from {run.path(step)}.")
    sampling = config.watch.samples_every > 0 and base.vae is not None
    if main and config.watch.samples_every and not sampling:
        say(f"No sample grids: the base {base.name} has no VAE.")
    say(_summary(config, base, adapter, folders, learning, processes, str(device)))

    # Data, made ahead in a thread.
    make = BatchMaker(
        folders,
        config.augment,
        identity,
        lambda *names: seeded_rng(config.seed, "change", *names),
        device.type == "cuda",
    )
    size = {"streams": passes, "batch_size": config.data.micro_batch, "seed": config.seed}
    size["buffer_size"] = max(1, config.data.shuffle // passes)
    own = range(rank, passes, processes)
    stream = Prefetcher(
        [SampleStream(folders, weights, index=index, position=positions.get(index), **size) for index in own],
        make,
        config.data.prefetch,
    )
    if main:
        _write_config(run.folder, config)
    watch = Watch(run.folder, config.steps, config.watch.tensorboard, step) if main else None
    grid: Path | None = None

    def save() -> Path:
        score = smoothed
        if validation is not None:
            with averages.in_place():
                score = validate(pair, objectives, config, validation, identity, accelerator)
            score = score if math.isfinite(score) else math.inf  # never the best
            if watch is not None:
                watch.validation(step, score)
        told = {"step": step, "smoothed": smoothed, "score": score, "config": as_dict(config), "agree": agree}
        checkpoint = gather(told, positions, adapter, exact, optimiser, schedule, averages, accelerator)
        return run.path(step) if checkpoint is None else run.save(checkpoint)

    clock, names = Clock(), [objective.name for objective in objectives]
    sums, since, asked = torch.zeros(1 + len(names)), 0, False
    saved = run.path(step)
    with stream, Stop() as stop:
        while step < config.steps and not asked:
            try:
                with clock("waiting"):
                    data = next(stream)
            except DHumanDiffError:
                if step and processes == 1:  # with more, the others wait in the middle of a step
                    save()
                raise

            # Forward and backward, once for every lane of this process.
            parts = torch.zeros(len(names), device=device)
            for number, batch in enumerate(data.batches, start=1):
                with nullcontext() if number == len(data.batches) else accelerator.no_sync(model):
                    with clock("forward"):
                        values = losses_of(model, batch.to(device), base, objectives, config.objectives.diffusion)
                        loss = weigh(values)
                    with clock("backward"):
                        accelerator.backward(loss / len(data.batches))
                parts += torch.stack([value.detach() for value in values]) / len(data.batches)

            # All processes agree on the loss and on whether to end. The one moment that waits for a GPU.
            with clock("backward"):
                norm = accelerator.clip_grad_norm_(learning, config.optimiser.clip or math.inf)
                *values, asked = accelerator.reduce(
                    torch.cat([parts, parts.new_tensor([stop.asked > 0])]), "mean"
                ).tolist()
            total = weigh(values)
            if not math.isfinite(total) or not (accelerator.scaler is not None or bool(norm.isfinite())):
                raise _not_finite(
                    run.folder, step + 1, rank, data.batches, config, dict(zip(names, values, strict=True)), float(norm)
                )

            with clock("optimiser"):
                optimiser.step()
                if not accelerator.optimizer_step_was_skipped:  # float16's scaler tries out how far it can go
                    schedule.step()
                    averages.update()
                optimiser.zero_grad()
            step, positions = step + 1, data.positions
            if watch is not None:
                watch.tick()
            smoothed = total if math.isnan(smoothed) else smoothed + 0.02 * (total - smoothed)

            # Tell, draw, save.
            sums, since = sums + torch.tensor([total, *values]), since + 1
            if watch is not None and (step % config.watch.every == 0 or step == config.steps):
                seconds, outside = clock.total / since, clock.outside
                clock.restart()
                watch.numbers(
                    step,
                    dict(zip(["loss", *names], (sums / since).tolist(), strict=True)),
                    seconds,
                    rate=optimiser.param_groups[-1]["lr"],  # Muon's own comes first, where there is one
                    samples_per_second=config.data.batch / seconds,
                    outside=outside,
                    gradient=float(norm),
                )
                sums, since = sums * 0, 0
            with clock("pause"):
                if watch is not None and sampling and step % config.watch.samples_every == 0:
                    grid = _grid(
                        watch, step, pair, averages, validation or (folders, weights), identity, config, accelerator
                    )
                if step % config.checkpoints.every == 0 or step == config.steps or asked:
                    saved = save()
        heard = stop.asked or signal.SIGTERM if asked else 0
    plot = None
    if watch is not None:
        plot = watch.plot()
        watch.close()
    accelerator.wait_for_everyone()
    return Ended(run.folder, saved, step, heard if step < config.steps else 0, smoothed, plot, grid)


@torch.no_grad()
def _grid(
    watch: Watch,
    step: int,
    pair: PairModel,
    averages: Averages,
    data: tuple[list[PreparedDataset], list[float]],
    identity: str,
    config: TrainConfig,
    accelerator: Any,
) -> Path:
    with averages.in_place():
        picture = draw_grid(
            pair,
            data[0][0],
            identity,
            count=config.watch.samples,
            steps=config.watch.sample_steps,
            cfg=config.watch.cfg,
            device=accelerator.device,
            autocast=accelerator.autocast,
        )
    return watch.picture(step, picture)


def _not_finite(
    folder: Path,
    step: int,
    rank: int,
    batches: Sequence[Batch],
    config: TrainConfig,
    losses: Mapping[str, float],
    norm: float,
) -> TrainingError:
    """Write down which samples a step that came out as NaN was made of."""
    path = folder / f"nan-step-{step:08d}-process-{rank}.json"
    content = {"step": step, "losses": {name: str(value) for name, value in losses.items()}, "gradient": str(norm)}
    levels = [noise_levels(batch.levels, config.objectives.diffusion.levels).tolist() for batch in batches]
    content["samples"] = [
        {"name": name, "level": level}
        for batch, places in zip(batches, levels, strict=True)
        for name, level in zip(batch.names, places, strict=True)
    ]
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return TrainingError(
        f"Step {step} came out as NaN or infinite ({', '.join(f'{name} {value}' for name, value in losses.items())}, gradient "
        f"{norm}); its samples are in {path}. Start the same command again with a lower optimiser.rate or with precision bf16; it "
        "goes on from the last checkpoint. If it happens again at the same samples, look at them."
    )


def _summary(
    config: TrainConfig,
    base: Base,
    adapter: Adapter,
    folders: Sequence[PreparedDataset],
    learning: Sequence[Tensor],
    processes: int,
    device: str,
) -> str:
    samples = sum(folder.samples for folder in folders)
    weights = sum(parameter.numel() for parameter in learning)
    epochs = config.steps * config.data.batch / samples
    return (
        f"{weights / 1e6:.1f} M weights learn (from {config.start.weights}); base {base.name}, {adapter.info.layers} layers, "
        f"predicts {base.sizes['prediction']}.\n{samples} samples in {sum(len(folder.shards) for folder in folders)} shards; "
        f"{config.steps} steps of {config.data.batch} samples ({config.data.passes} passes of {config.data.micro_batch}) on "
        f"{processes} x {device}, {epochs:.1f} epochs."
    )


def _write_config(folder: Path, config: TrainConfig) -> None:
    import yaml

    try:
        (folder / RUN_FILE).write_text(yaml.safe_dump(as_dict(config), sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise TrainingError(f"{folder / RUN_FILE} cannot be written ({error.strerror}). Make room.") from error
