"""From samples to the tensors of one forward pass, with everything that chance changes on the way."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from .. import TrainingError
from ..run.config import AugmentConfig
from .folder import Folder, Sample

__all__ = ["AS_THEY_ARE", "Batch", "BatchMaker"]

AS_THEY_ARE = AugmentConfig(**{entry.name: 0.0 for entry in fields(AugmentConfig)})
"""Nothing dropped, exchanged or changed, the people's own faces as references: for sample grids."""

Chance = Callable[..., random.Random]


@dataclass
class Batch:
    """B samples of one picture size; h, w are those of the latent, persons in the order in which the adapter gets them.

    names: of the samples, for messages.
    latents, noise: [B, channels, h, w] float32; the latent is drawn from its posterior and scaled.
    levels: [B] 0..1, the place among the noise levels.
    text: [B, 77 * chunks, context]; the stock encoding, or the empty prompt's where text was dropped.
    pooled: [B, P], or None for bases without one. time_ids: [B, 6] original size, crop, target size in px.
    ids: [B, chunks, 77] tokens of CLIP-L.
    words: [W, 4] row, person (from 0), chunk, position of every token that carries a face.
    hidden: [B, 2, T, C] of the references' crops. identity: [B, 2, 512].
    dropped: [B, 2] True where a person's face is left out. tokens_dropped: [B, 2] True there, and where it has words alone.
    masks, faces: [B, 2, h, w] 0..1, where each person and their face are.
    truth: [B, 2, 512] the identities of the faces in the picture itself. landmarks: [B, 2, 5, 2] of them, px of the picture.
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
    words: Tensor
    hidden: Tensor
    identity: Tensor
    dropped: Tensor
    tokens_dropped: Tensor
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
class _Choice:
    """What chance decided for one sample. order: which person of the sample comes first, which second."""

    order: tuple[int, int]
    dropped: tuple[bool, bool]
    text_dropped: bool
    mapped: bool
    tokens_dropped: bool
    mentions: str
    rows: tuple[int, int]


class BatchMaker:
    """Makes batches of samples.

    Args:
        folders: the common tensors come from the first of them.
        augment: what is changed, and how often.
        identity: which embedding the adapter reads, "identity" or "identity_swapped".
        chance: names -> a generator that depends on them alone.
        pin: page-lock the tensors.
    """

    def __init__(
        self, folders: Sequence[Folder], augment: AugmentConfig, identity: str, chance: Chance, pin: bool = False
    ) -> None:
        self.common = folders[0].common
        self.augment, self.identity, self.chance, self.pin = augment, identity, chance, pin

    def __call__(self, samples: Sequence[Sample], draws: Sequence[int], lane: int) -> Batch:
        """The batch of these samples; a sample drawn anew has another number and so is changed anew."""
        drawn = zip(samples, draws, strict=True)
        rows = [self._row(row, sample, self.chance(lane, draw)) for row, (sample, draw) in enumerate(drawn)]
        words = [word for row in rows for word in row.pop("words")]
        stacked = {
            name: None if rows[0][name] is None else torch.stack([row[name] for row in rows]) for name in rows[0]
        }
        names = [sample.name for sample in samples]
        batch = Batch(names=names, words=torch.tensor(words, dtype=torch.long).reshape(-1, 4), **stacked)
        return batch.pinned() if self.pin else batch

    def _row(self, row: int, sample: Sample, chance: random.Random) -> dict[str, Any]:
        try:
            return self._changed(row, sample, chance)
        except (KeyError, IndexError, TypeError, RuntimeError) as error:
            raise TrainingError(
                f"{sample.name}: it cannot be used ({type(error).__name__}: {error}). Prepare the shard again."
            ) from error

    def _changed(self, row: int, sample: Sample, chance: random.Random) -> dict[str, Any]:
        tensors, meta = sample.tensors(), sample.meta
        choice = choose(self.augment, meta["persons"], chance)
        random_numbers = torch.Generator().manual_seed(chance.getrandbits(63))
        mean, std = tensors["latent_mean"].float(), tensors["latent_std"].float()
        posterior, noise = torch.randn((2, *mean.shape), generator=random_numbers)
        text, pooled = tensors["text"], tensors.get("pooled")
        if choice.text_dropped:
            # Attention to a token several times is attention to it once, so the repeated prompt is the empty prompt.
            text = self.common["empty_text"].to(text).repeat(meta["chunks"], 1)
            pooled = None if pooled is None else self.common["empty_pooled"].to(pooled)
        people = [(number, choice.order[number] + 1, choice.rows[number]) for number in (0, 1)]
        return {
            "latents": mean + std * posterior,
            "noise": noise,
            "levels": torch.rand((), generator=random_numbers),
            "text": text,
            "pooled": pooled,
            "time_ids": torch.tensor(
                [*meta["original_size"], *meta["crop"], *meta["target_size"]], dtype=torch.float32
            ),
            "ids": tensors["ids_l"].long(),
            "words": [(row, *place) for place in _words(meta, choice)],
            "hidden": torch.stack([tensors[f"ref_{person}.clip_hidden"][which] for _, person, which in people]),
            "identity": torch.stack(
                [tensors[f"ref_{person}.{self.identity}"][which].float() for _, person, which in people]
            ),
            "dropped": torch.tensor(choice.dropped),
            "tokens_dropped": torch.tensor([gone or choice.tokens_dropped for gone in choice.dropped]),
            "masks": _regions(tensors, "mask", people, mean.shape),
            "faces": _regions(tensors, "face", people, mean.shape),
            # The first reference is the face in the picture. Losses look at it as recognisers do, in its true channels.
            "truth": torch.stack([tensors[f"ref_{person}.identity"][0].float() for _, person, _ in people]),
            "landmarks": torch.tensor([meta["persons"][person - 1]["landmarks"] for _, person, _ in people]),
            "people": torch.tensor([number_of(meta["persons"][person - 1].get("identity")) for _, person, _ in people]),
        }


def choose(augment: AugmentConfig, persons: Sequence[dict[str, Any]], chance: random.Random) -> _Choice:
    """Decide what becomes of a sample. Every decision draws its number, so that one share leaves the others' draws alone."""
    swap, dropping, which, subject, mentions = (chance.random() for _ in range(5))
    order = (1, 0) if swap < augment.swap_order else (0, 1)
    what = _what_is_dropped(augment, dropping)
    both = what in ("drop_faces", "drop_all")
    one = (which < 0.5, which >= 0.5) if what == "drop_one_face" else (False, False)
    if len(persons) != 2:
        raise IndexError(f"it has {len(persons)} persons instead of 2")
    rows = [_reference(augment, person["references"], chance) for person in persons]
    text_dropped, mapped = what in ("drop_text", "drop_all"), subject >= augment.drop_subject
    return _Choice(
        order=order,
        dropped=(both or one[0], both or one[1]),
        text_dropped=text_dropped,
        mapped=mapped,
        tokens_dropped=chance.random() < augment.drop_tokens and mapped and not text_dropped,
        mentions="tokens_all" if mentions < augment.all_mentions else "tokens_first",
        rows=(rows[order[0]], rows[order[1]]),
    )


