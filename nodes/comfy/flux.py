"""People of WithAnyone on a FLUX model of ComfyUI: a patch after every double and single block, through the model patcher.

A patch calls what stands at its block already (else the block itself) and adds what the people add, to the picture tokens in their
regions alone. Of what a block is called with it reads `img`, `txt` and `transformer_options` (there: `img_slice`, and what patch.py
put there), nothing else: more changes from one ComfyUI to the next.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from comfy.ldm.flux.model import Flux
from torch import Tensor

from ...dhumandiff.errors import HostError
from ...dhumandiff.layout.layout import preset_boxes
from ...dhumandiff.methods.withanyone import WithAnyoneConditioning
from ...dhumandiff.methods.withanyone.conditioning import LATENT, PATCH
from .applied import Applied
from .batch import CALL, UNetCall

if TYPE_CHECKING:
    from ...dhumandiff.methods.withanyone import WithAnyoneInfo
    from ...dhumandiff.methods.withanyone.regions import PixelBox

FLUX_PEOPLE = "dhumandiff_flux_people"
"""Where transformer_options hold the people of a FLUX."""
PLACEMENT = "faces only"
"""The preset of Portrait Layout that places people without a region, where the user asks for it: the method's boxes are faces'."""

BlockKey = tuple[str, int]
"""(kind, number), as ComfyUI's patches name a block: ("double_block", 0)."""


def flux_blocks(model: Any, info: WithAnyoneInfo) -> list[BlockKey]:
    """Patch keys of the model's blocks, in the adapter's order: double, then single.

    Raises:
        HostError: the MODEL is no FLUX.1, or its blocks are not those that the weights were trained for.
    """
    flux = model.get_model_object("diffusion_model")
    kind = type(model.model).__name__
    if all(hasattr(flux, part) for part in ("input_blocks", "middle_block", "output_blocks")):
        raise HostError(
            f"WithAnyone is for FLUX.1, but the MODEL is {kind}, which has a UNet. Load a FLUX.1 model, or, for SDXL, use Apply "
            "Disparity-Aware Conditioning.",
            code="withanyone-on-unet",
        )
    family = getattr(model.model.model_config, "unet_config", {}).get("image_model")
    if not isinstance(flux, Flux) or family != "flux":
        raise HostError(
            f"WithAnyone is for FLUX.1, but the MODEL is {kind}{f' ({family})' if family else ''}. Load FLUX.1 dev, Krea or Kontext "
            "with ComfyUI's own loaders or ComfyUI-GGUF; FLUX.2, Chroma and SD 3 have other blocks.",
            code="withanyone-no-flux",
        )
    double, single = len(flux.double_blocks), len(flux.single_blocks)
    width = flux.hidden_size
    if (double + single, width) != (info.blocks, info.width):
        raise HostError(
            f"{info.source or 'The WithAnyone file'} is for a FLUX of {info.blocks} blocks, {info.width} wide; the MODEL has "
            f"{double} + {single} blocks, {width} wide. Load FLUX.1 dev, Krea or Kontext (19 + 38 blocks, 3072 wide).",
            code="withanyone-other-flux",
        )
    return [("double_block", number) for number in range(double)] + [
        ("single_block", number) for number in range(single)
    ]


class FluxConditioning(WithAnyoneConditioning):
    """People in their regions, some of whom a preset places in whatever picture is drawn.

    Attributes:
        unplaced: their numbers from 0; their boxes are not read.
    """

    unplaced: tuple[int, ...] = ()

    def _latent_boxes(self, boxes: Sequence[PixelBox | None], size: tuple[int, int]) -> Tensor:
        width, height = self.size or (LATENT * size[1], LATENT * size[0])
        placed = list(boxes)
        for person in self.unplaced:
            x0, y0, x1, y1 = preset_boxes(PLACEMENT, width, height, self.persons)[person]
            placed[person] = (x0 * width, y0 * height, x1 * width, y1 * height)
        return super()._latent_boxes(placed, size)


