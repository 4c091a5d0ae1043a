"""The settings under `objectives` of a training configuration, one dataclass a file of this folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .. import TrainingError
from ..parsing import check_setting

__all__ = [
    "DiffusionConfig",
    "FaceRegionConfig",
    "IdentityConfig",
    "LocalizationConfig",
    "ObjectivesConfig",
    "RoutingConfig",
    "TextConsistencyConfig",
]


@dataclass
class DiffusionConfig:
    """The denoising loss; see objectives/diffusion.py."""

    weight: float = 1.0
    """Factor of the denoising loss in the sum of all losses."""
    min_snr_gamma: float | None = 5.0
    """Gamma of Min-SNR weighting (arXiv 2303.09556, 5 as published); null: every timestep weighs alike."""
    timestep_sampling: Literal["uniform", "linear"] = "uniform"
    """How training timesteps are drawn: all alike often, or linear: the higher the noise the more often (density 2t over t
    from 0 to 1)."""

    def __post_init__(self) -> None:
        check_setting(self.weight > 0, "objectives.diffusion.weight", self.weight, "it must be above 0")
        if self.min_snr_gamma is not None:
            check_setting(
                self.min_snr_gamma > 0, "objectives.diffusion.min_snr_gamma", self.min_snr_gamma, "it must be above 0"
            )


@dataclass
class LocalizationConfig:
    """Attention of a person's tokens stays inside the person's mask; see objectives/localization.py."""

    weight: float = 0.0
    """Factor of the face tokens' attention loss in the sum of all losses; 0 switches it off."""
    word_weight: float = 0.0
    """Factor of the mapped words' attention loss in the sum of all losses; 0 switches it off."""
    min_layer_size: int = 64
    """Fewest spatial positions (width x height) of a layer that counts; in smaller layers a face is less than one position."""

    def __post_init__(self) -> None:
        for name in ("weight", "word_weight"):
            check_setting(
                getattr(self, name) >= 0, f"objectives.localization.{name}", getattr(self, name), "it must be 0 or more"
            )
        check_setting(
            self.min_layer_size >= 1,
            "objectives.localization.min_layer_size",
            self.min_layer_size,
            "it must be 1 or more",
        )


@dataclass
class FaceRegionConfig:
    """The denoising loss once more, inside the faces; see objectives/face_region.py."""

    weight: float = 0.0
    """Factor of the face region's loss in the sum of all losses; 0 switches it off."""
    margin: int = 0
    """Latent pixels (8 image px each) around a face that count as face: hair, say, where faces are few latent pixels wide."""

    def __post_init__(self) -> None:
        check_setting(self.weight >= 0, "objectives.face_region.weight", self.weight, "it must be 0 or more")
        check_setting(self.margin >= 0, "objectives.face_region.margin", self.margin, "it must be 0 or more")


@dataclass
class IdentityConfig:
    """WithAnyone's losses on who is in the picture (arXiv 2510.14975); see objectives/identity.py."""

    weight: float = 0.0
    """Factor of 1 - cosine to the person in the training picture (0.1 as published); 0 switches it off."""
    infonce_weight: float = 0.0
    """Factor of the contrastive InfoNCE loss against other people (0.1 as published); 0 switches it off."""
    recognizer: str = ""
    """The face recognizer that embeds predicted faces: mini, an ArcFace .onnx such as buffalo_l/w600k_r50.onnx, or
    module:function that makes a Recognizer."""
    aligned_by: Literal["truth", "prediction"] = "truth"
    """Whose landmarks align the predicted face: the training picture's, or those that a detector finds in the prediction (for
    comparison; a face that it does not find counts nothing)."""
    max_noise_level: float = 0.6
    """Highest noise level, 0 to 1 (1 is pure noise), at which the prediction is clear enough to be recognized: 0.6 as in the
    released code, 1 as in the paper."""
    temperature: float = 0.1
    """Temperature of InfoNCE's softmax (0.1 as published); smaller tells similar people apart more strictly."""
    negatives: int = 4096
    """Faces of other people in the bank that InfoNCE compares with; 0: only those of the batch."""
    same_identity_threshold: float = 0.5
    """Cosine to the true face from which another face is no negative, since it may be the same person."""
    decode_crop: int = 0
    """Side, in latent pixels, of the square around a face that the VAE decodes (48 are 384 image px); 0: the whole picture."""

    def __post_init__(self) -> None:
        for name in ("weight", "infonce_weight", "negatives", "decode_crop"):
            check_setting(
                getattr(self, name) >= 0, f"objectives.identity.{name}", getattr(self, name), "it must be 0 or more"
            )
        check_setting(
            0 < self.max_noise_level <= 1,
            "objectives.identity.max_noise_level",
            self.max_noise_level,
            "it lies above 0 and up to 1",
        )
        check_setting(self.temperature > 0, "objectives.identity.temperature", self.temperature, "it must be above 0")
        if (self.weight or self.infonce_weight) and not self.recognizer:
            raise TrainingError(
                "objectives.identity needs a recognizer: mini, the .onnx of an InsightFace pack, or module:function.",
                code="recognizer-not-named",
            )


@dataclass
class TextConsistencyConfig:
    """Outside of the faces, what the base would make of the words alone; see objectives/text_consistency.py."""

    weight: float = 0.0
    """Factor of the text consistency loss in the sum of all losses; 0 switches it off. It costs a pass of the base a step."""
    region: Literal["faces", "persons"] = "faces"
    """What is left out, since it is the reference's business: faces, or whole people."""
    margin: int = 0
    """Latent pixels (8 image px each) around a region that are left out, too."""
    inside: float = 0.0
    """How much a latent pixel inside the regions counts, of one outside: what words say of a face is lost there, too."""

    def __post_init__(self) -> None:
        for name in ("weight", "margin"):
            check_setting(
                getattr(self, name) >= 0,
                f"objectives.text_consistency.{name}",
                getattr(self, name),
                "it must be 0 or more",
            )
        check_setting(0 <= self.inside <= 1, "objectives.text_consistency.inside", self.inside, "it lies from 0 to 1")


@dataclass
class RoutingConfig:
    """A router's maps are the people's masks; see objectives/routing.py."""

    weight: float = 0.0
    """Factor of the routing loss in the sum of all losses (0.1 as published); 0 switches it off. dual.train has to name the router."""

    def __post_init__(self) -> None:
        check_setting(self.weight >= 0, "objectives.routing.weight", self.weight, "it must be 0 or more")


@dataclass
class ObjectivesConfig:
    """The parts of the loss; one file each in training/objectives/."""

    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    localization: LocalizationConfig = field(default_factory=LocalizationConfig)
    face_region: FaceRegionConfig = field(default_factory=FaceRegionConfig)
    identity: IdentityConfig = field(default_factory=IdentityConfig)
    text_consistency: TextConsistencyConfig = field(default_factory=TextConsistencyConfig)
    routing: RoutingConfig = field(default_factory=RoutingConfig)
