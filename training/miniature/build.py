"""`python -m training mini`: rebuild the miniature that ships, or train and score one row of its table.

    python -m training mini --dry_run                       the stages, and about how long each takes
    python -m training mini                                 all of it, 5 hours on two cores
    python -m training mini --design 128x96 --out runs/mini_128 --install false     the first design, 113 minutes
    python -m training mini --row order_swapping            one row, about an hour; --row table makes table and plot anew

Kill it whenever you like: the same command goes on. Whatever was built lies in the run's folder until all of it is done;
then the weights take the place of those that ship, and `git diff --stat` shows it.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from dhumandiff.miniature.design import DESIGN, DESIGNS, SHIPPED, Design, design_of, save_design
from dhumandiff.miniature.design import FOLDER as USED

from .. import TrainingError
from ..parsing import check_setting, parse
from .stages import STAGES, Stage, finished, save_adapter, stages_of

__all__ = ["MiniConfig", "build", "main", "train_ablation"]

CORES = 2
"""Processes at a time. The figures for time are for two cores."""


@dataclass
class MiniConfig:
    """Rebuild the miniature from nothing, or train and score one row of its table."""

    out: str = "runs/mini"
    """Folder of the run: drawings, checkpoints, logs, shards and weights, about 6 GB."""
    row: str = ""
    """A row of the table to train and score; all: every row that has no figures yet; table: make the table and its plot from
    the rows that were scored. Rows stand on the data of this run, or on new data made with the miniature that ships.
    parts2whole, parts2whole_words, ... are those of Parts2Whole, whose table is their own; told_base, told_full, ... those
    of expressions that the sentence asks for, and told is all of these that have no figures yet."""
    stage: str = ""
    """Only this stage and what it needs; see --dry_run."""
    design: str = ""
    """What to make: 128x96 or 256x192, the size of its pictures. By default what the folder holds already, else what ships."""
    device: str = "cpu"
    """Where the stages compute that can: cpu, or cuda."""
    look: int = 0
    """How many pairs the base draws as it is by now, beside the world's; nothing is trained then."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the UNet while rows are drawn: fp32, or bf16, which is twice as fast on processors that compute in it."""
    install: bool = True
    """When everything is built, put the weights where the project ships them."""

    def __post_init__(self) -> None:
        check_setting(bool(self.out), "out", self.out, "it names the folder of the run")
        check_setting(
            not self.design or self.design in DESIGNS, "design", self.design, f"the designs are {', '.join(DESIGNS)}"
        )
        check_setting(self.look >= 0, "look", self.look, "it counts pairs")
        check_setting(self.device in ("cpu", "cuda"), "device", self.device, "the devices are cpu and cuda")
        stages = self.stages
        check_setting(
            not self.stage or self.stage in stages, "stage", self.stage, f"the stages are {', '.join(stages)}"
        )

    @property
    def stages(self) -> dict[str, Stage]:
        """Of the design that is being made."""
        return stages_of(self.design or _design_in(Path(self.out)).name)


def _design_in(folder: Path) -> Design:
    """What a folder holds already; the one that ships where it holds no weights."""
    weights = folder / "weights"
    return design_of(weights if weights.exists() else SHIPPED)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    config, given = parse(MiniConfig, "mini", argv, {"dry_run": "say what would be done; do nothing"})
    folder = Path(config.out)
    before = signal.signal(
        signal.SIGTERM, lambda number, _: sys.exit(128 + number)
    )  # so that `finally` ends the stages
    try:
        if config.row:
            print(_run_ablations(config, folder, given["dry_run"]))
        elif config.look:
            print(_look(folder, config.look))
        elif given["dry_run"]:
            print(_plan(folder, _wanted(config.stage, config.stages, config.device), config.stages))
        else:
            save_design(DESIGNS[config.design] if config.design else _design_in(folder), folder / "weights")
            stages = config.stages
            build(folder, _wanted(config.stage, stages, config.device), stages=stages, device=config.device)
            print(_end(folder, config))
    finally:
        signal.signal(signal.SIGTERM, before)


