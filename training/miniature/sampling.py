"""Many portraits at once: every row of a batch has its own two people, sentence and noise.

    parts = load_parts()
    made = sample_portraits(parts.portrait, adapter, [Wish(text, references, seed), ...], Sampling())

What is computed is what `hosts.diffusers_pipeline.Portrait.generate` computes for one picture, with its sampling loop, the
same listeners, masks and blend; a picture of a batch is the one that `generate` makes of the same seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dhumandiff import Adapter, FaceReference
from dhumandiff.errors import FaceError, HostError
from dhumandiff.faces import FaceAnalyzer
from dhumandiff.hosts.diffusers.attention import (
    PairedProcessor,
    check_fit,
    cross_attention_layers,
    is_zero,
    layer_shape,
    strength_at,
)
from dhumandiff.hosts.diffusers.pipeline import Portrait, check_settings
from dhumandiff.hosts.diffusers.sampling import Sampler, one_pass, released, two_strength
from dhumandiff.hosts.diffusers.text import encode_prompt
from dhumandiff.methods.paired.attention import ReadyKeysValues
from dhumandiff.methods.paired.attention_store import Observation, Place
from dhumandiff.methods.paired.cascade import FACE_STRENGTH, FOCUS_SHARE, SCENE_STRENGTH
from dhumandiff.miniature.base import SIZE, mini_pipeline, mini_vision
from dhumandiff.miniature.defaults import MINI
from dhumandiff.miniature.faces import MiniFaces, mini_faces, mini_judge
from dhumandiff.miniature.world import Identity, draw_reference
from dhumandiff.prompts import parse_prompt
from dhumandiff.protocols import ImageEncoder
from dhumandiff.references.encode import encode_reference

from .autoencoder import picture_of

__all__ = ["Parts", "Sampling", "Wish", "decode", "encode_person", "load_parts", "sample_portraits"]

BATCH = 32
"""Pictures sampled together. More makes a CPU no faster, and which pictures share a batch shows in the last bits."""

TRIES = 5
"""Photos of a person that are drawn until the detector finds a face in one, as a user would choose another photo."""

SMALLEST_FACE = 24
"""Px that a face needs in a photo; the world's are 96 px wide, below what `encode_reference` wants of real ones."""


@dataclass(frozen=True)
class Sampling:
    """How pictures are sampled.

    mode: none, one_pass, two_strength or released (cascade.py). strength: of both people where the mode is none. scene_strength,
    face_strength, focus_share: of the cascade. start, end: share of sampling in which the pair acts. cfg, steps, sampler: guidance,
    steps, and which sampler takes them.
    """

    mode: str = "one_pass"
    scene_strength: float = SCENE_STRENGTH
    face_strength: float = FACE_STRENGTH
    focus_share: float = FOCUS_SHARE
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    cfg: float = MINI["cfg"]
    steps: int = MINI["steps"]
    sampler: str = MINI["sampler"]

    @property
    def all_steps(self) -> int:
        """Steps of all runs of one picture."""
        return self.steps * (2 if self.mode == "released" else 1)

    def check(self) -> None:
        """Refuse what makes no picture. HostError."""
        strengths = (self.scene_strength, self.face_strength, self.focus_share, self.strength)
        check_settings(SIZE, self.steps, self.cfg, self.mode, *strengths, start=self.start, end=self.end)


@dataclass(frozen=True, eq=False)
class Wish:
    """One portrait: a sentence with its marks @1 and @2, the people's references in order, and the seed of the noise."""

    text: str
    references: tuple[FaceReference, ...]
    seed: int


@dataclass(frozen=True, eq=False)
class Parts:
    """The miniature's frozen parts, loaded once: base, vision tower, the faces that condition, and those that judge."""

    portrait: Portrait
    vision: ImageEncoder
    faces: FaceAnalyzer
    judge: MiniFaces


def load_parts() -> Parts:
    """All frozen parts of the miniature. HostError when its weights are missing or damaged."""
    return Parts(Portrait(mini_pipeline()), mini_vision(), mini_faces(), mini_judge())


def encode_person(
    who: Identity, view: int, vision: ImageEncoder, faces: FaceAnalyzer
) -> tuple[FaceReference, np.ndarray]:
    """The reference of one drawn person out of photo number `view`, and that photo, uint8 [S, S, 3].

    Raises:
        FaceError: the detector finds no face in `TRIES` photos.
    """
    for attempt in range(TRIES):
        photo = draw_reference(who, view + 1000 * attempt).picture
        pixels = torch.from_numpy(photo).float() / 255
        try:
            reference, _ = encode_reference(pixels, vision, faces, name=who.name, minimum_size=SMALLEST_FACE)
        except FaceError as error:
            failed = error
            continue
        return reference, photo
    raise FaceError(f"The detector found no face in {TRIES} drawings of {who.name}. {failed}") from failed


