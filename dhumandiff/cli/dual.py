"""`python -m dhumandiff generate --method dual_pathway`: identity where faces count, words where words count.

--layout "side by side" --identity-strength 1.0 --text-strength 0.3
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import HostError
from .people import each, read_regions, refuse_options

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..hosts.diffusers.pipeline import PortraitPipeline
    from ..methods.dual_pathway import DualPathway, DualPathwaySettings
    from ..methods.paired.adapter import Adapter

__all__ = ["Dual", "add_dual_options", "dual_of"]

PRESETS = ("full_body", "other_age", "other_expression", "old_photo")
"""Of methods/dual_pathway/presets.py, without its imports."""

SETTINGS = ("regions", "identity_strength", "text_strength", "feather", "focus_share", "hard_routes", "start", "end")
"""Options that say what a field of `DualPathwaySettings` is; `focus_share` is its `face_share`."""

OPTIONS = (
    *("regions", "identity_strength", "text_strength", "feather", "hard_routes"),
    *("layout", "preset", "pathway", "require_trained"),
)
"""What only this method has."""

OF_THE_CASCADE = ("mode", "scene_strength", "face_strength", "strength", "focus")


def add_dual_options(add: Callable[..., Any]) -> None:
    """Add the options of this method."""
    own = "dual_pathway: "
    add("--preset", choices=PRESETS, help=f"{own}settings for a use; what else is said counts more")
    add(
        "--regions",
        choices=("given", "attention", "router"),
        help=f"{own}where identity counts (default: given, with --layout or masks; else found in the attention)",
    )
    boxes = "side by side and other presets of Portrait Layout, or boxes: left top right bottom; ..."
    add("--layout", metavar="WHERE", help=f"{own}a region for each person: {boxes}")
    add("--identity-strength", type=float, metavar="S", help=f"{own}inside of the regions (default: 1.0)")
    add("--text-strength", type=float, metavar="S", help=f"{own}of the people outside of them (default: 0.4)")
    add("--feather", type=float, metavar="PX", help=f"{own}ramp on either side of a region's border (default: 16)")
    add("--hard-routes", action="store_true", help=f"{own}with a router, each position is one person's")
    add("--pathway", type=Path, metavar="FILE", help=f"{own}trained parts to put beside --adapter")
    add("--require-trained", action="store_true", help=f"{own}refuse weights without a trained text path")


def dual_of(args: argparse.Namespace) -> Dual | None:
    """What the command line says of this method, before defaults are filled in; None where another one is asked for.

    Raises:
        HostError: an option of another method is given, or settings make no picture.
    """
    if args.method != "dual_pathway":
        refuse_options(args, OPTIONS, args.method, "Choose --method dual_pathway")
        return None
    refuse_options(args, OF_THE_CASCADE, "dual_pathway", "It has strengths of its own: leave it away")
    if args.layout is not None and any(each(args, "mask")):
        raise HostError(
            "--layout and masks both say where the people are: leave one of them away.", code="layout-beside-masks"
        )
    return Dual(args)


class Dual:
    """The dual pathway of one command line.

    Attributes:
        settings: of the method.
        notes: what is to be said of the regions.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        from ..methods.dual_pathway import DualPathwaySettings
        from ..methods.dual_pathway.presets import PRESETS as KNOWN

        self.args = args
        if args.preset:
            preset = KNOWN[args.preset]
            args.normalise_light |= preset.normalize_light
            if args.size is None and args.base not in ("mini", "tiny"):  # which draw small pictures
                args.size = "x".join(map(str, preset.size))
        start = KNOWN[args.preset].settings if args.preset else DualPathwaySettings(regions="attention")
        said = {name: getattr(args, name) for name in SETTINGS}
        said = {name: value for name, value in said.items() if value is not None and value is not False}
        if "focus_share" in said:
            said["face_share"] = said.pop("focus_share")
        # With a preset masks narrow down what is found.
        if "regions" not in said and not args.preset and (args.layout is not None or any(each(args, "mask"))):
            said["regions"] = "given"
        self.settings: DualPathwaySettings = dataclasses.replace(start, **said, require_trained=args.require_trained)
        self.settings.check()
        if args.focus_out and self.settings.regions == "given":
            raise HostError(
                "With regions given nothing is found, so there is no focus mask: leave --focus-out away, or choose --regions "
                "attention.",
                code="no-focus-with-given-regions",
            )
        self.notes: list[str] = []
        self.dual: DualPathway | None = None

    def regions(self, persons: int, size: tuple[int, int]) -> Tensor | None:
        """Each person's region, [P, 1, H, W] 0..1; None where nobody has one.

        Raises:
            HostError: another number of regions than of people, or an empty one.
            ImageError: a mask is none.
            LayoutError: --layout is no layout.
        """
        from ..methods.dual_pathway.regions import regions_of

        if self.args.layout is not None:
            given: Sequence[Tensor | None] = _laid_out(self.args.layout, size, persons)
        else:
            given = read_regions(each(self.args, "mask")[:persons], size) or []
        regions, self.notes = regions_of(given, persons, self.settings)
        return regions

    def load(self, load_adapter: Callable[[str | None], Adapter], path: str | None) -> Adapter:
        """Read the weights; their identity path is given back.

        Args:
            load_adapter: of the pair, by what --adapter says.
            path: of --adapter, or the base's own.

        Raises:
            AdapterError: they do not fit, or lack what the settings need.
        """
        from ..formats import dual_pathway
        from ..methods.dual_pathway import DualPathway

        if self.args.pathway is not None:
            self.dual = DualPathway.from_pretrained(self.args.pathway, load_adapter(path))
        elif path is not None and dual_pathway.is_file(Path(path)):
            self.dual = DualPathway.from_pretrained(path)
        else:
            self.dual = DualPathway(load_adapter(path))
        self.dual.check(self.settings)
        self.notes += self.dual.notes
        return self.dual.identity

    def drawing(self, portrait: PortraitPipeline) -> Callable[..., Any]:
        """What draws the picture and its focus mask; called as the portrait itself is."""
        from ..hosts.diffusers.dual_pathway import draw_dual

        dual = self._weights()

        def draw(adapter: Adapter, *inputs: Any, cascade: Any, focus: Any, **settings: Any) -> Any:
            return draw_dual(portrait, dual, *inputs, settings=self.settings, **settings)

        return draw

    def to(self, device: torch.device) -> None:
        """Move the weights."""
        self._weights().to(device)

    def _weights(self) -> DualPathway:
        assert self.dual is not None  # `load` was called
        return self.dual

    @property
    def in_a_word(self) -> str:
        """The method and its numbers, for programs that show a line."""
        return f"dual_pathway {self.settings.regions} {self.settings.identity_strength} {self.settings.text_strength}"

    def record(self) -> dict[str, Any]:
        """What the PNG says of the method, in place of the cascade."""
        dual = self._weights()
        return {
            "method": "dual_pathway",
            **{name: value for name, value in dataclasses.asdict(self.settings).items() if name != "require_trained"},
            "preset": self.args.preset,
            "layout": self.args.layout,
            "parts": list(dual.info.parts),
            "pathway": self.args.pathway.name if self.args.pathway else dual.info.source,
        }


def _laid_out(where: str, size: tuple[int, int], persons: int) -> list[Any]:
    """Each person's region by a preset of Portrait Layout, or by boxes, [1, H, W] each."""
    from ..layout.layout import layout_masks, parse_boxes, preset_boxes, preset_front
    from ..layout.presets import PRESETS as LAYOUTS

    known = where in LAYOUTS or not any(letter.isdigit() for letter in where)
    boxes = preset_boxes(where, *size, persons) if known else parse_boxes(where, persons)
    front = preset_front(where, persons) if known else None
    return list(layout_masks(boxes, *size, front=front)[:, None])
