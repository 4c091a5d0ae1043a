"""What can be set for `python -m training train`: dataclasses whose fields say what they mean.

A YAML file gives the values (training/configs/), the command line overrides any of them (`--optimiser.rate 5e-5`), and
everything is validated here, before a weight is loaded. `--print_config` shows the outcome.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from .. import TrainingError
from ..parsing import differences, parse  # `prepare` imports them from here

__all__ = [
    "AugmentConfig",
    "BaseConfig",
    "CheckpointConfig",
    "DataConfig",
    "DiffusionConfig",
    "FaceRegionConfig",
    "FolderConfig",
    "IdentityConfig",
    "LocalisationConfig",
    "ObjectivesConfig",
    "OptimiserConfig",
    "StartConfig",
    "TrainConfig",
    "WatchConfig",
    "differences",
    "need",
    "parse",
]


def need(right: bool, name: str, value: Any, what: str) -> None:
    """Refuse a value: "steps is 0, but it must be 1 or more." TrainingError."""
    if not right:
        raise TrainingError(f"{name} is {value!r}, but {what}.")


def _shares(config: Any, prefix: str, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        need(0 <= value <= 1, f"{prefix}.{name}", value, "it is a share: from 0 (never) to 1 (always)")


@dataclass
class BaseConfig:
    """The base model. It is frozen; only its UNet is loaded, CLIP-L for the subject path, the VAE for sample grids."""

    path: str = "tiny"
    """A diffusers folder, one checkpoint .safetensors of SDXL, mini (the drawn world's), or tiny (random weights)."""
    gradient_checkpointing: bool = False
    """Compute the UNet's activations again in the backward pass instead of keeping them: a third slower, far less memory."""


@dataclass
class FolderConfig:
    """One folder that `python -m training prepare` made."""

    path: str
    """A local folder or the URL of one; training reads dataset.json, common.safetensors and the shards in it."""
    weight: float | None = None
    """Share of the samples that come from here, relative to the other folders; null: by the number of its samples."""

    def __post_init__(self) -> None:
        need(bool(self.path), "data.folders: path", self.path, "it names a prepared folder")
        if self.weight is not None:
            need(self.weight > 0, f"data.folders: the weight of {self.path}", self.weight, "it must be above 0")


@dataclass
class DataConfig:
    """What is read, and how it is mixed."""

    folders: list[FolderConfig] = field(default_factory=list)
    """Prepared folders. Samples are mixed one by one."""
    validation: list[FolderConfig] = field(default_factory=list)
    """Prepared folders of other people, for a loss that nothing was trained on; empty: the training loss chooses the best."""
    validation_batches: int = 8
    """Micro batches of a validation, the same ones each time. One comes before every checkpoint."""
    batch: int = 8
    """Samples of an optimiser step, over all processes."""
    micro_batch: int = 1
    """Samples of one forward pass: what fits into memory. All have one picture size. batch / micro_batch passes make a
    step; they are shared by the processes, so how many there are changes nothing in the result."""
    shuffle: int = 256
    """Samples that wait for being drawn, over all passes of a step. More mixes better and costs memory (about 2 MB each for SDXL)."""
    prefetch: int = 4
    """Micro batches that a process makes ahead."""

    def __post_init__(self) -> None:
        for name in ("batch", "micro_batch", "shuffle", "prefetch", "validation_batches"):
            need(getattr(self, name) >= 1, f"data.{name}", getattr(self, name), "it must be 1 or more")
        need(
            self.batch % self.micro_batch == 0,
            "data.batch",
            self.batch,
            f"it must be a multiple of data.micro_batch ({self.micro_batch})",
        )

    @property
    def passes(self) -> int:
        """Forward passes of an optimiser step, over all processes."""
        return self.batch // self.micro_batch


@dataclass
class AugmentConfig:
    """What is changed by chance in a sample. Every share can be 0, so that its worth can be measured."""

    swap_order: float = 0.0
    """Person 1 and person 2 are exchanged: references, tokens, masks, words. At 0 person 1 is who the caption names first, and
    each person's key/value projections learn to find that one. At 0.5 the sentence no longer says whose projections belong
    where, and the faces of the mapped words have to; for captions that always name the same side or gender first."""
    drop_one_face: float = 0.05
    """One of the two keeps neither face tokens (they become the unconditional ones) nor a mapped word."""
    drop_faces: float = 0.05
    """The same for both."""
    drop_text: float = 0.05
    """The caption becomes the empty prompt, which has no word to map."""
    drop_all: float = 0.05
    """Both faces and the text: the unconditional half of guidance."""
    drop_subject: float = 0.1
    """No word is mapped, so that face tokens learn to stand alone."""
    drop_tokens: float = 0.0
    """The reverse: both keep their mapped words, but no face tokens, so that words learn to carry a face to its place."""
    paired: float = 0.5
    """References of another photo of the person, where a sample has some; the rest are the person in the picture itself."""
    augmented: float = 0.5
    """References changed in light, colour or side, where `prepare` made some."""
    all_mentions: float = 0.5
    """Every mention of a person carries the face; otherwise the first one alone."""

    def __post_init__(self) -> None:
        _shares(self, "augment", *(entry.name for entry in fields(self)))
        total = self.drop_one_face + self.drop_faces + self.drop_text + self.drop_all
        need(
            total <= 1, "The sum of augment.drop_one_face, drop_faces, drop_text and drop_all", total, "at most 1 fits"
        )


@dataclass
class StartConfig:
    """Where the adapter's weights come from."""

    weights: str = "scratch"
    """scratch; mini, the miniature's; a folder with the four released files; a native .safetensors; an IP-Adapter Plus (Face)
    file, whose one key/value projection is copied for both persons; or the folder of an earlier run, whose averaged weights
    are taken."""
    subject_path: bool = True
    """Train (and if need be make) identity projection and subject mapping. False leaves both out of the adapter."""
    shared: bool = False
    """scratch only: one key/value projection for both persons (the usual practice, which blends people; for comparisons)."""
    train: list[Literal["face_projection", "identity_projection", "mapping", "attention"]] = field(
        default_factory=lambda: ["face_projection", "identity_projection", "mapping", "attention"]
    )
    """Parts that learn; the others stay as they start, and cost a quarter of the memory."""
    identity_channels: Literal["bgr", "rgb-swapped"] = "bgr"
    """scratch only: what the identity projection reads. bgr is what recognisers were made for, rgb-swapped as released."""
    tokens: int = 16
    """scratch only: face tokens of a person (16 as released)."""
    face_width: int = 1280
    """scratch only: width of the face projection, a multiple of 64 (1280 as released)."""
    face_depth: int = 4
    """scratch only: layers of the face projection (4 as released)."""
    token_width: int = 1024
    """scratch and IP-Adapter: width of the identity token, a multiple of 64 (1024 as released)."""
    identity_depth: int = 4
    """scratch and IP-Adapter: layers of the identity projection (4 as released)."""
    mapping_width: int = 1024
    """scratch and IP-Adapter: width between the layers of the subject mapping (1024 as released)."""

    def __post_init__(self) -> None:
        for name in ("tokens", "face_width", "face_depth", "token_width", "identity_depth", "mapping_width"):
            need(getattr(self, name) >= 1, f"start.{name}", getattr(self, name), "it must be 1 or more")
        for name in ("face_width", "token_width"):
            need(getattr(self, name) % 64 == 0, f"start.{name}", getattr(self, name), "it must be a multiple of 64")
        need(bool(self.train), "start.train", self.train, "something has to learn")
        if self.weights == "scratch" and "attention" not in self.train:
            raise TrainingError(
                "start.train leaves attention out, but from scratch its values are zero, so nothing would be learnt. Add "
                "attention, or name trained weights (start.weights)."
            )


@dataclass
class DiffusionConfig:
    """See objectives/diffusion.py."""

    weight: float = 1.0
    """Of this part of the loss."""
    min_snr_gamma: float | None = 5.0
    """Min-SNR weighting (arXiv 2303.09556, 5 as published); null: every noise level counts alike."""
    levels: Literal["uniform", "rising"] = "uniform"
    """Which noise levels are drawn: all alike often, or the higher the more often (density 2t over t from 0 to 1)."""

    def __post_init__(self) -> None:
        need(self.weight > 0, "objectives.diffusion.weight", self.weight, "it must be above 0")
        if self.min_snr_gamma is not None:
            need(self.min_snr_gamma > 0, "objectives.diffusion.min_snr_gamma", self.min_snr_gamma, "it must be above 0")


@dataclass
class LocalisationConfig:
    """See objectives/localisation.py."""

    weight: float = 0.0
    """Of the face tokens' part; 0 switches it off."""
    words: float = 0.0
    """Weight of the mapped words' part; 0 switches it off."""
    smallest: int = 64
    """Layers with fewer places than this are left out: their places are coarser than a face."""

    def __post_init__(self) -> None:
        for name in ("weight", "words"):
            need(
                getattr(self, name) >= 0, f"objectives.localisation.{name}", getattr(self, name), "it must be 0 or more"
            )
        need(self.smallest >= 1, "objectives.localisation.smallest", self.smallest, "it must be 1 or more")


@dataclass
class FaceRegionConfig:
    """See objectives/face_region.py."""

    weight: float = 0.0
    """Of this part of the loss; 0 switches it off."""
    margin: int = 0
    """Latent places (8 px each) around a face that belong to it, too: hair, say, when faces are few places wide."""

    def __post_init__(self) -> None:
        need(self.weight >= 0, "objectives.face_region.weight", self.weight, "it must be 0 or more")
        need(self.margin >= 0, "objectives.face_region.margin", self.margin, "it must be 0 or more")


@dataclass
class IdentityConfig:
    """See objectives/identity.py; WithAnyone's losses (arXiv 2510.14975)."""

    weight: float = 0.0
    """Of the cosine to the person in the training picture (0.1 as published); 0 switches it off."""
    contrast: float = 0.0
    """Of the contrastive part (0.1 as published); 0 switches it off."""
    recogniser: str = ""
    """What looks: mini, an ArcFace .onnx such as buffalo_l/w600k_r50.onnx, or module:function that makes a Recognizer."""
    aligned_by: Literal["truth", "prediction"] = "truth"
    """Whose landmarks align the predicted face: the training picture's, or those that a detector finds in the prediction (for
    comparison; a face that it does not find counts nothing)."""
    below: float = 0.6
    """Noise levels from which the prediction is clear enough, 0..1 (1 is noise): 0.6 as in the released code, 1 as in the paper."""
    temperature: float = 0.1
    """Of the contrastive part, as published."""
    negatives: int = 4096
    """Other people to tell apart from, in all; 0: those of the batch alone."""
    same: float = 0.5
    """Faces of this cosine or more to the truth are no negatives: they may be the same person."""
    window: int = 0
    """Latent places of the square around a face that is decoded; 0: the whole picture. 48 are 384 px."""

    def __post_init__(self) -> None:
        for name in ("weight", "contrast", "negatives", "window"):
            need(getattr(self, name) >= 0, f"objectives.identity.{name}", getattr(self, name), "it must be 0 or more")
        need(0 < self.below <= 1, "objectives.identity.below", self.below, "it lies above 0 and up to 1")
        need(self.temperature > 0, "objectives.identity.temperature", self.temperature, "it must be above 0")
        if (self.weight or self.contrast) and not self.recogniser:
            raise TrainingError(
                "objectives.identity needs a recogniser: mini, the .onnx of an InsightFace pack, or module:function."
            )


@dataclass
class ObjectivesConfig:
    """The parts of the loss; one file each in training/objectives/."""

    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    localisation: LocalisationConfig = field(default_factory=LocalisationConfig)
    face_region: FaceRegionConfig = field(default_factory=FaceRegionConfig)
    identity: IdentityConfig = field(default_factory=IdentityConfig)


@dataclass
class OptimiserConfig:
    """How the weights move."""

    kind: Literal["adamw", "adamw8bit", "muon", "adafactor"] = "adamw"
    """adamw keeps 8 bytes a weight, muon 4, adamw8bit 2 (needs bitsandbytes and a GPU), adafactor next to nothing. muon
    moves matrices by Muon and the rest by AdamW (training/run/muon.py); tried at the miniature's size only."""
    rate: float = 1e-4
    """Learning rate at its highest."""
    turn: float = 0.02
    """Muon's learning rate for matrices, likewise."""
    schedule: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "constant_with_warmup"
    """How the rate goes on after the warm-up."""
    warmup: int = 500
    """Steps in which the rate rises from 0."""
    decay: float = 0.01
    """Weight decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW."""
    clip: float = 1.0
    """Largest norm of the gradient; longer ones are shortened. 0: never."""
    ema: float = 0.9999
    """Decay of the averaged weights, which are what is sampled, validated and exported; 0: none."""
    ema_device: Literal["same", "cpu"] = "same"
    """Where they are kept; cpu saves 4 bytes a weight on the GPU."""

    def __post_init__(self) -> None:
        for name in ("rate", "turn"):
            need(getattr(self, name) > 0, f"optimiser.{name}", getattr(self, name), "a learning rate must be above 0")
        for name in ("warmup", "decay", "clip"):
            need(getattr(self, name) >= 0, f"optimiser.{name}", getattr(self, name), "it must be 0 or more")
        need(all(0 <= beta < 1 for beta in self.betas), "optimiser.betas", self.betas, "both lie from 0 to below 1")
        need(0 <= self.ema < 1, "optimiser.ema", self.ema, "it lies from 0 to below 1")


@dataclass
class CheckpointConfig:
    """What is kept of a run, so that it can go on after anything."""

    every: int = 1000
    """Steps between checkpoints. One is also written at the end, on SIGTERM and on Ctrl-C."""
    keep: int = 2
    """How many of the last ones stay; the best stays besides."""

    def __post_init__(self) -> None:
        for name in ("every", "keep"):
            need(getattr(self, name) >= 1, f"checkpoints.{name}", getattr(self, name), "it must be 1 or more")


@dataclass
class WatchConfig:
    """What is told while it runs."""

    every: int = 10
    """Steps between console lines, entries in log.jsonl and tensorboard."""
    tensorboard: bool = True
    """Write event files into <run>/tensorboard."""
    samples_every: int = 1000
    """Steps between sample grids; 0: none, and the VAE is not loaded."""
    samples: int = 4
    """Pairs in a grid."""
    sample_steps: int = 20
    """Sampling steps of a picture."""
    cfg: float = 5.0
    """Guidance of the samples."""

    def __post_init__(self) -> None:
        for name in ("every", "samples", "sample_steps"):
            need(getattr(self, name) >= 1, f"watch.{name}", getattr(self, name), "it must be 1 or more")
        need(self.samples_every >= 0, "watch.samples_every", self.samples_every, "it must be 0 or more")
        need(self.cfg >= 1, "watch.cfg", self.cfg, "it must be 1 or more")


@dataclass
class TrainConfig:
    """Train the adapter on prepared shards."""

    run: str = "runs/pair"
    """Folder of this run: checkpoints, log, samples. A run that was ended goes on from its last checkpoint."""
    steps: int = 20000
    """Optimiser steps."""
    seed: int = 0
    """Of everything drawn by chance."""
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """Of the computation; the adapter's weights and their averages are always float32. auto: bf16 on a GPU, no on a CPU."""
    base: BaseConfig = field(default_factory=BaseConfig)
    data: DataConfig = field(default_factory=DataConfig)
    start: StartConfig = field(default_factory=StartConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    objectives: ObjectivesConfig = field(default_factory=ObjectivesConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)

    def __post_init__(self) -> None:
        need(bool(self.run), "run", self.run, "it names the folder of the run")
        need(self.steps >= 1, "steps", self.steps, "it must be 1 or more")
        need(self.seed >= 0, "seed", self.seed, "it must be 0 or more")
        if not self.data.folders:
            raise TrainingError(
                "data.folders is empty, but training needs prepared data. Run `python -m training prepare` and name its "
                "folder: --data.folders+ '{path: shards}'."
            )
