"""The settings under `dual` of a training configuration: the dual pathway's own parts (`method: dual_pathway`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dhumandiff.methods.dual_pathway.settings import DualPathwaySettings

from .. import TrainingError
from ..parsing import check_setting

__all__ = ["DualConfig"]


@dataclass
class DualConfig:
    """What stands beside the identity path, and how both act while training. Read where method is dual_pathway."""

    weights: str = ""
    """A file of the dual pathway, or the folder of an earlier run, whose trained parts are taken over; empty: fresh ones. The
    identity path comes from init.weights in any case."""
    train: list[Literal["tca", "gates", "router"]] = field(default_factory=lambda: ["tca", "gates"])
    """Parts that are trained: text consistency, gates, router. Others that dual.weights has stay as they are."""
    train_identity: bool = False
    """Train the identity path's init.train too. False keeps it to the bit, so that one adapter serves both methods."""
    identity_strength: float = 1.0
    """s_v while training: of the identity path, inside of the regions."""
    text_strength: float = 1.0
    """s_t while training: of the text-consistency path, outside of them."""
    regions: Literal["faces", "persons"] = "faces"
    """What the regions are, by the data's annotation: faces, or whole people."""
    margin: int = 1
    """Latent pixels (8 image px each) that a region is wider than that: hair, and what people draw by hand."""
    feather: float = 8.0
    """Width of the ramp on either side of a region's border, image px; the latent has 8 px steps."""
    rank: int = 16
    """Fresh text consistency: rank of its projections."""
    head_groups: int = 10
    """Fresh gates: groups of heads of a layer that have one each, where they divide its heads."""
    router_width: int = 64
    """Fresh router: channels of a routing token."""

    def drawn(self) -> DualPathwaySettings:
        """How `logging.prompts` are drawn, for which nobody drew regions: those of a router that is trained, else of the attention."""
        regions = "router" if "router" in self.train else "attention"
        return DualPathwaySettings(self.identity_strength, self.text_strength, regions, self.feather)

    def __post_init__(self) -> None:
        for name in ("identity_strength", "text_strength", "margin", "feather"):
            check_setting(getattr(self, name) >= 0, f"dual.{name}", getattr(self, name), "it must be 0 or more")
        for name in ("rank", "head_groups", "router_width"):
            check_setting(getattr(self, name) >= 1, f"dual.{name}", getattr(self, name), "it must be 1 or more")
        if not self.train and not self.train_identity:
            raise TrainingError(
                "dual.train is empty and dual.train_identity false, so nothing would be trained. Name tca, gates or router.",
                code="dual-no-part-to-train",
            )
