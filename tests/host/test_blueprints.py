"""The blueprints on a real ComfyUI server: served where it knows them, made of nodes and values that it knows, and run."""

import json
from itertools import count

import pytest
from PIL import Image
from support.flux_twins import on_the_tiny_flux
from support.parts_twins import on_the_tiny_parts
from support.server import NO_BLUEPRINTS, PHOTOS, TINY, api_form, on_the_tiny_base

from tools.blueprints import (
    BLUEPRINTS,
    DUAL_PATHWAY,
    DUAL_PORTRAIT,
    INSIDE_OF_INPUTS,
    INSIDE_OF_OUTPUTS,
    MINIATURE,
    PARTS,
    WITHANYONE,
)

every_blueprint = pytest.mark.parametrize("blueprint", BLUEPRINTS, ids=lambda one: one.name)

# Lists of files: what is in them depends on the computer.
FILES = {
    "ckpt_name",
    "clip_name",
    "adapter_name",
    "pack",
    "unet_name",
    "clip_name1",
    "clip_name2",
    "vae_name",
    "siglip_name",
    "folder",
}


def subgraph(blueprint):
    (inside,) = json.loads(blueprint.path.read_text(encoding="utf-8"))["definitions"]["subgraphs"]
    return inside


def as_prompt(blueprint):
    """The inside as the page would queue it, with photos for its pictures and a node that saves its portrait."""
    inside = subgraph(blueprint)
    links, numbers = {}, count(inside["state"]["lastNodeId"] + 1)
    photos, portrait = {}, None
    for link in inside["links"]:
        source = [link["origin_id"], link["origin_slot"]]
        if link["target_id"] == INSIDE_OF_OUTPUTS:
            portrait = portrait or [str(source[0]), source[1]]
            continue
        if link["origin_id"] == INSIDE_OF_INPUTS:
            if link["type"] != "IMAGE":  # a value, which the node inside has
                continue
            photo = next(numbers)
            photos[str(photo)] = {"class_type": "LoadImage", "inputs": {}}
            source = [photo, 0]
        links[link["id"]] = [link["id"], *source, link["target_id"], link["target_slot"], link["type"]]
    for node in inside["nodes"]:
        for entry in node["inputs"]:
            entry["link"] = entry["link"] if entry["link"] in links else None
    prompt = api_form({"nodes": inside["nodes"], "links": list(links.values())}) | photos
    prompt["save"] = {"class_type": "SaveImage", "inputs": {"images": portrait, "filename_prefix": "blueprint"}}
    return prompt


@pytest.fixture(scope="module")
def known(server):
    return server.get("object_info")


def test_the_server_serves_them_to_the_page(server):
    served = server.blueprints()
    if served is None:
        pytest.skip(NO_BLUEPRINTS)
    ours = {entry["name"]: key for key, entry in served.items() if entry["info"]["node_pack"].endswith(".dhumandiff")}
    assert set(ours) == {blueprint.name for blueprint in BLUEPRINTS}
    for blueprint in BLUEPRINTS:
        data = server.get(f"global_subgraphs/{ours[blueprint.name]}")["data"]
        assert data == blueprint.path.read_text(encoding="utf-8")


@every_blueprint
def test_everything_inside_exists_here(known, blueprint):
    """Every node and input is there, and every value is one that it takes."""
    for node in subgraph(blueprint)["nodes"]:
        assert node["type"] in known
        info = known[node["type"]]
        inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
        names = [entry["name"] for entry in node["inputs"]]
        assert [name for name in names if name not in inputs] == []
        assert set(info["input"].get("required", {})) <= set(names)
        told = zip(node["outputs"], info["output_name"], info["output"], strict=True)
        for entry, name, kind in told:
            assert entry["name"] == name or name == kind  # ComfyUI 0.3.64 calls some outputs after their type
            assert entry["type"] == ("COMBO" if isinstance(kind, list) else kind)
        values = api_form({"nodes": [{**node, "inputs": without_links(node)}], "links": []})[str(node["id"])]["inputs"]
        for name, value in values.items():
            kind, options = inputs[name][0], {} if len(inputs[name]) == 1 else inputs[name][1]
            choices = kind if isinstance(kind, list) else options.get("options")
            if name in FILES:
                assert isinstance(value, str)
            elif choices is not None:
                assert value in choices, f"{node['type']}.{name}"
            elif kind in ("INT", "FLOAT"):
                assert isinstance(value, int if kind == "INT" else (int, float)), f"{node['type']}.{name}"
                assert options["min"] <= value <= options["max"], f"{node['type']}.{name}"
            else:
                assert isinstance(value, {"STRING": str, "BOOLEAN": bool}[kind]), f"{node['type']}.{name}"


def without_links(node):
    return [{**entry, "link": None} for entry in node["inputs"]]


@every_blueprint
def test_a_blueprint_shows_the_types_of_its_nodes(known, blueprint):
    inside = subgraph(blueprint)
    nodes = {node["id"]: node for node in inside["nodes"]}
    links = {link["id"]: link for link in inside["links"]}
    for slot in inside["inputs"]:
        link = links[slot["linkIds"][0]]
        node = nodes[link["target_id"]]
        info = known[node["type"]]["input"]
        kind = {**info.get("required", {}), **info.get("optional", {})}[node["inputs"][link["target_slot"]]["name"]][0]
        assert slot["type"] == ("COMBO" if isinstance(kind, list) else kind)
    for slot in inside["outputs"]:
        link = links[slot["linkIds"][0]]
        assert slot["type"] == known[nodes[link["origin_id"]]["type"]]["output"][link["origin_slot"]]


@pytest.mark.parametrize(
    ("blueprint", "size"),
    [
        (DUAL_PORTRAIT, (512, 512)),
        (DUAL_PATHWAY, (512, 512)),
        (MINIATURE, (512, 384)),
        (WITHANYONE, (128, 96)),
        (PARTS, (128, 192)),
    ],
    ids=["Dual Portrait", "Dual Pathway", "the miniature", "WithAnyone", "Parts2Whole"],
)
def test_what_is_inside_makes_a_portrait(server, blueprint, size):
    prompt = as_prompt(blueprint)
    if blueprint in (DUAL_PORTRAIT, DUAL_PATHWAY):
        prompt = on_the_tiny_base(prompt)
        assert {node["class_type"] for node in prompt.values()} >= set(TINY) - {"KSampler", "DHDCascadeKSampler"}
        assert [node["inputs"]["image"] for node in prompt.values() if node["class_type"] == "LoadImage"] == list(
            PHOTOS
        )
    if blueprint is WITHANYONE:
        prompt = on_the_tiny_flux(prompt)
    if blueprint is PARTS:
        prompt = on_the_tiny_parts(prompt)
    result = server.run(prompt)
    assert result["error"] is None
    saved = result["outputs"]["save"]["images"][0]
    with Image.open(server.base / "output" / saved["filename"]) as picture:
        assert picture.size == size
        assert len(picture.convert("RGB").resize((16, 16)).getcolors()) > 50
