"""Is the expression, and the turn of the head, as the sentence asks where the photos show another? And does identity survive it?

    score_told("told_full", folder)             # -> training/miniature/told_results/told_full.json
    print(told_table(load_told_results()))      # what docs/miniature.md shows

Held-out pairs as in scoring.py; their sentences say for either person an expression and a turn that the photo does not show. They
are drawn by a base that knows such words, and read by told_reading.py. The base of the design 128x96 does not: there a base and an
adapter of their own are made (told_base.py), and used in the miniature's place.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from dhumandiff.hosts.diffusers.pipeline import PortraitPipeline
from dhumandiff.methods.dual_pathway import DualPathwaySettings
from dhumandiff.miniature.base import mini_pipeline
from dhumandiff.miniature.design import DESIGN, FIRST
from dhumandiff.miniature.faces import align_face
from dhumandiff.miniature.weights import FOLDER as SHIPPED
from dhumandiff.miniature.world import EXPRESSIONS, reference_pose, tell_faces, write_caption

from ..run.weights import Weights, load_weights
from .ablations import ABLATIONS, FEATHER, digests, save_result, versions
from .rendering import Renderer, Subject
from .sampling import Precision, Sampling, load_parts
from .scoring import CONDITIONING_VIEW, Evaluator, PairCase, case_seed, held_out_cases, summarize
from .told_data import found_faces, head_label
from .told_reading import FaceReader, load_reader

__all__ = [
    "FOLDER",
    "MEASURES",
    "ROWS",
    "ToldRow",
    "load_told_results",
    "score_told",
    "told_cases",
    "told_measures",
    "told_renderer",
]

FOLDER = Path(__file__).parent / "told_results"
"""Where the results' JSON files are."""
WEIGHTS = "told"
"""Folder of a run with the reader; and, for the design 128x96, with the base that knows the words and its adapter."""
TAUGHT = DESIGN == FIRST
"""Whether base and adapter are those of that folder."""
ADAPTERS = {True: "told_adapter.safetensors", False: "adapter.safetensors"}
PAIRS, SEEDS = 200, 1
SHEET = 24
"""Pairs of the contact sheet."""

MEASURES = {
    "expression": "expression as asked",
    "head": "turn of the head as asked",
    "kept": "expression of the photo all the same",
    "asked": "expression as asked, and recognized",
    "right": "right person",
    "recognition": "recognition",
    "words": "words",
    "present": "both present",
}


@dataclass(frozen=True)
class ToldRow:
    """One row of the table: its title, how its pictures are sampled, who draws (see `rendering.Subject`), whether with the adapter
    that ships, not the one that was brought onto the base that knows the words, and the row of `ABLATIONS` whose weights are
    taken instead."""

    title: str
    sampling: Sampling
    what: Subject = "adapter"
    shipped: bool = False
    weights_of: str = ""


def _dual(title: str, *strengths: float, regions: str = "given", **changed: Any) -> ToldRow:
    settings = DualPathwaySettings(*strengths, regions=regions, feather=FEATHER, **changed)
    return ToldRow(f"dual pathway, {title}", Sampling.of(dual=settings))


def _of(name: str) -> ToldRow:
    row = ABLATIONS[name]
    return ToldRow(row.title, row.sampling, row.what)


def _copying(row: ToldRow) -> ToldRow:
    """With the adapter that saw each face only as the picture has it that it was to draw: it may have learned to copy what a photo's
    face does."""
    return replace(row, title=f"trained without paired references: {row.title}", weights_of="reconstruction_only")


ONE_PASS = ("one_pass_0.4_1", "full")
ONE_STRENGTH = ("off_0.7", "off_1")

ROWS: dict[str, ToldRow] = {
    "told_ceiling": _of("ceiling"),
    "told_base": _of("base"),
    **{f"told_{name}": _of(name) for name in (*ONE_PASS, *ONE_STRENGTH)},
    "told_shipped": replace(_of("full"), title="the adapter that ships (one_pass, 0.7 and 1)", shipped=True),
    "told_dual_given_1_0": _dual("1 in the heads and 0 elsewhere", 1.0, 0.0),
    "told_dual_attention_1_0.7": _dual(
        "1 where the attention finds faces, 0.7 elsewhere", 1.0, 0.7, regions="attention"
    ),
    "told_dual_given_until_0.5": _dual("1 in the heads in the first half of sampling", 1.0, 0.0, end=0.5),
}
"""In the order of the table."""
if not TAUGHT:  # rows of other weights than the adapter's, which know the base that ships
    ROWS |= {
        "told_dual_trained": replace(
            _dual("trained, 1 in the heads and elsewhere", 1.0, 1.0), weights_of="dual_trained"
        ),
        **{f"told_copying_{name}": _copying(_of(name)) for name in (*ONE_PASS, *ONE_STRENGTH)},
        "told_copying_dual_given_1_0": _copying(_dual("1 in the heads and 0 elsewhere", 1.0, 0.0)),
        "told_copying_dual_given_until_0.5": _copying(
            _dual("1 in the heads in the first half of sampling", 1.0, 0.0, end=0.5)
        ),
    }


