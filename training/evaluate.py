"""Judge an adapter by what it draws, or by its loss on data that nothing was trained on.

    python -m training evaluate --cases pairs.jsonl --base sdxl-base --run runs/pair --out scores    draw and score
    python -m training evaluate --cases pairs.jsonl --pictures folder --out scores                   score what is finished
    python -m training evaluate --bench MultiID-Bench/out --out scores                               any other system's
    python -m training evaluate --cases pairs.jsonl --pictures folder --out new --against scores     pair by pair
    python -m training evaluate --base mini --out scores                     the miniature, by its world's own judge
    python -m training evaluate --run runs/pair --data+ shards-of-others     the loss alone

Cases are photos of people and a sentence (training/evaluation/cases.py); what is measured is in dhumandiff/evaluation/metrics.py. Kill it
whenever you like: the same command goes on. On the base `mini` without cases pictures are judged by the miniature's world and
its second recogniser (training/miniature/judging.py).
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from . import TrainingError
from .data.settings import FaceSettings
from .parsing import check_setting, parse
from .run.config import TrainConfig

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from dhumandiff import Adapter

    from .miniature.ablations import Easel
    from .miniature.sampling import Sampling

__all__ = ["EvaluateConfig", "evaluate", "main"]

SECONDS = 0.25
"""Of one thread for a portrait of the miniature in 10 steps with two_strength, about; with one prediction a step half."""


@dataclass
class EvaluateConfig:
    """Judge an adapter, or any system's pictures: by who is on them, where cases say who should be."""

    run: str = ""
    """Folder of a run; the averaged weights of its best checkpoint are judged."""
    adapter: str = ""
    """Weights instead of a run: a native .safetensors, or a folder with the four released files. With neither, the miniature
    that ships is judged."""
    base: str = ""
    """The base model to draw with; if left empty the run's, and without cases mini."""
    out: str = "evaluation"
    """Folder that the results go to; what lies there under the same names is replaced."""
    cases: str = ""
    """A .jsonl of cases, each the photos of people and a sentence; see training/evaluation/cases.py."""
    pictures: str = ""
    """Folder with the finished pictures of the cases, <id>.png or <id>_<seed>.png; nothing is drawn then."""
    bench: str = ""
    """Folder in MultiID-Bench's layout, instead of cases: <id>/out.jpg, ori.jpg, ref_1.jpg ..., meta.json."""
    against: str = ""
    """The --out folder of another evaluation of the same cases, to compare with picture by picture."""
    faces: FaceSettings = field(default_factory=FaceSettings)
    """Who recognises. Best another recogniser than the adapter was trained with: it would be its own judge."""
    clip: str = ""
    """CLIP for CLIP-T and CLIP-I: a folder, or an id such as openai/clip-vit-base-patch16. Left empty, neither is computed."""
    scorers: list[str] = field(default_factory=list)
    """Further scores, such as aesthetics, each a module:function that makes a dhumandiff.metrics.PictureScorer."""
    image_encoder: str = ""
    """Drawing cases: CLIP ViT-H/14, a folder or id; IP-Adapter's if left empty."""
    size: list[int] | None = None
    """Drawing cases: width and height, px; null: as published, 512 x 512."""
    strengths: list[float] = field(default_factory=list)
    """Drawing cases: factors of all strengths to compare, such as [0.5, 1.0, 1.5]."""
    pairs: int = 200
    """mini: held-out pairs of people."""
    seeds: int = 3
    """Portraits of each pair or case."""
    hardest: int = 50
    """mini: pairs of one gender that look most alike, judged beside the others; 0: none."""
    sheet: int = 8
    """mini: pairs in the picture sheet.png; 0: no such picture."""
    mode: Literal["none", "one_pass", "two_strength", "released"] = "one_pass"
    """mini: of the cascade."""
    scene_strength: float = 0.7
    """mini: of the cascade."""
    face_strength: float = 1.0
    """mini: of the cascade."""
    strength: float = 1.0
    """mini: of both people where the mode is none."""
    cfg: float | None = None
    """mini: guidance; null: what the miniature is measured with."""
    steps: int | None = None
    """mini: of the sampler; null: what the miniature is measured with."""
    sampler: Literal["euler", "euler_ancestral"] | None = None
    """Drawing: null: euler; mini: what the miniature is measured with."""
    data: list[str] = field(default_factory=list)
    """Prepared folders (`python -m training prepare`) of people that were not trained on, for the loss. If left empty, those
    that the run held out."""
    batches: int = 0
    """Micro batches of data that the loss is the mean of; 0: as many as the run validates with."""

    def __post_init__(self) -> None:
        check_setting(bool(self.out), "out", self.out, "it names a folder to write to")
        check_setting(self.pairs >= 1, "pairs", self.pairs, "it must be 1 or more")
        check_setting(1 <= self.seeds <= 100, "seeds", self.seeds, "it lies from 1 to 100")
        for name in ("hardest", "sheet", "batches"):
            check_setting(getattr(self, name) >= 0, name, getattr(self, name), "it must be 0 or more")
        for name in ("pictures", "strengths", "size"):
            if getattr(self, name) and not self.cases:
                raise TrainingError(f"{name} goes with cases: name their .jsonl with --cases.")
        if self.bench and self.cases:
            raise TrainingError("bench and cases are both given. Name one of them: what the pictures should show.")
        check_setting(self.size is None or len(self.size) == 2, "size", self.size, "it is width and height")
        if self.run and self.adapter:
            raise TrainingError("run and adapter are both given. Name one of them: what is to be judged.")


