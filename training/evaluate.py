"""Score an adapter by what it draws, or by its loss on data that nothing was trained on.

    python -m training evaluate --cases pairs.jsonl --base sdxl-base-1.0 --run runs/pair --out scores    draw and score
    python -m training evaluate --cases pairs.jsonl --pictures folder --out scores                   score what is finished
    python -m training evaluate --bench MultiID-Bench/out --out scores                               any other system's
    python -m training evaluate --cases pairs.jsonl --pictures folder --out new --against scores     pair by pair
    python -m training evaluate --rank "[ours, theirs]" --out ranked         several evaluations in one table
    python -m training evaluate --base mini --out scores                     the miniature, by its world's own scores
    python -m training evaluate --run runs/pair --data+ shards-of-others     the loss alone

Cases are photos of people and a sentence (training/evaluation/cases.py); what is measured is in
dhumandiff/evaluation/metrics.py. Kill it whenever you like: the same command resumes. On the base `mini` without cases pictures
are scored by the miniature's world and its second recognizer (training/miniature/evaluation.py).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dhumandiff.io import expand_user

from . import TrainingError
from .evaluation.config import EvaluateConfig
from .evaluation.files import make_folder, write_text
from .parsing import as_dict, parse
from .run.config import TrainConfig

if TYPE_CHECKING:
    from .run.weights import Weights

__all__ = ["evaluate", "main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Read the settings, score, and say what was made.

    Args:
        argv: the words behind `evaluate`; None: this program's own.
    """
    what = "say what would be judged and how long it takes (an estimate); draw nothing"
    config, given = parse(EvaluateConfig, "evaluate", argv, {"dry_run": what})
    print(evaluate(config, dry=given["dry_run"]))


def evaluate(config: EvaluateConfig, dry: bool = False) -> str:
    """Score, and say for people what came out, what was made and what to run next.

    Args:
        config: what, and how.
        dry: only say what would be done.

    Raises:
        TrainingError: no such run, no data, or files that cannot be written.
        AdapterError, HostError: weights that cannot be read or do not fit the base.
    """
    if config.rank:
        return _rank(config, dry)
    trained = _config_of(config.run) if config.run else None
    if config.cases or config.bench:
        return _score_cases(config, config.base or (trained.base.path if trained else ""), dry)
    # Behind the settings, so that `--help` need not wait for torch.
    from .evaluation import loss as held_out
    from .miniature import evaluation as miniature
    from .run.weights import identity_of

    base = config.base or (trained.base.path if trained else "mini")
    if base != "mini" and not (config.run or config.adapter):
        raise TrainingError(
            f"Name what is to be judged on {base}: a run (--run) or an adapter (--adapter).", code="nothing-to-score"
        )
    weights = _weights(config)
    adapter = identity_of(weights)
    with_loss = bool(config.data) or base != "mini"
    if with_loss:
        trained = held_out.validation_config(config, trained, base)
    if dry:
        what = config.run or config.adapter or "the adapter that ships"
        people = "one K/V for everybody" if adapter.info.shared else f"K/V for {adapter.info.persons} people"
        lines = [f"Would judge {what} ({adapter.info.layers} layers, {people}) on the base {base}."]
        lines += [miniature.describe(config, weights)] if base == "mini" else []
        lines += [held_out.describe(trained)] if with_loss else []
        return "\n".join([*lines, f"Results would go to {config.out}. Leave out --dry_run to do it."])
    out = make_folder(config.out)
    scores, lines, made = {}, [], []
    if base == "mini":
        scores, lines, made = miniature.score_miniature(config, weights, out)
    if with_loss:
        loss = held_out.validation_loss(trained, weights)
        scores["validation loss"] = f"{loss:.4f}"
        batches = f"{trained.data.validation_batches} batches of {held_out.folders_of(trained)}"
        lines.append(f"Validation loss: {loss:.4f} ({batches}).")
    if base != "mini":
        lines.append("No picture was drawn: name sentences and photos with --cases to have pictures judged, too.")
    return _ending(config, out, scores, lines, made)