@torch.no_grad()
def sample_portraits(
    portrait: Portrait,
    adapter: Adapter | None,
    wishes: Sequence[Wish],
    sampling: Sampling,
    *,
    size: tuple[int, int] = SIZE,
    batch: int = BATCH,
    progress: Callable[[int], Any] | None = None,
) -> np.ndarray:
    """Draw every wish.

    Args:
        portrait: the base.
        adapter: None draws with the base alone, from the sentences without faces.
        wishes: what to draw.
        sampling: how.
        size: width and height, px.
        batch: pictures at a time.
        progress: called with the steps done since the last call, each picture's counted; `Sampling.all_steps` a picture.

    Returns:
        uint8 [N, height, width, 3].

    Raises:
        HostError: settings that make no picture, an adapter that does not fit the base, or NaN on the way.
    """
    sampling.check()
    portrait.use_sampler(sampling.sampler)
    nothing = _text(portrait, None, Wish("", (), 0)) if sampling.cfg != 1 else None
    known: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}
    pictures = [np.empty((0, size[1], size[0], 3), dtype=np.uint8)]
    for start in range(0, len(wishes), batch):
        some = wishes[start : start + batch]
        for wish in some:
            if _key(wish) not in known:
                known[_key(wish)] = _text(portrait, adapter, wish)
        texts = [known[_key(wish)] for wish in some]
        conditions = _conditions(portrait, texts, nothing, size)
        noise = torch.cat([portrait.noise(wish.seed, size) for wish in some])
        with RowPair(portrait.pipeline.unet, adapter, [wish.references for wish in some], nothing is not None) as pair:
            latents = _sample(portrait, pair, conditions, noise, [wish.seed for wish in some], sampling, progress)
        pictures.append(decode(portrait.pipeline.vae, latents))
    return np.concatenate(pictures)


@torch.no_grad()
def decode(vae: nn.Module, latents: Tensor, batch: int = 64) -> np.ndarray:
    """Scaled latents [N, C, h, w] -> uint8 [N, H, W, 3]. HostError for NaN."""
    rows = []
    for some in latents.split(batch):
        pixels = vae.decode((some / vae.config.scaling_factor).to(vae.dtype)).sample.float()
        if not pixels.isfinite().all():
            raise HostError("NaN or infinite values came out of decoding. Check that the autoencoder's file is whole.")
        rows.append(picture_of(pixels.cpu()))
    return np.concatenate(rows)