def main(argv: Sequence[str] | None = None) -> None:
    """Read the settings, judge, and say what was made."""
    what = "say what would be judged and how long it takes (an estimate); draw nothing"
    config, given = parse(EvaluateConfig, "evaluate", argv, {"dry_run": what})
    print(evaluate(config, dry=given["dry_run"]))


def evaluate(config: EvaluateConfig, dry: bool = False) -> str:
    """Judge, and say for people what came out, what was made and what to run next.

    Raises:
        TrainingError: no such run, no data, or files that cannot be written. AdapterError, HostError: weights that cannot be
            read or do not fit the base.
    """
    trained = _config_of(config.run) if config.run else None
    if config.cases or config.bench:
        return _score_cases(config, config.base or (trained.base.path if trained else ""), dry)
    base = config.base or (trained.base.path if trained else "mini")
    if base != "mini" and not (config.run or config.adapter):
        raise TrainingError(f"Name what is to be judged on {base}: a run (--run) or an adapter (--adapter).")
    adapter = _adapter(config)
    losses = bool(config.data) or base != "mini"
    if losses:
        trained = _with_data(config, trained, base)
    if dry:
        return _plan(config, base, adapter, trained if losses else None)
    out = _folder(config.out)
    scores, lines, made = {}, [], []
    if base == "mini":
        scores, lines, made = _judge_pictures(config, adapter, out)
    if losses:
        loss = validation_loss(trained, adapter)
        scores["validation loss"] = f"{loss:.4f}"
        lines.append(f"Validation loss: {loss:.4f} ({trained.data.validation_batches} batches of {_names(trained)}).")
    if base != "mini":
        lines.append("Pictures are judged on the base mini only, so far; look at some: python -m dhumandiff generate.")
    return _ending(config, out, scores, lines, made)


def _ending(config: EvaluateConfig, out: Path, scores: dict[str, str], lines: list[str], made: list[Path]) -> str:
    """Write the scores for a model card; all lines for people."""
    made = [*made, _write(out / "scores.json", json.dumps(scores, indent=1, ensure_ascii=False) + "\n")]
    run = config.run or "..."
    export = f"python -m training export --run {run} --scores {made[-1]}"
    next_ = f"{export} --out {run}/export" if config.run else f"{export} puts them on a model card."
    return "\n".join([*lines, f"Made {', '.join(map(str, made))}.", f"Next: {next_}"])


def _score_cases(config: EvaluateConfig, base: str, dry: bool) -> str:
    """Cases or a bench: draw what is missing, measure, tell."""
    from .evaluation.run import gather, score

    cases, notes = gather(config)
    aside = [case for case in cases if case.problem]
    waiting = [] if config.bench else [case for case in cases if case.picture is None and not case.problem]
    if dry:
        count = len(waiting) * config.seeds * max(len(config.strengths), 1)
        drawing = f"{count} portraits to draw{f' on {base}' if base else ''}"
        lines = [f"{len(cases)} cases: {drawing}, {len(aside)} cannot be scored.", *notes]
        lines += [f"- {case.name}: {case.problem}" for case in aside[:10]]
        return "\n".join([*lines, f"Results would go to {config.out}. Leave out --dry_run to do it."])
    if waiting and not base:
        raise TrainingError(
            f"{len(waiting)} cases have no picture. Name the base to draw with (--base), or the folder of finished pictures "
            "(--pictures)."
        )
    if waiting and base != "mini" and not (config.run or config.adapter):
        raise TrainingError(f"Name what is to draw on {base}: a run (--run) or an adapter (--adapter).")
    out = _folder(config.out)
    return _ending(config, out, *score(config, lambda: _adapter(config), base, out))


