"""Weights of the dual pathway for the tiny base, and regions."""

import torch

from dhumandiff.methods.dual_pathway import DualPathway, Gates, Router, TextConsistency

HEAD = 64
"""Channels of a head of the tiny base, as in SDXL."""


def tiny_dual(adapter, seed=0, tca=True, gates=True, router=True, rank=4, width=16):
    """An untrained adapter with random trained parts beside it."""
    random = torch.Generator().manual_seed(seed)
    hidden = adapter.info.hidden
    parts = {
        "tca": TextConsistency(hidden, adapter.info.context_width, rank) if tca else None,
        "gates": Gates.for_heads([each // HEAD for each in hidden]) if gates else None,
        "router": Router(hidden, adapter.info.clip_width, width) if router else None,
    }
    said = {"pathway_licence": "Apache-2.0", "pathway_source": "tests", "pathway_identity": adapter.info.source}
    dual = DualPathway(adapter, **parts, metadata=said)
    for name, tensor in dual.state_dict().items():
        if not name.startswith("identity."):
            width = tensor.shape[-1] if tensor.ndim > 1 else 1
            tensor.copy_(torch.randn(tensor.shape, generator=random) * width**-0.5)
    return dual.requires_grad_(False).eval()


def halves(persons=2, size=(16, 16)):
    """Regions side by side, [P, 1, H, W]."""
    masks = torch.zeros(persons, 1, *size)
    for person, columns in enumerate(torch.arange(size[1]).chunk(persons)):
        masks[person, :, :, columns] = 1
    return masks
