"""The trained weights of Parts2Whole, and what they make of parts and of a pose map.

The appearance encoder and the UNet that draws are models of a host. `bank` and `attach` reach the host by its name, on first use,
so that this room needs no package beyond torch.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from ...errors import HostError
from ...formats import parts2whole as files_of
from .part import Part, check_image_embed, check_parts
from .pose_guider import PoseGuider
from .regions import part_regions
from .schedule import NoiseSchedule

log = logging.getLogger(__name__)

__all__ = ["ImageProjection", "Parts2Whole", "Parts2WholeInfo"]

HOST = "...hosts.diffusers.parts2whole"
"""Module with `make_encoder`, `encode` and `attach`, for models of diffusers."""


@dataclass(frozen=True)
class Parts2WholeInfo:
    """What the weights are: sizes read from the tensors.

    Attributes:
        layers: transformer blocks, in the order down, mid, up (Stable Diffusion 1.5: 16).
        hidden: width of each.
        context_width: of the text (768).
        image_width: of an image token (CLIP ViT-L/14: 768).
        pose_channels: what the pose net adds to (320).
        absent: tensors that the appearance encoder lacks by design (24).
        schedule: the noise it was trained on.
    """

    layers: tuple[str, ...]
    hidden: tuple[int, ...]
    context_width: int
    image_width: int
    pose_channels: int
    absent: int
    schedule: NoiseSchedule

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class ImageProjection(nn.Module):
    """Keys and values of image tokens at one layer, [1, T, E] -> two of [1, T, C]; names as in files."""

    def __init__(self, key: Tensor, value: Tensor) -> None:
        super().__init__()
        self.to_k_dc = nn.Parameter(key, requires_grad=False)
        self.to_v_dc = nn.Parameter(value, requires_grad=False)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Project."""
        tokens = tokens.to(self.to_k_dc)
        return tokens @ self.to_k_dc.T, tokens @ self.to_v_dc.T


