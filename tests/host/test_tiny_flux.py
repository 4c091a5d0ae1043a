"""The tiny FLUX that WithAnyone's tests run on: ComfyUI's own layers, and the files that its own loaders read."""

import pytest
import torch
from support import tiny_flux
from support.flux_prompts import fill, text_to_image
from support.independent_flux import walk
from support.sampling import guider, predict


@pytest.mark.parametrize("references", [(), ((16, 12), (8, 12))])
@pytest.mark.parametrize("depth", ["tiny", "flux"])
def test_comfyui_s_flux_is_the_one_that_is_written_down(depth, references):
    model = tiny_flux.model_patcher(depth)
    latents = [tiny_flux.picture(*size, seed=seed) for seed, size in enumerate(references)]
    prompt = tiny_flux.conditioning(1, references=latents)
    picture, sigma = tiny_flux.picture(images=2), torch.tensor(0.7)
    text, pooled = prompt[0][0], prompt[0][1]["pooled_output"]
    seen = [model.model.process_latent_in(latent) for latent in latents]
    weights = model.model.diffusion_model.state_dict()
    expected = picture - sigma * walk(weights, picture, sigma, text, pooled, 4.0, references=seen)
    assert (predict(guider(model, prompt, cfg=1.0), picture, sigma) - expected).abs().max() < 1e-5


def test_the_stock_loaders_read_the_files(workflow_server):
    fill(workflow_server.base)
    result = workflow_server.run(text_to_image())
    assert result["error"] is None
    assert len(result["outputs"]["save"]["images"]) == 1
