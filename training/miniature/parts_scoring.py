"""Does Parts2Whole dress two people of the miniature's world as their parts say? Held-out people in held-out clothes.

    score_row("parts2whole", folder)            # -> training/miniature/parts_results/parts2whole.json
    print(parts_table(load_parts_results()))    # what docs/miniature.md shows

Sentences name garments but no colors, and no sentence of this world can name a pattern, so both have to come from the parts. The
row of words alone is helped: its sentences say the first color of each person's clothes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

from dhumandiff.formats import parts2whole as files_of
from dhumandiff.hosts.diffusers.parts2whole import load_unet, make_encoder
from dhumandiff.hosts.diffusers.pipeline import PortraitPipeline
from dhumandiff.methods.paired.cascade_modes import make_mode
from dhumandiff.methods.parts2whole import LABELS, Parts2Whole
from dhumandiff.miniature.base import SIZE, mini_pipeline

from .ablations import save_result, versions
from .autoencoder import encode_all
from .parts_batch import PartsBatch
from .parts_data import SLOTS, encode_part_pictures, in_slots
from .parts_drawing import Couple, draw_couple
from .parts_reading import Reading, read_clothes
from .sampling import GenerationRequest, Parts, Sampling, decode, load_parts, sample_portraits
from .scoring import Evaluator, PairCase, faces_by_sentence, held_out_cases, summarize
from .table import percent

__all__ = ["FOLDER", "ROWS", "load_parts_results", "parts_table", "score_row"]

FOLDER = Path(__file__).parent / "parts_results"
"""Where the results' JSON files are."""

PAIRS, SEEDS = 100, 2
BATCH = 16
"""Couples that are drawn together."""
SHEET = 8
"""Pairs of the contact sheet."""
CASE_SEEDS = 70_000_000
SAMPLING = Sampling.of(mode="none")

MEASURES = {
    "clothes": "pattern and colors of clothes, each on the right person",
    "pattern": "pattern, of four",
    "colors": "all colors of clothes",
    "first_color": "the first color, which words can say, among those that show",
    "partner": "clothes of the partner",
    "right": "right face on the right person",
    "recognition": "own face first among 20 strangers",
    "present": "both people present",
}


@dataclass(frozen=True, eq=False)
class PartsCase:
    """A couple, and what the evaluation knows of their picture."""

    couple: Couple
    case: PairCase


@dataclass(frozen=True)
class Row:
    """One row of the table: its title, and what draws some pictures of every case, uint8 [cases * seeds, H, W, 3]."""

    title: str
    draw: Callable[[Drawing, Sequence[PartsCase], int], np.ndarray]
    trained: bool = True


class Drawing:
    """The miniature's frozen parts, and the trained weights of a folder, if there is one."""

    def __init__(self, folder: Path | None = None) -> None:
        self.parts: Parts = load_parts()
        self.portrait = self.parts.portrait
        self.weights: Parts2Whole | None = None
        if folder is not None:
            self.weights = Parts2Whole.from_pretrained(folder).float()
            pipeline = mini_pipeline()
            pipeline.unet = load_unet(*files_of.read_unet(folder / "unet")).float()
            self.portrait = PortraitPipeline(pipeline)


def score_row(
    name: str,
    folder: Path | None,
    pairs: int = PAIRS,
    seeds: int = SEEDS,
    out: Path = FOLDER,
    sheet: Path | None = None,
) -> Path:
    """Draw and score a row, and keep the result as <out>/<name>.json.

    Args:
        name: of `ROWS`.
        folder: with the trained weights, in the layout of the released ones.
        pairs: held-out pairs.
        seeds: pictures of each.
        out: where the result goes.
        sheet: a PNG of the first pairs: parts, the world's drawing, and what was drawn.

    Returns:
        The file.
    """
    row, started = ROWS[name], time.perf_counter()
    drawing = Drawing(folder if row.trained else None)
    cases = parts_cases(pairs)
    drawn = row.draw(drawing, cases, seeds)
    each = [case for case in cases for _ in range(seeds)]
    summary = _scored(Evaluator(drawing.parts.judge), drawn, each)
    if sheet is not None:
        _sheet(cases[:SHEET], drawn.reshape(len(cases), seeds, *drawn.shape[1:])).save(sheet)
    result: dict[str, Any] = {
        "name": name,
        "title": row.title,
        "command": f"python -m training mini --row {name}",
        "pairs": pairs,
        "seeds": seeds,
        "sampling": SAMPLING.record,
    }
    if drawing.weights is not None:
        result["training"] = json.loads((folder / "training.json").read_text()) if folder is not None else {}
    told = {"held_out": summary, "versions": versions(), "seconds": round(time.perf_counter() - started, 1)}
    return save_result({**result, **told}, out)


