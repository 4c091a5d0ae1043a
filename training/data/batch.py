"""From samples to the tensors of one forward pass, with all random augmentation on the way."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dhumandiff.errors import short_error

from .. import TrainingError
from .checks import check_sample
from .config import AugmentConfig
from .dataset import PreparedDataset, Sample
from .identities import identity_number

__all__ = ["NO_AUGMENTATION", "Augmentation", "Batch", "BatchMaker", "SubjectTokens", "sample_augmentation"]

NO_AUGMENTATION = AugmentConfig(**{entry.name: 0.0 for entry in fields(AugmentConfig)})
"""Nothing dropped, exchanged or changed, the people's own faces as references: for sample grids."""

Rng = Callable[..., random.Random]
"""Names -> a generator that depends on them alone, as `seeding.seeded_rng`."""


class SubjectTokens(NamedTuple):
    """The columns of `Batch.subject_token_index`, each [W]: `SubjectTokens(*batch.subject_token_index.T)`.

    Attributes:
        sample: of the batch.
        person: from 0.
        chunk: of 77 tokens.
        position: in the chunk.
    """

    sample: Tensor
    person: Tensor
    chunk: Tensor
    position: Tensor


@dataclass
class Batch:
    """B samples of one picture size; h, w are those of the latent, persons in the order in which the adapter gets them.

    Attributes:
        names: of the samples, for messages.
        latents: [B, channels, h, w] float32, drawn from their posterior and scaled.
        noise: [B, channels, h, w] float32.
        levels: [B] 0..1, the quantile among the noise levels.
        text: [B, 77 * chunks, context]; the stock encoding, or the empty prompt's where text was dropped.
        pooled: [B, P], or None for bases without one.
        time_ids: [B, 6] original size, crop, target size in px.
        ids: [B, chunks, 77] tokens of CLIP-L.
        subject_token_index: [W, 4], every token that carries a face; the columns are those of `SubjectTokens`.
        hidden: [B, 2, T, C] CLIP's hidden states of the references' crops.
        identity: [B, 2, 512] face embeddings of the references.
        drop_identity: [B, 2] True where a person's face is left out.
        drop_face_tokens: [B, 2] True there, and where the face has its subject tokens alone.
        masks: [B, 2, h, w] 0..1, where each person is.
        faces: [B, 2, h, w] 0..1, where their face is.
        truth: [B, 2, 512] face embeddings of the faces in the picture itself.
        landmarks: [B, 2, 5, 2] of these faces, px of the picture.
        people: [B, 2] a number for each person's identity, 0 where it is not known.
    """

    names: list[str]
    latents: Tensor
    noise: Tensor
    levels: Tensor
    text: Tensor
    pooled: Tensor | None
    time_ids: Tensor
    ids: Tensor
    subject_token_index: Tensor
    hidden: Tensor
    identity: Tensor
    drop_identity: Tensor
    drop_face_tokens: Tensor
    masks: Tensor
    faces: Tensor
    truth: Tensor
    landmarks: Tensor
    people: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """The same in page-locked memory, from which a GPU takes it without making the CPU wait."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        names = [entry.name for entry in fields(self) if isinstance(getattr(self, entry.name), Tensor)]
        return replace(self, **{name: change(getattr(self, name)) for name in names})

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Augmentation:
    """What was drawn for one sample.

    Attributes:
        order: which person of the sample (from 0) comes first, which second.
        drop_identity: for each person in that order: leave the face out.
        drop_text: use the empty prompt.
        map_subjects: let subject tokens carry the faces.
        drop_face_tokens: leave the faces to their subject tokens alone.
        mentions: the field of a person's JSON that lists the tokens: "tokens_first" or "tokens_all".
        references: which of their references each person in that order gets.
    """

    order: tuple[int, int]
    drop_identity: tuple[bool, bool]
    drop_text: bool
    map_subjects: bool
    drop_face_tokens: bool
    mentions: str
    references: tuple[int, int]


class BatchMaker:
    """Makes batches of samples.

    Args:
        datasets: the common tensors come from the first of them.
        augment: what is changed, and how often.
        identity: which embedding the adapter reads, "identity" or "identity_swapped".
        rng: names -> a generator that depends on them alone.
        pin: page-lock the tensors.
    """

    def __init__(
        self, datasets: Sequence[PreparedDataset], augment: AugmentConfig, identity: str, rng: Rng, pin: bool = False
    ) -> None:
        self.common, self.headers = datasets[0].common, [dataset.header for dataset in datasets]
        self.augment, self.identity, self.rng, self.pin = augment, identity, rng, pin

    def __call__(self, samples: Sequence[Sample], draws: Sequence[int], stream: int) -> Batch:
        """The batch of these samples.

        Args:
            samples: of one picture size.
            draws: the draw index of each; a sample drawn anew has another one and so is augmented anew.
            stream: index of the stream that drew them.

        Raises:
            TrainingError: a sample that lacks something; the message names it.
        """
        drawn = zip(samples, draws, strict=True)
        parts = [self._checked(row, sample, self.rng(stream, draw)) for row, (sample, draw) in enumerate(drawn)]
        tokens = [token for part in parts for token in part.pop("subject_token_index")]
        names = [sample.name for sample in samples]
        try:
            stacked = {
                name: None if parts[0][name] is None else torch.stack([part[name] for part in parts])
                for name in parts[0]
            }
        except (RuntimeError, TypeError) as error:
            raise TrainingError(
                f"{', '.join(names)}: they do not fit into one batch ({short_error(error)}). Prepare their shards again.",
                code="samples-of-different-sizes",
            ) from error
        index = torch.tensor(tokens, dtype=torch.long).reshape(-1, len(SubjectTokens._fields))
        batch = Batch(names=names, subject_token_index=index, **stacked)
        return batch.pinned() if self.pin else batch

    def _checked(self, row: int, sample: Sample, rng: random.Random) -> dict[str, Any]:
        try:
            return self._augmented(row, sample, rng)
        except TrainingError:
            raise
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise TrainingError(
                f"{sample.name}: it cannot be used ({short_error(error, kind=True)}). Prepare the shard again.",
                code="damaged-sample",
            ) from error

    def _augmented(self, row: int, sample: Sample, rng: random.Random) -> dict[str, Any]:
        """The batch's fields for one sample, without their first axis; `row` is its index in the batch."""
        tensors, metadata = sample.tensors(), sample.metadata
        check_sample(metadata, tensors, self.headers[sample.location[0]])
        chosen = sample_augmentation(self.augment, metadata["persons"], rng)
        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        mean, std = tensors["latent_mean"].float(), tensors["latent_std"].float()
        posterior, noise = torch.randn((2, *mean.shape), generator=generator)
        text, pooled = tensors["text"], tensors.get("pooled")
        if chosen.drop_text:
            # Attention to a token several times is attention to it once, so the repeated prompt is the empty prompt.
            text = self.common["empty_text"].to(text).repeat(metadata["chunks"], 1)
            pooled = None if pooled is None else self.common["empty_pooled"].to(pooled)
        people = [(number + 1, reference) for number, reference in zip(chosen.order, chosen.references, strict=True)]
        described = [metadata["persons"][person - 1] for person, _ in people]
        return {
            "latents": mean + std * posterior,
            "noise": noise,
            "levels": torch.rand((), generator=generator),
            "text": text,
            "pooled": pooled,
            "time_ids": torch.tensor(
                [*metadata["original_size"], *metadata["crop"], *metadata["target_size"]], dtype=torch.float32
            ),
            "ids": tensors["ids_l"].long(),
            "subject_token_index": [(row, *token) for token in _subject_tokens(metadata, chosen)],
            "hidden": torch.stack([tensors[f"ref_{person}.clip_hidden"][reference] for person, reference in people]),
            "identity": torch.stack(
                [tensors[f"ref_{person}.{self.identity}"][reference].float() for person, reference in people]
            ),
            "drop_identity": torch.tensor(chosen.drop_identity),
            "drop_face_tokens": torch.tensor([gone or chosen.drop_face_tokens for gone in chosen.drop_identity]),
            "masks": _regions(tensors, "mask", people, mean.shape),
            "faces": _regions(tensors, "face", people, mean.shape),
            # The first reference is the face in the picture. Losses look at it as recognizers do, in its true channels.
            "truth": torch.stack([tensors[f"ref_{person}.identity"][0].float() for person, _ in people]),
            "landmarks": torch.tensor([person["landmarks"] for person in described]),
            "people": torch.tensor([identity_number(person.get("identity")) for person in described]),
        }


