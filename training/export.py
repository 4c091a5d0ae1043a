"""Write a run's weights as the files that the nodes and `python -m dhumandiff generate` load, with a model card.

    python -m training export --run runs/pair --out pair --license Apache-2.0

makes  pair/pair.safetensors     the native format, one file
       pair/released/            the four files of the released layout
       pair/README.md            the model card: data, steps, objectives, scores, licenses
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from dhumandiff import Adapter
from dhumandiff.io import expand_user, replace_all, why_not_written

from . import TrainingError
from .parsing import check_setting, parse
from .run.checkpoint import Checkpoint, RunFolder
from .run.logging import LOG, read_log

__all__ = ["ExportConfig", "export", "main"]


@dataclass
class ExportConfig:
    """Write the weights of a run as files that the nodes load, with a model card."""

    run: str = ""
    """Folder of the run, as given to `train`."""
    out: str = ""
    """Folder that the files go to; files there of the same names are replaced."""
    name: str = ""
    """Name of the native file and of the card; the out folder's name if left empty."""
    checkpoint: Literal["best", "last"] = "best"
    """Which checkpoint is exported. The best has the lowest validation loss (training loss, where nothing was held out)."""
    weights: Literal["ema", "raw"] = "ema"
    """The EMA weights, or those of the last step; raw where no EMA was kept."""
    license: str = "not chosen yet"
    """License of the weights. It has to respect those of the base, the data and the face recognizer."""
    base_license: str = "unknown: look it up and state it"
    """License of the base model, for the card."""
    data_license: str = "unknown: look it up and state it"
    """License of the data, for the card."""
    scores: str = ""
    """A JSON file of scores that `python -m training evaluate` wrote, for the card."""

    def __post_init__(self) -> None:
        for name, what in (("run", "name the folder of a run (--run)"), ("out", "name a folder to write to (--out)")):
            check_setting(bool(getattr(self, name)), name, getattr(self, name), what)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the settings, export, and say what was made."""
    config, _ = parse(ExportConfig, "export", argv)
    made = export(config)
    native = next(path for path in made if path.suffix == ".safetensors")
    print(
        f"Made {', '.join(map(str, made))}.\nLook through the card before you pass it on. Next: put {native.name} into "
        f"ComfyUI/models/dhumandiff/, or: python -m dhumandiff generate --adapter {native} ..."
    )


def export(config: ExportConfig) -> list[Path]:
    """Write the files; their paths. Those for SDXL are read back as the nodes read them.

    Raises:
        TrainingError: no such run, no checkpoint, or scores that cannot be read.
        AdapterError: a file cannot be written.
    """
    run, out = RunFolder(config.run), expand_user(config.out)
    if not run.steps():
        raise TrainingError(
            f"{config.run}: there is no checkpoint of a run here. Name the folder given to `train` as --run.",
            code="run-without-checkpoint",
        )
    scores = _scores(config.scores)
    step = run.best() if config.checkpoint == "best" else run.steps()[-1]
    checkpoint = run.load(step)
    name = config.name or out.resolve().name
    use_ema = config.weights == "ema" and bool(checkpoint.ema_weights)
    metadata = {
        **checkpoint.metadata,
        "licence": config.license,
        "source": f"{name}: {checkpoint.metadata['source']}, {step} steps",
    }
    adapter = Adapter.from_tensors(checkpoint.ema_weights if use_ema else checkpoint.weights, metadata)
    files = [f"{name}.safetensors"]
    with _together(out) as part:
        adapter.save_pretrained(part / files[0])
        if adapter.has_subject_path and not adapter.info.shared:
            files.append("released")
            adapter.save_released(part / "released")
        if adapter.info.base_family == "sdxl":  # what the nodes and `generate` know so far
            for file in files:
                Adapter.from_pretrained(part / file)
        files.append("README.md")
        made = [out / file for file in files]
        card = _card(name, adapter, checkpoint, replace(config, weights="ema" if use_ema else "raw"), run, scores, made)
        (part / "README.md").write_text(card, encoding="utf-8")
    return made


@contextmanager
def _together(out: Path) -> Iterator[Path]:
    """A folder whose files go to `out` when all of them are written; otherwise what is there stays as it was."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export.", dir=out) as folder:
            part = Path(folder)
            yield part
            files = sorted(path for path in part.rglob("*") if path.is_file())
            finals = [out / path.relative_to(part) for path in files]
            for final in finals:
                final.parent.mkdir(exist_ok=True)
            replace_all(files, finals)
    except OSError as error:
        raise TrainingError(
            f"{out}: the weights cannot be written ({why_not_written(error)}).", code="export-not-written"
        ) from error