def _ending(config: EvaluateConfig, out: Path, scores: dict[str, str], lines: list[str], made: list[Path]) -> str:
    """Write the scores for a model card, with the command that makes them; all lines for people."""
    scores = {**scores, "command": _command(config)}
    made = [*made, write_text(out / "scores.json", json.dumps(scores, indent=1, ensure_ascii=False) + "\n")]
    lines = [*lines, f"Made {', '.join(map(str, made))}."]
    if not config.run:
        return "\n".join(
            [*lines, f"`export` of a run puts scores on its model card: --scores {shlex.quote(str(made[-1]))}."]
        )
    command = ["python", "-m", "training", "export", "--run", config.run, "--scores", str(made[-1])]
    return "\n".join([*lines, f"Next: {shlex.join([*command, '--out', f'{config.run}/export'])}"])


def _rank(config: EvaluateConfig, dry: bool) -> str:
    """Several evaluations in one table."""
    from .evaluation.ranking import ranking_table
    from .evaluation.run import other_records

    names = [Path(folder).name for folder in config.rank]
    if len(set(names)) < len(names):
        names = [folder.rstrip("/") for folder in config.rank]
    systems = {name: other_records(folder, "rank") for name, folder in zip(names, config.rank, strict=True)}
    table = ranking_table(systems, config.rank_by)
    if dry:
        return f"{table}Nothing was written. Leave out --dry_run to write it to {config.out}."
    made = write_text(make_folder(config.out) / "ranking.md", f"# {len(systems)} systems\n\n{table}")
    return f"{table}Made {made}."


def _command(config: EvaluateConfig) -> str:
    """The command line that sets what differs from the defaults."""
    words = ["python", "-m", "training", "evaluate"]
    for change in _changes(as_dict(config), as_dict(EvaluateConfig())):
        words += change
    return shlex.join(words)


def _changes(values: Mapping[str, Any], usual: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _changes(value, usual[name], f"{prefix}{name}.")
        elif value != usual[name]:
            yield f"--{prefix}{name}", value if isinstance(value, str) else json.dumps(value)


def _score_cases(config: EvaluateConfig, base: str, dry: bool) -> str:
    """Cases or a bench: draw what is missing, measure, report."""
    from .evaluation.run import gather, score

    cases, notes = gather(config)
    problems = [case for case in cases if case.problem]
    missing = [] if config.bench else [case for case in cases if case.picture is None and not case.problem]
    if dry:
        count = len(missing) * config.seeds * max(len(config.strengths), 1)
        drawing = f"{count} portraits to draw{f' on {base}' if base else ''}"
        lines = [f"{len(cases)} cases: {drawing}, {len(problems)} cannot be scored.", *notes]
        lines += [f"- {case.name}: {case.problem}" for case in problems[:10]]
        return "\n".join([*lines, f"Results would go to {config.out}. Leave out --dry_run to do it."])
    if missing and not base:
        raise TrainingError(
            f"{len(missing)} cases have no picture. Name the base to draw with (--base), or the folder of finished pictures "
            "(--pictures).",
            code="cases-without-picture",
        )
    if missing and base != "mini" and not (config.run or config.adapter):
        raise TrainingError(
            f"Name what is to draw on {base}: a run (--run) or an adapter (--adapter).", code="nothing-to-draw-with"
        )
    out = make_folder(config.out)
    return _ending(config, out, *score(config, lambda: _weights(config), base, out))


def _config_of(run: str) -> TrainConfig:
    """The configuration that a run last used."""
    from .run.checkpoint import CONFIG_FILE

    path = expand_user(run) / CONFIG_FILE
    if not path.is_file():
        raise TrainingError(
            f"{run}: this is no folder of a run ({CONFIG_FILE} is not there). Name the --run of `train`.",
            code="no-such-run",
        )
    return parse(TrainConfig, "train", ["--config", str(path)])[0]


def _weights(config: EvaluateConfig) -> Weights:
    if config.run:
        from .run.checkpoint import adapter_of_run

        return adapter_of_run(expand_user(config.run))
    if config.adapter:
        from .run.weights import load_weights

        return load_weights(config.adapter)
    from dhumandiff.miniature import mini_adapter

    return mini_adapter()
