"""People on a UNet that is compiled: nothing of ours breaks its graph, and it draws what it draws uncompiled."""

import pytest
import torch

pytest.importorskip("diffusers", reason="install it with: pip install diffusers transformers accelerate")

from dhumandiff.hosts.diffusers.attention import attach
from dhumandiff.hosts.diffusers.parts import sdxl_scheduler
from dhumandiff.hosts.diffusers.sampling import DenoisingLoop
from dhumandiff.methods.paired.cascade_modes import make_mode
from dhumandiff.methods.paired.settings import CascadeSettings, SamplingSettings


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "masked"), [("none", True), ("one_pass", False)])
def test_a_compiled_unet_with_people_is_one_graph(unet, adapter, people, mode, masked):
    """Traced as for a compiler, with nothing compiled; a break would be an error."""
    random = torch.Generator().manual_seed(1)
    noise, text = (torch.randn(*shape, generator=random) for shape in ((1, 4, 8, 8), (2, 77, 192)))
    added = {"text_embeds": torch.randn(2, 128, generator=random), "time_ids": torch.zeros(2, 6)}
    conditions = {"encoder_hidden_states": text, "added_cond_kwargs": added}
    masks = torch.rand(2, 1, 8, 8, generator=random) if masked else None
    made = []
    for called in (unet, torch.compile(unet, backend="eager", fullgraph=True)):
        torch._dynamo.reset()
        with torch.no_grad(), attach(unet, adapter, people, masks=masks) as attached:
            loop = DenoisingLoop(called, sdxl_scheduler(), attached, conditions, SamplingSettings(steps=3), [0])
            made.append(loop.run(noise, make_mode(CascadeSettings(mode))))
    torch._dynamo.reset()
    assert torch.allclose(*made, atol=1e-5)