def _folder(path: str) -> Path:
    out = Path(path)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"The folder {out} cannot be made ({error.strerror}). Choose another (--out).") from error
    return out


def _config_of(run: str) -> TrainConfig:
    """The configuration that a run last used."""
    from .run.checkpoint import CONFIG_FILE

    path = Path(run) / CONFIG_FILE
    if not path.is_file():
        raise TrainingError(
            f"{run}: this is no folder of a run ({CONFIG_FILE} is not there). Name the --run of `train`."
        )
    return parse(TrainConfig, "train", ["--config", str(path)])[0]


def _adapter(config: EvaluateConfig) -> Adapter:
    from dhumandiff import Adapter

    if config.run:
        from .run.checkpoint import adapter_of_run

        return adapter_of_run(Path(config.run))
    if config.adapter:
        return Adapter.from_pretrained(config.adapter)
    from dhumandiff.miniature import mini_adapter

    return mini_adapter()


def _with_data(config: EvaluateConfig, trained: TrainConfig | None, base: str) -> TrainConfig:
    """What the loss is computed with: the run's configuration, or the usual one, on the folders asked for."""
    from .data.config import DataConfig, FolderConfig
    from .run.config import BaseConfig

    folders = [FolderConfig(path) for path in config.data] or (trained.data.validation if trained else [])
    if not folders:
        raise TrainingError(
            f"On the base {base} the loss is what can be judged, and there is no data for it"
            f"{': this run held nothing out' if trained else ''}. Prepare pictures of other people and name the folder: "
            "--data+ shards-of-others."
        )
    if trained is None:
        trained = TrainConfig(data=DataConfig(folders=folders))
    batches = config.batches or trained.data.validation_batches
    data = replace(trained.data, validation=folders, validation_batches=batches)
    return replace(trained, base=replace(trained.base if config.run else BaseConfig(), path=base), data=data)


def _names(config: TrainConfig) -> str:
    return ", ".join(folder.path for folder in config.data.validation)


def _plan(config: EvaluateConfig, base: str, adapter: Adapter, losses: TrainConfig | None) -> str:
    """What would be done, from small files only."""
    what = config.run or config.adapter or "the adapter that ships"
    people = "one K/V for everybody" if adapter.info.shared else f"K/V for {adapter.info.persons} people"
    lines = [f"Would judge {what} ({adapter.info.layers} layers, {people}) on the base {base}."]
    if base == "mini":
        sampling = _sampling(config)
        sampling.check()
        count = (config.pairs + config.hardest) * config.seeds
        cost = {"none": 0.5, "one_pass": 0.5, "two_strength": 1.0, "released": 1.5}[sampling.mode]
        minutes = max(1, round(count * SECONDS / 60 * cost * sampling.steps / 10))
        lines.append(
            f"{config.pairs} held-out pairs and the {config.hardest} hardest, {config.seeds} portraits each: {count} portraits "
            f"(mode {sampling.mode}, {sampling.steps} steps, guidance {sampling.cfg:g}), about {minutes} min on one thread."
        )
    if losses is not None:
        from .data.dataset import open_datasets

        folders, _ = open_datasets(losses.data.validation)
        lines.append(
            f"Validation loss over {losses.data.validation_batches} batches of {losses.data.micro_batch_size} out of "
            f"{sum(folder.samples for folder in folders)} samples of {_names(losses)}."
        )
    return "\n".join([*lines, f"Results would go to {config.out}. Leave out --dry_run to do it."])


def _sampling(config: EvaluateConfig) -> Sampling:
    from .miniature.sampling import Sampling

    names = ("mode", "scene_strength", "face_strength", "strength", "cfg", "steps", "sampler")
    given = {name: getattr(config, name) for name in names}
    return Sampling(**{name: value for name, value in given.items() if value is not None})