class Parts2Whole(nn.Module):
    """Weights of Parts2Whole. `.to(device, dtype)` moves all of them.

    Attributes:
        pose_guider: the pose net.
        image_projections: of each layer.
        info: what the weights are.
        encoder: the appearance encoder as the host has it; made when the first part is encoded.
    """

    def __init__(self, files: files_of.Parts2WholeFiles) -> None:
        super().__init__()
        self.files = files
        self.pose_guider = PoseGuider.from_tensors(files.pose, str(files.paths["pose"]))
        self.image_projections = nn.ModuleList(ImageProjection(*pair) for pair in files.decoupled.values())
        self.info = _info(files, self.pose_guider)
        self.encoder: nn.Module | None = None
        self._told = False
        self._features = WeakTensorKeyDictionary()  # latent -> [(what else they depend on, label embedding, features)]

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Parts2Whole:
        """Read a folder with `reference_unet/`, `pose_guider/` and `decoupled_attn.pth`; nothing else is needed.

        Nothing in a file is executed.

        Raises:
            AdapterError: a file is missing, damaged, or another model's; the message names it.
        """
        return cls(files_of.load(folder)).eval()

    @property
    def placed(self) -> tuple[torch.device, torch.dtype]:
        """Where the weights are, and what they are kept in."""
        weight = self.pose_guider.conv_in.weight
        return weight.device, weight.dtype

    def bank(self, parts: Sequence[Part]) -> list[Tensor]:
        """The appearance encoder's features of parts, before masks. Each latent is encoded once a label, whatever mask and strength
        the part has.

        Args:
            parts: of pictures of one size.

        Returns:
            For each layer in the order down, mid, up: norm1's output [N, L, C], in the weights' dtype.

        Raises:
            HostError: the parts are of several sizes, or do not fit the encoder; a package is missing.
        """
        check_parts(parts)
        features = [self._features_of(part) for part in parts]
        return [torch.cat(layer) for layer in zip(*features, strict=True)]

    def free_encoder(self) -> None:
        """Let the appearance encoder go once the parts are encoded; it is made again when another part comes."""
        self.encoder = None

    def pose_features(self, pose: Tensor) -> Tensor:
        """What a pose map adds behind the UNet's first convolution.

        Args:
            pose: a DensePose map [1, 3, H, W] 0..1, at the picture's size.

        Returns:
            [1, C, h, w], at the latent's size.

        Raises:
            HostError: the map has another shape, or other values.
        """
        with torch.no_grad():
            return self.pose_guider(pose.to(self.placed[0]))

    def attach(
        self,
        unet: nn.Module,
        parts: Sequence[Part],
        pose: Tensor | None = None,
        *,
        regions: Sequence[Tensor | None] | None = None,
        scale: float = 1.0,
        drop_masked: bool = False,
        guidance: bool = True,
    ) -> Any:
        """Let a diffusers UNet draw these parts.

        Args:
            unet: UNet2DConditionModel of Stable Diffusion 1.5's layout.
            parts: at least one; `Part.person` says whose each is.
            pose: a DensePose map [1, 3, H, W] 0..1 at the picture's size; None adds nothing.
            regions: where person 1, 2, ... may be, each a mask [H, W] or [N, H, W] 0..1 of the picture's shape, or None for what
                the others leave. Needed for two people. See `regions.part_regions`.
            scale: of what the parts' image tokens add.
            drop_masked: leave masked features out instead of zeroing them, which is cheaper; False is as published.
            guidance: a batch of even size is [unconditional; conditional]. A batch of odd size is conditional in any case.

        Returns:
            A context manager that detaches at its end; `detach` does so too. Its `notes` are to be told.

        Raises:
            HostError: the weights do not fit the UNet, or parts, regions and pose do not fit each other.
        """
        check_parts(parts)
        masks, notes = part_regions(regions, max(part.person for part in parts))
        attached = import_module(HOST, __package__).attach(
            unet, self, parts, pose, masks, scale=scale, drop_masked=drop_masked, guidance=guidance
        )
        attached.notes = notes
        return attached

    def _features_of(self, part: Part) -> list[Tensor]:
        valid = [one for one in self._features.get(part.latent, ()) if one[0] == self._features_as()]
        for _, label, features in valid:
            if label is part.label_embedding:
                return features
        self.check_part(part)
        features = self._encode(part)
        self._features[part.latent] = [*valid, (self._features_as(), part.label_embedding, features)]
        return features

    def _features_as(self) -> Any:
        """What features depend on beside their part: where and in what the weights are. ComfyUI's are elsewhere."""
        return self.placed

    def _encode(self, part: Part) -> list[Tensor]:
        """norm1's output [1, L, C] of every layer; ComfyUI has a way of its own."""
        host = import_module(HOST, __package__)
        if self.encoder is None:
            self.encoder = host.make_encoder(self.files).to(*self.placed)
            self.tell_absent()
        return host.encode(self.encoder, part.latent, part.label_embedding)

    def tell_absent(self) -> None:
        """Say once what the appearance encoder lacks, in place of a page of warnings."""
        if self.info.absent and not self._told:
            self._told = True
            log.info(
                "The appearance encoder lacks %d tensors that no layer reads, by design; they are zeros.",
                self.info.absent,
            )

    def check_part(self, part: Part) -> None:
        """Refuse a part that another base's VAE, text encoder or image encoder made. HostError."""
        check_image_embed(part, self.info.image_width)
        channels = self.files.reference["conv_in.weight"].shape[1]
        if part.latent.shape[1] != channels or part.label_embedding.shape[-1] != self.info.context_width:
            raise HostError(
                f"The latent of {part.name} has {part.latent.shape[1]} channels and its label embedding is "
                f"{part.label_embedding.shape[-1]} wide; {channels} and {self.info.context_width} are needed. Encode it with "
                "the VAE and the text encoder of Stable Diffusion 1.5.",
                code="part-of-another-base",
            )


def _info(files: files_of.Parts2WholeFiles, guider: PoseGuider) -> Parts2WholeInfo:
    layers = tuple(files.decoupled)
    context = files.reference.get(f"{layers[0]}.attn2.to_k.weight")
    first = files.decoupled[layers[0]][0]
    schedule = NoiseSchedule.from_config(files.schedule)
    return Parts2WholeInfo(
        layers=layers,
        hidden=tuple(pair[0].shape[0] for pair in files.decoupled.values()),
        context_width=first.shape[1] if context is None else context.shape[1],
        image_width=first.shape[1],
        pose_channels=guider.conv_out.out_channels,
        absent=len(files_of.ABSENT - files.reference.keys()),
        schedule=schedule,
    )
