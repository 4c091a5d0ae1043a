"""The training loop, top to bottom. `python -m training train --config training/configs/sdxl.yaml`

One process or many (`accelerate launch -m training train ...`): each optimizer step accumulates the gradients of
`data.gradient_accumulation_steps` micro batches that the processes share, so the result is the same.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from dhumandiff.errors import DHumanDiffError
from dhumandiff.io import atomic_write, expand_user, why_not_written

from .. import TrainingError
from ..data.batch import Batch
from ..data.stream import Prefetcher, StepBatches
from ..objectives.diffusion import sample_timesteps
from ..objectives.losses import compute_losses, weighted_sum
from ..parsing import as_dict
from .checkpoint import CONFIG_FILE
from .config import TrainConfig
from .lock import run_lock
from .logging import Logger, NoLogger
from .parts import whole
from .prompts import PromptDrawing
from .samples import draw_grid
from .setup import TrainState, open_stream, setup
from .sharding import is_sharded
from .shutdown import SignalHandler
from .timing import StepTimer
from .trackers import Trackers
from .validation import validate

__all__ = ["TrainResult", "train", "train_step"]


@dataclass
class TrainResult:
    """How a run ended.

    Attributes:
        run: its folder.
        checkpoint: the last one.
        step: optimizer steps done.
        signal: number of the signal that ended it early, or 0.
        loss: smoothed training loss.
        plot: the picture of the losses; None where there is nothing to draw.
        grid: the last sample grid of this process; None for none.
    """

    run: Path
    checkpoint: Path
    step: int
    signal: int
    loss: float
    plot: Path | None
    grid: Path | None


def train(config: TrainConfig) -> TrainResult:
    """Train until `config.steps`, a signal or an error. Resumes from the run's last checkpoint.

    Raises:
        DHumanDiffError: something cannot be used or written, or the loss is NaN; the last checkpoint is intact in any case.
    """
    first = int(os.environ.get("RANK", "0")) == 0  # the others belong to the same run
    with run_lock(expand_user(config.run)) if first else nullcontext():
        return _train(config)


def _train(config: TrainConfig) -> TrainResult:
    state = setup(config)
    accelerator = state.accelerator
    logger, timer = _make_logger(state), StepTimer()
    checkpoint, grid, stopping = state.run.path(state.step), None, False

    if state.prompts is not None and not state.step:
        draw_prompts(state, logger)
        timer.restart()
    with open_stream(state) as stream, SignalHandler() as signals:
        while not state.done and not stopping:
            with timer("data"):
                data = _next_step(stream, state, logger)

            parts, loss, grad_norm, stopping = train_step(state, data.batches, timer, lambda: signals.requested > 0)
            state.advance(loss, data.positions)

            group = state.optimizer.param_groups[-1]  # Muon's own comes first, where there is one
            learning_rate = group["lr"] * float(group.get("d", 1.0))  # d is what Prodigy found
            logger.step(state.step, [loss, *parts], learning_rate, float(grad_norm), timer)
            with timer("pause"):
                if _samples_due(state):
                    grid = logger.samples(state.step, draw_samples(state))
                if state.step % config.checkpoints.every == 0 or state.done or stopping:
                    checkpoint = save_checkpoint(state, logger, hurry=stopping and not state.done)

    ended_by = 0
    if stopping and not state.done:
        ended_by = signals.requested or signal.SIGTERM  # where another process got the signal
    plot = logger.plot()
    logger.close()
    accelerator.wait_for_everyone()
    return TrainResult(state.run.folder, checkpoint, state.step, ended_by, state.smoothed_loss, plot, grid)


def train_step(
    state: TrainState, batches: Sequence[Batch], timer: StepTimer, ends: Callable[[], bool] = lambda: False
) -> tuple[list[float], float, torch.Tensor, bool]:
    """One optimizer step. Collective.

    Args:
        state: of the run; its weights, optimizer, schedule and averages move, its counts do not.
        batches: the micro batches of this process.
        timer: what gets the spans forward, backward and optimizer.
        ends: whether the run is to end after this step.

    Returns:
        The losses of the objectives and their weighted sum, over all processes; the norm of the gradient; and whether one of the
        processes wants to end.

    Raises:
        TrainingError: the loss is NaN or infinite; a report of the step's samples is written.
    """
    accelerator, device, model = state.accelerator, state.accelerator.device, state.parallel_model
    objectives, diffusion = state.objectives, state.config.objectives.diffusion

    # Forward and backward: gradients accumulate over the micro batches of this process.
    losses, sharded = torch.zeros(len(objectives), device=device), is_sharded(accelerator)
    for number, batch in enumerate(batches, start=1):
        last = number == len(batches)
        # Sharded, each pass leaves a part of its gradients: all of them would not fit.
        with nullcontext() if last or sharded else accelerator.no_sync(model):
            with timer("forward"):
                parts = compute_losses(model, batch.to(device), state.base, objectives, diffusion)
                loss = weighted_sum(objectives, parts)
            with timer("backward"):
                accelerator.backward(loss / len(batches))
        losses += torch.stack([part.detach() for part in parts]) / len(batches)

    # All processes agree on the losses and on whether to stop. This waits for the GPU; so do a few look-ups in each pass.
    with timer("backward"):
        grad_norm = whole(accelerator.clip_grad_norm_(state.trained, state.config.optimizer.max_grad_norm or math.inf))
        requested = losses.new_tensor([ends()])
        *parts, stopping = accelerator.reduce(torch.cat([losses, requested]), "mean").tolist()
    loss = weighted_sum(objectives, parts)
    if not _is_finite(state, loss, grad_norm):
        report = write_nan_report(state, batches, parts, float(grad_norm))
        raise _nan_error(state, parts, float(grad_norm), report)

    with timer("optimizer"):
        state.optimizer.step()
        if not accelerator.optimizer_step_was_skipped:  # float16's scaler tries out how far it can go
            state.scheduler.step()
            state.ema.update()
        state.optimizer.zero_grad()
    return parts, loss, grad_norm, bool(stopping)


def save_checkpoint(state: TrainState, logger: Logger | NoLogger, hurry: bool = False) -> Path:
    """Validate the EMA weights, where there is data for it, draw the prompts, and write a checkpoint. Collective; its folder.

    hurry: a signal wants the run to end, so nothing is drawn.
    """
    score = state.smoothed_loss
    if state.validation is not None:
        with state.ema.use_ema():
            score = validate(state.model, state.objectives, state.config, state.validation, state.accelerator)
        score = score if math.isfinite(score) else math.inf  # never the best
        logger.validation(state.step, score)
    drawing = draw_prompts(state, logger) if state.prompts is not None and not hurry else None
    if state.config.checkpoints.best_by != "loss":
        score = _score_of(drawing, state.config.checkpoints.best_by, state.config.checkpoints.best_of)
    checkpoint = state.checkpoint(score, as_dict(state.config))
    return state.run.save(checkpoint) if state.accelerator.is_main_process else state.run.path(state.step)


def draw_prompts(state: TrainState, logger: Logger | NoLogger) -> PromptDrawing:
    """Draw `logging.prompts` with the EMA weights, and write down what came out.

    Raises:
        TrainingError: the best checkpoint shall be that with most right people, and no sentence says who should be where.
    """
    with state.ema.use_ema():
        drawing = state.model.run(lambda: state.prompts.draw(state.adapter, state.step, state.accelerator.autocast))
    measure = state.config.checkpoints.best_by
    if measure != "loss" and drawing.of(measure) is None:
        raise TrainingError(
            f"checkpoints.best_by is {measure}, but no sentence of logging.prompts says who should be where. Name sides in one, "
            'such as "A man@1 on the left and a woman@2 on the right", or choose likeness.',
            code="nothing-decides-right-person",
        )
    logger.prompts(state.step, drawing)
    return drawing


def _score_of(drawing: PromptDrawing | None, measure: str, people: str = "held_out") -> float:
    """The lower, the better. The likeness tells equal shares of right people apart; without a drawing: never the best."""
    if drawing is None:
        return math.inf
    likeness = drawing.of("likeness", people) or 0.0
    return -likeness if measure == "likeness" else -(drawing.of(measure, people) or 0.0) - likeness / 1000


@torch.no_grad()
def draw_samples(state: TrainState) -> object:
    """A sample grid of the EMA weights, a Pillow image; of held-out people, where there are some."""
    config, (folders, _) = state.config.logging, state.validation or state.data
    with state.ema.use_ema():
        return state.model.run(
            lambda: draw_grid(
                state.model,
                folders[0],
                count=config.samples,
                steps=config.sample_steps,
                cfg=config.cfg,
                device=state.accelerator.device,
                autocast=state.accelerator.autocast,
            )
        )


def write_nan_report(state: TrainState, batches: Sequence[Batch], losses: Sequence[float], grad_norm: float) -> Path:
    """Write down which samples a step that came out as NaN was made of; the JSON file."""
    step, process = state.step + 1, state.accelerator.process_index
    path = state.run.folder / f"nan-step-{step:08d}-process-{process}.json"
    sampling = state.config.objectives.diffusion.timestep_sampling
    samples = [
        {"name": name, "level": level}
        for batch in batches
        for name, level in zip(batch.names, sample_timesteps(batch.levels, sampling).tolist(), strict=True)
    ]
    values = {part.name: str(value) for part, value in zip(state.objectives, losses, strict=True)}
    report = {"step": step, "losses": values, "gradient": str(grad_norm), "samples": samples}
    try:
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    except OSError:  # what is wrong with the step matters more
        print(json.dumps(report, indent=2), file=sys.stderr)
    return path


def _is_finite(state: TrainState, loss: float, grad_norm: torch.Tensor) -> bool:
    """Whether a step can be taken. float16's scaler deals with infinite gradients by itself."""
    return math.isfinite(loss) and (state.accelerator.scaler is not None or bool(grad_norm.isfinite()))


