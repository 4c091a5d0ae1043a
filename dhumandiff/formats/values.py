"""Whether weights are numbers that a training made, which their names and shapes do not tell."""

from __future__ import annotations

from typing import Any, Protocol
from weakref import WeakSet

from torch import nn

from ..errors import AdapterError

__all__ = ["check_weights"]

MAX_WEIGHT = 65504.0
"""The largest number of float16, which adapters are published in; trained weights are a thousandth of it and less."""


class _Info(Protocol):
    @property
    def source(self) -> str: ...


class _Adapter(Protocol):
    @property
    def info(self) -> _Info: ...

    def state_dict(self) -> dict[str, Any]: ...


_CHECKED: WeakSet[nn.Module] = WeakSet()


def check_weights(adapter: _Adapter) -> None:
    """Refuse weights that no training made: NaN, infinite or beyond float16. Looked at once an adapter.

    Without this the base is blamed for what its people were made of.

    Raises:
        AdapterError: a tensor holds such numbers.
    """
    if adapter in _CHECKED:
        return
    for name, value in adapter.state_dict().items():
        if value.numel() and value.is_floating_point():
            low, high = (value if value.element_size() > 1 else value.float()).aminmax()
            if not -MAX_WEIGHT <= low.item() <= high.item() <= MAX_WEIGHT:  # false for NaN, too
                source = f" ({adapter.info.source})" if adapter.info.source else ""
                raise AdapterError(
                    f"The adapter{source} holds NaN, infinite or impossibly large numbers in {name}, so its file is damaged and would "
                    "spoil every picture. Get the file again.",
                    code="adapter-not-finite",
                )
    if isinstance(adapter, nn.Module):
        _CHECKED.add(adapter)