def _what_is_dropped(augment: AugmentConfig, number: float) -> str:
    for name in ("drop_one_face", "drop_faces", "drop_text", "drop_all"):
        share = getattr(augment, name)
        if number < share:
            return name
        number -= share
    return ""


def _reference(augment: AugmentConfig, references: Sequence[dict[str, Any]], chance: random.Random) -> int:
    """Which of a person's references is used: of another photo or not, changed or not, then any."""
    paired, changed, which = (chance.random() for _ in range(3))
    rows = list(range(len(references)))
    for name, wanted in (
        ("origin", "paired" if paired < augment.paired else "target"),
        ("augmented", changed < augment.augmented),
    ):
        rows = [row for row in rows if references[row].get(name) == wanted] or rows
    return rows[int(which * len(rows))]


def _words(meta: dict[str, Any], choice: _Choice) -> Iterator[tuple[int, int, int]]:
    """(person, chunk, position) of the tokens that carry a face."""
    if choice.text_dropped or not choice.mapped:
        return
    for person, (source, dropped) in enumerate(zip(choice.order, choice.dropped, strict=True)):
        if not dropped:
            for chunk, position in meta["persons"][source][choice.mentions]:
                yield person, int(chunk), int(position)


def number_of(identity: str | None) -> int:
    """A number for a name, the same in every process; 0 for none."""
    return int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=7).digest(), "big") if identity else 0


def _regions(
    tensors: dict[str, Tensor], kind: str, people: Sequence[tuple[int, int, int]], shape: torch.Size
) -> Tensor:
    """Both persons' masks, [2, h, w] 0..1; zeros where the shards have none (objectives that need them refuse that)."""
    nothing = torch.zeros(shape[-2:], dtype=torch.uint8)
    return torch.stack([tensors.get(f"{kind}_{person}", nothing).float() / 255 for _, person, _ in people])
