"""What training reads and how it changes samples: the settings under `data` and `augment` of a training configuration."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from ..parsing import check_fractions, check_setting
from .balance import FIELDS

__all__ = ["AugmentConfig", "DataConfig", "FolderConfig"]


@dataclass
class FolderConfig:
    """One folder that `python -m training prepare` made."""

    path: str
    """A local folder or the URL of one; training reads dataset.json, common.safetensors and the shards in it."""
    weight: float | None = None
    """Fraction of the samples that come from here, relative to the other folders; null: by the number of its samples."""

    part: Literal["all", "train", "validation"] | None = None
    """Which samples of a folder that holds some out (`prepare --validation 0.1`): train, those that are not held out; validation,
    those that are; all. null: under data.folders train, under data.validation validation."""

    def __post_init__(self) -> None:
        check_setting(bool(self.path), "data.folders: path", self.path, "it names a prepared folder")
        if self.weight is not None:
            check_setting(
                self.weight > 0, f"data.folders: the weight of {self.path}", self.weight, "it must be above 0"
            )


@dataclass
class DataConfig:
    """Which prepared folders are read, how samples are shuffled, and how many make a batch."""

    folders: list[FolderConfig] = field(default_factory=list)
    """Prepared folders to train on. Samples are mixed one by one."""
    validation: list[FolderConfig] = field(default_factory=list)
    """Prepared folders of people who are not trained on, for the validation loss: others, or the same ones with what `prepare
    --validation` holds out of them. Empty: the training loss chooses the best checkpoint."""
    validation_batches: int = 8
    """Micro batches of one validation, the same ones each time. A validation comes before every checkpoint."""
    batch_size: int = 8
    """Samples of one optimizer step, over all processes: the global batch size."""
    micro_batch_size: int = 1
    """Samples of one forward pass: as many as fit into the GPU's memory. All have one picture size. Gradients accumulate over
    batch_size / micro_batch_size passes, which the processes share; how many processes there are changes no result."""
    shuffle_buffer: int = 256
    """Samples in the shuffle buffer, over all micro batches of a step. More mixes better and costs memory (about 2 MB a
    sample for SDXL)."""
    balance: list[str] = field(default_factory=list)
    """What people shall be seen equally often by: gender, age_group, or both, as `prepare` found them. Pictures of those of whom
    there are few are drawn more often, see training/data/balance.py; empty: pictures as they are."""
    balance_most: float = 10.0
    """How much more often than another a picture may be drawn for the sake of `balance`."""
    prefetch: int = 4
    """Micro batches that each process makes ahead in a thread."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "micro_batch_size", "shuffle_buffer", "prefetch", "validation_batches"):
            check_setting(getattr(self, name) >= 1, f"data.{name}", getattr(self, name), "it must be 1 or more")
        for name in self.balance:
            check_setting(name in FIELDS, "data.balance", name, f"people are told apart by {' and '.join(FIELDS)}")
        check_setting(self.balance_most >= 1, "data.balance_most", self.balance_most, "it must be 1 or more")
        check_setting(
            self.batch_size % self.micro_batch_size == 0,
            "data.batch_size",
            self.batch_size,
            f"it must be a multiple of data.micro_batch_size ({self.micro_batch_size})",
        )

    @property
    def gradient_accumulation_steps(self) -> int:
        """Forward and backward passes of one optimizer step, over all processes."""
        return self.batch_size // self.micro_batch_size


@dataclass
class AugmentConfig:
    """What is changed at random in a sample. Every probability can be 0, so that its worth can be measured."""

    swap_order: float = 0.0
    """Probability that person 1 and person 2 are exchanged: references, face tokens, masks, words. At 0 person 1 is who the
    caption names first, and each person's key/value projections learn to find that one. At 0.5 the sentence no longer says
    whose projections belong where, and the faces of the mapped words have to; for captions that always name the same side or
    gender first."""
    drop_one_face: float = 0.05
    """Probability that one of the two keeps neither face tokens (they become the unconditional ones) nor a mapped word."""
    drop_faces: float = 0.05
    """Probability that both people lose face tokens and mapped words, which guidance for the faces alone needs."""
    drop_text: float = 0.05
    """Probability that the caption becomes the empty prompt, which has no word to map."""
    drop_all: float = 0.05
    """Probability that both faces and the text are dropped: the unconditional half of classifier-free guidance."""
    drop_subject: float = 0.1
    """Probability that no word is mapped, so that face tokens learn to stand alone."""
    drop_face_tokens: float = 0.0
    """Probability of the reverse: both keep their mapped words but no face tokens, so that words learn to carry a face to its
    position."""
    paired: float = 0.5
    """Probability of a reference from another photo of the person, where a sample has some; otherwise the reference is the
    person in the picture itself."""
    augmented: float = 0.5
    """Probability of a reference changed in light, color or side, where `prepare` made some."""
    all_mentions: float = 0.5
    """Probability that every mention of a person carries the face; otherwise only the first one does."""

    def __post_init__(self) -> None:
        check_fractions(self, "augment", *(entry.name for entry in fields(self)))
        total = self.drop_one_face + self.drop_faces + self.drop_text + self.drop_all
        check_setting(
            total <= 1, "The sum of augment.drop_one_face, drop_faces, drop_text and drop_all", total, "at most 1 fits"
        )
