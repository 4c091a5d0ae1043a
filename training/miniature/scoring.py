"""Scores of pictures of the drawn world: is the right face on the right person, and is the rest as written?

    cases = held_out_cases(200)                       # pairs of people that were never trained on, each with a sentence
    scores = Evaluator().score(pictures, cases)       # one picture a case
    summary = summarize(scores)                       # means with 95 % intervals from resampling pairs

The evaluator is a second recognizer that never conditions anything, and it compares with fresh drawings of the people, not
with the photos that the adapter was given. Which face should be person k's follows from the sentence: the face on the left is
whom the sentence puts there. Likeness has no say in it, so exchanged faces count as wrong.

A picture without exactly two faces fails in everything; it is never left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from dhumandiff.errors import DHumanDiffError, ImageError
from dhumandiff.evaluation.metrics import interval, score_picture
from dhumandiff.faces import Face
from dhumandiff.miniature.base import SIZE
from dhumandiff.miniature.faces import MiniFaces, align_face, mini_judge
from dhumandiff.miniature.world import (
    Identity,
    Script,
    draw_reference,
    draw_script,
    people,
    read_clothing_color,
    read_scene,
    sample_script,
    write_caption,
)
from dhumandiff.miniature.world.dice import Dice

from .autoencoder import encode_all
from .fairness import PERSON_MEASURES, summarize_people
from .sampling import decode

__all__ = [
    "CONDITIONING_VIEW",
    "MEASURES",
    "Evaluator",
    "PairCase",
    "Scores",
    "case_seed",
    "difference",
    "faces_by_sentence",
    "hardest_cases",
    "held_out_cases",
    "oracle_pictures",
    "summarize",
]

POOL = 400
"""People of the split "test" that pairs and distractors come from."""

DISTRACTORS = 20

CONDITIONING_VIEW, SCORING_VIEW, SIMILARITY_VIEWS = 1, 2, (3, 4)
"""Numbers of a person's photos: the one that conditions, the one that likeness is scored by, and those that say who looks
alike. They are three kinds so that no measure is helped or hurt by the choice of the pairs."""

TRUTH_SEED = 1
"""Seed of the world's drawing that a picture's people are compared with for Sim_GT."""

SCRIPT_SEEDS = 900_000_000
"""Seeds of the sentences start here, far from those of any training picture."""

RESAMPLES = 2000

MEASURES: dict[str, str] = {
    "present": "both people present: exactly two faces",
    "right": "right person: the face that should be person k is nearer to person k than to the partner",
    "both_right": "right person, both faces of a picture",
    "margin": "cosine to the own person less cosine to the partner",
    "recognition": f"recognition: own face first among {DISTRACTORS} strangers",
    "colour": "clothing colour as written",
    "scene": "scene as written",
    "words": "words: mean over scene and the two colours",
    "joint": "all words: scene and both colours at once",
    "sim_ref": "Sim_Ref: cosine to the photo that was given",
    "sim_gt": "Sim_GT: cosine to the world's own drawing of the scene",
    "copy_paste": "Copy-Paste: 1 is a copy of the given photo's face, -1 that of the world's drawing",
    "blending": "Blending: cosine to the partner in the world's drawing",
}
"""What `Scores.values` holds of every picture, 0..1 (the margin from -2 to 2, cosines and Copy-Paste from -1). The last four are
dhumandiff/evaluation/metrics.py's, means over both people, and match faces by likeness."""


@dataclass(frozen=True, eq=False)
class PairCase:
    """A pair of people and what their picture should show.

    Attributes:
        number: of the pair, within its list.
        script: all that the picture should show; people in the order of the sentence.
        text: the sentence with @1 and @2.
        distractors: people to tell either from.
    """

    number: int
    script: Script
    text: str
    distractors: tuple[Identity, ...]

    @property
    def groups(self) -> tuple[str, str]:
        """By gender, and by age."""
        genders = sorted(who.gender for who in self.script.people)
        ages = {who.age for who in self.script.people}
        together = {("man", "man"): "two men", ("woman", "woman"): "two women"}.get(tuple(genders), "woman and man")
        return together, "with a child" if "child" in ages else "with an old person" if "old" in ages else "adults"