def _scores(path: str) -> Mapping[str, Any]:
    if not path:
        return {}
    try:
        scores = json.loads(Path(path).read_text(encoding="utf-8"))
        return dict(scores)
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(
            f"The scores {path} cannot be read ({error}). Give the JSON of `python -m training evaluate`.",
            code="scores-not-readable",
        ) from error


def _card(
    name: str,
    adapter: Adapter,
    checkpoint: Checkpoint,
    config: ExportConfig,
    run: RunFolder,
    scores: Mapping[str, Any],
    made: Sequence[Path],
) -> str:
    """The model card: what was done, read from the run, not from memory."""
    used, info, step = checkpoint.config, adapter.info, checkpoint.step
    shards = [
        (folder["path"], sum(count for _, count in shards))
        for folder, shards in zip(used["data"]["folders"], checkpoint.fingerprint["shards"], strict=True)
    ]
    losses = [entry for entry in read_log(run.folder / LOG) if "loss" in entry and entry["step"] <= step]
    scored_by = "validation" if used["data"]["validation"] else "training, smoothed"
    lines = [
        "---",
        f"license: {json.dumps(config.license)}",
        "tags: [dhumandiff, sdxl, portraits-of-two]",
        "---",
        "",
        f"# {name}",
        "",
        "An adapter that draws two people from one photo of each, for DHumanDiff (ComfyUI nodes and Python).",
        "**Portraits of real people only with their leave**; say that a picture was generated.",
        "",
        "## Files",
        "",
        *(
            f"- `{path.name}`{' (four files, released layout)' if path.name == 'released' else ''}"
            for path in made[:-1]
        ),
        "",
        "## What it needs",
        "",
        f"- Base: `{Path(used['base']['path']).name}` ({info.base_family}, {info.layers} cross-attention layers, context "
        f"{info.context_width}). License: {config.base_license}",
        f"- Image encoder: {info.clip_tower or 'not said'}, width {info.clip_width}",
        f"- Face recognizer: {info.recognizer or 'none'} (channels: {info.identity_channels}). Many recognizers are for "
        "non-commercial research only",
        "",
        "## Training",
        "",
        f"- Initial weights: {used['init']['weights']}",
        f"- Data: {'; '.join(f'`{Path(path).name}`, {count} samples' for path, count in shards)}. License: {config.data_license}",
        f"- Steps: {step} of {used['data']['batch_size']} samples; precision {used['precision']}; seed {used['seed']}",
        f"- Weights: {'EMA, decay ' + str(used['optimizer']['ema_decay']) if config.weights == 'ema' else 'of the last step'}",
        f"- Loss ({scored_by}): {checkpoint.score:.4f}" + (f"; first logged {losses[0]['loss']:.4f}" if losses else ""),
        "",
        "```yaml",
        yaml.safe_dump(
            {part: used[part] for part in ("objectives", "augment", "optimizer", "init")}, sort_keys=False
        ).rstrip(),
        "```",
        "",
        "## Scores",
        "",
        *(
            [f"- {what}: {value}" for what, value in scores.items()]
            or ["Not measured yet (`python -m training evaluate`)."]
        ),
        "",
        "## License",
        "",
        f"{config.license}. Weights that learned from data and a base are bound by their licenses too (above).",
        "",
    ]
    return "\n".join(lines)
