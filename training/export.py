"""Write a run's weights as the files that the nodes and `python -m dhumandiff generate` load, with a model card.

    python -m training export --run runs/pair --out pair --license Apache-2.0

makes  pair/pair.safetensors     the native format, one file
       pair/released/            the four files of the released layout
       pair/README.md            the model card: data, steps, objectives, scores, licenses

A low-rank run (init.rank) makes one small file that is loaded beside its full adapter (dhumandiff/formats/low_rank.py).
"""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from safetensors import safe_open
from torch import Tensor

from dhumandiff.catalogue import AURAFACE, AURAFACE_RECOGNIZER
from dhumandiff.formats import low_rank
from dhumandiff.formats.reading import not_finite
from dhumandiff.io import expand_user, replace_all, why_not_written

from . import TrainingError
from .card import NOT_CHOSEN, model_card
from .hub import check_hub, push
from .parsing import check_setting, parse
from .run.checkpoint import CONFIG_FILE, RunFolder, adapter_of
from .run.low_rank import is_low_rank
from .run.weights import build_weights, identity_of, load_weights

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
    dtype: Literal["float16", "float32"] = "float16"
    """Precision of the files: float16, half the size, as the nodes compute with; float32, to the bit what was trained."""
    merged: bool = False
    """Low-rank runs: write the full adapter with the changes in it, which needs no other file, instead of the changes alone."""
    push: str = ""
    """Also upload to this repository of Hugging Face's Hub, owner/name, with the card. It needs a token that may write."""
    private: bool = False
    """A repository that is made for `push` is private."""
    license: str = NOT_CHOSEN
    """License of the weights. It has to respect those of the base, the data and the face recognizer."""
    base_model: str = ""
    """Id of the base model on the Hub, for the card, such as stabilityai/stable-diffusion-xl-base-1.0."""
    base_license: str = "unknown: look it up and state it"
    """License of the base model, for the card."""
    data_license: str = "unknown: look it up and state it"
    """License of the data, for the card."""
    scores: str = ""
    """A JSON file of scores that `python -m training evaluate` wrote, for the card."""

    def __post_init__(self) -> None:
        for name, what in (("run", "name the folder of a run (--run)"), ("out", "name a folder to write to (--out)")):
            check_setting(bool(getattr(self, name)), name, getattr(self, name), what)
        if self.push and (self.license == NOT_CHOSEN or not self.base_model):
            raise TrainingError(
                "push makes weights public under a card: choose their license (--license) and name the base model on the Hub "
                "(--base_model stabilityai/stable-diffusion-xl-base-1.0).",
                code="push-without-license",
            )


ANYBODY = ("anna.jpg", "ben.jpg")
"""Photos in a command line whose people are not known."""


def main(argv: Sequence[str] | None = None) -> None:
    """Read the settings, export, and say what was made."""
    config, _ = parse(ExportConfig, "export", argv)
    api = check_hub(config.push) if config.push else None
    made = export(config)
    native = next(path for path in made if path.suffix == ".safetensors")
    if api is not None:
        print(f"Pushed to {push(api, config.push, config.private, expand_user(config.out), made)}.")
    command = _drawing_command(config.run, native)
    own = " with two photos of your own" if ANYBODY[0] in command else ""
    print(
        f"Made {', '.join(map(str, made))}.\nLook through the card before you pass it on. Put {native.name} into "
        f"ComfyUI/models/dhumandiff/, or draw{own}.\nNext: {command}"
    )


def _drawing_command(run: str, native: Path) -> str:
    """A command line that draws with the exported weights, on the base and with the face pack of the run."""
    settings = yaml.safe_load((expand_user(run) / CONFIG_FILE).read_text(encoding="utf-8"))
    with safe_open(native, framework="pt") as file:
        told = file.metadata() or {}
    base, recognizer = str(settings["base"]["path"]), told.get("recogniser", "")
    full = str(settings.get("init", {}).get("weights", ""))  # runs of version 0.1 may have no such block
    words = ["--base", base, "--adapter", str(native)]
    words += ["--full-adapter", full] if told.get("format") == low_rank.FORMAT and Path(full).exists() else []
    recognizer = recognizer.partition(" (sha256")[0]
    recognizer = AURAFACE.name if recognizer == AURAFACE_RECOGNIZER[0].partition("/")[0] else recognizer
    words += [] if recognizer in ("", "buffalo_l", base) else ["--face-pack", recognizer]
    sentence, photos = _people_of(settings)
    words += [word for number, photo in enumerate(photos, 1) for word in (f"--person-{number}", photo)]
    words += ["--prompt", sentence, "--out", "portrait.png"]
    return shlex.join(["python", "-m", "dhumandiff", "generate", *words])


def _people_of(settings: Mapping[str, Any]) -> tuple[str, list[str]]:
    """A sentence with a photo of each person: the first of `logging.prompts`, or names in their place."""
    prompts = (settings.get("logging") or {}).get("prompts") or []
    if not prompts:
        return "A woman@1 and a man@2 in a park", list(ANYBODY)
    photos = prompts[0]["photos"]
    return prompts[0]["sentence"], [each if isinstance(each, str) else each[0] for each in photos]


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
    small = is_low_rank(checkpoint.metadata) and not config.merged
    if config.merged and not is_low_rank(checkpoint.metadata):
        raise TrainingError(
            f"merged is set, but {config.run} is no low-rank run: its files hold everything. Leave --merged out.",
            code="nothing-to-merge",
        )
    metadata = {
        **checkpoint.metadata,
        **_said(checkpoint.metadata, config.license, f"{name}: {{}}, {step} steps"),
    }
    full = adapter_of(checkpoint, use_ema)
    weights = build_weights(_as_dtype(full.state_dict(), config), metadata)
    adapter = identity_of(weights)
    files = [f"{name}.safetensors"]
    with _together(out) as part:
        if small:
            changes = checkpoint.ema_weights if use_ema else checkpoint.weights
            low_rank.save(part / files[0], _as_dtype(changes, config), metadata)
        else:
            weights.save_pretrained(part / files[0])
        if weights is adapter and not small and adapter.has_subject_path and not adapter.info.shared:
            files.append("released")
            adapter.save_released(part / "released")
        if adapter.info.base_family == "sdxl" and not small:  # what the nodes and `generate` know so far
            for file in files:
                load_weights(part / file)
        files.append("README.md")
        made = [out / file for file in files]
        card = model_card(
            name, weights, checkpoint, replace(config, weights="ema" if use_ema else "raw"), run, scores, made
        )
        (part / "README.md").write_text(card, encoding="utf-8")
    return made


def _said(before: Mapping[str, str], license_: str, source: str) -> dict[str, str]:
    """License and source of what was trained; an identity path that stayed as it was keeps its own."""
    if "pathway_source" in before:
        return {"pathway_licence": license_, "pathway_source": source.format(before["pathway_source"])}
    return {"licence": license_, "source": source.format(before["source"])}


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


def _as_dtype(tensors: Mapping[str, Tensor], config: ExportConfig) -> dict[str, Tensor]:
    """Tensors in the precision of the files.

    Raises:
        TrainingError: a weight is too large for half precision.
    """
    made = {name: value.to(getattr(torch, config.dtype)) for name, value in tensors.items()}
    large = not_finite(made)
    if large:
        raise TrainingError(
            f"{config.run}: {large[0]} holds weights above 65,504, the most that float16 knows. Export with --dtype float32.",
            code="weights-too-large-for-half",
        )
    return made


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
