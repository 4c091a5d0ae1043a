"""The rows of the miniature's table: what is trained or sampled otherwise, and what the judge says of it.

    judge_row("full", "adapter.safetensors")          # -> training/miniature/ablation_results/full.json
    print(brief(load_rows()))                         # table.py: Markdown, made from the JSON files alone

`python -m training mini --row NAME` trains a row (the shipped adapter's configuration and `Row.arguments`) and judges it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from dhumandiff import Adapter, FaceReference
from dhumandiff.miniature import mini_adapter
from dhumandiff.miniature.weights import FOLDER as WEIGHTS
from dhumandiff.miniature.world import Identity
from training import TrainingError

from .judging import GIVEN, Case, Judge, ceiling_pictures, hardest_cases, held_out_cases, summarise
from .sampling import Parts, Sampling, Wish, encode_person, load_parts, sample_portraits

__all__ = [
    "FOLDER",
    "ROWS",
    "Easel",
    "Row",
    "judge",
    "judge_row",
    "load_rows",
    "quick_right_person",
    "save_row",
]

FOLDER = Path(__file__).parent / "ablation_results"
"""Where the rows' JSON files are."""

PAIRS, SEEDS, HARDEST = 200, 3, 50


@dataclass(frozen=True)
class Row:
    """One row.

    title: in the table. training: fields of TrainConfig that differ from the shipped adapter's, and their values; without
    any, the shipped adapter itself is judged. sampling: how. what: "adapter"; "base", which knows nobody; or "drawings",
    the ceiling.
    """

    name: str
    title: str
    training: Mapping[str, Any] = field(default_factory=dict)
    sampling: Sampling = field(default_factory=Sampling)
    what: Literal["adapter", "base", "drawings"] = "adapter"

    @property
    def arguments(self) -> list[str]:
        """`training` as words of the command line of `python -m training train`."""
        words = {name: value if isinstance(value, str) else json.dumps(value) for name, value in self.training.items()}
        return [word for name, value in words.items() for word in (f"--{name}", value)]


def _off(strength: float) -> Row:
    return Row(f"off_{strength:g}", f"cascade off, strength {strength:g}", sampling=Sampling("none", strength=strength))


def _cascade(mode: str, scene: float, face: float) -> Row:
    sampling = Sampling(mode, scene_strength=scene, face_strength=face)
    return Row(f"{mode}_{scene:g}_{face:g}", f"cascade {mode}, {scene:g} and {face:g}", sampling=sampling)


def _during(start: float, end: float) -> Row:
    title = f"faces count from {start:.0%} to {end:.0%} of sampling"
    return Row(f"during_{start:g}_{end:g}", title, sampling=Sampling(start=start, end=end))


def _few(name: str, title: str, **changed: Any) -> Row:
    """As distilled bases draw: 4 steps, no guidance."""
    return Row(name, f"4 steps without guidance, {title}", sampling=Sampling(steps=4, cfg=1.0, **changed))


def _longer(name: str, title: str, **changed: Any) -> Row:
    """600 steps more from the shipped adapter, small ones, of identity losses unless `changed` says otherwise."""
    training = {
        "init.weights": "mini",
        "steps": 600,
        "optimizer.name": "adamw",
        "optimizer.learning_rate": 1e-4,
        "optimizer.warmup_steps": 20,
        "objectives.identity.weight": 0.02,
        "objectives.identity.infonce_weight": 0.005,
        "objectives.identity.recognizer": "mini",
        "objectives.identity.max_noise_level": 0.8,
    }
    changed = {key.replace("__", "."): value for key, value in changed.items()}
    return Row(name, title, {**training, **changed})


_PLAIN = {"objectives__identity__weight": 0.0, "objectives__identity__infonce_weight": 0.0}

