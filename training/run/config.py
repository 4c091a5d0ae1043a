"""What can be set for `python -m training train`: dataclasses whose fields say what they mean.

A YAML file gives the values (training/configs/), the command line overrides any of them (`--optimizer.learning_rate 5e-5`),
and everything is validated here, before a weight is loaded. `--print_config` shows the outcome. Settings of the data are in
training/data/config.py, those of the losses in training/objectives/config.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from .. import TrainingError
from ..data.config import AugmentConfig, DataConfig
from ..data.settings import FaceSettings
from ..objectives.config import ObjectivesConfig
from ..parsing import check_setting
from .dual_config import DualConfig

__all__ = [
    "BaseConfig",
    "CheckpointConfig",
    "InitConfig",
    "LoggingConfig",
    "OptimizerConfig",
    "PromptConfig",
    "TrainConfig",
]


@dataclass
class BaseConfig:
    """The base model. It is frozen; only its UNet is loaded, CLIP-L for the subject path, the VAE for sample grids."""

    path: str = "tiny"
    """A diffusers folder, one checkpoint .safetensors of SDXL, mini (the drawn world's), or tiny (random weights)."""
    gradient_checkpointing: bool = False
    """Compute the UNet's activations again in the backward pass instead of keeping them: a third slower, far less memory."""
    quantization: Literal["none", "fp8", "int8", "nf4"] = "none"
    """Bits of the weights in the UNet's Linear layers: none, as precision says; fp8 or int8 (needs torchao), half of that; nf4
    (needs bitsandbytes), a quarter. They are rounded, which the adapter is then trained with. Tried on CPUs only."""
    offload: bool = False
    """Keep the UNet's blocks on the CPU, and bring each to the GPU while it computes; with gradient_checkpointing. Much slower.
    Tried on a CPU only."""
    compile: bool = False
    """Compile the UNet's layers in which no people act (torch.compile): minutes before the first step, faster steps. Tried on a
    CPU only."""

    def __post_init__(self) -> None:
        if self.offload and not self.gradient_checkpointing:
            raise TrainingError(
                "base.offload needs base.gradient_checkpointing: otherwise the backward pass keeps the weights of all blocks. Set both.",
                code="offload-without-checkpointing",
            )
        if self.offload and self.quantization != "none":
            raise TrainingError(
                "base.offload moves plain weights, not those of base.quantization. Choose one of the two.",
                code="offload-of-quantized",
            )


@dataclass
class InitConfig:
    """Which weights the adapter is initialized with, and which of them are trained."""

    weights: str = "scratch"
    """Initial weights: scratch; mini, the miniature's; a folder with the four released files; a native .safetensors; an
    IP-Adapter Plus (Face) file, whose one key/value projection is copied for both persons; or the folder of an earlier run,
    whose EMA weights are taken."""
    subject_path: bool = True
    """Train (and if need be make) identity projection and subject mapping. False leaves both out of the adapter."""
    shared: bool = False
    """scratch only: one key/value projection for both persons (the usual practice, which blends people; for comparisons)."""
    train: list[Literal["face_projection", "identity_projection", "mapping", "attention"]] = field(
        default_factory=lambda: ["face_projection", "identity_projection", "mapping", "attention"]
    )
    """Parts of the adapter that are trained; the others stay as initialized, and cost a quarter of the memory."""
    rank: int = 0
    """Low-rank training (needs PEFT): each matrix of the trained parts stays, and two narrow ones of this width are trained beside
    it; 8 to 32 are usual. Memory, checkpoints and the exported file are a twentieth. 0: the weights themselves are trained."""
    identity_channels: Literal["bgr", "rgb-swapped"] = "bgr"
    """scratch only: color channels of the face embeddings that the identity projection reads. bgr is what recognizers were
    made for, rgb-swapped as released."""
    face_tokens: int = 16
    """scratch only: number of face tokens per person (16 as released)."""
    face_width: int = 1280
    """scratch only: channels inside the face projection, a multiple of 64 (1280 as released)."""
    face_depth: int = 4
    """scratch only: layers of the face projection (4 as released)."""
    token_width: int = 1024
    """scratch and IP-Adapter: channels of the identity token, a multiple of 64 (1024 as released)."""
    identity_depth: int = 4
    """scratch and IP-Adapter: layers of the identity projection (4 as released)."""
    mapping_width: int = 1024
    """scratch and IP-Adapter: channels between the two layers of the subject mapping (1024 as released)."""

    def __post_init__(self) -> None:
        for name in ("face_tokens", "face_width", "face_depth", "token_width", "identity_depth", "mapping_width"):
            check_setting(getattr(self, name) >= 1, f"init.{name}", getattr(self, name), "it must be 1 or more")
        for name in ("face_width", "token_width"):
            check_setting(
                getattr(self, name) % 64 == 0, f"init.{name}", getattr(self, name), "it must be a multiple of 64"
            )
        check_setting(bool(self.train), "init.train", self.train, "something has to be trained")
        check_setting(self.rank >= 0, "init.rank", self.rank, "it must be 0 or more")
        if self.rank and self.weights == "scratch":
            raise TrainingError(
                f"init.rank is {self.rank}, but low-rank training changes weights that exist. Name them (init.weights): a trained "
                "adapter, or an IP-Adapter Plus (Face) file; or set init.rank to 0.",
                code="low-rank-from-scratch",
            )
        if self.weights == "scratch" and "attention" not in self.train:
            raise TrainingError(
                "init.train leaves attention out, but from scratch its values are zero, so nothing would be learned. Add "
                "attention, or name trained weights (init.weights).",
                code="nothing-would-be-learned",
            )


@dataclass
class OptimizerConfig:
    """How gradients become steps of the weights."""

    name: Literal["adamw", "adamw8bit", "muon", "adafactor", "prodigy", "schedulefree"] = "adamw"
    """The optimizer. adamw keeps 8 bytes of state a weight, muon 4, adamw8bit 2 (needs bitsandbytes and a GPU), adafactor next
    to nothing, prodigy 16, schedulefree 8. prodigy (needs prodigyopt) finds its learning rate itself: learning_rate is then a factor,
    1 as a rule. schedulefree (needs schedulefree) is AdamW without a schedule, with an average of its own in the EMA's place. muon moves matrices by Muon and the rest by AdamW (training/run/muon.py); tried at the miniature's size only."""
    learning_rate: float = 1e-4
    """Learning rate after the warm-up, its highest."""
    part_learning_rates: dict[str, float] = field(default_factory=dict)
    """Other learning rates for single parts, such as {mapping: 1.0e-5}: face_projection, identity_projection, mapping, attention.
    With muon, a part at a tenth of learning_rate has a tenth of muon_lr for its matrices, too."""
    muon_lr: float = 0.02
    """muon only: learning rate of matrices after the warm-up; learning_rate is that of all other weights."""
    schedule: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "constant_with_warmup"
    """How the learning rate changes after the warm-up."""
    warmup_steps: int = 500
    """Optimizer steps in which the learning rate rises from 0."""
    weight_decay: float = 0.01
    """Decoupled weight decay per step, as a factor of the learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay of its moving averages of the gradient and of the squared gradient."""
    max_grad_norm: float = 1.0
    """Gradient clipping: the largest norm of the gradient, longer ones are shortened to it. 0: never."""
    ema_decay: float = 0.9999
    """Decay of the exponential moving average (EMA) of the weights, which is what is sampled, validated and exported; 0: none."""
    ema_device: Literal["same", "cpu"] = "same"
    """Where the EMA weights are kept: same, with the weights; or cpu, which saves 4 bytes a weight on the GPU."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "muon_lr"):
            check_setting(
                getattr(self, name) > 0, f"optimizer.{name}", getattr(self, name), "a learning rate must be above 0"
            )
        for name, rate in self.part_learning_rates.items():
            check_setting(rate > 0, f"optimizer.part_learning_rates.{name}", rate, "a learning rate must be above 0")
        if self.part_learning_rates and self.name == "prodigy":
            raise TrainingError(
                "optimizer.part_learning_rates does not go with prodigy, which finds one rate for all parts. Choose another optimizer, "
                "or leave them out.",
                code="part-rates-of-another-optimizer",
            )
        if self.name == "prodigy":
            rule = "Prodigy finds the rate itself: it is a factor, 1.0 as a rule (at least 0.01)"
            check_setting(self.learning_rate >= 0.01, "optimizer.learning_rate", self.learning_rate, rule)
        if self.name == "schedulefree":
            rule = "schedulefree needs none: choose constant_with_warmup"
            check_setting(self.schedule.startswith("constant"), "optimizer.schedule", self.schedule, rule)
        for name in ("warmup_steps", "weight_decay", "max_grad_norm"):
            check_setting(getattr(self, name) >= 0, f"optimizer.{name}", getattr(self, name), "it must be 0 or more")
        check_setting(
            all(0 <= beta < 1 for beta in self.betas), "optimizer.betas", self.betas, "both lie from 0 to below 1"
        )
        check_setting(0 <= self.ema_decay < 1, "optimizer.ema_decay", self.ema_decay, "it lies from 0 to below 1")


@dataclass
class PromptConfig:
    """A sentence that is drawn and scored at every checkpoint."""

    sentence: str = ""
    """As in `generate`: "A man@1 on the left and a woman@2 on the right." Sides are what says who should be where."""
    photos: list[Any] = field(default_factory=list)
    """A photo of each person, or a list of photos of each."""
    seeds: list[int] = field(default_factory=lambda: [0])
    """Of the noise; a picture for each."""
    people_are: Literal["held_out", "trained"] = "held_out"
    """Whether these people are in the training data. The two are drawn and counted apart."""

    def __post_init__(self) -> None:
        check_setting(bool(self.sentence.strip()), "logging.prompts: sentence", self.sentence, "it says what is drawn")
        check_setting(bool(self.photos), "logging.prompts: photos", self.photos, "it names a photo of each person")
        names = [photo for photos in self.people for photo in photos]
        plain = all(isinstance(name, str) and name for name in names) and all(self.people)
        check_setting(plain, "logging.prompts: photos", self.photos, "it holds names of files, or lists of them")
        check_setting(bool(self.seeds), "logging.prompts: seeds", self.seeds, "one picture at least is drawn")
        check_setting(min(self.seeds) >= 0, "logging.prompts: seeds", self.seeds, "they must be 0 or more")

    @property
    def people(self) -> list[list[str]]:
        """The photos of each person."""
        return [list(each) if isinstance(each, list | tuple) else [each] for each in self.photos]


@dataclass
class CheckpointConfig:
    """When checkpoints are written, and how many of them stay."""

    every: int = 1000
    """Steps between checkpoints. One is also written at the end, on SIGTERM and on Ctrl-C."""
    keep: int = 2
    """Number of the latest checkpoints that stay; the best one stays besides."""
    best_by: Literal["loss", "right_person", "likeness"] = "loss"
    """What makes a checkpoint the best: the loss (of validation data, where there are some), or what the drawings of
    `logging.prompts` show; equal shares of right people are told apart by the likeness."""
    best_of: Literal["held_out", "trained"] = "held_out"
    """Whose drawings choose the best, where prompts have both kinds of people: trained where these people are all that counts."""

    def __post_init__(self) -> None:
        for name in ("every", "keep"):
            check_setting(getattr(self, name) >= 1, f"checkpoints.{name}", getattr(self, name), "it must be 1 or more")


@dataclass
class LoggingConfig:
    """What a run writes down while it trains."""

    every: int = 10
    """Steps between console lines, entries in log.jsonl and tensorboard."""
    tensorboard: bool = True
    """Write tensorboard event files into <run>/tensorboard."""
    trackers: list[Literal["wandb", "comet_ml", "aim", "mlflow", "clearml", "dvclive", "swanlab", "trackio"]] = field(
        default_factory=list
    )
    """Where numbers and pictures go besides, by Accelerate; what is named has to be installed and logged in."""
    samples_every: int = 1000
    """Steps between sample grids; 0: none, and the VAE is not loaded."""
    samples: int = 4
    """Pairs of people in a sample grid, one row each."""
    sample_steps: int = 20
    """Denoising steps of each picture in a sample grid."""
    cfg: float = 5.0
    """Classifier-free guidance scale of the sample grids; 1 is none."""
    prompts: list[PromptConfig] = field(default_factory=list)
    """Sentences with photos of people, drawn with the cascade at step 0 and every checkpoint, beside the same noise without the
    adapter, and scored. Pictures go to <run>/prompts; right person, likeness and how often everybody is present to the log."""
    prompt_size: list[int] | None = None
    """Width and height of what prompts draw, px; null: 1024 x 1024 (mini: its own)."""
    prompt_faces: FaceSettings = field(default_factory=FaceSettings)
    """Prompts: the face pack that makes references, which is the one that the data was prepared with."""
    prompt_judge: str = ""
    """Prompts: the face pack that scores; best another one. Left empty: that of prompt_faces (mini: its judge)."""
    image_encoder: str = ""
    """Prompts: CLIP ViT-H/14, a folder or id; IP-Adapter's if left empty."""

    def __post_init__(self) -> None:
        for name in ("every", "samples", "sample_steps"):
            check_setting(getattr(self, name) >= 1, f"logging.{name}", getattr(self, name), "it must be 1 or more")
        check_setting(self.samples_every >= 0, "logging.samples_every", self.samples_every, "it must be 0 or more")
        check_setting(self.cfg >= 1, "logging.cfg", self.cfg, "it must be 1 or more")
        size = self.prompt_size
        valid = size is None or (len(size) == 2 and all(side > 0 and side % 8 == 0 for side in size))
        check_setting(valid, "logging.prompt_size", size, "it is width and height, multiples of 8")


@dataclass
class TrainConfig:
    """Train the adapter on prepared shards."""

    run: str = "runs/pair"
    """Folder of this run: checkpoints, log, samples. A run that was ended resumes from its last checkpoint."""
    steps: int = 20000
    """Optimizer steps of the whole run, those before a resume included."""
    seed: int = 0
    """Seed of everything random: fresh weights, the order of samples, noise, augmentation."""
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """Mixed precision of the computation; the trained weights and their EMA are always float32. auto: bf16 on a GPU that
    computes in it, fp16 on an older one, no on a CPU."""
    method: Literal["paired", "dual_pathway"] = "paired"
    """What is trained: paired, DHumanDiff's adapter; or dual_pathway, the parts of a dual pathway around such an adapter
    (settings under dual)."""
    base: BaseConfig = field(default_factory=BaseConfig)
    data: DataConfig = field(default_factory=DataConfig)
    init: InitConfig = field(default_factory=InitConfig)
    dual: DualConfig = field(default_factory=DualConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    objectives: ObjectivesConfig = field(default_factory=ObjectivesConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)

    def __post_init__(self) -> None:
        check_setting(bool(self.run), "run", self.run, "it names the folder of the run")
        check_setting(self.steps >= 1, "steps", self.steps, "it must be 1 or more")
        check_setting(self.seed >= 0, "seed", self.seed, "it must be 0 or more")
        if self.checkpoints.best_by != "loss" and not self.logging.prompts:
            raise TrainingError(
                f"checkpoints.best_by is {self.checkpoints.best_by}, which drawings of logging.prompts show, and there are none. Name "
                "sentences and photos there, or set checkpoints.best_by to loss.",
                code="best-by-without-prompts",
            )
        if not self.data.folders:
            raise TrainingError(
                "data.folders is empty, but training needs prepared data. Run `python -m training prepare` and name its "
                "folder: --data.folders+ '{path: shards}'.",
                code="no-training-data",
            )
        if self.method == "dual_pathway" and self.init.weights == "scratch":
            raise TrainingError(
                "A dual pathway is trained around an identity path that works: name a trained adapter as init.weights, not scratch.",
                code="dual-without-identity",
            )
        if self.method == "dual_pathway" and self.init.rank:
            raise TrainingError(
                "init.rank is for training an adapter; a dual pathway's own parts are of low rank already (dual.rank). Set init.rank to 0.",
                code="dual-of-low-rank",
            )
        if self.objectives.routing.weight and not (self.method == "dual_pathway" and "router" in self.dual.train):
            raise TrainingError(
                "objectives.routing trains a router: set method to dual_pathway and add router to dual.train, or set routing.weight to 0.",
                code="routing-without-router",
            )