def parts_cases(pairs: int) -> list[PartsCase]:
    """Pairs of people that nothing was trained on, in clothes of combinations that nothing was trained on."""
    found = []
    for held in held_out_cases(pairs):
        seed = CASE_SEEDS + held.number
        couple = draw_couple(seed, held.script.people, unseen=True, script=held.script)
        target = couple.targets[0]
        found.append(PartsCase(couple, PairCase(held.number, target.script, target.text, held.distractors)))
    return found


def load_parts_results(folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """The rows that were scored, by name, in the order of the table."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
    return {name: found[name] for name in ROWS if name in found}


def parts_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a line a measure, a column a row; percent, with 95 % intervals from resampling pairs."""
    lines = [f"| | {' | '.join(row['title'] for row in rows.values())} |", f"| --- |{' --- |' * len(rows)}"]
    for measure, title in MEASURES.items():
        cells = [percent(row["held_out"]["measures"][measure]) for row in rows.values()]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _scored(evaluator: Evaluator, pictures: np.ndarray, cases: Sequence[PartsCase]) -> dict[str, Any]:
    """Means with intervals. A picture without exactly two faces fails in everything."""
    scores = evaluator.score(pictures, [case.case for case in cases])
    found = evaluator.faces.detect_all(list(pictures))
    measures = ("clothes", "pattern", "colors", "first_color", "partner")
    values = {name: np.zeros(len(cases)) for name in measures}
    for n, (picture, case, faces) in enumerate(zip(pictures, cases, found, strict=True)):
        if len(faces) != 2:
            continue
        placed = faces_by_sentence(faces, case.case.script)
        readings: list[Reading] = [read_clothes(picture, face.box) for face in placed]
        worn = case.couple.clothes
        values["clothes"][n] = np.mean([one.is_of(own) for one, own in zip(readings, worn, strict=True)])
        values["pattern"][n] = np.mean([one.pattern == own.pattern for one, own in zip(readings, worn, strict=True)])
        values["colors"][n] = np.mean([one.colors == own.seen for one, own in zip(readings, worn, strict=True)])
        values["first_color"][n] = np.mean(
            [own.colors[0] in one.colors for one, own in zip(readings, worn, strict=True)]
        )
        values["partner"][n] = np.mean([one.is_of(own) for one, own in zip(readings, worn[::-1], strict=True)])
    kept = {name: scores.values[name] for name in ("right", "recognition", "present")}
    summary = summarize(replace(scores, values={**values, **kept}))
    return {name: summary[name] for name in ("pictures", "pairs", "measures", "by_pair")}


def _by_parts(drawing: Drawing, cases: Sequence[PartsCase], seeds: int, apart: bool = True) -> np.ndarray:
    """Drawn from parts and a pose; not `apart`: all of them may be read everywhere."""
    weights, portrait, parts = drawing.weights, drawing.portrait, drawing.parts
    if weights is None:
        raise ValueError("There are no trained weights to draw with.")
    weights.encoder = make_encoder(weights.files).float()
    batch, pictures = PartsBatch(portrait.pipeline.unet, weights), []
    labels = {label: parts.portrait.encode(label)[0] for label in LABELS}
    portrait.use_sampler(SAMPLING.sampling.sampler)
    negative = portrait.encode("")
    for start in tqdm(range(0, len(cases), BATCH), desc="batches"):
        some = cases[start : start + BATCH]
        slots = [slot for case in some for slot in in_slots(case.couple)]
        there = [part for part in slots if part is not None]
        seen = torch.tensor([part is not None for part in slots]).view(len(some), SLOTS)
        latents, found = encode_part_pictures(parts, there)
        masks = torch.from_numpy(np.stack([part.mask for part in there]).astype(np.float32) / 255)[:, None]
        embeds = torch.zeros(len(some), SLOTS, found.shape[1])
        embeds[seen] = found
        targets = [case.couple.targets[0] for case in some]
        left = torch.tensor([target.script.first_is_left for target in targets])
        with torch.no_grad():
            batch.encode(latents, torch.cat([labels[part.label] for part in there]), masks, seen, seeds)
            poses = weights.pose_guider(torch.from_numpy(np.stack([target.pose for target in targets])).float())
            batch.pose, batch.first_is_left = (
                rows.repeat_interleave(seeds, dim=0).repeat(2, *[1] * (rows.ndim - 1)) for rows in (poses, left)
            )
            drawn = batch.slots, embeds.repeat_interleave(seeds, dim=0)
            if not apart:
                drawn = tuple(rows.repeat(1, 2, *[1] * (rows.ndim - 2)) for rows in drawn)
            # Unconditional samples first: they read no part.
            batch.slots = torch.cat([torch.full_like(drawn[0], -1), drawn[0]])
            batch.embeds = torch.cat([torch.zeros_like(drawn[1]), drawn[1]])
            numbers = [_seed(case, n) for case in some for n in range(seeds)]
            texts = [portrait.encode(target.text) for target in targets for _ in range(seeds)]
            loop = portrait.loop(None, portrait.conditions(texts, negative, SIZE), SAMPLING.sampling, numbers)
            noise = torch.cat([portrait.noise(number, SIZE) for number in numbers])
            latent = loop.run(noise, make_mode(SAMPLING.cascade))
        pictures.append(decode(portrait.pipeline.vae, latent))
    batch.detach()
    return np.concatenate(pictures)


def _by_words(drawing: Drawing, cases: Sequence[PartsCase], seeds: int) -> np.ndarray:
    """The base as it ships, from the sentences with the first colors."""
    requests = [
        GenerationRequest(case.couple.targets[0].text_colors, (), _seed(case, n))
        for case in cases
        for n in range(seeds)
    ]
    return sample_portraits(drawing.portrait, None, requests, SAMPLING)


def _by_world(drawing: Drawing, cases: Sequence[PartsCase], seeds: int) -> np.ndarray:
    """The world's own drawings through the autoencoder: what nothing can beat, and how well clothes are read."""
    vae: nn.Module = drawing.portrait.pipeline.vae
    with torch.no_grad():
        drawn = decode(vae, encode_all(vae, np.stack([case.couple.targets[0].picture for case in cases])))
    return np.repeat(drawn, seeds, axis=0)


def _seed(case: PartsCase, number: int) -> int:
    """Of a case's n-th picture."""
    return 100 * case.case.number + number


ROWS: dict[str, Row] = {
    "parts2whole": Row("parts, a region each", _by_parts),
    "parts2whole_no_regions": Row("parts without regions", partial(_by_parts, apart=False)),
    "parts2whole_words": Row("base by words alone", _by_words, trained=False),
    "parts2whole_ceiling": Row("ceiling", _by_world, trained=False),
}
"""In the order of the table."""


def _sheet(cases: Sequence[PartsCase], drawn: Sequence[np.ndarray]) -> Image.Image:
    """A line a pair: both people's parts, dark where masked; the world's drawing; and what was drawn."""
    lines = []
    for case, pictures in zip(cases, drawn, strict=False):
        tiles = [
            np.where(part.mask[..., None] > 0, part.picture, part.picture // 4)
            for own in case.couple.parts
            for part in own
        ]
        tiles += [np.full_like(tiles[0], 255)] * (6 - len(tiles))
        lines.append(np.concatenate([*tiles, case.couple.targets[0].picture, *pictures], axis=1))
    return Image.fromarray(np.concatenate(lines))
