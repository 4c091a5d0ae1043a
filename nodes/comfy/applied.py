"""What people on a MODEL have in common, whichever method draws them: when they act, and whether the model came to all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch

from .batch import UNetCall


class Applied:
    """People on one MODEL. A subclass, a dataclass, has these as fields, and `NODE`, the node that puts them there.

    Attributes:
        start, end: share of sampling in which they act.
        sigma_range: noise levels of start and end.
        coverage_checked: whether the run's first call was seen to go through every layer of theirs.
        finite_checked: whether it was seen to give numbers.
        compiled: whether the MODEL is compiled.
    """

    NODE: ClassVar[str]
    start: float
    end: float
    sigma_range: tuple[float, float]
    coverage_checked: bool
    finite_checked: bool
    compiled: bool

    def act_at(self, sigma: Callable[[], float]) -> bool:
        """Whether a noise level lies between `start` and `end`; it is asked for only where it matters."""
        if self.start <= 0 and self.end >= 1:
            return True
        highest, lowest = self.sigma_range
        return lowest <= sigma() <= highest

    def prepare(self, dtype: torch.dtype) -> None:
        """Before a run and before the model is loaded: what is left to be made for a model that computes in `dtype`."""

    def note_sigmas(self, sampling: Any) -> None:
        """Before a run, when it is known which sampling the model ended up with: note the noise levels of `start` and `end`."""
        self.sigma_range = (float(sampling.percent_to_sigma(self.start)), float(sampling.percent_to_sigma(self.end)))

    def missed_layers(self, layers: int, call: UNetCall, placed: Iterable[Any]) -> tuple[int, bool]:
        """How many of their layers a call did not come to, and whether it passed some over in which their patch is in place.

        Args:
            layers: how many they have.
            call: as it went.
            placed: the patches that stand at the model's layers.
        """
        missed = layers - sum((id(self), layer) in call.visited for layer in range(layers))
        return missed, missed > layers - sum(map(self._is_in, placed))

    def _is_in(self, patch: Any) -> bool:
        """Whether a layer's patch, or one below it, is of these people."""
        while hasattr(patch, "applied"):
            if patch.applied is self:
                return True
            patch = getattr(patch, "previous", None)
        return False