def sample_augmentation(augment: AugmentConfig, persons: Sequence[dict[str, Any]], rng: random.Random) -> Augmentation:
    """Decide what becomes of a sample.

    Every decision draws its number, so that changing one probability leaves the other draws alone.
    """
    swap, dropping, which, subject, mentions = (rng.random() for _ in range(5))
    order = (1, 0) if swap < augment.swap_order else (0, 1)
    what = _what_to_drop(augment, dropping)
    both = what in ("drop_faces", "drop_all")
    one = (which < 0.5, which >= 0.5) if what == "drop_one_face" else (False, False)
    if len(persons) != 2:
        raise IndexError(f"it has {len(persons)} persons instead of 2")
    references = [_reference(augment, person["references"], rng) for person in persons]
    drop_text, map_subjects = what in ("drop_text", "drop_all"), subject >= augment.drop_subject
    return Augmentation(
        order=order,
        drop_identity=(both or one[0], both or one[1]),
        drop_text=drop_text,
        map_subjects=map_subjects,
        drop_face_tokens=rng.random() < augment.drop_face_tokens and map_subjects and not drop_text,
        mentions="tokens_all" if mentions < augment.all_mentions else "tokens_first",
        references=(references[order[0]], references[order[1]]),
    )


def _what_to_drop(augment: AugmentConfig, number: float) -> str:
    for name in ("drop_one_face", "drop_faces", "drop_text", "drop_all"):
        probability = getattr(augment, name)
        if number < probability:
            return name
        number -= probability
    return ""


