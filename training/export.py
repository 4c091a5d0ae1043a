"""Write a run's weights as the files that the nodes and `python -m dhumandiff generate` load, with a model card.

    python -m training export --run runs/pair --out pair --licence Apache-2.0

makes  pair/pair.safetensors     the native format, one file
       pair/released/            the four files of the released layout
       pair/README.md            the model card: data, steps, objectives, scores, licences
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from dhumandiff import Adapter

from . import TrainingError
from .parsing import parse
from .run.checkpoint import Checkpoint, Run
from .run.config import need
from .run.logging import read_log

__all__ = ["ExportConfig", "export", "main"]


@dataclass
class ExportConfig:
    """Write the weights of a run as files that the nodes load, with a model card."""

    run: str = ""
    """Folder of the run."""
    out: str = ""
    """Folder that the files go to; what lies there under the same names is replaced."""
    name: str = ""
    """Of the native file and the card; the out folder's name if left empty."""
    checkpoint: Literal["best", "last"] = "best"
    """Which one. The best has the lowest validation loss (training loss, where nothing was held out)."""
    weights: Literal["average", "raw"] = "average"
    """The averaged weights, or those of the last step; raw where none were averaged."""
    licence: str = "not chosen yet"
    """Of the weights. It has to respect those of the base, the data and the recogniser."""
    base_licence: str = "unknown: look it up and state it"
    """Of the base model, for the card."""
    data_licence: str = "unknown: look it up and state it"
    """Of the data, for the card."""
    scores: str = ""
    """A JSON file of scores that `python -m training evaluate` wrote, for the card."""

    def __post_init__(self) -> None:
        for name, what in (("run", "name the folder of a run (--run)"), ("out", "name a folder to write to (--out)")):
            need(bool(getattr(self, name)), name, getattr(self, name), what)


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
        TrainingError: no such run, no checkpoint, or scores that cannot be read. AdapterError: a file cannot be written.
    """
    run, out = Run(config.run), Path(config.out)
    if not run.steps():
        raise TrainingError(
            f"{config.run}: there is no checkpoint of a run here. Name the folder given to `train` as --run."
        )
    scores = _scores(config.scores)
    step = run.best() if config.checkpoint == "best" else run.steps()[-1]
    checkpoint = run.load(step)
    name = config.name or out.resolve().name
    averaged = config.weights == "average" and bool(checkpoint.average)
    metadata = {
        **checkpoint.metadata,
        "licence": config.licence,
        "source": f"{name}: {checkpoint.metadata['source']}, {step} steps",
    }
    adapter = Adapter.from_tensors(checkpoint.average if averaged else checkpoint.weights, metadata)
    made = [out / f"{name}.safetensors"]
    adapter.save_pretrained(made[0])
    if adapter.has_subject_path and not adapter.info.shared:
        made.append(out / "released")
        adapter.save_released(made[1])
    if adapter.info.base_family == "sdxl":  # what the nodes and `generate` know so far
        for path in made:
            Adapter.from_pretrained(path)
    made.append(out / "README.md")
    card = _card(
        name, adapter, checkpoint, replace(config, weights="average" if averaged else "raw"), run, scores, made
    )
    made[-1].write_text(card, encoding="utf-8")
    return made


def _scores(path: str) -> Mapping[str, Any]:
    if not path:
        return {}
    try:
        scores = json.loads(Path(path).read_text(encoding="utf-8"))
        return dict(scores)
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(
            f"The scores {path} cannot be read ({error}). Give the JSON of `python -m training evaluate`."
        ) from error


def _card(
    name: str,
    adapter: Adapter,
    checkpoint: Checkpoint,
    config: ExportConfig,
    run: Run,
    scores: Mapping[str, Any],
    made: Sequence[Path],
) -> str:
    """The model card: what was done, read from the run, not from memory."""
    told, info = checkpoint.told, adapter.info
    used = told["config"]
    shards = [
        (folder["path"], sum(count for _, count in shards))
        for folder, shards in zip(used["data"]["folders"], told["agree"]["shards"], strict=True)
    ]
    losses = [
        entry for entry in read_log(run.folder / "log.jsonl") if "loss" in entry and entry["step"] <= told["step"]
    ]
    judged = "validation" if used["data"]["validation"] else "training, smoothed"
    lines = [
        "---",
        f"license: {json.dumps(config.licence)}",
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
        f"{info.context_width}). Licence: {config.base_licence}",
        f"- Image encoder: {info.clip_tower or 'not said'}, width {info.clip_width}",
        f"- Recogniser: {info.recognizer or 'none'} (channels: {info.identity_channels}). Many recognisers are for "
        "non-commercial research only",
        "",
        "## Training",
        "",
        f"- Started from: {used['start']['weights']}",
        f"- Data: {'; '.join(f'`{Path(path).name}`, {count} samples' for path, count in shards)}. Licence: {config.data_licence}",
        f"- Steps: {told['step']} of {used['data']['batch']} samples; precision {used['precision']}; seed {used['seed']}",
        f"- Weights: {'moving average, decay ' + str(used['optimiser']['ema']) if config.weights == 'average' else 'of the last step'}",
        f"- Loss ({judged}): {told['score']:.4f}" + (f"; first logged {losses[0]['loss']:.4f}" if losses else ""),
        "",
        "```yaml",
        yaml.safe_dump(
            {part: used[part] for part in ("objectives", "augment", "optimiser", "start")}, sort_keys=False
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
        "## Licence",
        "",
        f"{config.licence}. Weights that learnt from data and a base are bound by their licences too (above).",
        "",
    ]
    return "\n".join(lines)
