"""Many portraits at once: every row of a batch has its own two people, sentence and noise.

    parts = load_parts()
    made = sample_portraits(parts.portrait, adapter, [GenerationRequest(text, references, seed), ...], Sampling())

What is computed is what `PortraitPipeline` computes for one picture, with its denoising loop and the cascade's modes; a picture
of a batch is the one that it makes of the same seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from dhumandiff import FaceReference
from dhumandiff.conditioning.attention_store import last_layers
from dhumandiff.errors import FaceError, HostError
from dhumandiff.faces import FaceAnalyzer
from dhumandiff.hosts.diffusers.attention import Attached, attach_couples, cross_attention_layers
from dhumandiff.hosts.diffusers.dual_pathway import attach_dual_couples
from dhumandiff.hosts.diffusers.pipeline import PortraitPipeline, check_settings
from dhumandiff.methods.dual_pathway import DualPathway, DualPathwaySettings
from dhumandiff.methods.dual_pathway.finding import FindRegions
from dhumandiff.methods.paired.cascade_modes import CascadeMode, make_mode
from dhumandiff.methods.paired.settings import CascadeSettings, SamplingSettings
from dhumandiff.miniature.base import SIZE, mini_pipeline, mini_vision
from dhumandiff.miniature.defaults import MINI
from dhumandiff.miniature.faces import MiniFaces, mini_faces, mini_judge
from dhumandiff.miniature.world import EVEN_LIGHT, Identity, draw_reference, relight
from dhumandiff.prompts import parse_prompt
from dhumandiff.protocols import ImageEncoder
from dhumandiff.references.encode import encode_reference

from ..run.weights import Weights, identity_of
from .autoencoder import picture_of

__all__ = [
    "GenerationRequest",
    "Parts",
    "Precision",
    "Sampling",
    "decode",
    "encode_person",
    "load_parts",
    "sample_portraits",
]

BATCH = 32
"""Pictures sampled together. More makes a CPU no faster, and which pictures share a batch shows in the last bits."""

TRIES = 5
"""Photos of a person that are drawn until the detector finds a face in one, as a user would choose another photo."""

SMALLEST_FACE = 24
"""Px that a face needs in a photo; the world's are 96 px wide, below what `encode_reference` wants of real ones."""


Heard = Literal["first", "last", "all"]
Precision = Literal["fp32", "bf16"]

_USUAL = SamplingSettings(MINI["steps"], MINI["cfg"], MINI["sampler"], size=SIZE)


@dataclass(frozen=True)
class Sampling:
    """How pictures of the miniature are drawn: the cascade, or the dual pathway in its place; and sampling as its world is
    measured (`MINI`). heard: of each transformer, the layers that the focus is read from. precision: of the UNet's products."""

    cascade: CascadeSettings = field(default_factory=CascadeSettings)
    sampling: SamplingSettings = field(default_factory=lambda: _USUAL)
    dual: DualPathwaySettings | None = None
    heard: Heard = "last"
    precision: Precision = "fp32"

    @classmethod
    def of(cls, **changed: Any) -> Sampling:
        """With these fields of `CascadeSettings` and `SamplingSettings` changed; `dual`, with its start and end, and `heard` as they are."""
        dual, heard = changed.pop("dual", None), changed.pop("heard", "last")
        if dual is not None:
            changed |= {"start": dual.start, "end": dual.end}
        cascade = {name: changed.pop(name) for name in CascadeSettings.__dataclass_fields__ if name in changed}
        return cls(CascadeSettings(**cascade), replace(_USUAL, **changed), dual, heard)

    @property
    def record(self) -> dict[str, Any]:
        """As result files keep it, under the names that they always had."""
        cascade, sampling = asdict(self.cascade), asdict(self.sampling)
        cascade["focus_share"] = cascade.pop("focus_fraction")
        names = ("mode", "scene_strength", "face_strength", "focus_share", "strength")
        more: dict[str, Any] = {} if self.dual is None else {"dual": asdict(self.dual)}
        if self.heard != "last":
            more["heard"] = self.heard
        if self.precision != "fp32":
            more["precision"] = self.precision
        return {
            **{name: cascade[name] for name in names},
            **{name: sampling[name] for name in ("start", "end", "cfg", "steps", "sampler")},
            **more,
        }

    def mode(self) -> CascadeMode | FindRegions:
        """What says from step to step how much the people count."""
        return make_mode(self.cascade) if self.dual is None else FindRegions(self.dual)

    @property
    def all_steps(self) -> int:
        """Steps of all runs of one picture."""
        return self.sampling.steps * self.mode().passes


@dataclass(frozen=True, eq=False)
class GenerationRequest:
    """One portrait: a sentence with its marks @1 and @2, the people's references in order, and the seed of the noise; without
    references a sentence as it is. regions: where the dual pathway is told that the people are, [P, H, W] 0..1."""

    text: str
    references: tuple[FaceReference, ...]
    seed: int
    regions: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Parts:
    """The miniature's frozen parts, loaded once: base, image encoder, the faces that condition, and those that score."""

    portrait: PortraitPipeline
    vision: ImageEncoder
    faces: FaceAnalyzer
    judge: MiniFaces


def load_parts() -> Parts:
    """All frozen parts of the miniature.

    Raises:
        HostError: its weights are missing or damaged.
    """
    return Parts(PortraitPipeline(mini_pipeline()), mini_vision(), mini_faces(), mini_judge())


