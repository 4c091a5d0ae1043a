"""The pose net: a DensePose map -> what is added behind the UNet's first convolution."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import AdapterError, HostError

__all__ = ["PoseGuider"]


class PoseGuider(nn.Module):
    """Convolutions of 3 x 3 with SiLU between them, every second of `blocks` halving the size; formula as in the released code.

    Args:
        shapes: of the convolutions' weights by their names in files: conv_in, blocks.0, blocks.1, ..., conv_out.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()

        def convolution(name: str, stride: int = 1) -> nn.Conv2d:
            out, into, *_ = shapes[name]
            return nn.Conv2d(into, out, 3, stride=stride, padding=1)

        count = sum(name.startswith("blocks.") for name in shapes)
        self.conv_in = convolution("conv_in")
        self.blocks = nn.ModuleList(convolution(f"blocks.{i}", 1 + i % 2) for i in range(count))
        self.conv_out = convolution("conv_out")

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], file: str) -> PoseGuider:
        """Build around a file's tensors, without copying them.

        Raises:
            AdapterError: they are of another net; the message names the file.
        """
        shapes = {
            name.removesuffix(".weight"): tuple(t.shape) for name, t in tensors.items() if name.endswith("weight")
        }
        numbers = sorted(int(match[1]) for name in shapes if (match := re.fullmatch(r"blocks\.(\d+)", name)))
        order = ["conv_in", *(f"blocks.{i}" for i in range(len(numbers))), "conv_out"]
        whole = set(shapes) == set(order) and all(shape[2:] == (3, 3) for shape in shapes.values())
        if not whole or any(shapes[a][0] != shapes[b][1] for a, b in pairwise(order)) or len(numbers) % 2:
            raise AdapterError(
                f"{file}: this is not Parts2Whole's pose net (conv_in, blocks.0 to blocks.5, conv_out, each 3 x 3). "
                "Get the file again.",
                code="no-pose-net",
            )
        with torch.device("meta"):
            guider = cls(shapes)
        try:
            guider.load_state_dict(dict(tensors), strict=True, assign=True)
        except RuntimeError as error:
            raise AdapterError(
                f"{file}: the tensors of the pose net do not fit together. Get the file again.", code="no-pose-net"
            ) from error
        return guider.requires_grad_(False).eval()

    @property
    def step(self) -> int:
        """Pixels of the map for one position of the latent."""
        return 2 ** (len(self.blocks) // 2)

    def forward(self, pose: Tensor) -> Tensor:
        """[1, 3, H, W] 0..1 -> [1, C, H / 8, W / 8].

        Raises:
            HostError: the map has another shape, or values outside of 0..1.
        """
        if pose.ndim != 4 or pose.shape[1] != self.conv_in.in_channels:
            raise HostError(
                f"The pose map has the shape {list(pose.shape)}: [1, {self.conv_in.in_channels}, height, width] is needed.",
                code="pose-map-shape",
            )
        if bool(pose.min() < 0) or bool(pose.max() > 1):
            raise HostError(
                "The pose map holds values outside of 0..1: divide its bytes by 255.", code="pose-map-values"
            )
        features = F.silu(self.conv_in(pose.to(self.conv_in.weight)))
        for block in self.blocks:
            features = F.silu(block(features))
        return self.conv_out(features)
