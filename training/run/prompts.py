"""Sentences and photos of your own, drawn and scored at every checkpoint: what people will see, not what the loss says.

They are drawn as a portrait is (the cascade, diffusers' Euler), with the averaged weights, beside the same noise without the
adapter, and scored by a face recognizer. Held-out people and people of the training data are kept apart: only the first say
whether the adapter learned to draw people, or learned these.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw

from dhumandiff import Adapter, FaceReference
from dhumandiff.errors import DHumanDiffError
from dhumandiff.evaluation.score import score_image
from dhumandiff.faces import FaceAnalyzer, choose_face, load_photo
from dhumandiff.faces.drawing import default_font
from dhumandiff.io import expand_user
from dhumandiff.methods.dual_pathway import DualPathway, DualPathwaySettings
from dhumandiff.prompts import Prompt, parse_prompt

from .. import TrainingError
from .base import BaseModel
from .checkpoint import random_state, set_random_state
from .config import LoggingConfig, PromptConfig

if TYPE_CHECKING:
    from dhumandiff.hosts.diffusers.pipeline import PortraitPipeline
    from dhumandiff.methods.paired.settings import SamplingSettings

__all__ = ["PromptDrawing", "PromptWatcher", "watch_prompts"]

TEXT, GAP, FACE = 14, 6, 128
"""Height of letters, distance between pictures, and side of a reference face, px."""


@dataclass(frozen=True)
class _Watched:
    """A prompt with what is made of it once. identities: [P, D] of the judge."""

    config: PromptConfig
    prompt: Prompt
    references: list[FaceReference]
    identities: np.ndarray


@dataclass(frozen=True)
class PromptDrawing:
    """What came out at one step.

    Attributes:
        sheets: "held_out" or "trained" -> a picture with a row a prompt and seed.
        scores: such as {"right_person_held_out": 0.75, "likeness_held_out": 0.4, "present_held_out": 1.0}.
    """

    sheets: dict[str, Image.Image]
    scores: dict[str, float]

    def of(self, measure: str, first: str = "held_out") -> float | None:
        """right_person or likeness, of these people where there are some, else of the others. None: nothing decides it."""
        groups = sorted(GROUPS, key=lambda group: group != first)
        return next((self.scores[key] for group in groups if (key := f"{measure}_{group}") in self.scores), None)


GROUPS = ("held_out", "trained")


def watch_prompts(
    config: LoggingConfig, base: BaseModel, device: torch.device, dual: DualPathwaySettings | None = None
) -> PromptWatcher:
    """Encode the photos, and load what draws; the image encoder is let go again.

    Args:
        config: whose prompts are drawn.
        base: the trainer's; its UNet draws.
        device: to draw on.
        dual: how a dual pathway draws.

    Raises:
        TrainingError: a prompt or a photo cannot be used.
        HostError: the base is not SDXL's, or a package is missing.
        FaceError: a face pack cannot be had.
    """
    from dhumandiff.hosts.diffusers.loading import IMAGE_ENCODER, check_base, load_pipeline
    from dhumandiff.hosts.diffusers.memory import Turns
    from dhumandiff.hosts.diffusers.pipeline import PortraitPipeline
    from dhumandiff.references.encode import encode_reference

    from ..data.encode import load_faces, load_vision

    before = random_state()
    drawn = base.name == "mini"
    check_base(base.name)
    vision = load_vision(config.image_encoder or ("mini" if drawn else IMAGE_ENCODER), str(device), base.unet.dtype)
    faces, judge = _face_models(config, drawn, load_faces)
    smallest = 24.0 if drawn else config.prompt_faces.min_size
    watched = []
    for number, each in enumerate(config.prompts, 1):
        try:
            prompt = parse_prompt(each.sentence, persons=len(each.photos))
            people = [[expand_user(photo) for photo in photos] for photos in each.people]
            references = [
                encode_reference(photos, vision, faces, name=photos[0].stem, min_size=smallest)[0] for photos in people
            ]
            identities = np.stack([_identity(photos, judge) for photos in people])
        except DHumanDiffError as error:
            raise TrainingError(
                f"logging.prompts, entry {number}: {error} Correct that entry, or leave it out.",
                code="prompt-not-usable",
            ) from error
        watched.append(_Watched(each, prompt, references, identities))
    pipeline = load_pipeline(base.name, base.unet.dtype)
    pipeline.unet = base.unet
    # Where the base is stays the trainer's business: it may wait on the CPU by blocks, or lie in parts. The watcher moves the rest.
    portrait = PortraitPipeline(pipeline, device, offload=True)
    portrait.offload, portrait.turns = False, Turns(device, one_at_a_time=False)
    set_random_state(before)  # loading models uses up random numbers, and a run is the same with prompts and without
    return PromptWatcher(config, watched, portrait, judge, drawn, dual)


class PromptWatcher:
    """Draws and scores the prompts.

    Args:
        config: how.
        watched: what.
        portrait: around the trainer's UNet.
        judge: recognizes.
        drawn: this is the miniature's world, which has sizes and a sampler of its own.
        dual: how a dual pathway draws; None: as by default.
    """

    def __init__(
        self,
        config: LoggingConfig,
        watched: Sequence[_Watched],
        portrait: PortraitPipeline,
        judge: FaceAnalyzer,
        drawn: bool,
        dual: DualPathwaySettings | None = None,
    ) -> None:
        self.config, self.watched, self.portrait, self.judge, self.drawn = config, watched, portrait, judge, drawn
        self.dual = dual
        self._without: dict[tuple[int, int], Image.Image] = {}
        self._rest()

    @torch.no_grad()
    def draw(
        self, weights: Adapter | DualPathway, step: int, autocast: Callable[[], AbstractContextManager]
    ) -> PromptDrawing:
        """All prompts and seeds; nothing random of the run is used up.

        Raises:
            HostError: NaN on the way.
        """
        rows: dict[str, list[list[Image.Image]]] = {}
        found: dict[str, list[float]] = {}
        before = random_state()
        with self._at_work(), autocast():
            for number, watched in enumerate(self.watched):
                group = watched.config.people_are
                for seed in watched.config.seeds:
                    sampling = self._sampling(seed)
                    picture = self._picture(weights, watched, sampling)
                    if (number, seed) not in self._without:
                        self._without[number, seed] = self._plain(watched, sampling)
                    scores = self._score(watched, picture)
                    for name, value in scores.items():
                        found.setdefault(f"{name}_{group}", []).append(value)
                    told = "  ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in scores.items())
                    caption = f"{watched.config.sentence}\nseed {seed}, step {step}.  {told}"
                    pictures = {"without the adapter": self._without[number, seed], f"step {step}": picture}
                    rows.setdefault(group, []).append(_row(watched.references, pictures, caption))
        set_random_state(before)
        sheets = {group: _below(each) for group, each in rows.items()}
        return PromptDrawing(sheets, {name: float(np.mean(values)) for name, values in found.items()})

    def _picture(self, weights: Adapter | DualPathway, watched: _Watched, sampling: SamplingSettings) -> Image.Image:
        from dhumandiff.hosts.diffusers.dual_pathway import draw_dual

        given = (weights, watched.references, watched.prompt, self._negative)
        if isinstance(weights, DualPathway):
            return draw_dual(self.portrait, *given, settings=self.dual, sampling=sampling)[0]
        return self.portrait(*given, sampling=sampling)[0]

    def _score(self, watched: _Watched, picture: Image.Image) -> dict[str, float]:
        scored = score_image(np.asarray(picture), watched.identities, self.judge, prompt=watched.prompt).score
        right = [person.assigned_correctly for person in scored.persons]
        scores = {
            "likeness": float(np.mean([person.sim_ref for person in scored.persons])),
            "present": float(scored.face_count_correct),
        }
        return scores if None in right else {"right_person": float(np.mean(right)), **scores}

    def _plain(self, watched: _Watched, sampling: SamplingSettings) -> Image.Image:
        """The base alone, from the same noise."""
        from dhumandiff.hosts.diffusers.vae import decode
        from dhumandiff.methods.paired.cascade_modes import make_mode
        from dhumandiff.methods.paired.settings import CascadeSettings

        portrait = self.portrait
        negative = portrait.encode(self._negative) if sampling.cfg != 1 else None
        conditions = portrait.conditions([portrait.encode(watched.prompt.text)], negative, sampling.size)
        loop = portrait.loop(None, conditions, sampling, [sampling.seed])
        latent = loop.run(portrait.noise(sampling.seed, sampling.size), make_mode(CascadeSettings(mode="none")))
        return decode(portrait.pipeline.vae, latent)

    def _sampling(self, seed: int) -> SamplingSettings:
        from dhumandiff.methods.paired.settings import SamplingSettings
        from dhumandiff.miniature.base import SIZE

        size = self.config.prompt_size or (SIZE if self.drawn else (1024, 1024))
        return SamplingSettings(
            steps=self.config.sample_steps,
            cfg=self.config.cfg,
            sampler="euler_ancestral" if self.drawn else "euler",
            seed=seed,
            size=(size[0], size[1]),
        )

    @property
    def _negative(self) -> str:
        from dhumandiff.hosts.diffusers.pipeline import NEGATIVE

        return "" if self.drawn else NEGATIVE

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Text encoders and VAE on the device, and plain attention in the UNet, while pictures are drawn."""
        from diffusers.models.attention_processor import AttnProcessor2_0

        from dhumandiff.hosts.diffusers.attention import cross_attention_layers

        layers = [module for _, module in cross_attention_layers(self.portrait.pipeline.unet)]
        trainers = [module.processor for module in layers]
        for module in layers:
            module.processor = AttnProcessor2_0()
        self._move(self.portrait.device)
        try:
            yield
        finally:
            for module, processor in zip(layers, trainers, strict=True):
                module.processor = processor
            self._rest()

    def _rest(self) -> None:
        """What only drawing needs leaves the GPU to training."""
        self._move(torch.device("cpu"))

    def _move(self, device: torch.device) -> None:
        for part in ("text_encoder", "text_encoder_2", "vae"):
            getattr(self.portrait.pipeline, part).to(device)


