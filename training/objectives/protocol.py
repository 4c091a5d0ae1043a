"""What every part of the loss has, and what it gets to see.

Letters in shapes: B samples, P persons, Q spatial positions of a layer, c latent channels, h x w latent pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from ..data.batch import Batch
from ..run.base import BaseModel

__all__ = ["AttentionMaps", "ForwardOutput", "Objective"]


@dataclass
class AttentionMaps:
    """The attention of one cross-attention layer to each person, for the objectives that read it.

    Attributes:
        faces: [B, P, Q], attention to each person's face tokens, weighted by the length of each token's value; None where not
            recorded.
        words: [B, P, Q], attention to the person's mapped words, mean over the heads; None where not recorded.
        routes: [B, P + 1, Q], what a router says of who is where, the background last; None where not recorded.
    """

    faces: Tensor | None = None
    words: Tensor | None = None
    routes: Tensor | None = None


@dataclass
class ForwardOutput:
    """One forward pass, for the objectives.

    Attributes:
        batch: what went in.
        prediction: [B, c, h, w], the UNet's prediction of the noise or of v.
        target: [B, c, h, w], what it should have been.
        noisy_latents: [B, c, h, w], what it was predicted from.
        timesteps: [B], integers from 0 (no noise).
        base: the frozen base, with diffusers' DDPMScheduler.
        attention_maps: one per recorded layer.
        sample_weights: [B], Min-SNR weights of the timesteps, the same for all objectives.
        base_prediction: [B, c, h, w], what the base predicts of the words alone, without gradients; None where no objective reads
            it.
        cache: what objectives compute once and share.
    """

    batch: Batch
    prediction: Tensor
    target: Tensor
    noisy_latents: Tensor
    timesteps: Tensor
    base: BaseModel
    attention_maps: Sequence[AttentionMaps]
    sample_weights: Tensor
    base_prediction: Tensor | None = None
    cache: dict[str, Any] = field(default_factory=dict)

    def clean_latents(self) -> Tensor:
        """The one-step prediction of the clean latents (x0), [B, c, h, w]."""
        kept = self.base.scheduler.alphas_cumprod.to(self.timesteps.device)[self.timesteps].float()
        kept = kept.reshape(-1, 1, 1, 1)
        if self.base.scheduler.config.prediction_type == "v_prediction":
            return kept.sqrt() * self.noisy_latents - (1 - kept).sqrt() * self.prediction
        return (self.noisy_latents - (1 - kept).sqrt() * self.prediction) / kept.sqrt()


class Objective(Protocol):
    """A part of the loss, made of its settings.

    Attributes:
        name: what logs call it.
        setting: the setting that holds its weight, such as "objectives.face_region.weight".
        weight: its factor in the sum of all losses.
        required_tensors: what it reads of a sample, as prefixes: "mask" stands for mask_1 and mask_2.
        required_attention: which attention it reads, of "faces", "words" and "routes".
        needs_vae: whether it decodes the prediction with the base's VAE.

    One that reads `ForwardOutput.base_prediction` says so by a true `needs_base_prediction`.
    """

    name: str
    setting: str
    weight: float
    required_tensors: frozenset[str]
    required_attention: frozenset[str]
    needs_vae: bool

    def __call__(self, output: ForwardOutput) -> Tensor:
        """The loss: one number, the mean over the samples."""
        ...