def build(
    folder: Path,
    wanted: Sequence[str],
    weights: Path | None = None,
    stages: Mapping[str, Stage] | None = None,
    device: str = "cpu",
) -> None:
    """Run the stages that are not done, `CORES` processes at a time, each when what it needs is there.

    Args:
        folder: of the run.
        wanted: names of stages.
        weights: where the stages find and put weights; the folder's own by default.
        stages: of the design; None: the first's.
        device: for the stages that can be anywhere.

    Raises:
        TrainingError: a stage failed; its log says why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "logs").mkdir(exist_ok=True)
    stages = STAGES if stages is None else stages
    running: dict[str, list[subprocess.Popen]] = {}
    try:
        while not all(finished(folder, name) for name in wanted):
            for name, processes in list(running.items()):
                codes = [process.poll() for process in processes]
                if any(code not in (None, 0) for code in codes):
                    raise TrainingError(
                        f"The stage {name} failed. {folder / 'logs' / name}.log says why; the same command goes on from there.",
                        code="stage-failed",
                    )
                if all(code == 0 for code in codes):
                    del running[name]
                    print(f"{name}: done", flush=True)
            free = CORES - sum(stages[name].cores for name in running)
            for name in wanted:
                stage = stages[name]
                ready = all(finished(folder, need_) for need_ in stage.needs if need_ in wanted)
                if not finished(folder, name) and name not in running and ready and stage.cores <= free:
                    print(f"{name}: {stage.what}, about {stage.minutes:g} minutes", flush=True)
                    on = device if stage.on_device else "cpu"
                    where = folder / "told" if stage.taught else weights or folder / "weights"
                    running[name] = start(folder, name, where, stage=stage, device=on)
                    free -= stage.cores
            time.sleep(1)
    finally:
        _stop([process for processes in running.values() for process in processes])


def start(
    folder: Path, name: str, weights: Path, arguments: Sequence[str] = (), *, stage: Stage, device: str = "cpu"
) -> list[subprocess.Popen]:
    """Start a stage's processes, one thread each: two threads that fight for a core are slower than one. A GPU has one process."""
    alone = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "DHUMANDIFF_MINI": str(weights.absolute())}
    started = []
    shared: dict[str, str] = {}
    together = stage.together and device == "cpu"
    processes = stage.cores if together else 1
    if device != "cpu":
        arguments = ["--device", device, *arguments]
    if together:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        shared["ACCELERATE_USE_CPU"] = "true"
    for rank in range(processes):
        environment = {**os.environ, **alone, **shared}
        if shared:
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        log = (folder / "logs" / f"{name.replace(':', '_')}{f'.{rank}' if rank else ''}.log").open("a")
        command = [sys.executable, "-m", "training.miniature.stages", name, str(folder), *arguments]
        started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        log.close()
    return started


def train_ablation(folder: Path, name: str, arguments: Sequence[str], prepare: str = "prepare") -> Path:
    """Train a row's adapter on the run's shards; its weights, as a file. prepare: the stage that makes the shards."""
    made = folder / "runs" / f"{name}.safetensors"
    if not made.exists():
        weights = _weights_for(folder)
        stages = stages_of(design_of(weights).name)
        if prepare not in stages:
            raise TrainingError(
                f"The row {name} has data of its own, which only the design 256x192 has. Name the folder of such a run as --out.",
                code="row-of-another-design",
            )
        if not finished(folder, prepare):
            wanted = _wanted(prepare, stages)
            if weights == USED:  # what the frozen parts were made of is not needed again
                wanted = [stage for stage in wanted if stage.startswith(("data", "prepare"))]
            build(folder, wanted, weights, stages)
        (folder / "logs").mkdir(exist_ok=True)
        processes = start(folder, f"row:{name}", weights, arguments, stage=stages["adapter"])
        try:
            while (codes := [process.poll() for process in processes]) and None in codes:
                if any(code not in (None, 0) for code in codes):
                    break
                time.sleep(1)
            if any(codes):
                raise TrainingError(
                    f"The training of {name} failed; {folder / 'logs'} holds its log.", code="ablation-failed"
                )
        finally:
            _stop(processes)
        save_adapter(folder / "runs" / name, made)
    return made


