"""Keys and values of people that were made before sampling.

They do not change while a picture is drawn and take some 20 MB, where the weights that make them take 1.6 GB: made before, they
let the weights leave the device that draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["FinishedKeysValues"]


class FinishedKeysValues:
    """Keys and values of all layers, in one piece: one copy brings them to a device.

    Args:
        layers: of each layer keys and values, each [2, couples, P, T, C]; all of one dtype and device.
        keep: where they wait for a run; None: where they were made.

    Attributes:
        dtype: what they were made in.
    """

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]], keep: torch.device | None = None) -> None:
        flat = torch.cat([tensor.flatten() for pair in layers for tensor in pair])
        self._kept = flat if keep is None else flat.to(keep)
        self._shapes = [keys.shape for keys, _ in layers]
        self._placed: dict[Any, list[tuple[Tensor, Tensor]]] = {}
        self.dtype = flat.dtype

    def __call__(self, layer: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer; see `token_conditioning.KeysValues`."""
        if (device, dtype) not in self._placed:
            flat = self._kept.to(device, dtype)
            sizes = [shape.numel() for shape in self._shapes for _ in range(2)]
            parts = flat.split(sizes)
            self._placed[device, dtype] = [
                (keys.view(shape), values.view(shape))
                for keys, values, shape in zip(parts[::2], parts[1::2], self._shapes, strict=True)
            ]
        return self._placed[device, dtype][layer]

    def clear_cache(self) -> None:
        """Let go of the copies that a run read."""
        self._placed.clear()
