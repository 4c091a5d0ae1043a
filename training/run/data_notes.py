"""What a run should know of its data before it begins: references that teach copying, people on both sides of the validation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np
from safetensors import SafetensorError, deserialize

from .. import TrainingError
from ..data.dataset import PreparedDataset
from ..data.likeness import near_duplicates, similar_pairs
from ..wording import counted, some
from .config import TrainConfig

__all__ = ["data_notes"]

_SAME_PERSON = 0.5  # as `faces.alike` of prepare
_NAMED = 3  # pairs that a note names
_MANY_EPOCHS = 200


def data_notes(
    config: TrainConfig, folders: Sequence[PreparedDataset], validation: Sequence[PreparedDataset] = ()
) -> list[str]:
    """Sentences for the beginning of a run; none where nothing is odd."""
    notes = []
    paired = [folder.header.get("counts", {}).get("paired_people") for folder in folders]
    if config.augment.paired > 0 and all(count == 0 for count in paired):
        notes.append(
            f"augment.paired is {config.augment.paired:g}, but nobody in the data has another photo: every reference is the face of "
            "the picture itself, which teaches to copy it. `prepare` proposes who is on several pictures (people.csv), and reads "
            "references/, identities and references.couple_folders."
        )
    samples = sum(folder.samples for folder in folders)
    epochs = config.steps * config.data.batch_size / samples
    if epochs > _MANY_EPOCHS:
        notes.append(
            f"{config.steps} steps go {epochs:.0f} times through {samples} samples, which are then known by heart: lower --steps, or "
            "bring more pictures."
        )
    return notes + [note for other in validation for folder in folders for note in _shared(folder, other)]


def _shared(trained: PreparedDataset, held: PreparedDataset) -> Iterator[str]:
    """What a training and a validation folder have in common."""
    if trained.path == held.path:
        if trained.part != "train" or held.part != "validation":
            yield f"{held.path} is trained on and validated on: the validation loss says how well it is remembered."
        return
    ours, theirs = _people(trained), _people(held)
    if ours is None or theirs is None:
        return
    copies = near_duplicates([*map(bytes, theirs[1])], [*map(bytes, ours[1])])
    if copies:
        pairs = [f"{theirs[2][one]} and {ours[2][other]}" for one, other in copies]
        yield f"{some(pairs, _NAMED)} are copies or nearly: the first of {held.path}, the second of {trained.path}, which is trained on."
    width = ours[0].shape[-1]
    if width != theirs[0].shape[-1]:
        return
    found: dict[int, tuple[int, float]] = {}
    for one, other, alike in similar_pairs(theirs[0].reshape(-1, width), _SAME_PERSON, ours[0].reshape(-1, width)):
        if alike > found.get(one, (0, 0.0))[1]:
            found[one] = other, alike
    if found:
        pairs = [
            f"{theirs[2][one // 2]} and {ours[2][other // 2]} ({alike:.2f})" for one, (other, alike) in found.items()
        ]
        yield (
            f"{counted(len(found), 'face')} of {held.path} may be of people in {trained.path}, who are trained on: {some(pairs, _NAMED)}. The "
            "validation loss is too good then. Prepare all in one folder with --validation 0.1, which keeps people on one side."
        )


def _people(folder: PreparedDataset) -> tuple[np.ndarray, np.ndarray, list[str]] | None:
    """Faces float32 [N, 2, D] of length 1, looks uint8 [N, 8], and names of a folder's pictures; None where it keeps none."""
    try:
        content = folder.file("people.safetensors")
        found = {name: entry["data"] for name, entry in deserialize(content)}
        length = int.from_bytes(content[:8], "little")
        names = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["pictures"])
        faces = np.frombuffer(found["faces"], np.float16).astype(np.float32).reshape(len(names), 2, -1)
        looks = np.frombuffer(found["looks"], np.uint8).reshape(len(names), 8)
        held = np.frombuffer(found["held_out"], np.uint8).astype(bool)
    except (
        TrainingError,
        SafetensorError,
        ValueError,
        KeyError,
    ):  # data of an earlier version, or not readable: nothing to compare
        return None
    kept = {"all": np.ones(len(names), bool), "train": ~held, "validation": held}[folder.part]
    faces = faces / np.maximum(np.linalg.norm(faces, axis=-1, keepdims=True), 1e-6)
    return faces[kept], looks[kept], [name for name, keep in zip(names, kept, strict=True) if keep]