@dataclasses.dataclass(eq=False)
class FluxPeople(Applied):
    """People on one FLUX: when they act, and at which strength.

    Attributes:
        people: what they add to a block.
        during: ModelPatchers of the weights that are needed while sampling.
        blocks: number of blocks.
        strength: of all persons.
        start, end: share of sampling in which they act.
    """

    NODE = "Apply WithAnyone"

    people: FluxConditioning
    during: Sequence[Any]
    blocks: int
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    coverage_checked: bool = False
    finite_checked: bool = False
    compiled: bool = False
    sigma_range: tuple[float, float] = (float("inf"), 0.0)

    def on_run_start(self, sampling: Any) -> None:
        """Before a run, when it is known which sampling the model ended up with: note the noise levels of `start` and `end`."""
        self.note_sigmas(sampling)

    def on_step_start(self, picture: Tensor) -> None:
        """Before a step of a run: nothing changes from step to step."""

    def act_in(self, call: UNetCall) -> bool:
        """Whether they add anything in this call."""
        return self.people.counts(self.strength) and self.act_at(lambda: call.sigma)

    def add(self, block: int, tokens: Tensor, start: int, call: UNetCall) -> None:
        """Add what the people add after a block, in place.

        Args:
            block: its number in the adapter's order.
            tokens: [B, L, D], in which the picture's own tokens begin at `start`; those of reference pictures come behind them.
            call: which call of the model.

        Raises:
            HostError: another node merges tokens, or repeats samples in a way that cannot be told.
        """
        call.visited.add((id(self), block))
        if not self.act_in(call):
            return
        shape = (-(-call.size[0] // PATCH), -(-call.size[1] // PATCH))
        own = tokens.narrow(1, start, min(shape[0] * shape[1], tokens.shape[1] - start))
        for samples, rows, added in self.people.residual(block, own, call.layout_of(own), shape, self.strength):
            if len(samples) == len(own):
                own.index_add_(1, rows, added)
            else:
                for sample, of_sample in zip(samples, added, strict=True):
                    own[sample].index_add_(0, rows, of_sample)

    def check_coverage(self, call: UNetCall, options: dict[str, Any]) -> None:
        """See that the first call of a run went through every block of the people (packs may skip blocks later on).

        Args:
            call: as it went.
            options: its transformer_options.

        Raises:
            HostError: another node put its own patch in place of this one, or the model passed it over.
        """
        if self.coverage_checked:
            return
        placed = options.get("patches_replace", {}).get("dit", {}).values()
        missed, passed_over = self.missed_layers(self.blocks, call, placed)
        if passed_over:
            raise HostError(
                f"The model passed over WithAnyone's patch in {missed} of {self.blocks} blocks, although it is in place, so people would "
                "be missing from the picture. Another node caches or skips blocks, or runs them in its own way: take that node away.",
                code="withanyone-passed-over",
            )
        if missed:
            raise HostError(
                f"Another node replaced WithAnyone's patch in {missed} of {self.blocks} blocks, so people would be missing from "
                f"the picture. Put {self.NODE} after that node.",
                code="withanyone-replaced",
            )
        self.coverage_checked = True

    def clear_cache(self) -> None:
        """Let go of what a run computed."""
        self.people.clear_cache()
        self.coverage_checked = self.finite_checked = False


class FluxBlockPatch:
    """One block: whatever was there before, plus what the people add to the picture."""

    def __init__(self, applied: FluxPeople, block: int, single: bool, previous: Any = None) -> None:
        self.applied, self.block, self.single, self.previous = applied, block, single, previous

    def __call__(self, args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        options = args["transformer_options"]
        out = extra["original_block"](args) if self.previous is None else self.previous(args, extra)
        call: UNetCall = options[CALL]
        tokens, start = out["img"], 0
        if not self.single:
            call.text_tokens = out["txt"].shape[1]
        else:  # text and picture are one; ComfyUI 0.3.64 does not say yet where the picture begins
            start = options["img_slice"][0] if "img_slice" in options else call.text_tokens
        self.applied.add(self.block, tokens, start, call)
        return out

    def models(self) -> list[Any]:
        """ModelPatchers that ComfyUI shall load along with the model."""
        return [*self.applied.during, *(self.previous.models() if hasattr(self.previous, "models") else ())]

    def to(self, device_or_dtype: Any) -> FluxBlockPatch:
        """Called when the model moves or is cast; what is ours follows the tokens, so this is for the patch below."""
        if hasattr(self.previous, "to"):
            self.previous = self.previous.to(device_or_dtype)
        return self

    def cleanup(self) -> None:
        """Called at the end of a run."""
        self.applied.clear_cache()
        if hasattr(self.previous, "cleanup"):
            self.previous.cleanup()


def flux_people_of(model: Any) -> tuple[FluxPeople, ...]:
    """The people applied to a MODEL, or to the model of a guider."""
    return model.model_options["transformer_options"].get(FLUX_PEOPLE, ())


def check_flux_not_compiled(model: Any) -> None:
    """Refuse a compiled FLUX that somebody is on: what is compiled keeps the first call's people and boxes for all others.

    Raises:
        HostError: says so.
    """
    if flux_people_of(model):
        raise HostError(
            "The MODEL is compiled (TorchCompileModel or a node like it), and compiled blocks would keep the first call's people, boxes "
            "and strengths for all others. Take that node away from the MODEL of Apply WithAnyone.",
            code="withanyone-compiled",
        )
