"""Scoring a set of pictures from end to end: read the cases, draw what is missing, measure, tell.

Everything lies in the run's folder: pictures/, scores.jsonl (a record a picture), scores.csv, scores.json, scores.md, plots, and
scores.html.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from dhumandiff import Adapter, FaceReference
from dhumandiff.faces.same_recognizer import has_hash, is_recognizer, pack_of, recognizer_hash
from dhumandiff.io import expand_user

from .. import TrainingError
from ..data.encode import load_faces, load_vision
from ..data.settings import FaceSettings
from ..data.shards import write_file
from ..plugins import make_plugin
from .cases import Case, read_bench, read_cases, with_pictures
from .draw import Settings, digest_of, draw_cases
from .measure import Clip, Measurer, measure_all, read_records
from .page import page
from .plots import plot_copying, plot_distributions, plot_strengths
from .tables import FEW, csv_text, markdown, summarize_records

if TYPE_CHECKING:
    from dhumandiff.faces import FaceAnalyzer

    from ..run.weights import Weights
    from .config import EvaluateConfig

__all__ = ["gather", "other_records", "score"]

RECORDS = "scores.jsonl"


def gather(config: EvaluateConfig) -> tuple[list[Case], list[str]]:
    """The cases that a configuration names, and notes on them."""
    if config.bench:
        return read_bench(config.bench), []
    cases = read_cases(config.cases)
    if not config.pictures:
        return cases, []
    cases, strange = with_pictures(cases, config.pictures)
    notes = (
        [f"{len(strange)} pictures in {config.pictures} belong to no case, {strange[0].name} for one."]
        if strange
        else []
    )
    return cases, notes


def score(
    config: EvaluateConfig, adapter: Callable[[], Weights], base: str, out: Path
) -> tuple[dict[str, str], list[str], list[Path]]:
    """Score, and write everything into a folder.

    Args:
        adapter: loads the weights, where something is to be drawn.
        base: to draw with.

    Returns:
        Scores for a model card, lines for people, and the files made.
    """
    cases, notes = gather(config)
    against = other_records(config.against) if config.against else None
    faces, clip = _scoring_faces(config.faces, base), Clip.load(config.clip) if config.clip else None
    scorers = [make_plugin(name, "scorers") for name in config.scorers]
    waiting = (
        [case for case in cases if case.picture is None and not case.problem]
        if config.cases and not config.pictures
        else []
    )
    if waiting:
        finished = [case for case in cases if case.picture is not None or case.problem]
        weights = adapter()
        if not isinstance(weights, Adapter):
            raise TrainingError(
                "The cases have no pictures, and a dual pathway draws none here. Draw them with `python -m dhumandiff generate` and "
                "name their folder as --pictures; or leave the cases out for the loss, and on mini for its world's scores.",
                code="dual-draws-no-cases",
            )
        if is_recognizer(weights.info.recognizer, faces):
            notes.append(
                "The judge is the adapter's own recognizer, which flatters it: name another pack with --faces.pack."
            )
        cases = finished + _draw(config, waiting, weights, base, out / "pictures")
    records = measure_all(cases, Measurer(faces, clip, scorers), out / RECORDS)
    other = config.against.rstrip("/") or "the other"
    table = markdown(records, against, other)
    made = [out / RECORDS]
    title = f"Scores of {config.bench or config.cases}"
    plain = {name: asdict(summary) for name, summary in summarize_records(records).items()}
    texts = {
        "scores.md": f"# {title}\n\n{table}",
        "scores.csv": csv_text(records),
        "scores.html": page(records, out, title, table),
        "summary.json": json.dumps(plain, indent=1) + "\n",
    }
    for name, text in texts.items():
        write_file(out / name, text)
        made.append(out / name)
    for name, plot in (("strengths", plot_strengths), ("copying", plot_copying), ("spread", plot_distributions)):
        made += filter(None, [plot(records, out / f"{name}.png")])
    scores = {
        name: f"{one['mean']:.3f}" + (f" ({one['low']:.3f} to {one['high']:.3f})" if one["count"] >= FEW else "")
        for name, one in plain.items()
    }
    return scores, [*notes, table], made


def other_records(folder: str, setting: str = "against") -> list[dict[str, Any]]:
    """The records of another evaluation.

    Args:
        folder: its --out, or its scores.jsonl.
        setting: that names it, for messages.

    Raises:
        TrainingError: there are none, or they cannot be read.
    """
    path = expand_user(folder)
    path = path / RECORDS if path.is_dir() else path
    if not path.is_file():
        raise TrainingError(
            f"{setting}: {path} is not there. Name the --out folder of another evaluation of the same cases.",
            code="no-such-scores",
        )
    return read_records(path)


def _scoring_faces(settings: FaceSettings, base: str) -> FaceAnalyzer:
    """Who scores: of the miniature's two recognizers the one that never conditions anything."""
    if base == "mini" and settings == FaceSettings():
        from dhumandiff.miniature.faces import mini_judge

        return mini_judge()
    return load_faces(settings)