class RowPair:
    """What `hosts.diffusers.Attached` is for one couple, for a batch in which every row has its own.

    A context manager; without an adapter it leaves the UNet as it is.

    Attributes:
        adapter: the weights, or None.
        strength: of all persons; changed between calls.
        observe: called with a `focus.Observation` for every layer of every call.
        masks: None; what listeners ask of a pair.
    """

    masks = None

    def __init__(
        self, unet: nn.Module, adapter: Adapter | None, couples: Sequence[Sequence[FaceReference]], guidance: bool
    ) -> None:
        self.strength: float | Tensor = 1.0
        self.observe: Callable[[Observation], None] | None = None
        self.images, self.size = len(couples), (0, 0)
        self.roles = [0] * self.images * guidance + [1] * self.images
        self._unet, self.adapter = unet, adapter
        self._layers = [] if adapter is None else cross_attention_layers(unet)
        self._before = [module.processor for _, module in self._layers]
        self._known: dict[int, tuple[Tensor, ReadyKeysValues]] = {}
        if adapter is not None:
            check_fit(self._layers, adapter.info)
            self._tokens = _tokens(adapter, couples, guidance)

    def __enter__(self) -> RowPair:
        for number, (_, module) in enumerate(self._layers):
            module.processor = PairedProcessor(self, number)
        self._hook = self._unet.register_forward_pre_hook(self._note_size)
        return self

    def __exit__(self, *_: object) -> None:
        for (_, module), before in zip(self._layers, self._before, strict=True):
            module.processor = before
        self._hook.remove()

    def term(self, layer: int, query: Tensor, heads: int) -> Tensor | None:
        """What the persons add to a layer, [rows, Q, C]; None for nothing."""
        if is_zero(self.strength):
            return None
        if layer not in self._known:
            keys, values = self.adapter.keys_values(layer, self._tokens)
            self._known[layer] = keys.to(query), ReadyKeysValues.of(keys.to(query), values.to(query), heads)
        keys, ready = self._known[layer]
        shape, weights = layer_shape(self.size, query.shape[1]), self.strength
        if isinstance(weights, Tensor):
            weights = strength_at(weights, shape, query.device)
            weights = weights.repeat(len(query) // len(weights), 1, 1)
        term, probabilities = ready.attend(query, weights)
        if self.observe is not None:
            places = [Place(row % self.images, 0, 0, *self.size) for row in range(len(self.roles))]
            watched = (self, layer, shape, heads, query, keys.__getitem__, probabilities)
            self.observe(Observation(*watched, self.roles, places, self.size, self.images))
        return term

    def latent_masks(self, size: tuple[int, int], images: int) -> Tensor:
        """Everybody may be everywhere."""
        return torch.ones(1, self._tokens.shape[1], *size)

    def _note_size(self, _: nn.Module, args: tuple) -> None:
        self.size = (args[0].shape[-2], args[0].shape[-1])


def _sample(
    portrait: Portrait,
    pair: RowPair,
    conditions: dict[str, Any],
    noise: Tensor,
    seeds: Sequence[int],
    sampling: Sampling,
    progress: Callable[[int], Any] | None,
) -> Tensor:
    """Latents [N, C, h, w] of one batch."""
    tell = None if progress is None else lambda *_: progress(len(noise))
    share = (sampling.start, sampling.end)
    sampler = Sampler(portrait, pair, conditions, sampling.cfg, seeds, share, sampling.all_steps, tell)
    scene, face, share, steps = sampling.scene_strength, sampling.face_strength, sampling.focus_share, sampling.steps
    if sampling.mode == "none" or pair.adapter is None:
        strength = 0.0 if pair.adapter is None else sampling.strength
        return sampler.sample(noise, steps, lambda x, t, _: sampler.predict(strength, x, t))
    run = {"one_pass": one_pass, "two_strength": two_strength, "released": released}[sampling.mode]
    return run(sampler, noise, steps, scene, face, share)[0]


def _tokens(adapter: Adapter, couples: Sequence[Sequence[FaceReference]], guidance: bool) -> Tensor:
    """Face tokens of every row, [rows, P, T, C]: the unconditional ones for the unconditional rows, which come first."""
    known: dict[FaceReference, tuple[Tensor, Tensor]] = {}
    for reference in {reference: None for couple in couples for reference in couple}:
        known[reference] = adapter.unconditional_tokens(reference)[0], adapter.face_tokens(reference)[0]
    halves = (0, 1) if guidance else (1,)
    return torch.stack([torch.stack([known[who][half] for who in couple]) for half in halves for couple in couples])


def _key(wish: Wish) -> tuple[Any, ...]:
    return wish.text, *map(id, wish.references)


def _text(portrait: Portrait, adapter: Adapter | None, wish: Wish) -> tuple[Tensor, Tensor]:
    """Embeddings [1, L, C] and the pooled one [1, P] of a sentence; words carry faces where the adapter can do that."""
    parts = portrait.pipeline
    encoders = ((parts.tokenizer, parts.tokenizer_2), (parts.text_encoder, parts.text_encoder_2))
    if not wish.text:  # the negative prompt that this world has
        return encode_prompt(*encoders, "")[:2]
    mapping = adapter if adapter is not None and adapter.has_subject_path else None
    prompt = parse_prompt(wish.text, persons=len(wish.references))
    return encode_prompt(*encoders, prompt, mapping, wish.references)[:2]


def _conditions(
    portrait: Portrait,
    texts: Sequence[tuple[Tensor, Tensor]],
    nothing: tuple[Tensor, Tensor] | None,
    size: tuple[int, int],
) -> dict[str, Any]:
    """What the UNet reads beside latents and times: text [rows, L, C], pooled [rows, P], and the six sizes [rows, 6]."""
    rows = [*([nothing] * len(texts) if nothing is not None else []), *texts]
    # Rows of unlike length are repeated up to a common one: attention to a token twice is attention to it once.
    tokens = math.lcm(*{text.shape[1] for text, _ in rows})
    width, height = size
    text = torch.cat([text.repeat(1, tokens // text.shape[1], 1) for text, _ in rows])
    pooled = torch.cat([pooled for _, pooled in rows])
    ids = torch.tensor([[height, width, 0, 0, height, width]] * len(rows))
    where = {"device": portrait.device, "dtype": portrait.dtype}
    return {
        "encoder_hidden_states": text.to(**where),
        "added_cond_kwargs": {"text_embeds": pooled.to(**where), "time_ids": ids.to(**where)},
    }
