"""The workflows that people share, workflows/*.json, made from compact descriptions: portraits.py, variations.py,
flux.py, parts2whole.py and dual_pathway.py.

    python -m tools.workflows                       # write the .json files; needs no ComfyUI
    python -m tools.workflows --pictures [NAME...]  # the pictures beside them too, from real runs of their twins on the miniature
    python -m tools.workflows --nodes [TYPE...]     # read anew what inputs nodes have (nodes.json), of these types too

The last two start a ComfyUI (COMFYUI_PATH, or ~/comfy/ComfyUI).

graph.py writes files, known.py knows the nodes, parts.py has what several workflows share, notes.py what their notes say; twins.py makes a workflow small
enough for a test, pictures.py draws the thumbnails, clothes.py garments and a pose map.
"""

from collections.abc import Callable
from pathlib import Path

from . import dual_pathway, flux, parts2whole, portraits, variations
from .graph import Graph, written

REPOSITORY = Path(__file__).resolve().parents[2]
WORKFLOWS = REPOSITORY / "workflows"

BUILDERS: tuple[Callable[[], Graph], ...] = (
    portraits.dual_portrait,
    portraits.wedding_preview,
    portraits.parent_and_child,
    portraits.two_friends,
    portraits.fixed_poses,
    portraits.style_lora,
    portraits.painted_regions,
    portraits.old_photos,
    variations.face_repair,
    variations.compare_adapters,
    variations.custom_sampler,
    variations.ip_adapter_faces,
    variations.mini_dual_portrait,
    variations.mini_score,
    flux.withanyone_two,
    flux.withanyone_four,
    flux.withanyone_parity,
    flux.withanyone_kontext,
    parts2whole.parts_one,
    parts2whole.parts_wedding,
    dual_pathway.dual_pathway,
    dual_pathway.other_expression,
    dual_pathway.full_body,
    dual_pathway.other_age,
    dual_pathway.old_photo_to_reality,
)
NAMES = tuple(build.__name__ for build in BUILDERS)


def texts() -> dict[str, str]:
    """Name -> what its file should hold."""
    return {build.__name__: written(build().file()) for build in BUILDERS}
