"""What `python -m training evaluate` does on the base `mini` without cases: the world's own scores, and a contact sheet."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from dhumandiff.errors import short_error
from dhumandiff.hosts.diffusers.pipeline import check_settings
from dhumandiff.methods.dual_pathway import DualPathway, DualPathwaySettings
from dhumandiff.miniature.base import SIZE
from dhumandiff.miniature.design import DESIGN, FIRST, SECOND

from .. import TrainingError
from ..evaluation.files import write_text
from .rendering import Renderer, render_and_score
from .sampling import Sampling
from .scoring import MEASURES, held_out_cases
from .table import percent, table

if TYPE_CHECKING:
    from ..evaluation.config import EvaluateConfig
    from ..run.weights import Weights

__all__ = ["contact_sheet", "describe", "score_miniature"]

SECONDS = {FIRST.name: 0.25, SECOND.name: 0.75}[DESIGN.name]
"""Of one thread for a portrait of the miniature in 10 steps with two_strength, about; with one prediction a step half."""
ZOOM = 256 // SIZE[0]
"""Px of a contact sheet for a px of a picture."""


def _sampling(config: EvaluateConfig, weights: Weights) -> Sampling:
    names = ("mode", "scene_strength", "face_strength", "strength", "cfg", "steps", "sampler")
    given = {name: getattr(config, name) for name in names}
    dual = None
    if isinstance(weights, DualPathway):
        dual = DualPathwaySettings(config.identity_strength, config.text_strength, config.regions)
        weights.check(dual)
    sampling = Sampling.of(dual=dual, **{name: value for name, value in given.items() if value is not None})
    check_settings(sampling.cascade, sampling.sampling)
    return sampling


def describe(config: EvaluateConfig, weights: Weights) -> str:
    """How many portraits would be drawn, how, and how long it takes."""
    sampling = _sampling(config, weights)
    count = (config.pairs + config.hardest) * config.seeds
    passes = {"none": 0.5, "one_pass": 0.5, "two_strength": 1.0, "released": 1.5}
    cost = 0.5 if sampling.dual else passes[sampling.cascade.mode]
    mode = f"dual pathway, regions {sampling.dual.regions}" if sampling.dual else f"mode {sampling.cascade.mode}"
    minutes = max(1, round(count * SECONDS / 60 * cost * sampling.sampling.steps / 10))
    return (
        f"{config.pairs} held-out pairs and the {config.hardest} hardest, {config.seeds} portraits each: {count} portraits "
        f"({mode}, {sampling.sampling.steps} steps, guidance {sampling.sampling.cfg:g}), about {minutes} min on one thread."
    )


def score_miniature(
    config: EvaluateConfig, weights: Weights, out: Path
) -> tuple[dict[str, str], list[str], list[Path]]:
    """Draw the held-out pairs, score them, and write evaluation.json, scores.md and sheet.png.

    Args:
        config: how many, and how.
        weights: to score.
        out: the folder.

    Returns:
        Scores for a model card, lines for people, and the files made.

    Raises:
        DHumanDiffError: weights that do not fit, or files that cannot be written.
    """
    sampling = _sampling(config, weights)
    renderer, size = Renderer(), (config.pairs, config.seeds, config.hardest)
    result, pictures = render_and_score(renderer, weights, sampling, "adapter", *size, "portraits")
    ceiling, _ = render_and_score(renderer, None, sampling, "oracle", *size, "ceiling")
    about = {"title": config.run or config.adapter or "the miniature that ships", "training": {}}
    rows = {
        "evaluated": {"name": "evaluated", **about, **result},
        "ceiling": {"name": "ceiling", **about, "title": "ceiling: drawings through the autoencoder", **ceiling},
    }
    text = table(rows, of="evaluated")
    made = [
        write_text(out / "evaluation.json", json.dumps(rows, ensure_ascii=False) + "\n"),
        write_text(out / "scores.md", text),
    ]
    if config.sheet:
        made.append(out / "sheet.png")
        try:
            contact_sheet(renderer, pictures, min(config.sheet, config.pairs), config.seeds).save(made[-1])
        except OSError as error:
            raise TrainingError(
                f"{made[-1]} cannot be written ({short_error(error)}). Make room.", code="cannot-write"
            ) from error
    scores = {
        f"{MEASURES[name].partition(':')[0]} ({part.replace('_', '-')} pairs)": percent(result[part]["measures"][name])
        for part in ("held_out", "hardest")
        if part in result
        for name in ("right", "recognition", "words", "joint", "present")
    }
    return scores, [text], made


def contact_sheet(renderer: Renderer, pictures: np.ndarray, pairs: int, seeds: int, zoom: int = ZOOM) -> Image.Image:
    """A row a pair: the photos of person 1 and 2, up to four portraits, and the sentence below.

    Args:
        renderer: that drew them.
        pictures: uint8 [at least pairs * seeds, H, W, 3], in the order of `held_out_cases`.
        pairs: rows.
        seeds: portraits of each pair in `pictures`.
        zoom: px of the sheet for a px of a picture.
    """
    height, width = (zoom * side for side in pictures.shape[1:3])
    gap, text = 6, 40
    row_height = height + text
    wide = 2 * (height + gap) + min(seeds, 4) * (width + gap)
    sheet = Image.new("RGB", (wide, pairs * row_height), "white")
    draw = ImageDraw.Draw(sheet)
    for number, case in enumerate(held_out_cases(pairs)):
        top, left = number * row_height, 0
        for who in case.script.people:
            photo = Image.fromarray(renderer.reference_of(who)[1]).resize((height, height), Image.Resampling.BICUBIC)
            sheet.paste(photo, (left, top))
            left += height + gap
        for seed in range(min(seeds, 4)):
            picture = Image.fromarray(pictures[number * seeds + seed])
            sheet.paste(picture.resize((width, height), Image.Resampling.BICUBIC), (left, top))
            left += width + gap
        written = textwrap.fill(case.text, wide // 7)
        draw.multiline_text((2, top + height + 3), written, fill=(30, 30, 30))
    return sheet