def _train_row(folder: Path, name: str) -> Path:
    """A row's weights, and before them those that it is trained on from."""
    from .ablations import ABLATIONS

    row = ABLATIONS[name]
    begin = ["--init.weights", str(_train_row(folder, row.begins_with))] if row.begins_with else []
    return train_ablation(folder, name, [*row.arguments, *begin], row.prepare)


def _run_ablations(config: MiniConfig, folder: Path, dry: bool) -> str:
    from .ablations import ABLATIONS, FIRST_FOLDER, FOLDER, load_results, score_ablation
    from .frontier import frontier_table, plot_frontier
    from .parts_scoring import ROWS as PARTS_ROWS
    from .table import brief, plot, report
    from .told_scoring import ROWS as TOLD_ROWS
    from .told_scoring import load_told_results
    from .told_table import plot_told, told_table

    if config.row in PARTS_ROWS:
        return _run_parts(config, folder, dry)
    if config.row == "told" or config.row in TOLD_ROWS:
        return _run_told(config, folder, dry)
    if config.row == "table":
        rows, told, before = load_results(), load_told_results(), load_results(FIRST_FOLDER)
        plot(rows, FOLDER / "strengths.png")
        plot_frontier(rows, FOLDER / "frontier.png")
        if told:
            plot_told(told, FOLDER / "expressions.png")
        tables = (brief(rows, before=before), frontier_table(rows), told_table(told))
        return "\n".join([*tables, f"All rows: {report(rows, FOLDER / 'README.md', before)}"])
    names = [name for name in ABLATIONS if name not in load_results()] if config.row == "all" else [config.row]
    for name in names:
        if name not in ABLATIONS:
            raise TrainingError(
                f"There is no row {name!r}. The rows are: {', '.join((*ABLATIONS, *PARTS_ROWS, *TOLD_ROWS))}.",
                code="no-such-ablation",
            )
    if dry:
        lines = [
            f"{name:<24} {ABLATIONS[name].title}: {' '.join(ABLATIONS[name].arguments) or 'no training'}"
            for name in names
        ]
        return "\n".join(lines)
    made = []
    for name in names:
        trained = ABLATIONS[ABLATIONS[name].weights_of or name]
        weights = _train_row(folder, trained.name) if trained.trains else None
        sampling = replace(ABLATIONS[name].sampling, precision=config.precision)
        made.append(score_ablation(name, weights, sampling))
    return "\n".join([f"Made {path}." for path in made] + ["Next: python -m training mini --row table"])


def _weights_for(folder: Path) -> Path:
    """What rows of a run stand on: its own miniature where there is one, else the one in use."""
    return folder / "weights" if (folder / "weights" / "unet.safetensors").exists() else USED


def _run_parts(config: MiniConfig, folder: Path, dry: bool) -> str:
    """A row of Parts2Whole: trained on the run's miniature, or on the one that ships, and scored."""
    from .parts_scoring import ROWS, load_parts_results, parts_table, score_row

    row, stages = ROWS[config.row], ("parts_pictures", "parts2whole")
    if dry:
        trains = [stage for stage in stages if row.trained and not finished(folder, stage)]
        return f"{config.row:<24} {row.title}: {' '.join(trains) or 'no training'}"
    if row.trained:
        weights = _weights_for(folder)
        if (design := design_of(weights)) != DESIGN:
            raise TrainingError(
                f"{folder} holds the design {design.name}, but Parts2Whole is drawn with the miniature in use, {DESIGN.name}. Name "
                f"another folder as --out, or set DHUMANDIFF_MINI={weights}.",
                code="parts-of-another-design",
            )
        build(folder, stages, weights, stages_of(design.name))
    made = score_row(config.row, folder / "parts2whole", sheet=folder / f"{config.row}.png")
    return f"Made {made}.\n{parts_table(load_parts_results())}"


