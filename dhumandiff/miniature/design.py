"""How large the miniature is: the sizes of its pictures, latents and networks, by the name of the design.

The weights in a folder are of one design. Its file design.json says which, {"design": "256x192"}; without that file they are of
the first design, which had no such file. All modules of the miniature take their sizes from `DESIGN`, that of `FOLDER`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import HostError
from ..io import atomic_write

__all__ = ["DESIGN", "DESIGNS", "FIRST", "FOLDER", "SHIPPED", "Design", "design_of", "save_design"]

SHIPPED = Path(__file__).parent / "weights"
"""Where the project has its weights."""

FOLDER = Path(os.environ.get("DHUMANDIFF_MINI") or SHIPPED)
"""Where the weights lie; the environment variable DHUMANDIFF_MINI names another folder, such as one that is being built."""


@dataclass(frozen=True)
class Design:
    """The sizes of one miniature.

    Attributes:
        name: in design.json.
        size: width and height of the pictures that it was trained on, px.
        latents: channels of a latent, which is 8 px wide.
        fine, coarse: widths of the autoencoder at 4 px and at 8 px.
        depth: residual blocks of its decoder at 4 px and at 8 px.
        prediction: what the UNet predicts, in the words of diffusers' schedulers.
        steps: of Euler ancestral, with which pictures are drawn where nothing else is asked for.
        unet: what differs from `base.UNET_OF_ALL`: arguments of UNet2DConditionModel.
    """

    name: str
    size: tuple[int, int]
    latents: int
    fine: int
    coarse: int
    depth: tuple[int, int]
    prediction: Literal["epsilon", "v_prediction"]
    steps: int
    unet: Mapping[str, Any]


FIRST = Design(
    name="128x96",
    size=(128, 96),
    latents=16,
    fine=64,
    coarse=96,
    depth=(4, 4),
    prediction="epsilon",
    steps=10,
    unet={
        "sample_size": 16,
        "block_out_channels": (64, 64, 96),
        "layers_per_block": (1, 2, 2),
        # SDXL's last block looks at nothing. Here it does: a face is 4 latents wide, 2 places of the layers below.
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "transformer_layers_per_block": (1, 1, 1),
        "attention_head_dim": (2, 2, 3),  # the number of heads, despite the name: 32 channels each
    },
)
"""The one before, which shipped with version 0.1.0; its weights need no design.json."""

SECOND = Design(
    name="256x192",
    size=(256, 192),
    latents=8,
    fine=64,
    coarse=128,
    depth=(5, 4),
    prediction="v_prediction",
    steps=20,
    unet={
        "sample_size": 32,
        "block_out_channels": (64, 128, 160),
        "layers_per_block": (1, 1, 1),
        # As SDXL's: nothing looks at the largest layers, so attention has as many places as in the first design.
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 2),
        "attention_head_dim": (2, 4, 5),
    },
)
"""The one that ships. A picture of four times as many px; a face is 8 latents wide, 4 places of the layers below."""

DESIGNS = {design.name: design for design in (FIRST, SECOND)}

_FILE = "design.json"


def design_of(folder: Path) -> Design:
    """The design of the weights in a folder.

    Raises:
        HostError: design.json cannot be read, or names no design of this version.
    """
    path = folder / _FILE
    if not path.exists():
        return FIRST
    try:
        name = json.loads(path.read_text(encoding="utf-8"))["design"]
        return DESIGNS[name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HostError(
            f"{path} names no design of the miniature ({error!r}). This version knows {', '.join(DESIGNS)}; install the project "
            "again, or take the variable DHUMANDIFF_MINI away.",
            code="unknown-miniature-design",
        ) from error


def save_design(design: Design, folder: Path) -> None:
    """Note in a folder of weights of which design they are."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / _FILE) as part:
        part.write_text(json.dumps({"design": design.name}) + "\n", encoding="utf-8")


DESIGN = design_of(FOLDER)
"""Of the weights that are used."""