_ALL = (
    Row("full", "the whole method (one_pass, 0.7 and 1)"),
    Row("base", "base without adapter", sampling=Sampling("none"), what="base"),
    Row("ceiling", "ceiling: fresh drawings through the autoencoder", what="drawings"),
    Row("shared", "one shared K/V for both people", {"init.shared": True}),
    Row("order_swapping", "order swapped: person 1 is any of the two", {"augment.swap_order": 0.5}),
    Row("no_subject_prompt", "no subject prompt", {"init.subject_path": False}),
    Row(
        "no_localisation",
        "no localisation",
        {"objectives.localization.weight": 0.0, "objectives.localization.word_weight": 0.0},
    ),
    Row("reconstruction_only", "reconstruction only, no paired references", {"augment.paired": 0.0}),
    _longer("longer", "600 steps more, without identity losses", **_PLAIN),
    _longer("identity", "600 steps more, with identity losses"),
    _longer("identity_no_pairs", "the same without paired references", augment__paired=0.0),
    _longer(
        "identity_no_alignment",
        "the same aligned by the prediction's own landmarks",
        objectives__identity__aligned_by="prediction",
    ),
    _longer("identity_no_negatives", "the same without the bank's negatives", objectives__identity__negatives=0),
    *(_off(strength) for strength in (0.4, 0.7, 1.0, 1.3)),
    *(_cascade("one_pass", *both) for both in ((0.4, 0.7), (0.4, 1.0), (0.7, 1.3), (1.0, 1.3))),
    *(_cascade("two_strength", *both) for both in ((0.4, 0.7), (0.4, 1.0), (0.7, 1.0), (1.0, 1.3))),
    *(_cascade("released", *both) for both in ((0.4, 0.7), (0.7, 1.0), (1.0, 1.3))),
    *(_during(*share) for share in ((0.0, 0.5), (0.0, 0.8), (0.1, 1.0), (0.3, 1.0))),
    _few("few_off", "cascade off, strength 1", mode="none"),
    _few("few_one_pass", "one_pass, 0.7 and 1"),
    _few("few_two_strength", "two_strength, 0.7 and 1", mode="two_strength"),
)

ROWS: dict[str, Row] = {row.name: row for row in _ALL}
"""All rows, in the order of the table."""


class Easel:
    """Draws and judges cases with the miniature's parts, each of its people encoded once.

    Args:
        parts: loaded by default.
    """

    def __init__(self, parts: Parts | None = None) -> None:
        self.parts = parts or load_parts()
        self.judge = Judge(self.parts.judge)
        self._people: dict[Identity, tuple[FaceReference, np.ndarray]] = {}

    def given(self, who: Identity) -> tuple[FaceReference, np.ndarray]:
        """The reference of a person, and the photo it was made of, uint8 [S, S, 3]."""
        if who not in self._people:
            self._people[who] = encode_person(who, GIVEN, self.parts.vision, self.parts.faces)
        return self._people[who]

    def draw(
        self,
        cases: Sequence[Case],
        seeds: int,
        adapter: Adapter | None,
        sampling: Sampling,
        what: str = "adapter",
        bar: Any = None,
    ) -> tuple[np.ndarray, list[Case]]:
        """`seeds` pictures of each case, uint8 [N, H, W, 3], and whose they are. bar: a tqdm that counts steps."""
        each = [case for case in cases for _ in range(seeds)]
        numbers = [100 * case.number + seed for case in cases for seed in range(seeds)]
        if what == "drawings":
            return ceiling_pictures(self.parts.portrait.pipeline.vae, each, numbers), each
        wishes = []
        for case, number in zip(each, numbers, strict=True):
            references = tuple(self.given(who)[0] for who in case.script.people)
            wishes.append(Wish(case.text, references, number))
        tell = None if bar is None else bar.update
        who = None if what == "base" else adapter
        return sample_portraits(self.parts.portrait, who, wishes, sampling, progress=tell), each


def judge_row(
    name: str,
    adapter: str | Path | None = None,
    sampling: Sampling | None = None,
    *,
    pairs: int = PAIRS,
    seeds: int = SEEDS,
    hardest: int = HARDEST,
    out: Path = FOLDER,
    easel: Easel | None = None,
) -> Path:
    """Judge a row and keep what came out as <out>/<name>.json.

    Args:
        name: of `ROWS`.
        adapter: its weights; None: those that ship, for rows that train nothing.
        sampling: None: the row's.
        pairs, seeds: held-out pairs, and pictures of each. hardest: pairs most alike, with as many pictures each; 0: none.
        out: folder.
        easel: to load the parts but once for several rows.

    Raises:
        TrainingError: no such row, no weights for one that has its own, or the file cannot be written. AdapterError, HostError: weights that do not fit.
    """
    if name not in ROWS:
        raise TrainingError(f"There is no row {name!r}. The rows are: {', '.join(ROWS)}.")
    row, started = ROWS[name], time.perf_counter()
    if row.training and adapter is None:
        raise TrainingError(
            f"The row {name} has weights of its own ({' '.join(row.arguments)}). Train them with `python -m training mini "
            f"--row {name}`, or name their file."
        )
    file = Path(adapter) if adapter is not None else WEIGHTS / "adapter.safetensors"
    weights = None
    if row.what == "adapter":
        weights = mini_adapter() if adapter is None else Adapter.from_pretrained(file)
    easel = easel or Easel()
    told, _ = judge(easel, weights, sampling or row.sampling, row.what, pairs, seeds, hardest, name)
    about = {"name": name, "title": row.title, "command": f"python -m training mini --row {name}"}
    done = {"weights": digests(file if weights is not None else None), "versions": versions()}
    seconds = round(time.perf_counter() - started, 1)
    return save_row({**about, "training": dict(row.training), **told, **done, "seconds": seconds}, out)