def _run_told(config: MiniConfig, folder: Path, dry: bool) -> str:
    """Rows of expressions as asked, on a base that knows their words; the trainings come once, with the first row."""
    from .ablations import ABLATIONS
    from .told_scoring import ROWS, load_told_results, score_told, told_renderer
    from .told_table import told_table

    weights = _weights_for(folder)
    design = design_of(weights)
    every = stages_of(design.name)
    stages = [name for name in every if name.startswith("told_")]
    names = [name for name in ROWS if name not in load_told_results()] if config.row == "told" else [config.row]
    if dry:
        trains = " ".join(stage for stage in stages if not finished(folder, stage))
        return "\n".join(f"{name:<28} {ROWS[name].title}: {trains or 'no training'}" for name in names)
    if design != DESIGN:
        raise TrainingError(
            f"{folder} holds the design {design.name}, but the miniature in use is {DESIGN.name}. Name another folder as --out, or "
            f"set DHUMANDIFF_MINI={weights}.",
            code="told-of-another-design",
        )
    build(folder, stages, weights, every)
    renderer, made = told_renderer(folder), []
    for name in names:
        trained = ABLATIONS.get(ROWS[name].weights_of)
        file = _train_row(folder, trained.name) if trained else None
        made.append(score_told(name, folder, weights=file, precision=config.precision, renderer=renderer))
    return "\n".join([*(f"Made {path}." for path in made), told_table(load_told_results())])


def _look(folder: Path, count: int) -> str:
    """In a process of its own, since which design is used is settled when modules load."""
    if not (folder / "base.pt").exists():
        raise TrainingError(
            f"{folder / 'base.pt'} is not there: the stage base has not got to its first checkpoint. Wait some minutes.",
            code="no-base-yet",
        )
    environment = {**os.environ, "DHUMANDIFF_MINI": str((folder / "weights").absolute())}
    command = [sys.executable, "-m", "training.miniature.stages", "look", str(folder), str(count)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise TrainingError(f"Nothing was drawn in {folder}; the lines above say why.", code="look-failed")
    return f"Drawn by the world (left) and by the base: {done.stdout.strip()}"


def _wanted(stage: str, stages: Mapping[str, Stage] | None = None, device: str = "cpu") -> list[str]:
    """A stage and all that it needs, in the order of the stages; all for none; those of a GPU only there or where asked for."""
    stages = STAGES if stages is None else stages
    on_gpu = device != "cpu" or (bool(stage) and stages[stage].on_gpu)
    stages = {name: one for name, one in stages.items() if on_gpu or not one.on_gpu}
    if not stage:
        return [name for name, one in stages.items() if not one.for_rows]
    found, waiting = set(), [stage]
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting += set(stages[name].needs) & set(stages)
    return [name for name in stages if name in found]


def _plan(folder: Path, wanted: Sequence[str], stages: Mapping[str, Stage]) -> str:
    lines = [f"In {folder}, two processes at a time:"]
    for name in wanted:
        stage = stages[name]
        state = "done" if finished(folder, name) else f"about {stage.minutes:g} minutes"
        needs = ", ".join(need for need in stage.needs if need in wanted)
        lines.append(f"  {name:<18} {state:<18} {stage.what}{f' (needs {needs})' if needs else ''}")
    return "\n".join(lines)


def _end(folder: Path, config: MiniConfig) -> str:
    if config.stage:
        return f"Made the stage {config.stage}.\nNext: python -m training mini{_out(config)}"
    seconds = sum(json.loads(path.read_text())["seconds"] for path in (folder / "done").glob("*.json"))
    weights = folder / "weights"
    lines = [f"Made {weights}, {seconds / 60:.0f} minutes of all stages together."]
    if config.install:
        SHIPPED.mkdir(exist_ok=True)
        for path in sorted(weights.glob("*.safetensors")):
            shutil.copyfile(path, SHIPPED / path.name)
        save_design(design_of(weights), SHIPPED)
        lines.append(f"They are in {SHIPPED} now.")
    drawn = ["Next: python -m dhumandiff demo --out demo.png"] if config.install else []
    return "\n".join([*lines, *drawn, f"Next: python -m training mini --row full{_out(config)}"])


def _out(config: MiniConfig) -> str:
    """The run's folder as an option, where it is not the usual one."""
    return "" if config.out == MiniConfig.out else f" --out {shlex.quote(config.out)}"


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    """Ask politely first: `train` writes a checkpoint on SIGTERM."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 60
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in processes:
        process.kill()  # of one that has ended, nothing
