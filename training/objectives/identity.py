"""WithAnyone's two losses on who is in the picture: likeness to the training picture's face, and unlikeness to others.

Source: arXiv 2510.14975 (docs/method.md#measures). The one-step clean prediction is decoded and looked at by a face recogniser f:
- identity: 1 - cos(f(align(prediction, lm)), f(align(truth, lm))), aligned by the truth's landmarks lm: at high noise a detector
  finds no face in a prediction, and where it finds one, its landmarks move with the face instead of correcting it.
- contrast: InfoNCE at temperature 0.1. The positive is the truth's embedding; negatives are the other people of the batch and of a
  bank, `negatives` in all, without whoever may be the same person.
Which noise levels count is said twice: the paper trains on all, its code on those up to 0.6; `below` chooses. A face is matched to
its person by its place, never by a detector's order. The truth's embedding is the one in the shards, of the real pixels.

This project's choice: that a face whose reference was dropped counts nothing; the mean runs over the faces that count; and that
only a window around each face may be decoded, since SDXL's decoder needs gigabytes for a whole picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import TrainingError
from ..data.dataset import PreparedDataset, Sample
from ..data.identities import identity_number
from ..recognizers import Recognizer, align_faces, check_recognizer, face_windows, load_recognizer
from ..run.config import IdentityConfig
from .seen import Objective, Seen

__all__ = ["Contrast", "Identity", "bank_of", "build", "info_nce"]


def build(config: IdentityConfig, folders: Sequence[PreparedDataset] = ()) -> list[Objective]:
    """Those of the two whose weight is not 0; they share one look at the picture."""
    if not (config.weight or config.contrast):
        return []
    recogniser = load_recognizer(config.recogniser)
    check_recognizer(recogniser, folders)
    eye = Eye(recogniser, config)
    found: list[Objective] = [Identity(config.weight, eye)] if config.weight else []
    if config.contrast:
        found.append(Contrast(config, eye, bank_of(folders, config.negatives)))
    return found


@dataclass
class Looked:
    """Faces of a batch that count: embeddings [N, D] of the prediction, truth [N, D], people [N] as numbers, 0: not known."""

    embeddings: Tensor
    truth: Tensor
    people: Tensor


class Eye:
    """Looks at the predicted faces of a batch, once for all objectives that want to know.

    Args:
        recogniser: frozen; gradients pass through it.
        config: which noise levels count, what aligns, and how much is decoded.
    """

    def __init__(self, recogniser: Recognizer, config: IdentityConfig) -> None:
        if config.aligned_by == "prediction" and not hasattr(recogniser, "find"):
            raise TrainingError(
                "objectives.identity.aligned_by is prediction, but this recogniser finds no faces. Choose truth."
            )
        self.recogniser, self.config = recogniser, config

    def look(self, seen: Seen) -> Looked:
        """The faces whose noise level is low enough and whose reference was not dropped."""
        if "looked" not in seen.notes:
            # SDXL's decoder overflows in fp16, and a recogniser tells people apart by small differences.
            with torch.autocast(seen.prediction.device.type, enabled=False):
                seen.notes["looked"] = self._look(seen)
        return seen.notes["looked"]

    def _look(self, seen: Seen) -> Looked:
        batch, levels = seen.batch, seen.base.scheduler.config.num_train_timesteps
        low = seen.times < self.config.below * levels
        rows, persons = (low[:, None] & ~batch.drop_identity).nonzero(as_tuple=True)
        truth, people = F.normalize(batch.truth[rows, persons].float(), dim=-1), batch.people[rows, persons]
        if not len(rows):
            return Looked(seen.prediction.new_zeros(0, truth.shape[-1]), truth, people)
        landmarks = batch.landmarks[rows, persons].float()
        pictures, moved = self._decode(seen, rows, landmarks)
        if self.config.aligned_by == "prediction":
            pictures, moved, kept = self._found(pictures, moved)
            truth, people = truth[kept], people[kept]
        recogniser = self.recogniser.to(pictures.device)
        if not len(pictures):
            return Looked(seen.prediction.new_zeros(0, truth.shape[-1]), truth, people)
        return Looked(recogniser(align_faces(pictures, moved, recogniser)), truth, people)

    def _decode(self, seen: Seen, rows: Tensor, landmarks: Tensor) -> tuple[Tensor, Tensor]:
        """What the prediction shows of every face, [N, 3, H, W] -1..1, and the landmarks there [N, 5, 2] px."""
        vae, clean, window = seen.base.vae, seen.clean(), self.config.window
        height, width = clean.shape[-2:]
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        if not window or window >= max(height, width):
            used, back = rows.unique(return_inverse=True)
            pictures = _decode(vae, clean[used])
            return pictures[back], landmarks
        span = (min(window, height), min(window, width))
        starts = face_windows(landmarks, (height, width), span, factor)
        crops = [
            clean[row, :, y : y + span[0], x : x + span[1]]
            for row, (y, x) in zip(rows.tolist(), starts.tolist(), strict=True)
        ]
        return _decode(vae, torch.stack(crops)), landmarks - factor * starts.flip(1)[:, None].to(landmarks)

    @torch.no_grad()
    def _find(self, picture: Tensor, near: Tensor) -> Tensor | None:
        """The landmarks of the face found nearest to where the truth's is, [5, 2] px; None for none within its size."""
        pixels = ((picture.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
        middle = near.mean(dim=0).cpu().numpy()
        reach = float((near.amax(dim=0) - near.amin(dim=0)).norm())
        found = [(abs(face.landmarks.mean(axis=0) - middle).max(), face) for face in self.recogniser.find(pixels)]
        apart, face = min(found, key=lambda one: one[0], default=(float("inf"), None))
        return torch.from_numpy(face.landmarks).to(near) if apart < reach else None

    def _found(self, pictures: Tensor, landmarks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        each = [self._find(picture, near) for picture, near in zip(pictures, landmarks, strict=True)]
        kept = torch.tensor([one is not None for one in each], dtype=torch.bool, device=pictures.device)
        seen = [one for one in each if one is not None]
        return pictures[kept], torch.stack(seen) if seen else landmarks[:0], kept


def _decode(vae: nn.Module, latents: Tensor) -> Tensor:
    return vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample.float()


class Identity:
    """Mean over faces of 1 - cosine to the face in the training picture."""

    name = "identity"
    needs: frozenset[str] = frozenset()
    watches: frozenset[str] = frozenset()
    decodes = True

    def __init__(self, weight: float, eye: Eye) -> None:
        self.weight, self.eye = weight, eye

    def __call__(self, seen: Seen) -> Tensor:
        looked = self.eye.look(seen)
        if not len(looked.embeddings):
            return 0.0 * seen.prediction.sum()
        return (1 - (looked.embeddings * looked.truth).sum(dim=-1)).mean()


class Contrast:
    """Mean over faces of InfoNCE against other people.

    Args:
        bank: embeddings [M, D] of other people of the data, and their numbers [M].
    """

    name = "contrast"
    needs: frozenset[str] = frozenset()
    watches: frozenset[str] = frozenset()
    decodes = True

    def __init__(self, config: IdentityConfig, eye: Eye, bank: tuple[Tensor, Tensor]) -> None:
        self.weight, self.eye, self.bank = config.contrast, eye, bank
        self.temperature, self.same = config.temperature, config.same

    def __call__(self, seen: Seen) -> Tensor:
        looked = self.eye.look(seen)
        if not len(looked.embeddings):
            return 0.0 * seen.prediction.sum()
        device = looked.embeddings.device
        self.bank = tuple(part.to(device) for part in self.bank)
        others = F.normalize(seen.batch.truth.flatten(0, 1).float(), dim=-1)
        faces = torch.cat([others, self.bank[0]]) if len(self.bank[0]) else others
        people = torch.cat([seen.batch.people.flatten(), self.bank[1]])
        return info_nce(looked, faces, people, self.temperature, self.same)


def info_nce(looked: Looked, faces: Tensor, people: Tensor, temperature: float, same: float) -> Tensor:
    """-log of the truth's share among truth and negatives, mean over faces.

    faces [M, D], people [M]: candidates. Who has the same number, or is as alike to the truth as `same`, is no negative.
    """
    known = (looked.people[:, None] == people[None]) & (people[None] != 0)
    excluded = known | (looked.truth @ faces.T >= same)
    negatives = (looked.embeddings @ faces.T / temperature).masked_fill(excluded, -torch.inf)
    positive = (looked.embeddings * looked.truth).sum(dim=-1, keepdim=True) / temperature
    return (torch.logsumexp(torch.cat([positive, negatives], dim=1), dim=1) - positive[:, 0]).mean()


def bank_of(folders: Sequence[PreparedDataset], count: int) -> tuple[Tensor, Tensor]:
    """Up to `count` faces of the data: embeddings [M, 512] of unit length and the numbers of their people [M].

    Read once, from the beginning of every shard in turn, so that every process and every resumed run has the same.
    """
    faces, people = [], []
    shards = [(folder, shard) for folder in folders for shard in range(len(folder.shards))]
    each = -(-count // (2 * len(shards))) if shards else 0
    for folder, shard in shards:
        for _, name, meta, packed in islice(folder.read(shard), each):
            tensors = Sample((0, 0, 0), name, meta, packed).tensors()
            for person, described in enumerate(meta["persons"], 1):
                faces.append(F.normalize(tensors[f"ref_{person}.identity"][0].float(), dim=-1))
                people.append(identity_number(described.get("identity")))
    if not faces:
        return torch.zeros(0, 512), torch.zeros(0, dtype=torch.long)
    return torch.stack(faces)[:count], torch.tensor(people[:count])
