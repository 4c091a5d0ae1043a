"""The workflows on FLUX: what they sample with is what was published, everybody counts, and boxes say where."""

import copy
import re

import numpy as np
import pytest
import torch
from support import tiny_flux
from support.server import api_form
from support.twins import nodes_of, saved, shipped_file, twin

from tools.workflows import NAMES
from tools.workflows.flux import GUIDANCE, SHIFT, STEPS

ON_FLUX = [name for name in NAMES if name.startswith("withanyone_")]


def only(prompt, kind):
    """The inputs of the one node of a type."""
    (key,) = nodes_of(prompt, kind)
    return prompt[key]["inputs"]


@pytest.mark.parametrize("name", ON_FLUX)
def test_it_samples_as_published(name):
    prompt = api_form(shipped_file(name))
    sampler = only(prompt, "KSampler")
    assert (sampler["steps"], sampler["cfg"], sampler["sampler_name"], sampler["scheduler"]) == (
        25,
        1,
        "euler",
        "simple",
    )
    assert only(prompt, "FluxGuidance")["guidance"] == GUIDANCE == 4
    layout, people = only(prompt, "DHDPortraitLayout"), only(prompt, "DHDApplyWithAnyone")
    assert layout["preset"] == "faces only"
    assert layout["latent"] == sampler["latent_image"]
    assert [f"reference_{k}" in people for k in range(1, 5)] == [k <= layout["people"] for k in range(1, 5)]
    assert people["boxes"] == [*nodes_of(prompt, "DHDPortraitLayout"), 2]
    assert only(prompt, "DHDLoadFaceAnalysis")["pack"] == "antelopev2"


def test_the_published_schedule(workflow_server):
    """t = e^mu / (e^mu + 1/t - 1), evenly from 1 to 0, at the shift of 1024 x 1024."""
    prompt = twin("withanyone_parity")
    (model,) = nodes_of(prompt, "ModelSamplingFlux")
    scheduler = {"model": [model, 0], "scheduler": "simple", "steps": STEPS, "denoise": 1.0}
    (loader,) = nodes_of(prompt, "UNETLoader")
    nodes = {
        loader: prompt[loader],
        model: prompt[model],
        "sigmas": {"class_type": "BasicScheduler", "inputs": scheduler},
        "shown": {"class_type": "PreviewAny", "inputs": {"source": ["sigmas", 0]}},
    }
    result = workflow_server.run(nodes)
    assert result["error"] is None, result["error"]
    sigmas = torch.tensor([float(one) for one in re.findall(r"\d\.\d*", result["outputs"]["shown"]["text"][0])])
    tokens = (1024 // 8) * (1024 // 8) // 256
    shift = torch.tensor(0.5 + (tokens - 256) * 0.65 / 3840).double()
    assert abs(float(shift) - SHIFT) < 0.001
    even = torch.linspace(1, 0, STEPS + 1, dtype=torch.float64)
    expected = shift.exp() / (shift.exp() + 1 / even - 1)
    assert sigmas.shape == expected.shape
    assert (sigmas - expected).abs().max() < 1e-3


def test_t5_reads_as_many_tokens_as_published():
    least = only(api_form(shipped_file("withanyone_parity")), "T5TokenizerOptions")["min_length"]
    clip = tiny_flux.clip()
    before = len(clip.tokenize("a man")["t5xxl"][0])
    clip.set_tokenizer_option("t5xxl_min_length", least)
    assert (before, len(clip.tokenize("a man")["t5xxl"][0])) == (256, 512)


@pytest.fixture(scope="module")
def pixels(workflow_server):
    """prompt -> the saved picture, [H, W, 3]."""

    def run(prompt):
        result = workflow_server.run(prompt)
        assert result["error"] is None, result["error"]
        (picture,) = saved(workflow_server, prompt, result["outputs"])
        return np.asarray(picture, dtype=np.int16)

    return run


@pytest.mark.slow
def test_everybody_of_four_and_their_boxes_count(pixels):
    prompt = twin("withanyone_four")
    everybody = pixels(prompt)
    for k in (1, 2, 3, 4):
        without = copy.deepcopy(prompt)
        only(without, "DHDApplyWithAnyone")[f"strength_{k}"] = 0.0
        assert np.abs(pixels(without) - everybody).mean() > 0.1
    moved = copy.deepcopy(prompt)
    boxes = "0.06 0.6 0.24 0.93; 0.3 0.6 0.47 0.93; 0.53 0.6 0.7 0.93; 0.76 0.6 0.94 0.93"
    only(moved, "DHDPortraitLayout").update(preset="custom", boxes=boxes)
    assert np.abs(pixels(moved) - everybody).mean() > 0.1


@pytest.mark.slow
def test_kontext_sees_the_photo_with_its_faces_blurred(pixels):
    prompt = twin("withanyone_kontext")
    edited = pixels(prompt)
    (canvas,) = nodes_of(prompt, "ImageCompositeMasked")
    sharp = copy.deepcopy(prompt)
    for key in nodes_of(sharp, "VAEEncode"):
        if sharp[key]["inputs"]["pixels"][0] == canvas:
            sharp[key]["inputs"]["pixels"] = sharp[canvas]["inputs"]["destination"]
    assert np.abs(pixels(sharp) - edited).mean() > 0.1
    (words,) = nodes_of(prompt, "CLIPTextEncode")
    unseen = copy.deepcopy(prompt)
    only(unseen, "FluxGuidance")["conditioning"] = [words, 0]
    assert np.abs(pixels(unseen) - edited).mean() > 0.1
