"""The parts: what each measures, about how long it takes on a data-center card, and what it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from .setup import Setup

__all__ = ["PARTS", "Part"]

DIFFUSERS = ("diffusers", "transformers")
COMFYUI = (*DIFFUSERS, "torchsde", "av", "aiohttp")
TRAINING = (*DIFFUSERS, "accelerate", "jsonargparse", "webdataset")

Cases = Mapping[str, Callable[[], dict[str, Any]]]
"""Name of a case -> what measures it."""


@dataclass(frozen=True)
class Part:
    """What can be run by itself.

    Attributes:
        what: it measures, in words.
        minutes: an estimate for a data-center card; not measured.
        cases: of a setup, in order.
        needs: packages besides PyTorch.
        gigabytes: that it writes into the work folder at real sizes, about.
    """

    what: str
    minutes: float
    cases: Callable[[Setup], Cases]
    needs: tuple[str, ...] = DIFFUSERS
    gigabytes: float = 0.0


def _inference(setup: Setup, size: int) -> Cases:
    from . import inference

    return inference.cases(setup, size)


def _compiled(setup: Setup, size: int, images: int, dtype: str) -> Cases:
    from . import compiled

    return compiled.cases(setup, size, images, dtype)


def _training(setup: Setup, preset: str) -> Cases:
    from . import training

    return training.cases(setup, preset)


def _methods(setup: Setup, name: str) -> Cases:
    from . import methods

    return getattr(methods, name)(setup)


def _comfy(setup: Setup, name: str) -> Cases:
    from . import comfy

    return getattr(comfy, name)(setup)


def _checks(setup: Setup) -> Cases:
    from . import checks

    return checks.cases(setup)


def _miniature(setup: Setup) -> Cases:
    from . import miniature

    return miniature.cases(setup)


PARTS: dict[str, Part] = {
    "checks": Part(
        "the CPU's picture, precision, waits, a whole portrait's memory, averages and validation of training, face models",
        6,
        _checks,
        TRAINING,
        2,
    ),
    **{
        f"inference-{size}": Part(
            f"SDXL at {size} px with and without people, and two IP-Adapters: 1 and 4 pictures, fp16 and bf16",
            minutes,
            partial(_inference, size=size),
        )
        for size, minutes in ((512, 3), (1024, 6))
    },
    **{
        f"compiled-{size}-batch{images}-{dtype}": Part(
            f"the same compiled: {size} px, {images} picture{'s' * (images > 1)}, {dtype}; graph breaks",
            8,
            partial(_compiled, size=size, images=images, dtype=dtype),
        )
        for size in (512, 1024)
        for dtype in ("fp16", "bf16")
        for images in (1, 4)
    },
    **{
        f"training-{preset}": Part(
            f"training with {preset}.yaml at 512 and 1024 px, without and with the losses on who is in the picture",
            8,
            partial(_training, preset=preset),
            TRAINING,
            8,
        )
        for preset in ("sdxl_12gb", "sdxl_16gb", "sdxl_24gb", "sdxl_48gb")
    },
    "dual-pathway": Part(
        "calls of SDXL with the dual pathway, beside DHumanDiff and plain", 3, partial(_methods, name="dual_cases")
    ),
    "parts2whole": Part(
        "calls of Stable Diffusion 1.5 with up to four parts, with masks and without what they exclude",
        4,
        partial(_methods, name="parts_cases"),
        gigabytes=4,
    ),
    "withanyone": Part(
        "runs of FLUX.1's size in ComfyUI with two and four people", 8, partial(_methods, name="flux_cases"), COMFYUI
    ),
    "comfyui-sampling": Part(
        "runs of SDXL in ComfyUI with and without people, fp16", 6, partial(_comfy, name="sampling_cases"), COMFYUI
    ),
    "comfyui-options": Part(
        "ComfyUI's options for memory, precision and attention: seconds, memory, errors",
        8,
        partial(_comfy, name="flag_cases"),
        COMFYUI,
    ),
    "comfyui-tests": Part(
        "the tests of the ComfyUI nodes and of its server, with the card",
        8,
        partial(_comfy, name="test_cases"),
        (*COMFYUI, "pytest"),
    ),
    "miniature": Part("the miniature built anew, a stage a case", 60, _miniature, TRAINING, 6),
}
"""By name, in the order in which they run."""
