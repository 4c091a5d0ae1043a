"""Attention of person k's tokens belongs inside person k's mask, and outside of the other's.

Faces. Each person's attention is a softmax over that person's own tokens, so at every place it sums to 1, and "how much"
says nothing. What reaches the picture is attention times value, hence attention is weighed by the length of each token's
value (Kobayashi et al., "Attention is not only a weight", arXiv 2004.10102). With `own` and `other` the means of that map over the two
people's masks, the loss is other / (own + other): 0 when a face leaves the other person alone, 1/2 when it makes no
difference. The rest of the picture is left free. The formula is this project's choice.

Words. The text's attention to the mapped words of person k, as FastComposer localises its subjects (Xiao et al., arXiv
2305.10431): mean outside of the person's mask minus mean inside. The base is frozen, so this teaches the subject mapping.

Both are means over persons whose face is there, rows and layers of at least `smallest` places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dhumandiff.hosts.diffusers.attention import layer_shape
from dhumandiff.methods.paired.attention import person_weights

from .. import TrainingError
from ..data.batch import SubjectTokens
from ..data.dataset import PreparedDataset
from ..run.config import LocalisationConfig
from .seen import Objective, Seen

__all__ = ["Localisation", "build", "face_share", "word_balance"]


def build(config: LocalisationConfig, folders: Sequence[PreparedDataset] = ()) -> list[Objective]:
    """The parts whose weight is above 0."""
    parts = (
        ("localisation", config.weight, "faces", face_share),
        ("localisation_words", config.words, "words", word_balance),
    )
    return [Localisation(name, weight, what, formula) for name, weight, what, formula in parts if weight > 0]


def face_share(maps: Tensor, masks: Tensor) -> Tensor:
    """maps, masks [B, P, Q] -> [B, P]: the share of a person's attention, per place, that lies with the others."""
    others = (masks.sum(dim=1, keepdim=True) - masks).clamp(0, 1) * (1 - masks)
    own, other = _mean(maps, masks), _mean(maps, others)
    return other / (own + other).clamp(min=1e-8)


def word_balance(maps: Tensor, masks: Tensor) -> Tensor:
    """maps, masks [B, P, Q] -> [B, P]: attention outside of the person's mask minus inside, per place."""
    return _mean(maps, 1 - masks) - _mean(maps, masks)


class Localisation:
    """Mean of a formula over layers, rows and persons.

    Args:
        name, weight: of this part of the loss.
        what: the attention it looks at, "faces" or "words".
        formula: maps, masks [B, P, Q] -> [B, P].
    """

    needs = frozenset({"mask"})

    def __init__(self, name: str, weight: float, what: str, formula: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.name, self.weight, self.what, self.formula = name, weight, what, formula
        self.watches, self.decodes = frozenset({what}), False

    def __call__(self, seen: Seen) -> Tensor:
        batch = seen.batch
        counts = ~(batch.drop_face_tokens if self.what == "faces" else batch.drop_identity)
        if self.what == "words":
            named = torch.zeros_like(batch.drop_identity)
            tokens = SubjectTokens(*batch.subject_token_index.T)
            named[tokens.sample, tokens.person] = True
            counts = counts & named
        losses = []
        for layer in seen.maps:
            maps = getattr(layer, self.what)
            if maps is None:
                continue
            masks = person_weights(batch.masks, layer_shape(tuple(batch.masks.shape[-2:]), maps.shape[-1]))
            seen_masks = counts & (masks.sum(dim=-1) > 0)
            losses.append((self.formula(maps, masks) * seen_masks).sum() / seen_masks.sum().clamp(min=1))
        if losses:
            return torch.stack(losses).mean()
        if self.what == "words":  # no word carries a face in this batch
            return seen.prediction.new_zeros(())
        raise TrainingError(
            f"objectives.localisation.smallest asks for layers of more places than pictures of {batch.masks.shape[-1] * 8} x "
            f"{batch.masks.shape[-2] * 8} px have in any. Set it lower, or localisation.weight to 0."
        )


def _mean(maps: Tensor, where: Tensor) -> Tensor:
    """Mean over the places, weighed by `where`: [B, P, Q] -> [B, P]."""
    return (maps * where).sum(dim=-1) / where.sum(dim=-1).clamp(min=1e-6)