def _nan_error(state: TrainState, losses: Sequence[float], grad_norm: float, report: Path) -> TrainingError:
    values = ", ".join(f"{part.name} {value}" for part, value in zip(state.objectives, losses, strict=True))
    return TrainingError(
        f"Step {state.step + 1} came out as NaN or infinite ({values}, gradient {grad_norm}); its samples are in {report}. "
        "Start the same command again with a lower optimizer.learning_rate or with precision bf16; it resumes from the last "
        "checkpoint. If it happens again at the same samples, look at them.",
        code="loss-not-finite",
    )


def _next_step(stream: Prefetcher, state: TrainState, logger: Logger | NoLogger) -> StepBatches:
    """The batches of the next step. What was learned so far is saved when the data cannot be read."""
    try:
        return next(stream)
    except DHumanDiffError:
        if state.step and state.accelerator.num_processes == 1:  # with more, the others wait in the middle of a step
            save_checkpoint(state, logger)
        raise


def _samples_due(state: TrainState) -> bool:
    every = state.config.logging.samples_every
    draws = state.accelerator.is_main_process or is_sharded(state.accelerator)
    return bool(every) and draws and state.base.vae is not None and state.step % every == 0


def _make_logger(state: TrainState) -> Logger | NoLogger:
    """The main process's logger, with the configuration written beside the log."""
    config, folder = state.config, state.run.folder
    if config.logging.samples_every and state.base.vae is None:
        state.report(f"No sample grids: the base {state.base.name} has no VAE.")
    if not state.accelerator.is_main_process:
        return NoLogger()
    _write_config(folder / CONFIG_FILE, config)
    trackers = Trackers(state.accelerator, folder, as_dict(config)) if config.logging.trackers else None
    return Logger(folder, config, [objective.name for objective in state.objectives], state.step, trackers)


def _write_config(path: Path, config: TrainConfig) -> None:
    import yaml

    try:
        with atomic_write(path) as part:
            part.write_text(yaml.safe_dump(as_dict(config), sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise TrainingError(f"{path} cannot be written ({why_not_written(error)}).", code="file-not-written") from error
