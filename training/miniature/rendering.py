"""Pictures of the miniature for its scores: held-out pairs, drawn by an adapter, by the base alone, or by the world itself.

result, pictures = render_and_score(Renderer(), adapter, Sampling(), pairs=20, seeds=1, hardest=0)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from dhumandiff import FaceReference
from dhumandiff.miniature.world import Identity

from ..run.weights import Weights
from .regions import head_regions
from .sampling import GenerationRequest, Parts, Sampling, encode_person, load_parts, sample_portraits
from .scoring import (
    CONDITIONING_VIEW,
    Evaluator,
    PairCase,
    hardest_cases,
    held_out_cases,
    oracle_pictures,
    summarize,
)

__all__ = ["HARDEST", "PAIRS", "SEEDS", "Renderer", "Subject", "render_and_score"]

PAIRS, SEEDS, HARDEST = 200, 3, 50
"""Held-out pairs, pictures of each, and the pairs most alike: what the table of ablations is made with."""

Subject = Literal["adapter", "base", "oracle"]
"""Who draws: an adapter on the base; the base, which knows nobody; or the world itself, what no adapter can beat."""


_OTHER = str.maketrans({"1": "2", "2": "1"})
"""Of the numbers in a sentence of this world, which are its marks."""


class Renderer:
    """Draws and scores cases with the miniature's parts, each of its people encoded once.

    Args:
        parts: loaded by default.
        light: of the photos that condition, of `world.LIGHTS`; empty: as the world draws them.
        normalize_light: even it out again.
        late_first: whom the sentence names first is person 2, so that the other's projections are theirs.
    """

    def __init__(
        self, parts: Parts | None = None, light: str = "", normalize_light: bool = False, late_first: bool = False
    ) -> None:
        self.parts, self.light, self.normalize_light = parts or load_parts(), light, normalize_light
        self.late_first = late_first
        self.evaluator = Evaluator(self.parts.judge)
        self._people: dict[Identity, tuple[FaceReference, np.ndarray]] = {}

    def with_people(self, light: str, normalize_light: bool, late_first: bool) -> Renderer:
        """One with the same parts whose people come otherwise; for the arguments see the class."""
        if (light, normalize_light, late_first) == (self.light, self.normalize_light, self.late_first):
            return self
        return Renderer(self.parts, light, normalize_light, late_first)

    def reference_of(self, who: Identity) -> tuple[FaceReference, np.ndarray]:
        """The reference of a person, and the photo it was made of, uint8 [S, S, 3]."""
        if who not in self._people:
            parts, light = self.parts, (self.light, self.normalize_light)
            self._people[who] = encode_person(who, CONDITIONING_VIEW, parts.vision, parts.faces, *light)
        return self._people[who]

    def render(
        self,
        cases: Sequence[PairCase],
        seeds: int,
        adapter: Weights | None,
        sampling: Sampling,
        what: Subject = "adapter",
        bar: tqdm | None = None,
    ) -> tuple[np.ndarray, list[PairCase]]:
        """Draw cases.

        Args:
            cases: what to draw.
            seeds: pictures of each case.
            adapter: for the subject "adapter".
            sampling: how.
            what: who draws.
            bar: counts steps.

        Returns:
            uint8 [N, H, W, 3], and the case of each picture.
        """
        each = [case for case in cases for _ in range(seeds)]
        numbers = [100 * case.number + seed for case in cases for seed in range(seeds)]
        if what == "oracle":
            return oracle_pictures(self.parts.portrait.pipeline.vae, each, numbers), each
        requests = []
        for case, number in zip(each, numbers, strict=True):
            text, references = case.text, tuple(self.reference_of(who)[0] for who in case.script.people)
            if self.late_first:
                text, references = text.translate(_OTHER), references[::-1]
            given = sampling.dual is not None and sampling.dual.regions == "given"
            regions = head_regions(case.script) if given else None
            if regions is not None and self.late_first:
                regions = regions.flip(0)
            requests.append(GenerationRequest(text, references, number, regions))
        progress = None if bar is None else bar.update
        drawn_by = None if what == "base" else adapter
        return sample_portraits(self.parts.portrait, drawn_by, requests, sampling, progress=progress), each


def render_and_score(
    renderer: Renderer,
    adapter: Weights | None,
    sampling: Sampling,
    what: Subject = "adapter",
    pairs: int = PAIRS,
    seeds: int = SEEDS,
    hardest: int = HARDEST,
    name: str = "scoring",
) -> tuple[dict[str, Any], np.ndarray]:
    """Draw and score the held-out pairs and the hardest ones.

    Args:
        renderer: with its parts.
        adapter: for the subject "adapter".
        sampling: how pictures are sampled.
        what: who draws.
        pairs: held-out pairs.
        seeds: pictures of each pair.
        hardest: pairs most alike; 0: none.
        name: of the progress bar.

    Returns:
        {"sampling", "pairs", "seeds", "held_out": summary, "hardest": summary if any}, and the pictures of the held-out
        pairs, uint8 [pairs * seeds, H, W, 3].
    """
    lists = {"held_out": held_out_cases(pairs)}
    if hardest:
        lists["hardest"] = hardest_cases(renderer.evaluator, hardest)
    result: dict[str, Any] = {
        "sampling": sampling.record if what != "oracle" else None,
        "pairs": pairs,
        "seeds": seeds,
    }
    pictures = {}
    total = sum(map(len, lists.values())) * seeds * sampling.all_steps * (what != "oracle")
    with tqdm(total=total or None, unit="step", desc=name, mininterval=2, disable=None) as bar:
        for part, cases in lists.items():
            pictures[part], each = renderer.render(cases, seeds, adapter, sampling, what, bar)
            result[part] = summarize(renderer.evaluator.score(pictures[part], each))
    return result, pictures["held_out"]
