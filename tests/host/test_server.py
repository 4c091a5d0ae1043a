"""The shipped workflow on a real ComfyUI server, on the tiny base and real photos."""

import copy
import json

import pytest
from PIL import Image
from support.comfyui import REPOSITORY
from support.server import api_form, node_of, on_the_tiny_base, with_guider

from tools import interface

WORKFLOWS = REPOSITORY / "workflows"


@pytest.fixture(scope="module")
def portrait():
    return on_the_tiny_base(api_form(json.loads((WORKFLOWS / "dual_portrait.json").read_text())))


def test_every_node_is_there_with_tooltips_and_a_description(server):
    nodes = {name: node for name, node in server.get("object_info").items() if name.startswith("DHD")}
    assert set(nodes) == set(interface.read(interface.FROZEN))
    for name, node in nodes.items():
        assert node["description"], name
        assert node["category"] == "DHumanDiff"
        assert node.get("search_aliases", ["before they existed"]), name
        assert all(node["output_tooltips"]), name
        for group in ("required", "optional"):
            for key, (_, options) in node["input"].get(group, {}).items():
                assert options.get("tooltip"), f"{name}.{key}"


def test_the_shipped_workflow_ends_in_a_saved_picture(server, portrait):
    result = server.run(portrait)
    assert result["error"] is None
    saved = result["outputs"][node_of(portrait, "SaveImage")]["images"][0]
    picture = Image.open(server.base / "output" / saved["filename"])
    assert picture.size == (512, 512)
    assert len(picture.convert("RGB").resize((16, 16)).getcolors()) > 50  # a picture, not one colour
    texts = [text for node in result["outputs"].values() for text in node.get("text", ())]
    assert any("Person 1" in text and "[man]" in text and "[woman]" in text for text in texts)
    assert any("face" in text and "px" in text for text in texts)


def test_a_new_reference_reruns_what_depends_on_it(server, portrait):
    """And nothing else; the same seed gives the same file."""
    first = server.run(portrait)
    assert first["error"] is None
    again = copy.deepcopy(portrait)
    seconds = [key for key, node in again.items() if node["class_type"] == "DHDEncodeReference"]
    again[seconds[1]]["inputs"]["normalise_light"] = True
    result = server.run(again)
    assert result["error"] is None
    kinds = {again[key]["class_type"] for key in result["cached"]}
    assert {"CheckpointLoaderSimple", "DHDLoadAdapter", "DHDLoadFaceAnalysis", "CLIPTextEncode"} <= kinds
    assert seconds[0] in result["cached"]
    assert seconds[1] not in result["cached"]


def test_a_second_picture_of_the_same_people_runs_no_encoder(server, portrait):
    assert server.run(portrait)["error"] is None
    again = copy.deepcopy(portrait)
    again[node_of(again, "DHDCascadeKSampler")]["inputs"]["seed"] += 1
    result = server.run(again)
    assert result["error"] is None
    ran = {node["class_type"] for key, node in again.items() if key not in result["cached"]}
    assert ran == {"DHDCascadeKSampler", "MaskPreview", "VAEDecode", "SaveImage"}


def test_the_cascade_runs_in_a_stock_ksampler(server, portrait):
    """The focus of one run serves the next; two cascades at once are refused."""
    prompt = copy.deepcopy(portrait)
    cascade, apply = node_of(prompt, "DHDCascadeKSampler"), node_of(prompt, "DHDApplyPair")
    first = prompt[cascade]["inputs"]
    prompt["910"] = {
        "class_type": "DHDApplyPair",
        "inputs": {**prompt[apply]["inputs"], "cascade": "one_pass", "scene_strength": 0.5, "focus": [cascade, 1]},
    }
    stock = {key: first[key] for key in ("seed", "sampler_name", "scheduler", "positive", "negative", "latent_image")}
    stock |= {"model": ["910", 0], "steps": 2, "cfg": 5.0, "denoise": 1.0}
    prompt["911"] = {"class_type": "KSampler", "inputs": stock}
    prompt["912"] = {
        "class_type": "DHDCascadeKSampler",
        "inputs": {**first, "latent_image": ["911", 0], "denoise": 0.5, "focus": [cascade, 1]},
    }
    prompt[node_of(prompt, "VAEDecode")]["inputs"]["samples"] = ["912", 0]
    assert server.run(prompt)["error"] is None
    prompt["912"]["inputs"]["model"] = ["910", 0]
    assert "The cascade is on in two places" in server.run(prompt)["error"]
    prompt["910"]["inputs"]["cascade"] = "off"
    assert "focus is connected, but cascade is off" in server.run(prompt)["error"]


def test_swapping_the_persons_is_one_switch(server, portrait):
    pictures = []
    for swap in (False, True):
        prompt = copy.deepcopy(portrait)
        prompt[node_of(prompt, "DHDSwapPersons")]["inputs"]["swap"] = swap
        prompt[node_of(prompt, "SaveImage")]["inputs"]["filename_prefix"] = f"swap_{swap}"
        result = server.run(prompt)
        assert result["error"] is None
        saved = result["outputs"][node_of(prompt, "SaveImage")]["images"][0]["filename"]
        pictures.append(Image.open(server.base / "output" / saved).tobytes())
    assert pictures[0] != pictures[1]


