"""The workflows on Parts2Whole: sampled as published, one size for all, and every part, the pose and each place count."""

import copy

import numpy as np
import pytest
from support.server import api_form
from support.twins import nodes_of, saved, shipped_file, twin

from dhumandiff.methods.parts2whole.pictures import check_pose_picture
from tools.workflows import NAMES
from tools.workflows.clothes import pose_map

ON_PARTS = [name for name in NAMES if name.startswith("parts_")]


def only(prompt, kind):
    """The inputs of the one node of a type."""
    (key,) = nodes_of(prompt, kind)
    return prompt[key]["inputs"]


def chain(prompt):
    """The inputs of all Encode Part, from the first to the one that Apply Parts reads."""
    found, key = [], only(prompt, "DHDApplyParts")["parts"][0]
    while key is not None:
        found.append(prompt[key]["inputs"])
        key = found[-1].get("parts", [None])[0]
    return found[::-1]


@pytest.mark.parametrize("name", ON_PARTS)
def test_it_samples_as_published(name):
    prompt = api_form(shipped_file(name))
    sampler = only(prompt, "KSampler")
    names = ("steps", "cfg", "sampler_name", "scheduler", "denoise")
    assert [sampler[one] for one in names] == [50, 3.5, "ddim", "ddim_uniform", 1]
    assert prompt[sampler["negative"][0]]["inputs"]["text"] == ""
    assert prompt[sampler["positive"][0]]["inputs"]["text"] != ""
    loader = nodes_of(prompt, "DHDLoadParts2Whole")
    assert only(prompt, "DHDApplyParts")["model"] == [*loader, 0]  # with its own noise, and nothing between


@pytest.mark.parametrize("name", ON_PARTS)
def test_one_size_is_everybody_s(name):
    prompt = api_form(shipped_file(name))
    sizes = [node["inputs"] for node in prompt.values() if node["class_type"] in ("DHDEncodePart", "EmptyLatentImage")]
    width, height = ([key, 0] for key in nodes_of(prompt, "PrimitiveInt"))
    assert all((one["width"], one["height"]) == (width, height) for one in sizes)
    assert len(sizes) == len(chain(prompt)) + 1  # no part is left out of the chain
    values = [prompt[key]["inputs"]["value"] for key in nodes_of(prompt, "PrimitiveInt")]
    assert values == ([512, 768] if name == "parts_one" else [768, 768])


def test_whose_parts_they_are():
    one, two = (
        [(part["part"], part["person"]) for part in chain(api_form(shipped_file(f"parts_{name}")))]
        for name in ("one", "wedding")
    )
    assert one == [("face", 1), ("upper body clothes", 1), ("lower body clothes", 1)]
    bride = [("face", 1), ("hair or headwear", 1), ("whole body clothes", 1)]
    assert two == [*bride, ("face", 2), ("whole body clothes", 2)]


def test_the_drawn_pose_map_is_of_the_right_kind():
    check_pose_picture(np.asarray(pose_map()), "the drawn pose map")


@pytest.fixture(scope="module")
def pixels(workflow_server):
    """prompt -> the saved picture, [H, W, 3]."""

    def run(prompt):
        result = workflow_server.run(prompt)
        assert result["error"] is None, result["error"]
        (picture,) = saved(workflow_server, prompt, result["outputs"])
        return np.asarray(picture, dtype=np.int16)

    return run


def differ(one, other):
    return np.abs(one - other).mean() > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_PARTS)
def test_every_part_counts(pixels, name):
    prompt = twin(name)
    usual = pixels(prompt)
    for number, part in enumerate(chain(prompt)):
        without = copy.deepcopy(prompt)
        chain(without)[number]["strength"] = 0.0
        assert differ(pixels(without), usual), part["part"]


@pytest.mark.slow
def test_the_pose_counts(pixels):
    prompt = twin("parts_one")
    without = copy.deepcopy(prompt)
    del only(without, "DHDApplyParts")["pose"]
    assert differ(pixels(without), pixels(prompt))


@pytest.mark.slow
def test_bride_and_groom_change_places(pixels):
    prompt = twin("parts_wedding")
    exchanged = copy.deepcopy(prompt)
    people = only(exchanged, "DHDApplyParts")
    people["mask_1"], people["mask_2"] = people["mask_2"], people["mask_1"]
    assert differ(pixels(exchanged), pixels(prompt))