def _judge_pictures(
    config: EvaluateConfig, adapter: Adapter, out: Path
) -> tuple[dict[str, str], list[str], list[Path]]:
    """Scores for a model card, lines for people, and the files made."""
    from .miniature.ablations import Easel, judge
    from .miniature.judging import MEASURES
    from .miniature.table import percent, table

    sampling = _sampling(config)
    sampling.check()
    easel, size = Easel(), (config.pairs, config.seeds, config.hardest)
    told, pictures = judge(easel, adapter, sampling, "adapter", *size, "portraits")
    ceiling, _ = judge(easel, None, sampling, "drawings", *size, "ceiling")
    about = {"title": config.run or config.adapter or "the miniature that ships", "training": {}}
    rows = {
        "evaluated": {"name": "evaluated", **about, **told},
        "ceiling": {"name": "ceiling", **about, "title": "ceiling: drawings through the autoencoder", **ceiling},
    }
    text = table(rows, of="evaluated")
    made = [
        _write(out / "evaluation.json", json.dumps(rows, ensure_ascii=False) + "\n"),
        _write(out / "scores.md", text),
    ]
    if config.sheet:
        made.append(out / "sheet.png")
        try:
            draw_sheet(easel, pictures, min(config.sheet, config.pairs), config.seeds).save(made[-1])
        except OSError as error:
            raise TrainingError(f"{made[-1]} cannot be written ({error.strerror or error}). Make room.") from error
    scores = {
        f"{MEASURES[name].partition(':')[0]} ({part.replace('_', '-')} pairs)": percent(told[part]["measures"][name])
        for part in ("held_out", "hardest")
        if part in told
        for name in ("right", "recognition", "words", "joint", "present")
    }
    return scores, [text], made


def draw_sheet(easel: Easel, pictures: np.ndarray, pairs: int, seeds: int, zoom: int = 2) -> Image.Image:
    """A row a pair: the photos of person 1 and 2, a portrait a seed, and the sentence below.

    pictures: uint8 [at least pairs * seeds, H, W, 3], in the order of `held_out_cases`.
    """
    from PIL import Image, ImageDraw

    from .miniature.judging import held_out_cases

    height, width = (zoom * side for side in pictures.shape[1:3])
    gap, text = 6, 40
    row_height = height + text
    wide = 2 * (height + gap) + min(seeds, 4) * (width + gap)
    sheet = Image.new("RGB", (wide, pairs * row_height), "white")
    draw = ImageDraw.Draw(sheet)
    for number, case in enumerate(held_out_cases(pairs)):
        top, left = number * row_height, 0
        for who in case.script.people:
            photo = Image.fromarray(easel.given(who)[1]).resize((height, height), Image.Resampling.BICUBIC)
            sheet.paste(photo, (left, top))
            left += height + gap
        for seed in range(min(seeds, 4)):
            picture = Image.fromarray(pictures[number * seeds + seed])
            sheet.paste(picture.resize((width, height), Image.Resampling.BICUBIC), (left, top))
            left += width + gap
        written = textwrap.fill(case.text, wide // 7)
        draw.multiline_text((2, top + height + 3), written, fill=(30, 30, 30))
    return sheet


def validation_loss(config: TrainConfig, adapter: Adapter) -> float:
    """The mean loss over the validation batches of a configuration, as `train` computes it before a checkpoint."""
    from accelerate import Accelerator

    from .data.dataset import open_datasets
    from .objectives.losses import build_objectives, check_data
    from .run.base import check_shards_compatible, load_base
    from .run.model import build_model
    from .run.precision import DTYPES, choose_precision
    from .run.validation import validate

    validation = open_datasets(config.data.validation)
    objectives = build_objectives(config.objectives, validation[0])
    check_data(objectives, validation[0])
    accelerator = Accelerator(mixed_precision=choose_precision(config.precision))
    dtype = DTYPES[accelerator.mixed_precision]
    decodes = any(objective.needs_vae for objective in objectives)
    base = load_base(config.base.path, text_encoder=adapter.has_subject_path, vae=decodes, dtype=dtype)
    check_shards_compatible(base, validation[0])
    model = build_model(config.objectives, base, adapter, validation[0][0], objectives)
    base.to(accelerator.device)
    model.to(accelerator.device)
    with accelerator.autocast():
        return validate(model, objectives, config, validation, accelerator)


def _write(path: Path, text: str) -> Path:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise TrainingError(f"{path} cannot be written ({error.strerror}). Choose another folder (--out).") from error
    return path
