"""Drawing the cases that have no picture yet. A picture that is there already, made alike, stays: kill it and go on.

cases = draw_cases(cases, portrait, adapter, Settings(), encode, Path("scores/pictures"))
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn
from tqdm import tqdm

from dhumandiff import Adapter, FaceReference
from dhumandiff.errors import FaceError, ImageError, PromptError
from dhumandiff.hosts.diffusers.pipeline import NEGATIVE, PortraitPipeline
from dhumandiff.io import write_png
from dhumandiff.methods.paired.settings import CascadeSettings, SamplingSettings
from dhumandiff.prompts import parse_prompt

from .cases import Case
from .files import contents_of

__all__ = ["Settings", "digest_of", "draw_cases"]

KEPT = 64
"""People whose references are kept: a megabyte or two each."""


@dataclass(frozen=True)
class Settings:
    """How portraits are drawn; see `PortraitPipeline`."""

    cascade: CascadeSettings = field(default_factory=CascadeSettings)
    sampling: SamplingSettings = field(default_factory=lambda: SamplingSettings(sampler="euler"))
    negative: str = NEGATIVE

    def with_strength(self, factor: float) -> Settings:
        """All strengths times a factor."""
        names = ("scene_strength", "face_strength", "strength")
        scaled = {name: factor * getattr(self.cascade, name) for name in names}
        return replace(self, cascade=replace(self.cascade, **scaled))

    @property
    def record(self) -> dict[str, Any]:
        """What a picture says about how it was drawn. Another record draws it anew, so names and order stay."""
        cascade, sampling = asdict(self.cascade), asdict(self.sampling)
        first = {name: sampling[name] for name in ("size", "steps", "cfg", "sampler")}
        last = {name: cascade[name] for name in ("mode", "scene_strength", "face_strength", "strength")}
        return {**first, "negative": self.negative, **last}


def draw_cases(
    cases: Sequence[Case],
    portrait: PortraitPipeline,
    adapter: Adapter,
    settings: Settings,
    encode: Callable[[Sequence[Path]], FaceReference],
    folder: Path,
    seeds: int = 1,
    strengths: Sequence[float] = (),
    made_by: Mapping[str, str] | None = None,
) -> list[Case]:
    """Draw every case, `seeds` times from its seed on, and at every factor of the strengths.

    Args:
        encode: photos of one person -> reference.
        made_by: what else a picture depends on, such as {"base": digest}; another one draws it anew.
        folder: for <id>_<seed>.png, or <id>_x<strength>_<seed>.png.

    Returns:
        A case a picture, with the picture, or with the problem why there is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = lru_cache(KEPT)(encode)
    made_of = {"adapter": digest_of(adapter, every=True), **(made_by or {})}
    wanted = []
    for case in cases:
        for factor in strengths or (None,):
            for seed in range(case.seed, case.seed + seeds):
                name = f"{case.name}{'' if factor is None else f'_x{factor:g}'}_{seed}"
                wanted.append(replace(case, name=name, seed=seed, strength=factor, picture=folder / f"{name}.png"))
    drawn = []
    for case in tqdm(wanted, desc="drawing", unit="portrait", disable=None):
        how = settings if case.strength is None else settings.with_strength(case.strength)
        made_with = {"prompt": case.sentence, "seed": case.seed, **made_of, **how.record}
        made_with["references"] = [[contents_of(photo) for photo in photos] for photos in case.references]
        record = json.dumps(made_with, ensure_ascii=False)
        problem = case.problem
        if not problem and _made_as(case.picture) != record:
            try:
                prompt = parse_prompt(case.sentence, persons=len(case.references))
                references = [kept(photos) for photos in case.references]
                sampling = replace(how.sampling, seed=case.seed)
                made = portrait(adapter, references, prompt, how.negative, cascade=how.cascade, sampling=sampling)[0]
                write_png(made, case.picture, {"dhumandiff-case": record})
            except (FaceError, ImageError, PromptError) as error:
                problem = " ".join(str(error).split())
        drawn.append(replace(case, problem=problem))
    return drawn


def _made_as(path: Path) -> str | None:
    """The record of a picture that is there."""
    try:
        with Image.open(path) as image:
            return image.text.get("dhumandiff-case")
    except (OSError, AttributeError, SyntaxError):
        return None


def digest_of(module: nn.Module, every: bool = False) -> str:
    """Which weights a model has: a hash over all of them (`every`), or over names, shapes and 64 values of each tensor."""
    total = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        flat = value.detach().flatten()
        if not every:
            total.update(str(list(value.shape)).encode())
            flat = flat[:: max(len(flat) // 64, 1)]
        total.update(name.encode())
        total.update(flat.float().cpu().numpy().tobytes())
    return total.hexdigest()[:16]