def judge(
    easel: Easel,
    adapter: Adapter | None,
    sampling: Sampling,
    what: str = "adapter",
    pairs: int = PAIRS,
    seeds: int = SEEDS,
    hardest: int = HARDEST,
    name: str = "judging",
) -> tuple[dict[str, Any], np.ndarray]:
    """Draw and judge the held-out pairs and the hardest ones; a progress bar called `name` tells how far it is.

    Returns {"sampling", "pairs", "seeds", "held_out": summary, "hardest": summary if any}, and the pictures of the held-out
    pairs, uint8 [pairs * seeds, H, W, 3].
    """
    lists = {"held_out": held_out_cases(pairs)}
    if hardest:
        lists["hardest"] = hardest_cases(easel.judge, hardest)
    told: dict[str, Any] = {
        "sampling": asdict(sampling) if what != "drawings" else None,
        "pairs": pairs,
        "seeds": seeds,
    }
    pictures = {}
    total = sum(map(len, lists.values())) * seeds * sampling.all_steps * (what != "drawings")
    with tqdm(total=total or None, unit="step", desc=name, mininterval=2, disable=None) as bar:
        for part, cases in lists.items():
            pictures[part], each = easel.draw(cases, seeds, adapter, sampling, what, bar)
            told[part] = summarise(easel.judge.judge(pictures[part], each))
    return told, pictures["held_out"]


def quick_right_person(pairs: int = 20, easel: Easel | None = None) -> dict[str, float]:
    """ "Right person" of the shipped miniature on a few held-out pairs, one picture each: {"mean", "low", "high"}.

    The project's regression test for "does it keep two people apart"; a quarter of a minute on one thread for 20 pairs.
    """
    easel = easel or Easel()
    scores = easel.judge.judge(*easel.draw(held_out_cases(pairs), 1, mini_adapter(), Sampling()))
    return summarise(scores)["measures"]["right"]


def save_row(told: Mapping[str, Any], folder: Path) -> Path:
    """Write <folder>/<name>.json, at once or not at all. TrainingError when that cannot be."""
    text = json.dumps(_rounded(told), indent=1, ensure_ascii=False)
    text = re.sub(r"\[[-\d.,\s]+\]", lambda list_: "".join(list_[0].split()).replace(",", ", "), text)  # in one line
    path = Path(folder) / f"{told['name']}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.write_text(text + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise TrainingError(f"{path} cannot be written ({error.strerror or error}). Choose another folder.") from error
    return path


def load_rows(folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """The rows that were judged, by name, in the order of the table. TrainingError for a file that cannot be read."""
    rows = [_read(path) for path in sorted(Path(folder).glob("*.json"))]
    order = {name: place for place, name in enumerate(ROWS)}
    rows.sort(key=lambda row: order.get(row["name"], len(order)))
    return {row["name"]: row for row in rows}


def _read(path: Path) -> dict[str, Any]:
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        return {**row, "name": row["name"], "held_out": row["held_out"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"The row {path} cannot be read ({error!r}). Judge it again.") from error


def digests(adapter: Path | None) -> dict[str, str]:
    """The first digits of the SHA-256 of every file that had a part in a row."""
    files = {path.stem: path for path in sorted(WEIGHTS.glob("*.safetensors")) if path.stem != "adapter"}
    if adapter is not None and adapter.is_file():
        files["adapter"] = adapter
    return {name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for name, path in files.items()}


def versions() -> dict[str, str]:
    """Of Python and of the packages that pictures depend on."""
    packages = ("torch", "diffusers", "transformers", "numpy", "pillow")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return round(value, 5) if isinstance(value, float) else value