def held_out_cases(pairs: int) -> list[PairCase]:
    """Pairs of people nobody trained on; no two pairs share a person, so that pairs are independent.

    The first n are the same however many are asked for.
    """
    if pairs < 1:
        raise DHumanDiffError(f"{pairs} pairs cannot be judged. Ask for 1 or more.", code="no-pairs")
    pool = people("test", max(2 * pairs, POOL))
    return [_case(number, (pool[2 * number], pool[2 * number + 1]), pool[:POOL]) for number in range(pairs)]


def hardest_cases(evaluator: Evaluator, pairs: int, count: int = POOL, most: int = 2) -> list[PairCase]:
    """The pairs of one gender that look most alike to the evaluator, out of `count` people; each in `most` pairs at most.

    Alike is the cosine between means over fresh drawings, other ones than those that likeness is scored by.
    """
    pool = people("test", count)
    mean = np.mean([evaluator.drawn(pool, view) for view in SIMILARITY_VIEWS], axis=0)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    women = np.array([who.gender == "woman" for who in pool])
    rows, columns = np.nonzero(np.triu(women[:, None] == women[None], 1))
    alike = (mean @ mean.T)[rows, columns]
    chosen: list[tuple[Identity, Identity]] = []
    taken = np.zeros(count, dtype=int)
    for at in np.argsort(-alike, kind="stable"):
        row, column = int(rows[at]), int(columns[at])
        if len(chosen) == pairs:
            break
        if max(taken[row], taken[column]) < most:
            chosen.append((pool[row], pool[column]))
            taken[[row, column]] += 1
    if len(chosen) < pairs:
        raise DHumanDiffError(
            f"{count} people make {len(chosen)} pairs of one gender, not {pairs}. Ask for fewer.", code="too-many-pairs"
        )
    return [_case(number, couple, pool) for number, couple in enumerate(chosen)]


def case_seed(couple: tuple[Identity, Identity]) -> int:
    """Of the sentence of a pair's case."""
    return SCRIPT_SEEDS + couple[0].seed * 1000 + couple[1].seed % 1000


def _case(number: int, couple: tuple[Identity, Identity], pool: Sequence[Identity]) -> PairCase:
    seed = case_seed(couple)
    script = sample_script(seed, couple)
    others = [who for who in pool if who not in couple]
    dice = Dice("strangers", seed)
    distractors = [others.pop(dice.number(len(others))) for _ in range(DISTRACTORS)]
    return PairCase(number, script, write_caption(script, seed)[0], tuple(distractors))


@dataclass(frozen=True, eq=False)
class Scores:
    """What the evaluator found, picture by picture: values[measure] [N], of either person persons[measure] [N, 2], and the case
    of each picture."""

    cases: tuple[PairCase, ...]
    values: dict[str, np.ndarray]
    persons: dict[str, np.ndarray] = field(default_factory=dict)


