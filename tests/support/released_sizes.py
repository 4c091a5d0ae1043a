"""The released adapter's own sizes, with nothing in them: for runs on a pretended card, in either host."""

import torch

HIDDEN = [640] * 4 + [1280] * 20 + [1280] * 30 + [640] * 6 + [1280] * 10
INSIDE = {"width": 1280, "hidden_width": 1280, "inner": 1280, "ffn_width": 5120, "depth": 4}
OF_IDENTITY = {"width": 1024, "hidden_width": 1280, "inner": 1024, "ffn_width": 4096, "depth": 4, "out_width": 1024}


def released_tensors(projections, dtype=torch.float16):
    """Empty tensors under the adapter's names. projections: the module of that name, of the pack or of the package."""
    with torch.device("meta"):
        parts = {
            "face_projection": projections.FaceProjection(tokens=16, out_width=2048, **INSIDE),
            "identity_projection": projections.IdentityProjection(512, 1024, 1024, OF_IDENTITY),
            "mapping": projections.SubjectMapping(768 + 1024, 1024, 768),
            "attention": torch.nn.ModuleList(projections.PairedKeysValues(2048, width) for width in HIDDEN),
        }
    return {
        f"{part}.{name}": torch.empty(tensor.shape, dtype=dtype)
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }
