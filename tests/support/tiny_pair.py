"""Two people and what goes into a call of the tiny UNet or of a tiny portrait, for tests of the pair with diffusers."""

import numpy as np
import torch

from support.layouts import random_reference

CONTEXT = 192
MARKED = "A man@1 and a woman@2 in a garden"
SMALL = {"steps": 3, "size": (64, 96)}


def two_people(adapter):
    return [random_reference(adapter.info, seed=seed, clip_tokens=50) for seed in (1, 2)]


def inputs(rows=2, size=(16, 16), seed=0, tokens=77):
    generator = torch.Generator().manual_seed(seed)
    return {
        "sample": torch.randn(rows, 4, *size, generator=generator),
        "timestep": 500,
        "encoder_hidden_states": torch.randn(rows, tokens, CONTEXT, generator=generator),
        "added_cond_kwargs": {
            "text_embeds": torch.randn(rows, 128, generator=generator),
            "time_ids": torch.tensor([[128.0, 128, 0, 0, 128, 128]]).expand(rows, -1),
        },
    }


def run(unet, given):
    with torch.no_grad():
        return unet(**given).sample


def far(first, second):
    """Largest difference of two pictures, 0..255."""
    return np.abs(np.asarray(first).astype(int) - np.asarray(second).astype(int)).max()