def test_a_person_is_saved_and_loaded_again(server, portrait):
    prompt = copy.deepcopy(portrait)
    encode = node_of(prompt, "DHDEncodeReference")
    keep = {key: prompt[key] for key in (encode, *(v[0] for v in prompt[encode]["inputs"].values() if type(v) is list))}
    keep["900"] = {
        "class_type": "DHDSaveReference",
        "inputs": {"reference": [encode, 0], "file_name": "anna", "overwrite": False},
    }
    assert server.run(keep)["error"] is None
    assert (server.base / "models" / "dhumandiff" / "references" / "anna.safetensors").is_file()
    names = server.get("object_info/DHDLoadReference")["DHDLoadReference"]["input"]["required"]["file_name"]
    assert "anna" in json.dumps(names)
    loaded = copy.deepcopy(portrait)
    loaded["901"] = {"class_type": "DHDLoadReference", "inputs": {"file_name": "anna"}}
    loaded[node_of(loaded, "DHDSwapPersons")]["inputs"]["reference_1"] = ["901", 0]
    assert server.run(loaded)["error"] is None


@pytest.mark.slow
def test_each_idea_works_alone_beside_stock_nodes(server, portrait):
    sampler = portrait[node_of(portrait, "DHDCascadeKSampler")]["inputs"]
    apply, encode = node_of(portrait, "DHDApplyPair"), node_of(portrait, "DHDSubjectPrompt")
    checkpoint, negative = node_of(portrait, "CheckpointLoaderSimple"), node_of(portrait, "CLIPTextEncode")
    decode = node_of(portrait, "VAEDecode")
    stock = {"seed": 1, "steps": 2, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    stock["latent_image"] = sampler["latent_image"]
    for model, positive in (([apply, 0], [negative, 0]), ([checkpoint, 0], [encode, 0])):
        prompt = copy.deepcopy(portrait)
        inputs = {**stock, "model": model, "positive": positive, "negative": [negative, 0]}
        prompt["902"] = {"class_type": "KSampler", "inputs": inputs}
        prompt[decode]["inputs"]["samples"] = ["902", 0]
        assert server.run(prompt)["error"] is None
    assert server.run(with_guider(portrait))["error"] is None


# --- bad input: what the person in front of the graph reads ------------------------------------------------------------


def broken(portrait, kind, **inputs):
    prompt = copy.deepcopy(portrait)
    prompt[node_of(prompt, kind)]["inputs"].update(inputs)
    return prompt


@pytest.mark.parametrize(
    ("kind", "inputs", "message"),
    [
        ("DHDEncodeReference", {"which": "by index", "index": 7}, "1 face"),
        ("DHDApplyPair", {"start": 0.9, "end": 0.1}, "must be before end"),
        ("DHDSubjectPrompt", {"text": "a man@1 and a woman@3"}, "names person 3"),
        ("DHDSubjectPrompt", {"text": "  "}, "prompt is empty"),
        ("DHDSubjectPrompt", {"text": "two women in a garden"}, "woman@1 and a woman@2"),
        ("DHDLoadAdapter", {"adapter_name": "../../etc/passwd"}, "is not in"),
    ],
)
def test_bad_input_says_what_to_do(server, portrait, kind, inputs, message):
    result = server.run(broken(portrait, kind, **inputs))
    assert message in result["error"]


@pytest.mark.usefixtures("nothing_downloaded")
@pytest.mark.parametrize(
    ("kind", "inputs", "message"),
    [
        ("DHDLoadFaceAnalysis", {"pack": "buffalo_l"}, "buffalo_l"),
        ("DHDLoadAdapter", {"adapter_name": "DHumanDiff"}, "-m dhumandiff download"),
    ],
)
def test_what_is_not_downloaded_is_named(server, portrait, kind, inputs, message):
    assert message in server.run(broken(portrait, kind, **inputs))["error"]


def test_an_unknown_saved_person_is_named(server, portrait):
    prompt = copy.deepcopy(portrait)
    prompt["901"] = {"class_type": "DHDLoadReference", "inputs": {"file_name": "nobody"}}
    prompt[node_of(prompt, "DHDSwapPersons")]["inputs"]["reference_1"] = ["901", 0]
    assert "no saved reference 'nobody'" in server.run(prompt)["error"]


def test_a_picture_without_a_face_is_named(server, portrait):
    Image.new("RGB", (300, 300), "gray").save(server.base / "input" / "wall.png")
    prompt = copy.deepcopy(portrait)
    loads = [key for key, node in prompt.items() if node["class_type"] == "LoadImage"]
    prompt[loads[0]]["inputs"]["image"] = "wall.png"
    assert "o face" in server.run(prompt)["error"]


def test_the_same_person_twice_is_warned_about(server, portrait):
    prompt = copy.deepcopy(portrait)
    loads = [key for key, node in prompt.items() if node["class_type"] == "LoadImage"]
    prompt[loads[0]]["inputs"]["image"] = "obama.jpg"
    prompt[loads[1]]["inputs"]["image"] = "obama2.jpg"
    assert server.run(prompt)["error"] is None
    assert "look like the same person" in server.log.read_text()


# --- the doctor -------------------------------------------------------------------------------------------------------


def test_the_doctor_tells_what_is_missing(server):
    """It hands its report on, and looks again each time."""
    prompt = {
        "1": {"class_type": "DHDDoctor", "inputs": {}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }
    result = server.run(prompt)
    assert result["error"] is None
    (text,) = result["outputs"]["1"]["text"]
    assert result["outputs"]["2"]["text"] == [text]
    for words in ("ComfyUI ", "CPU: works", "tiny_adapter.safetensors: a native DHumanDiff adapter", "3 checkpoints"):
        assert words in text
    assert text.endswith("Nothing stands in the way of a first portrait.")
    hidden = server.base / "models" / "insightface" / "models"
    hidden.rename(hidden.with_name("put away"))
    try:
        (text,) = server.run(prompt)["outputs"]["1"]["text"]
    finally:
        hidden.with_name("put away").rename(hidden)
    assert text.endswith("2 things are missing: the face pack buffalo_l, the face pack antelopev2.")
