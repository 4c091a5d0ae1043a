"""WithAnyone for the tiny FLUX: random weights of the exact layout, people, boxes, and what a whole FLUX predicts with them."""

import tempfile
from pathlib import Path

import torch

from support import independent_withanyone, tiny_flux, withanyone_files
from support.independent_flux import walk

SIZES = {"width": tiny_flux.WIDTH, "inner": 128}
BOXES = {
    "disjoint": ((0, 16, 64, 80), (80, 32, 144, 128), (16, 112, 64, 176), (96, 144, 160, 192)),
    "overlapping": ((16, 16, 112, 112), (64, 64, 160, 160), (0, 80, 80, 192), (48, 32, 144, 144)),
    "off the grid": ((3, 5, 70, 77), (61, 40, 131, 119), (-10, 100, 55, 250), (90.5, 130, 159, 185)),
}
"""In the tests' picture of 160 x 192 px."""


def sizes(depth="tiny"):
    return {**SIZES, "blocks": sum(tiny_flux.DEPTHS[depth])}


def write_file(path, depth="tiny", **more):
    """withanyone.safetensors for the tiny FLUX."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return withanyone_files.withanyone_file(path, **sizes(depth), **more)


def adapter(depth="tiny", precision="auto", **more):
    """DHD_WITHANYONE as Load WithAnyone Adapter makes it."""
    from dhd_pack.nodes.comfy.withanyone import load_withanyone

    with tempfile.TemporaryDirectory() as folder:
        return load_withanyone(write_file(Path(folder) / "withanyone.safetensors", depth, **more), precision)


def person(seed=1, photos=1, **changed):
    """A random person whom WithAnyone can draw."""
    from dhd_pack.dhumandiff.references.reference import FaceReference

    random = torch.Generator().manual_seed(seed)
    parts = {
        "identity": torch.nn.functional.normalize(torch.randn(photos, 512, generator=random), dim=-1),
        "identity_length": 20 + torch.rand(photos, generator=random),
        "siglip_hidden": torch.randn(photos, 256, 768, generator=random),
        "recognizer": "antelopev2/glintr100",
        "name": f"person {seed}",
    }
    return FaceReference(**{**parts, **changed})


def bounding_boxes(boxes, size=None):
    """BOUNDING_BOX as Portrait Layout gives it; `size`: of the picture that they were drawn on."""
    more = {} if size is None else {"picture_width": size[0], "picture_height": size[1]}
    return [[{"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0, **more} for x0, y0, x1, y1 in boxes]]


def expected(
    model, picture, sigma, prompt, people, boxes, form=0.5, *, depth="tiny", strengths=None, masks=None, seen=()
):
    """The clean picture that a tiny FLUX predicts with people, from both independent versions.

    masks: [P, L], in the place of boxes and strengths. seen: latents that Kontext looks at, as the model reads them.
    """
    tensors = withanyone_files.tensors(**sizes(depth))
    embeddings = torch.cat([one.identity[:1] * one.identity_length[:1, None] for one in people])
    siglip = torch.cat([one.siglip_hidden[:1] for one in people])
    arc = independent_withanyone.arc_tokens(embeddings, tensors)
    sig = independent_withanyone.sig_tokens(siglip, embeddings, tensors)
    size = (8 * picture.shape[-1], 8 * picture.shape[-2])
    shares = masks
    if strengths is not None:
        shares = torch.zeros(len(boxes), picture.shape[-1] * picture.shape[-2] // 4)
        for one, box in enumerate(boxes):
            shares[one, list(independent_withanyone.tokens_of_box(box, size))] = strengths[one]

    def after(block, tokens):
        given = (block, tokens, arc, sig, boxes, size, 1 - form, form, tensors, shares)
        return tokens + independent_withanyone.residual(*given).float()

    text, extra = prompt[0]
    weights = model.model.diffusion_model.state_dict()
    velocity = walk(weights, picture, sigma, text, extra["pooled_output"], extra["guidance"], after, seen)
    return picture - sigma * velocity
