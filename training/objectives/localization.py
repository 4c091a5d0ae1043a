"""Attention of person k's tokens belongs inside person k's mask, and outside of the other's.

Faces. Each person's attention is a softmax over that person's own tokens, so at every spatial position it sums to 1, and "how much"
says nothing. What reaches the picture is attention times value, hence attention is weighed by the length of each token's
value (Kobayashi et al., "Attention is not only a weight", arXiv 2004.10102). With `own` and `other` the means of that map over the two
people's masks, the loss is other / (own + other): 0 when a face leaves the other person alone, 1/2 when it makes no
difference. The rest of the picture is left free. The formula is this project's choice.

Words. The text's attention to the mapped words of person k, as FastComposer localizes its subjects (Xiao et al., arXiv
2305.10431): mean outside of the person's mask minus mean inside. The base is frozen, so this teaches the subject mapping.

Both are means over persons whose face is there, samples, and layers of at least `min_layer_size` spatial positions.
Letters in shapes: B samples, P persons, Q spatial positions of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dhumandiff.conditioning.masks import downsample_masks, layer_shape

from .. import TrainingError
from ..data.batch import SubjectTokens
from ..data.dataset import PreparedDataset
from .config import LocalizationConfig
from .protocol import ForwardOutput, Objective

__all__ = ["Localization", "build", "face_leakage", "word_balance"]


def build(config: LocalizationConfig, folders: Sequence[PreparedDataset] = ()) -> list[Objective]:
    """The parts whose weight is above 0."""
    prefix = "objectives.localization"
    parts = (
        Localization("localization", f"{prefix}.weight", config.weight, "faces", face_leakage),
        Localization("localization_words", f"{prefix}.word_weight", config.word_weight, "words", word_balance),
    )
    return [part for part in parts if part.weight > 0]


def face_leakage(maps: Tensor, masks: Tensor) -> Tensor:
    """maps, masks [B, P, Q] -> [B, P]: the fraction of a person's attention, per position, that lies on the others."""
    others = (masks.sum(dim=1, keepdim=True) - masks).clamp(0, 1) * (1 - masks)
    own, other = _mean(maps, masks), _mean(maps, others)
    return other / (own + other).clamp(min=1e-8)


def word_balance(maps: Tensor, masks: Tensor) -> Tensor:
    """maps, masks [B, P, Q] -> [B, P]: attention outside of the person's mask minus inside, per position."""
    return _mean(maps, 1 - masks) - _mean(maps, masks)


class Localization:
    """Mean of a formula over layers, samples and persons.

    Args:
        name: what logs call it.
        setting: the setting that holds its weight.
        weight: its factor in the sum of all losses.
        attention: the attention it reads, "faces" or "words".
        formula: maps, masks [B, P, Q] -> [B, P].
    """

    required_tensors = frozenset({"mask"})
    needs_vae = False

    def __init__(
        self, name: str, setting: str, weight: float, attention: str, formula: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        self.name, self.setting, self.weight = name, setting, weight
        self.attention, self.formula = attention, formula
        self.required_attention = frozenset({attention})

    def __call__(self, output: ForwardOutput) -> Tensor:
        batch = output.batch
        counts = ~(batch.drop_face_tokens if self.attention == "faces" else batch.drop_identity)
        if self.attention == "words":
            named = torch.zeros_like(batch.drop_identity)
            tokens = SubjectTokens(*batch.subject_token_index.T)
            named[tokens.sample, tokens.person] = True
            counts = counts & named
        losses = []
        for layer in output.attention_maps:
            maps = getattr(layer, self.attention)
            if maps is None:
                continue
            masks = downsample_masks(batch.masks, layer_shape(tuple(batch.masks.shape[-2:]), maps.shape[-1]))
            visible = counts & (masks.sum(dim=-1) > 0)
            losses.append((self.formula(maps, masks) * visible).sum() / visible.sum().clamp(min=1))
        if losses:
            return torch.stack(losses).mean()
        if self.attention == "words":  # no word carries a face in this batch
            return output.prediction.new_zeros(())
        raise TrainingError(
            "objectives.localization.min_layer_size asks for larger layers than there are for pictures of "
            f"{batch.masks.shape[-1] * 8} x {batch.masks.shape[-2] * 8} px. Set it lower, or localization.weight to 0.",
            code="no-layer-large-enough",
        )


def _mean(maps: Tensor, weights: Tensor) -> Tensor:
    """Mean over the positions, weighted by `weights`: [B, P, Q] -> [B, P]."""
    return (maps * weights).sum(dim=-1) / weights.sum(dim=-1).clamp(min=1e-6)