class Evaluator:
    """The second recognizer, its detector, and what it has seen of the people.

    Args:
        faces: `mini_judge()` by default.
    """

    def __init__(self, faces: MiniFaces | None = None) -> None:
        self.faces = faces or mini_judge()
        self._known: dict[tuple[Identity, int], np.ndarray] = {}
        self._truths: dict[Script, np.ndarray] = {}

    def truth(self, script: Script) -> np.ndarray:
        """Embeddings [2, 512] of its people, in the order of the sentence, in a drawing of the world's own."""
        if script not in self._truths:
            drawing = draw_script(script, TRUTH_SEED, SIZE)
            people = drawing.people if script.first_is_left else drawing.people[::-1]
            crops = [align_face(drawing.picture, person.landmarks) for person in people]
            self._truths[script] = self.faces.identities(np.stack(crops))
        return self._truths[script]

    def drawn(self, who: Sequence[Identity], view: int = SCORING_VIEW) -> np.ndarray:
        """Embeddings [N, 512] of one photo of each person, aligned by the landmarks that it was drawn with."""
        new = [one for one in dict.fromkeys(who) if (one, view) not in self._known]
        crops = []
        for one in new:
            drawing = draw_reference(one, view)
            crops.append(align_face(drawing.picture, drawing.people[0].landmarks))
        for start in range(0, len(new), 64):
            found = self.faces.identities(np.stack(crops[start : start + 64]))
            self._known |= {(one, view): row for one, row in zip(new[start : start + 64], found, strict=True)}
        return np.stack([self._known[one, view] for one in who])

    def score(self, pictures: np.ndarray, cases: Sequence[PairCase]) -> Scores:
        """Score uint8 pictures [N, H, W, 3], the n-th of which should show the n-th case.

        Raises:
            ImageError: other pictures than that.
        """
        pictures = np.asarray(pictures)
        if pictures.ndim != 4 or pictures.shape[-1] != 3 or pictures.dtype != np.uint8 or len(pictures) != len(cases):
            raise ImageError(
                f"{len(cases)} pictures [N, height, width, 3] of uint8 are needed, one a case, not an array "
                f"{list(pictures.shape)} of {pictures.dtype}.",
                code="pictures-of-another-shape",
            )
        values = {name: np.zeros(len(cases)) for name in MEASURES}
        persons = {name: np.zeros((len(cases), 2)) for name in PERSON_MEASURES}
        found = [faces for start in range(0, len(cases), 64) for faces in self._found(pictures[start : start + 64])]
        for n, (picture, case, faces) in enumerate(zip(pictures, cases, found, strict=True)):
            seen = self._seen(picture, faces)
            for name, value in self._likeness(seen, case).items():
                values[name][n] = value
            if len(faces) < 2:
                continue
            placed = faces_by_sentence(faces, case.script)
            chosen = seen[[next(at for at, face in enumerate(faces) if face is one) for one in placed]]
            own, partner, others = self._nearness(chosen, case)
            values["margin"][n] = (own - partner).mean()
            if len(faces) > 2:
                continue
            right = own > partner
            clothes, scene = _as_written(picture, placed, case.script)
            values["present"][n] = 1
            values["right"][n], values["both_right"][n] = right.mean(), right.all()
            values["recognition"][n] = (own > others).mean()
            persons["right"][n], persons["recognition"][n] = right, own > others
            persons["words"][n] = (np.array(clothes, float) + scene) / 2
            values["colour"][n], values["scene"][n] = np.mean(clothes), scene
            values["words"][n], values["joint"][n] = (sum(clothes) + scene) / 3, all(clothes) and scene
        return Scores(tuple(cases), values, persons)

    def _found(self, pictures: np.ndarray) -> list[list[Face]]:
        return self.faces.detect_all(list(pictures))

    def _seen(self, picture: np.ndarray, faces: Sequence[Face]) -> np.ndarray:
        """Embeddings [F, 512] of a picture's faces."""
        if not faces:
            return np.empty((0, 512))
        return self.faces.identities(np.stack([align_face(picture, face.landmarks) for face in faces]))

    def _likeness(self, seen: np.ndarray, case: PairCase) -> dict[str, float]:
        score = score_picture(seen, self.drawn(case.script.people, CONDITIONING_VIEW), truth=self.truth(case.script))
        names = ("sim_ref", "sim_gt", "copy_paste")
        means = {name: float(np.mean([getattr(one, name) for one in score.persons])) for name in names}
        return {**means, "blending": score.blending}

    def _nearness(self, seen: np.ndarray, case: PairCase) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cosines [2] of each person's face to the person, to the partner, and to the nearest stranger."""
        couple = seen @ self.drawn(case.script.people).T
        return np.diag(couple), np.diag(couple[:, ::-1]), (seen @ self.drawn(case.distractors).T).max(axis=1)


