"""Head crops on a real ComfyUI server: a portrait by an IP-Adapter's half of the method, with no face model in the graph."""

import copy
import json

import pytest
from PIL import Image
from support.comfyui import REPOSITORY
from support.server import api_form, node_of, on_the_tiny_base


@pytest.fixture(scope="module")
def without_faces():
    """The shipped workflow, without Load Face Analysis; people come from whole photos."""
    prompt = on_the_tiny_base(api_form(json.loads((REPOSITORY / "workflows" / "dual_portrait.json").read_text())))
    del prompt[node_of(prompt, "DHDLoadFaceAnalysis")]
    for node in prompt.values():
        if node["class_type"] == "DHDEncodeReference":
            del node["inputs"]["face_analysis"]
            node["inputs"]["which"] = "whole-photo"
    return prompt


def needed_for(prompt, *wanted):
    """The nodes before some nodes, and themselves."""
    kept, left = {}, list(wanted)
    while left:
        key = left.pop()
        if key not in kept:
            kept[key] = prompt[key]
            left += [value[0] for value in prompt[key]["inputs"].values() if isinstance(value, list)]
    return kept


def test_head_crops_become_a_picture(server, without_faces):
    prompt = copy.deepcopy(without_faces)
    words = prompt[node_of(prompt, "DHDSubjectPrompt")]["inputs"]
    prompt["900"] = {"class_type": "CLIPTextEncode", "inputs": {"clip": words["clip"], "text": "a man and a woman"}}
    prompt[node_of(prompt, "DHDCascadeKSampler")]["inputs"]["positive"] = ["900", 0]
    save = node_of(prompt, "SaveImage")
    result = server.run(needed_for(prompt, save))
    assert result["error"] is None
    saved = result["outputs"][save]["images"][0]
    assert Image.open(server.base / "output" / saved["filename"]).size == (512, 512)


def test_words_with_faces_ask_who_it_is(server, without_faces):
    assert "has no identity" in server.run(without_faces)["error"]


def test_a_face_that_is_to_be_found_needs_a_face_analysis(server, without_faces):
    prompt = copy.deepcopy(without_faces)
    for node in prompt.values():
        if node["class_type"] == "DHDEncodeReference":
            node["inputs"]["which"] = "largest"
    assert "There is nothing to find faces with" in server.run(prompt)["error"]
