"""DP-Adapter's dual pathway (arXiv 2502.13999): identity where faces count, words where words count, blended in the features.

This is our reading: neither formulas nor code nor weights of the paper are public. What is built, and what is true of it whatever
the paper says: docs/method.md#dual-pathway.

    dual = DualPathway.from_pretrained("models/dhumandiff/DHumanDiff")     # works untrained with DHumanDiff's weights
    with attach_dual(unet, dual, [reference_1, reference_2], DualPathwaySettings(), masks=masks):
        noise = unet(x, t, encoder_hidden_states=text).sample              # hosts.diffusers.dual_pathway
"""

from .adapter import DualPathway
from .blending import blend, region_masks
from .settings import DualPathwaySettings
from .weights import Gates, Router, TextConsistency

__all__ = ["DualPathway", "DualPathwaySettings", "Gates", "Router", "TextConsistency", "blend", "region_masks"]
