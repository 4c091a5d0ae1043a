"""A server draws two people from parts: stock loaders and samplers around the three nodes."""

import shutil

import numpy as np
import pytest
from PIL import Image
from support import tiny_parts

SIZE = {"width": 128, "height": 128}


@pytest.fixture(scope="module")
def parts_server(workflow_server):
    """The server with a released folder that fits its tiny text encoders and vision tower."""
    place = workflow_server.base / "models" / "dhumandiff" / "PartsTiny"
    place.mkdir()
    tiny_parts.released(place, image=tiny_parts.SERVER_IMAGE, context=tiny_parts.SERVER_CONTEXT)
    yield workflow_server
    shutil.rmtree(place)


def prompt(seed=1, second="person_2.png", mask=True):
    """Two people, each with a face and the second with a dress; where they are comes from Portrait Layout."""

    def part(image, label, person, *before):
        sources = {"weights": ["load", 1], "clip": ["base", 1], "vae": ["base", 2], "clip_vision": ["vision", 0]}
        chained = {"parts": [before[0], 0]} if before else {}
        inputs = {**sources, **SIZE, **chained, "image": [image, 0], "part": label, "person": person, "strength": 1.0}
        return {"class_type": "DHDEncodePart", "inputs": inputs}

    def node(kind, **inputs):
        return {"class_type": kind, "inputs": inputs}

    regions = {"mask_1": ["places", 0], "mask_2": ["places", 1]} if mask else {}
    return {
        "load": node("DHDLoadParts2Whole", folder="PartsTiny"),
        "base": node("CheckpointLoaderSimple", ckpt_name="tiny_sdxl.safetensors"),
        "vision": node("CLIPVisionLoader", clip_name="tiny_vision.safetensors"),
        "image_1": node("LoadImage", image="person_1.png"),
        "image_2": node("LoadImage", image=second),
        "part_1": part("image_1", "face", 1),
        "part_2": part("image_2", "face", 2, "part_1"),
        "part_3": part("image_2", "whole body clothes", 2, "part_2"),
        "places": node("DHDPortraitLayout", preset="side by side", boxes="", overlap="sides keep apart", **SIZE),
        "apply": node(
            "DHDApplyParts",
            model=["load", 0],
            weights=["load", 1],
            parts=["part_3", 0],
            image_strength=1.0,
            masked="left out",
            start=0.0,
            end=1.0,
            **regions,
        ),
        "text": node("CLIPTextEncode", clip=["base", 1], text="a bride and a groom in a park"),
        "avoid": node("CLIPTextEncode", clip=["base", 1], text=""),
        "latent": node("EmptyLatentImage", batch_size=1, **SIZE),
        "sample": node(
            "KSampler",
            model=["apply", 0],
            positive=["text", 0],
            negative=["avoid", 0],
            latent_image=["latent", 0],
            seed=seed,
            steps=2,
            cfg=3.5,
            sampler_name="ddim",
            scheduler="ddim_uniform",
            denoise=1.0,
        ),
        "picture": node("VAEDecode", samples=["sample", 0], vae=["base", 2]),
        "save": node("SaveImage", images=["picture", 0], filename_prefix="parts"),
    }


def drawn(server, **changes):
    result = server.run(prompt(**changes))
    assert result["error"] is None, result["error"]
    (one,) = result["outputs"]["save"]["images"]
    with Image.open(server.base / "output" / one["subfolder"] / one["filename"]) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_two_people_from_parts(parts_server):
    usual = drawn(parts_server)
    assert usual.shape == (128, 128, 3)
    assert usual.std() > 5
    assert np.abs(drawn(parts_server, second="person_1.png") - usual).mean() > 0.1


def test_without_regions_the_message_says_what_to_do(parts_server):
    error = parts_server.run(prompt(mask=False))["error"]
    assert "give each of them a region" in str(error) or "none of them has a region" in str(error)
