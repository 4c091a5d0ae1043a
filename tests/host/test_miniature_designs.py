"""The miniature's second design in ComfyUI: the same numbers as in diffusers, before its weights ship."""

import pytest
import torch
from dhd_pack.dhumandiff.miniature import base
from dhd_pack.dhumandiff.miniature.design import SECOND
from dhd_pack.nodes.comfy import miniature as comfy_mini
from support.sampling import guider, predict, sigma_at


@pytest.fixture
def second(monkeypatch):
    """The second design's MODEL and the UNet with its weights, untrained."""
    torch.manual_seed(0)
    unet = base.build_unet(SECOND).eval().requires_grad_(False)
    monkeypatch.setattr(comfy_mini, "UNET", base.unet_arguments(SECOND))
    monkeypatch.setattr(comfy_mini, "DESIGN", SECOND)
    monkeypatch.setattr(comfy_mini._MiniLatents, "latent_channels", SECOND.latents)
    monkeypatch.setattr(comfy_mini, "load_part", lambda name: unet.state_dict())
    return comfy_mini.mini_model(), unet


def test_the_velocity_is_read_as_in_diffusers(second):
    model, unet = second
    context, pooled = torch.randn(1, 77, 160), torch.randn(1, 96)
    sigma = sigma_at(model, 601)
    noisy = torch.randn(1, SECOND.latents, 24, 32, generator=torch.Generator().manual_seed(5)) * sigma
    added = {"text_embeds": pooled, "time_ids": torch.tensor([[192, 256, 0, 0, 192, 256]])}
    scaled = noisy / (sigma**2 + 1) ** 0.5
    with torch.no_grad():
        velocity = unet(scaled, 601, context, added_cond_kwargs=added).sample
    scheduler = base.mini_scheduler(SECOND)
    scheduler.set_timesteps(timesteps=[601, 400])
    expected = scheduler.step(velocity, scheduler.timesteps[0], noisy).pred_original_sample
    got = predict(guider(model, [[context, {"pooled_output": pooled}]], cfg=1.0), noisy, sigma)
    assert (got - expected).abs().max() < 1e-4 * expected.abs().max()


def test_every_level_keeps_its_weights(second):
    model, unet = second
    ours = sum(parameter.numel() for parameter in model.model.diffusion_model.parameters())
    assert ours == sum(parameter.numel() for parameter in unet.parameters())
