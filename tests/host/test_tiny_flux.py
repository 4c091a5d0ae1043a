"""The tiny FLUX that WithAnyone's tests run on: ComfyUI's own layers, and the files that its own loaders read."""

import pytest
import torch
from support import tiny_flux
from support.independent_flux import walk
from support.sampling import guider, predict
from support.server import node_of

PROMPT = {
    "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "tiny_flux.safetensors", "weight_dtype": "default"}},
    "2": {
        "class_type": "DualCLIPLoader",
        "inputs": {
            "clip_name1": "tiny_clip_l.safetensors",
            "clip_name2": "tiny_t5xxl.safetensors",
            "type": "flux",
        },
    },
    "3": {"class_type": "VAELoader", "inputs": {"vae_name": "tiny_ae.safetensors"}},
    "4": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["2", 0], "text": "a man and a woman in a garden"}},
    "5": {"class_type": "FluxGuidance", "inputs": {"conditioning": ["4", 0], "guidance": 4.0}},
    "6": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 64, "height": 96, "batch_size": 1}},
    "7": {
        "class_type": "KSampler",
        "inputs": {
            "model": ["1", 0],
            "positive": ["5", 0],
            "negative": ["5", 0],
            "latent_image": ["6", 0],
            "seed": 1,
            "steps": 2,
            "cfg": 1.0,
            "sampler_name": "euler",
            "scheduler": "simple",
            "denoise": 1.0,
        },
    },
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["7", 0], "vae": ["3", 0]}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "flux"}},
}


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
    tiny_flux.write_models(workflow_server.base / "models")
    result = workflow_server.run(PROMPT)
    assert result["error"] is None
    assert len(result["outputs"][node_of(PROMPT, "SaveImage")]["images"]) == 1