def _face_models(
    config: LoggingConfig, drawn: bool, load: Callable[..., FaceAnalyzer]
) -> tuple[FaceAnalyzer, FaceAnalyzer]:
    """Who makes references, and who judges."""
    from ..data.settings import FaceSettings

    if drawn and config.prompt_faces == FaceSettings() and not config.prompt_judge:
        from dhumandiff.miniature.faces import mini_judge

        return load(FaceSettings(pack="mini")), mini_judge()
    faces = load(config.prompt_faces)
    return faces, load(replace(config.prompt_faces, pack=config.prompt_judge)) if config.prompt_judge else faces


def _identity(photos: Sequence[Path], judge: FaceAnalyzer) -> np.ndarray:
    """The mean identity [D] of a person, of length 1."""
    found = []
    for photo in photos:
        pixels = load_photo(photo).pixels
        found.append(judge.identity(pixels, choose_face(judge.detect(pixels), min_size=0)))
    mean = np.mean(found, axis=0)
    return mean / np.linalg.norm(mean)


def _row(references: Sequence[FaceReference], pictures: Mapping[str, Image.Image], caption: str) -> Image.Image:
    """Faces, pictures with their names, and the caption below."""
    font = default_font(TEXT)
    faces = [_crop(reference) for reference in references]
    height = max(picture.height for picture in pictures.values())
    width = len(faces) * (FACE + GAP) + sum(max(picture.width, FACE) + GAP for picture in pictures.values())
    letters = max(20, int(width / (TEXT * 0.52)))
    lines = [part for line in caption.split("\n") for part in textwrap.wrap(line, letters) or [""]]
    sheet = Image.new("RGB", (width, TEXT + GAP + max(height, FACE) + GAP + len(lines) * (TEXT + 4) + GAP), "white")
    draw, left = ImageDraw.Draw(sheet), 0
    for number, face in enumerate(faces, 1):
        draw.text((left, 0), f"person {number}", fill="black", font=font)
        sheet.paste(face, (left, TEXT + GAP))
        left += FACE + GAP
    for name, picture in pictures.items():
        draw.text((left, 0), name, fill="black", font=font)
        sheet.paste(picture, (left, TEXT + GAP))
        left += max(picture.width, FACE) + GAP
    for number, line in enumerate(lines):
        draw.text((0, TEXT + 2 * GAP + max(height, FACE) + number * (TEXT + 4)), line, fill="black", font=font)
    return sheet


def _crop(reference: FaceReference) -> Image.Image:
    if reference.crop is None:
        return Image.new("RGB", (FACE, FACE), "lightgray")
    pixels = (reference.crop[0] * 255).round().to(torch.uint8).cpu().numpy()
    return Image.fromarray(pixels).resize((FACE, FACE))


def _below(rows: Sequence[Image.Image]) -> Image.Image:
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet
