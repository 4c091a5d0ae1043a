"""--lowvram and --novram, which ComfyUI does not take along with --cpu: its loader is told of a card without room, on the CPU.

Weights then stay where they are and are cast layer by layer. What a card itself does is not tried here.
"""

import comfy.model_management as management
import pytest
import torch
from dhd_pack.nodes.comfy.patch import apply_people
from support import tiny_comfy
from support.sampling import guider, predict, sigma_at

POSITIVE, NEGATIVE = tiny_comfy.conditioning(1), tiny_comfy.conditioning(2)


@pytest.mark.parametrize("state", ["LOW_VRAM", "NO_VRAM"])
def test_weights_that_are_not_loaded_draw_the_same(monkeypatch, people, state):
    sigma = sigma_at(tiny_comfy.model_patcher(), 601)
    picture = torch.randn(1, 4, 16, 12, generator=torch.Generator().manual_seed(5)) * 10

    def draw():
        management.unload_all_models()
        model = tiny_comfy.model_patcher()
        patched = apply_people(model, tiny_comfy.adapter_patcher(), people, 1.0)
        return patched, predict(guider(patched, POSITIVE, NEGATIVE, 5.0), picture, sigma)

    _, expected = draw()
    with monkeypatch.context() as card:
        card.setattr(management, "vram_state", management.VRAMState[state])
        card.setattr(management, "is_device_cpu", lambda _: False)
        card.setattr(management, "get_free_memory", lambda *_, **__: 1)
        patched, got = draw()
        assert patched.model.model_lowvram  # else nothing was tried
    management.unload_all_models()
    assert (got - expected).abs().max() / sigma < 1e-5  # without room positive and negative are predicted one by one