def faces_by_sentence(faces: Sequence[Face], script: Script) -> tuple[Face, Face]:
    """The faces of person 1 and 2: of the two largest, the left one is whom the sentence puts left."""
    largest = sorted(faces, key=lambda face: -float(np.prod(face.box[2:] - face.box[:2])))[:2]
    left, right = sorted(largest, key=lambda face: float(face.box[0] + face.box[2]))
    return (left, right) if script.first_is_left else (right, left)


def _as_written(picture: np.ndarray, placed: Sequence[Face], script: Script) -> tuple[list[bool], bool]:
    """Whether each person's color, and the scene, are as written; what cannot be read is not."""
    clothes = [
        _reads(read_clothing_color, outfit.color, picture, face.box)
        for face, outfit in zip(placed, script.outfits, strict=True)
    ]
    return clothes, _reads(read_scene, script.scene, picture, [face.box for face in placed])


def _reads(rule: Callable[..., tuple[str, float]], wanted: str, *seen: Any) -> bool:
    try:
        return rule(*seen)[0] == wanted
    except ImageError:  # a face at the bottom of the picture, or faces that fill it
        return False


def oracle_pictures(vae: nn.Module, cases: Sequence[PairCase], seeds: Sequence[int]) -> np.ndarray:
    """What no adapter can beat: each case drawn by the world, through the autoencoder. uint8 [N, H, W, 3].

    The n-th picture is of the n-th case; its seed moves poses, places and light.
    """
    drawn = np.stack([draw_script(case.script, seed, SIZE).picture for case, seed in zip(cases, seeds, strict=True)])
    with torch.no_grad():
        return decode(vae, encode_all(vae, drawn))


def summarize(scores: Scores, draws: int = RESAMPLES) -> dict[str, Any]:
    """Means and 95 % intervals, over all pictures and by group; plain values, for JSON.

    {"pictures", "pairs", "measures": {name: {"mean", "low", "high"}}, "groups": {group: {"pairs", "measures"}},
    "people": by what people look like, see fairness.py, "by_pair": {name: [mean of each pair]}}. Intervals come from resampling pairs, so pictures of one couple count as the
    one piece of evidence they are.
    """
    numbers = sorted({case.number for case in scores.cases})
    of_pair = np.array([numbers.index(case.number) for case in scores.cases])
    pictures = np.bincount(of_pair)
    by_pair = {name: np.bincount(of_pair, values) / pictures for name, values in scores.values.items()}
    groups = {case.number: case.groups for case in scores.cases}
    groups_found: dict[str, Any] = {}
    for kind in (0, 1):
        for group in sorted({both[kind] for both in groups.values()}):
            rows = np.array([n for n, number in enumerate(numbers) if groups[number][kind] == group])
            groups_found[group] = {
                "pairs": len(rows),
                "measures": {name: interval(values[rows], draws) for name, values in by_pair.items()},
            }
    return {
        "pictures": len(scores.cases),
        "pairs": len(numbers),
        "measures": {name: interval(values, draws) for name, values in by_pair.items()},
        "groups": groups_found,
        "people": summarize_people(scores.cases, scores.persons, draws),
        "by_pair": {name: [round(float(value), 4) for value in values] for name, values in by_pair.items()},
    }


def difference(
    first: Mapping[str, Any], second: Mapping[str, Any], measure: str, draws: int = RESAMPLES
) -> dict[str, float] | None:
    """First less second, of two summaries of the same pairs, with its interval; None for other pairs."""
    values = [np.array(summary["by_pair"][measure]) for summary in (first, second)]
    if values[0].shape != values[1].shape:
        return None
    return interval(values[0] - values[1], draws)