def encode_person(
    who: Identity,
    view: int,
    vision: ImageEncoder,
    faces: FaceAnalyzer,
    light: str = "",
    normalize_light: bool = False,
) -> tuple[FaceReference, np.ndarray]:
    """The reference of one drawn person out of photo number `view`, and that photo, uint8 [S, S, 3].

    Args:
        who: the person.
        view: number of the photo.
        vision: the image encoder.
        faces: who finds the face.
        light: of `world.LIGHTS`; empty: as the world draws it.
        normalize_light: even it out again, see dhumandiff/faces/light.py.

    Raises:
        FaceError: the detector finds no face in `TRIES` photos.
    """
    for attempt in range(TRIES):
        number = view + 1000 * attempt
        photo = draw_reference(who, number, light=EVEN_LIGHT if light else None).picture
        photo = relight(photo, light, number) if light else photo
        pixels = torch.from_numpy(photo).float() / 255
        try:
            reference, _ = encode_reference(
                pixels, vision, faces, name=who.name, min_size=SMALLEST_FACE, normalize_light=normalize_light
            )
        except FaceError as error:
            failed = error
            continue
        return reference, photo
    raise FaceError(
        f"The detector found no face in {TRIES} drawings of {who.name}. {failed}", code="no-face-in-drawings"
    ) from failed


@torch.no_grad()
def sample_portraits(
    portrait: PortraitPipeline,
    adapter: Weights | None,
    requests: Sequence[GenerationRequest],
    sampling: Sampling,
    *,
    size: tuple[int, int] = SIZE,
    batch: int = BATCH,
    progress: Callable[[int], Any] | None = None,
) -> np.ndarray:
    """Draw every request.

    Args:
        portrait: the base.
        adapter: the weights; None draws with the base alone, from the sentences without faces.
        requests: what to draw.
        sampling: how.
        size: width and height, px.
        batch: pictures at a time.
        progress: called with the steps done since the last call, each picture's counted; `Sampling.all_steps` a picture.

    Returns:
        uint8 [N, height, width, 3].

    Raises:
        HostError: settings that make no picture, an adapter that does not fit the base, or NaN on the way.
    """
    check_settings(sampling.cascade, sampling.sampling)
    portrait.use_sampler(sampling.sampling.sampler)
    identity = None if adapter is None else identity_of(adapter)
    negative = portrait.encode("") if sampling.sampling.cfg != 1 else None  # what this world knows of negative prompts
    texts: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}
    pictures = [np.empty((0, size[1], size[0], 3), dtype=np.uint8)]
    for start in range(0, len(requests), batch):
        some = requests[start : start + batch]
        for request in some:
            if _key(request) not in texts:
                persons = len(request.references)
                prompt = parse_prompt(request.text, persons=persons) if persons else request.text
                texts[_key(request)] = portrait.encode(prompt, identity, request.references)
        conditions = portrait.conditions([texts[_key(request)] for request in some], negative, size)
        noise = torch.cat([portrait.noise(request.seed, size) for request in some])
        with _attached(portrait, adapter, some, sampling, negative is not None) as attached:
            tell = None if progress is None else lambda *_: progress(len(noise))  # noqa: B023  # called in this turn only
            loop = portrait.loop(attached, conditions, sampling.sampling, [request.seed for request in some], tell)
            with torch.autocast(noise.device.type, torch.bfloat16, enabled=sampling.precision == "bf16"):
                latents = loop.run(noise, sampling.mode())
        pictures.append(decode(portrait.pipeline.vae, latents))
    return np.concatenate(pictures)


def _attached(
    portrait: PortraitPipeline,
    adapter: Weights | None,
    requests: Sequence[GenerationRequest],
    sampling: Sampling,
    guidance: bool,
) -> AbstractContextManager[Attached | None]:
    """The people of every picture of a batch on the UNet; nobody without an adapter."""
    if adapter is None:
        return nullcontext()
    unet, couples, dual = portrait.pipeline.unet, [request.references for request in requests], sampling.dual
    if dual is None:
        attached = attach_couples(unet, identity_of(adapter), couples, guidance=guidance)
        if sampling.heard != "last":
            attached.people.recorded_layers = _heard(unet, sampling.heard)
        return attached
    pathway = adapter if isinstance(adapter, DualPathway) else DualPathway(adapter)
    given = [request.regions for request in requests if request.regions is not None]
    masks = torch.stack(given, dim=1) if dual.regions == "given" and given else None
    return attach_dual_couples(unet, pathway, couples, dual, masks=masks, guidance=guidance)


@torch.no_grad()
def decode(vae: nn.Module, latents: Tensor, batch: int = 64) -> np.ndarray:
    """Scaled latents [N, C, h, w] -> uint8 [N, H, W, 3]. HostError for NaN."""
    rows = []
    for some in latents.split(batch):
        pixels = vae.decode((some / vae.config.scaling_factor).to(vae.dtype)).sample.float()
        if not pixels.isfinite().all():
            raise HostError(
                "NaN or infinite values came out of decoding. Check that the autoencoder's file is whole.",
                code="not-finite",
            )
        rows.append(picture_of(pixels.cpu()))
    return np.concatenate(rows)


def _heard(unet: nn.Module, which: Heard) -> frozenset[int] | None:
    """Numbers of the layers that the focus is read from; None: all."""
    transformers = [name.split(".transformer_blocks.")[0] for name, _ in cross_attention_layers(unet)]
    firsts = frozenset(transformers.index(one) for one in transformers)
    return {"first": firsts, "last": last_layers(transformers), "all": None}[which]


def _key(request: GenerationRequest) -> tuple[Any, ...]:
    return request.text, *map(id, request.references)