def _reference(augment: AugmentConfig, references: Sequence[dict[str, Any]], rng: random.Random) -> int:
    """Which of a person's references is used: of another photo or not, changed or not, then any."""
    paired, changed, which = (rng.random() for _ in range(3))
    rows = list(range(len(references)))
    for name, wanted in (
        ("origin", "paired" if paired < augment.paired else "target"),
        ("augmented", changed < augment.augmented),
    ):
        rows = [row for row in rows if references[row].get(name) == wanted] or rows
    return rows[int(which * len(rows))]


def _subject_tokens(metadata: dict[str, Any], chosen: Augmentation) -> Iterator[tuple[int, int, int]]:
    """(person, chunk, position) of the tokens that carry a face."""
    if chosen.drop_text or not chosen.map_subjects:
        return
    for person, (source, dropped) in enumerate(zip(chosen.order, chosen.drop_identity, strict=True)):
        if not dropped:
            for chunk, position in metadata["persons"][source][chosen.mentions]:
                yield person, int(chunk), int(position)


def _regions(tensors: dict[str, Tensor], kind: str, people: Sequence[tuple[int, int]], shape: torch.Size) -> Tensor:
    """Both persons' masks, [2, h, w] 0..1; zeros where the shards have none (objectives that need them refuse that)."""
    nothing = torch.zeros(shape[-2:], dtype=torch.uint8)
    return torch.stack([tensors.get(f"{kind}_{person}", nothing).float() / 255 for person, _ in people])