def told_cases(pairs: int) -> list[PairCase]:
    """The held-out pairs with sentences that ask for what their photos do not show; the first n are always the same."""
    found = []
    for held in held_out_cases(pairs):
        seed = case_seed(held.script.people)
        photos = [reference_pose(who, CONDITIONING_VIEW) for who in held.script.people]
        script = tell_faces(held.script, seed, unlike=photos)
        found.append(PairCase(held.number, script, write_caption(script, seed)[0], held.distractors))
    return found


def told_measures(
    evaluator: Evaluator, reader: FaceReader, pictures: np.ndarray, cases: Sequence[PairCase]
) -> dict[str, Any]:
    """Means with intervals, as `scoring.summarize` has them. A picture without exactly two faces fails in everything.

    Args:
        evaluator: who is who, and what is written.
        reader: what faces show.
        pictures: uint8 [N, H, W, 3].
        cases: of each.
    """
    scores = evaluator.score(pictures, cases)
    values = {name: np.zeros(len(cases)) for name in ("expression", "head", "kept", "asked")}
    placed = found_faces(evaluator.faces, pictures, [case.script for case in cases])
    for n, (picture, case, both) in enumerate(zip(pictures, cases, placed, strict=True)):
        if both is None:
            continue
        script = case.script
        expressions, heads = reader.read(np.stack([align_face(picture, face.landmarks) for face in both]))
        wanted = [EXPRESSIONS.index(name) for name in script.expressions]
        turns = [head_label(name, script.side(person)) for person, name in enumerate(script.heads)]
        photos = [EXPRESSIONS.index(reference_pose(who, CONDITIONING_VIEW).expression) for who in script.people]
        asked = expressions == wanted
        values["expression"][n], values["head"][n] = asked.mean(), (heads == turns).mean()
        values["kept"][n] = (expressions == photos).mean()
        values["asked"][n] = (asked & (scores.persons["recognition"][n] > 0)).mean()
    kept = {name: scores.values[name] for name in ("right", "recognition", "words", "present")}
    summary = summarize(replace(scores, values={**values, **kept}))
    return {name: summary[name] for name in ("pictures", "pairs", "measures", "by_pair")}


def score_told(
    name: str,
    folder: Path,
    *,
    pairs: int = PAIRS,
    seeds: int = SEEDS,
    weights: Path | None = None,
    precision: Precision = "fp32",
    out: Path = FOLDER,
    renderer: Renderer | None = None,
) -> Path:
    """Draw and score a row, keep the result as <out>/<name>.json and a contact sheet as <folder>/<name>.png.

    Args:
        name: of `ROWS`.
        folder: of the run with the reader.
        pairs: held-out pairs.
        seeds: pictures of each.
        weights: for rows that take those of another row.
        precision: of the UNet.
        out: where the result goes.
        renderer: of `told_renderer`, to load the parts but once for several rows.

    Returns:
        The file.
    """
    row, started = ROWS[name], time.perf_counter()
    renderer = renderer or told_renderer(folder)
    adapter: Weights | None = None
    base = base_folder(folder)
    weights = weights or (SHIPPED / "adapter.safetensors" if row.shipped else base / ADAPTERS[TAUGHT])
    if row.what == "adapter":
        adapter = load_weights(weights)
    cases, sampling = told_cases(pairs), replace(row.sampling, precision=precision)
    pictures, each = renderer.render(cases, seeds, adapter, sampling, row.what)
    summary = told_measures(renderer.evaluator, load_reader(folder / WEIGHTS), pictures, each)
    sheet(cases, pictures.reshape(len(cases), seeds, *pictures.shape[1:])[:, 0]).save(folder / f"{name}.png")
    result: dict[str, Any] = {
        "name": name,
        "title": row.title,
        "command": f"python -m training mini --row {name}",
        "pairs": pairs,
        "seeds": seeds,
        "sampling": sampling.record if row.what != "oracle" else None,
        "held_out": summary,
        "weights": digests(weights if adapter is not None else None, base),
        "versions": versions(),
        "seconds": round(time.perf_counter() - started, 1),
    }
    return save_result(result, out)


def base_folder(folder: Path) -> Path:
    """Where the base that knows the words and its adapter are; folder: of the run."""
    return folder / WEIGHTS if TAUGHT else SHIPPED


def told_renderer(folder: Path) -> Renderer:
    """With the base that knows the words; all else is the miniature as it is."""
    return Renderer(replace(load_parts(), portrait=PortraitPipeline(mini_pipeline(base_folder(folder)))))


def load_told_results(folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """The rows that were scored, by name, in the order of the table."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
    return {name: found[name] for name in ROWS if name in found}


def sheet(cases: Sequence[PairCase], pictures: np.ndarray, columns: int = 4, zoom: int = 2) -> Image.Image:
    """The first pictures, and below each what was asked of the person on the left and on the right."""
    height, width = (zoom * side for side in pictures.shape[1:3])
    count, text = min(len(cases), SHEET), 14
    page = Image.new("RGB", (columns * width, -(-count // columns) * (height + text)), "white")
    draw = ImageDraw.Draw(page)
    for n, (case, picture) in enumerate(zip(cases[:count], pictures, strict=False)):
        left, top = n % columns * width, n // columns * (height + text)
        page.paste(Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST), (left, top))
        order = (0, 1) if case.script.first_is_left else (1, 0)
        said = " | ".join(f"{case.script.expressions[k]}, {case.script.heads[k]}" for k in order)
        draw.text((left + 3, top + height), said, fill=(20, 20, 20))
    return page