def _draw(config: EvaluateConfig, cases: Sequence[Case], adapter: Adapter, base: str, folder: Path) -> list[Case]:
    from dhumandiff.hosts.diffusers.loading import IMAGE_ENCODER
    from dhumandiff.hosts.diffusers.pipeline import PortraitPipeline
    from dhumandiff.references.encode import encode_reference

    drawn = base == "mini"
    portrait = PortraitPipeline.from_base(base)
    vision = load_vision(
        config.image_encoder or ("mini" if drawn else IMAGE_ENCODER), str(portrait.device), portrait.dtype
    )
    faces = _reference_faces(config, adapter, base)
    smallest = 24.0 if drawn else config.faces.min_size

    def encode(photos: Sequence[Path]) -> FaceReference:
        return encode_reference(list(photos), vision, faces, name=photos[0].stem, min_size=smallest)[0]

    parts = [part for part in vars(vision).values() if isinstance(part, nn.Module)]
    made_by = {
        "base": " ".join(
            digest_of(getattr(portrait.pipeline, part)) for part in ("unet", "vae", "text_encoder", "text_encoder_2")
        ),
        "image_encoder": " ".join(map(digest_of, parts)) or config.image_encoder,
        "recognizer": recognizer_hash(faces) or faces.name,
    }
    settings = settings_of(config, base)
    return draw_cases(cases, portrait, adapter, settings, encode, folder, config.seeds, config.strengths, made_by)


def _reference_faces(config: EvaluateConfig, adapter: Adapter, base: str) -> FaceAnalyzer:
    """The adapter's own recognizer, which makes its references, whoever judges.

    Raises:
        TrainingError: the packs named hold another one.
    """
    said = adapter.info.recognizer
    if config.adapter_pack:
        faces = load_faces(replace(config.faces, pack=config.adapter_pack))
        named = not has_hash(said) or not recognizer_hash(faces)  # the person's word counts, unless a hash tells
        if named or is_recognizer(said, faces):
            return faces
    else:
        drawn = base == "mini" and config.faces == FaceSettings()
        faces = load_faces(FaceSettings(pack="mini") if drawn or said == "mini" != config.faces.pack else config.faces)
        if is_recognizer(said, faces) is not False:
            return faces
    raise TrainingError(
        f"The adapter was trained with the face recognizer {said}, and the pack {faces.name} holds another one, whose numbers mean "
        f"nothing to it. Name {pack_of(said)}, the adapter's own, with --adapter_pack; --faces.pack only says who judges.",
        code="not-the-adapters-recognizer",
    )


def settings_of(config: EvaluateConfig, base: str) -> Settings:
    """How portraits are drawn: as the configuration says, else as the base wants it."""
    from dhumandiff.hosts.diffusers.pipeline import NEGATIVE
    from dhumandiff.methods.paired.settings import split_settings
    from dhumandiff.miniature.base import SIZE
    from dhumandiff.miniature.defaults import MINI

    names = ("mode", "scene_strength", "face_strength", "strength", "cfg", "steps", "sampler")
    given = {name: getattr(config, name) for name in names}
    given |= {"size": tuple(config.size) if config.size else None}
    usual = {**MINI, "size": SIZE} if base == "mini" else {"sampler": "euler"}
    chosen = {**usual, **{name: value for name, value in given.items() if value is not None}}
    negative = chosen.pop("negative", NEGATIVE)
    return Settings(*split_settings(**chosen), negative)
