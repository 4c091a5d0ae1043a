"""WithAnyone's two losses on who is in the picture: likeness to the training picture's face, and unlikeness to others.

Source: arXiv 2510.14975 (docs/method.md#measures). The one-step clean prediction is decoded, and a face recognizer f embeds its faces:
- identity: 1 - cos(f(align(prediction, lm)), f(align(truth, lm))), aligned by the truth's landmarks lm: at high noise a detector
  finds no face in a prediction, and where it finds one, its landmarks move with the face instead of correcting it.
- infonce: InfoNCE at temperature 0.1. The positive is the truth's embedding; negatives are the other people of the batch and of a
  bank, `negatives` in all, without those who may be the same person.
Which timesteps count is said twice: the paper trains on all, its code on noise levels up to 0.6; `max_noise_level` chooses. A face
is matched to its person by its position, never by a detector's order. The truth's embedding is the one in the shards, of the real
pixels.

This project's choice: that a face whose reference was dropped counts nothing; the mean runs over the faces that count; and that
only a crop around each face may be decoded, since SDXL's decoder needs gigabytes for a whole picture.
Letters in shapes: B samples, P persons, N faces that count, D width of an embedding.
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
from .config import IdentityConfig
from .protocol import ForwardOutput, Objective

__all__ = ["FaceEmbeddings", "Identity", "InfoNCE", "PredictedFaceEncoder", "build", "info_nce", "negative_bank"]


def build(config: IdentityConfig, folders: Sequence[PreparedDataset] = ()) -> list[Objective]:
    """Those of the two whose weight is not 0; they decode and embed the predicted faces once."""
    if not (config.weight or config.infonce_weight):
        return []
    recognizer = load_recognizer(config.recognizer)
    check_recognizer(recognizer, folders)
    encoder = PredictedFaceEncoder(recognizer, config)
    objectives: list[Objective] = [Identity(config.weight, encoder)] if config.weight else []
    if config.infonce_weight:
        objectives.append(InfoNCE(config, encoder, negative_bank(folders, config.negatives)))
    return objectives


@dataclass
class FaceEmbeddings:
    """The faces of a batch that count.

    Attributes:
        predicted: [N, D], embeddings of the predicted faces, unit length.
        truth: [N, D], embeddings of the faces in the training pictures, unit length.
        people: [N], a number for each person; 0: not known.
    """

    predicted: Tensor
    truth: Tensor
    people: Tensor


class PredictedFaceEncoder:
    """Decodes, aligns and embeds the predicted faces of a batch, once for all objectives.

    Args:
        recognizer: frozen; gradients pass through it.
        config: which noise levels count, what aligns, and how much is decoded.

    Raises:
        TrainingError: alignment by the prediction, with a recognizer that finds no faces.
    """

    def __init__(self, recognizer: Recognizer, config: IdentityConfig) -> None:
        if config.aligned_by == "prediction" and not hasattr(recognizer, "find"):
            raise TrainingError(
                "objectives.identity.aligned_by is prediction, but this recognizer finds no faces. Choose truth.",
                code="recognizer-finds-no-faces",
            )
        self.recognizer, self.config = recognizer, config

    def __call__(self, output: ForwardOutput) -> FaceEmbeddings:
        """The faces whose noise level is low enough and whose reference was not dropped."""
        if "face_embeddings" not in output.cache:
            # SDXL's decoder overflows in fp16, and a recognizer tells people apart by small differences.
            with torch.autocast(output.prediction.device.type, enabled=False):
                output.cache["face_embeddings"] = self._encode(output)
        return output.cache["face_embeddings"]

    def _encode(self, output: ForwardOutput) -> FaceEmbeddings:
        batch, schedule_length = output.batch, output.base.scheduler.config.num_train_timesteps
        clear = output.timesteps < self.config.max_noise_level * schedule_length
        samples, persons = (clear[:, None] & ~batch.drop_identity).nonzero(as_tuple=True)
        truth, people = F.normalize(batch.truth[samples, persons].float(), dim=-1), batch.people[samples, persons]
        if not len(samples):
            return FaceEmbeddings(output.prediction.new_zeros(0, truth.shape[-1]), truth, people)
        landmarks = batch.landmarks[samples, persons].float()
        pictures, landmarks = self._decode(output, samples, landmarks)
        if self.config.aligned_by == "prediction":
            pictures, landmarks, found = self._detect(pictures, landmarks)
            truth, people = truth[found], people[found]
        recognizer = self.recognizer.to(pictures.device)
        if not len(pictures):
            return FaceEmbeddings(output.prediction.new_zeros(0, truth.shape[-1]), truth, people)
        return FaceEmbeddings(recognizer(align_faces(pictures, landmarks, recognizer)), truth, people)

    def _decode(self, output: ForwardOutput, samples: Tensor, landmarks: Tensor) -> tuple[Tensor, Tensor]:
        """The predicted picture around every face, [N, 3, H, W] -1..1, and the landmarks in it, [N, 5, 2] px."""
        vae, clean, side = output.base.vae, output.clean_latents(), self.config.decode_crop
        height, width = clean.shape[-2:]
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        if not side or side >= max(height, width):
            used, back = samples.unique(return_inverse=True)
            pictures = _decode(vae, clean[used])
            return pictures[back], landmarks
        size = (min(side, height), min(side, width))
        starts = face_windows(landmarks, (height, width), size, factor)
        crops = [
            clean[sample, :, y : y + size[0], x : x + size[1]]
            for sample, (y, x) in zip(samples.tolist(), starts.tolist(), strict=True)
        ]
        return _decode(vae, torch.stack(crops)), landmarks - factor * starts.flip(1)[:, None].to(landmarks)

    def _detect(self, pictures: Tensor, landmarks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The pictures in which a face is found near the truth's, its landmarks there, and which pictures these are [N]."""
        detected = [self._nearest_face(picture, near) for picture, near in zip(pictures, landmarks, strict=True)]
        found = torch.tensor([face is not None for face in detected], dtype=torch.bool, device=pictures.device)
        faces = [face for face in detected if face is not None]
        return pictures[found], torch.stack(faces) if faces else landmarks[:0], found

    @torch.no_grad()
    def _nearest_face(self, picture: Tensor, near: Tensor) -> Tensor | None:
        """The landmarks of the face found nearest to where the truth's is, [5, 2] px; None for none within its size."""
        pixels = ((picture.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
        middle = near.mean(dim=0).cpu().numpy()
        reach = float((near.amax(dim=0) - near.amin(dim=0)).norm())
        found = [(abs(face.landmarks.mean(axis=0) - middle).max(), face) for face in self.recognizer.find(pixels)]
        distance, face = min(found, key=lambda one: one[0], default=(float("inf"), None))
        return torch.from_numpy(face.landmarks).to(near) if distance < reach else None


def _decode(vae: nn.Module, latents: Tensor) -> Tensor:
    return vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample.float()


class Identity:
    """Mean over faces of 1 - cosine to the face in the training picture."""

    name = "identity"
    setting = "objectives.identity.weight"
    required_tensors: frozenset[str] = frozenset()
    required_attention: frozenset[str] = frozenset()
    needs_vae = True

    def __init__(self, weight: float, encoder: PredictedFaceEncoder) -> None:
        self.weight, self.encoder = weight, encoder

    def __call__(self, output: ForwardOutput) -> Tensor:
        faces = self.encoder(output)
        if not len(faces.predicted):
            return 0.0 * output.prediction.sum()
        return (1 - (faces.predicted * faces.truth).sum(dim=-1)).mean()


class InfoNCE:
    """Mean over faces of InfoNCE against other people.

    Args:
        config: weight, temperature and threshold.
        encoder: shared with `Identity`.
        bank: embeddings [M, D] of other people of the data, and their numbers [M].
    """

    name = "infonce"
    setting = "objectives.identity.infonce_weight"
    required_tensors: frozenset[str] = frozenset()
    required_attention: frozenset[str] = frozenset()
    needs_vae = True

    def __init__(self, config: IdentityConfig, encoder: PredictedFaceEncoder, bank: tuple[Tensor, Tensor]) -> None:
        self.weight, self.encoder, self.bank = config.infonce_weight, encoder, bank
        self.temperature, self.same_identity_threshold = config.temperature, config.same_identity_threshold

    def __call__(self, output: ForwardOutput) -> Tensor:
        faces = self.encoder(output)
        if not len(faces.predicted):
            return 0.0 * output.prediction.sum()
        device = faces.predicted.device
        self.bank = tuple(part.to(device) for part in self.bank)
        in_batch = F.normalize(output.batch.truth.flatten(0, 1).float(), dim=-1)
        candidates = torch.cat([in_batch, self.bank[0]]) if len(self.bank[0]) else in_batch
        people = torch.cat([output.batch.people.flatten(), self.bank[1]])
        return info_nce(faces, candidates, people, self.temperature, self.same_identity_threshold)


def info_nce(
    faces: FaceEmbeddings, candidates: Tensor, people: Tensor, temperature: float, same_identity_threshold: float
) -> Tensor:
    """-log of the truth's probability among truth and negatives, mean over faces.

    Args:
        faces: the predicted faces and their truth, N.
        candidates: [M, D], embeddings of possible negatives. Those with the number of the truth, or with a cosine to it of
            `same_identity_threshold` or more, are no negatives.
        people: [M], the candidates' numbers; 0: not known.
        temperature: of the softmax.
        same_identity_threshold: cosine from which two faces may be one person.
    """
    known = (faces.people[:, None] == people[None]) & (people[None] != 0)
    excluded = known | (faces.truth @ candidates.T >= same_identity_threshold)
    negatives = (faces.predicted @ candidates.T / temperature).masked_fill(excluded, -torch.inf)
    positive = (faces.predicted * faces.truth).sum(dim=-1, keepdim=True) / temperature
    return (torch.logsumexp(torch.cat([positive, negatives], dim=1), dim=1) - positive[:, 0]).mean()


def negative_bank(folders: Sequence[PreparedDataset], count: int) -> tuple[Tensor, Tensor]:
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
