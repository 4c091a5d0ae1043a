"""Small files on top of a full adapter, written by hand from the format's description.

tensors = write(tmp_path / "couple.safetensors", tmp_path / "full.safetensors")
"""

import torch

from dhumandiff import Adapter
from dhumandiff.formats import low_rank

CHANGED = "attention.3.to_k_ip2"


def write(path, full, persons="", **changes):
    """A file with factors for one matrix and a whole new tensor, on top of `full`; the tensors."""
    adapter = Adapter.from_pretrained(full)
    name = CHANGED if f"{CHANGED}.weight" in adapter.state_dict() else CHANGED[:-1]
    out, inner = adapter.state_dict()[f"{name}.weight"].shape
    random = torch.Generator().manual_seed(5)
    tensors = {
        f"{CHANGED}.lora_A.weight": torch.randn(2, inner, generator=random),
        f"{CHANGED}.lora_B.weight": torch.randn(out, 2, generator=random),
        "face_projection.norm_out.bias": torch.randn(96, generator=random),
    }
    metadata = {
        **adapter.info.metadata,
        "base_adapter": full.name,
        "base_adapter_sha256": low_rank.digest(adapter.state_dict()),
        "persons": persons,
        **changes,
    }
    low_rank.save(path, tensors, metadata)
    return tensors
