"""The blueprints in subgraphs/: made from the workflows as they are, and whole."""

import json
from dataclasses import replace

import pytest
from support.comfyui import REPOSITORY

from tools import blueprints
from tools.blueprints import (
    BLUEPRINTS,
    DUAL_PATHWAY,
    DUAL_PORTRAIT,
    INSIDE_OF_INPUTS,
    INSIDE_OF_OUTPUTS,
    PARTS,
    WITHANYONE,
    Slot,
)

every_blueprint = pytest.mark.parametrize("blueprint", BLUEPRINTS, ids=lambda one: one.name)


def read(blueprint):
    """(the node that is seen, the subgraph) of a file."""
    content = json.loads(blueprint.path.read_text(encoding="utf-8"))
    (host,), (inside,) = content["nodes"], content["definitions"]["subgraphs"]
    return host, inside


def workflow_of(blueprint):
    return json.loads((REPOSITORY / "workflows" / f"{blueprint.workflow}.json").read_text(encoding="utf-8"))


def test_the_folder_holds_these_and_no_others():
    assert {path.name for path in blueprints.FOLDER.iterdir()} == {blueprint.path.name for blueprint in BLUEPRINTS}


@pytest.mark.parametrize("path", blueprints.files(), ids=lambda path: path.name)
def test_a_file_is_what_the_workflow_makes_it(path):
    made = blueprints.files()[path]
    assert path.read_text(encoding="utf-8") == made, f"after a change of the workflow: {blueprints.COMMAND}"


@every_blueprint
def test_the_page_can_read_it_as_a_blueprint(blueprint):
    host, inside = read(blueprint)
    assert host["type"] == inside["id"]
    assert host["title"] == inside["name"] == blueprint.path.stem
    for side in ("inputs", "outputs"):
        assert [(slot["name"], slot["type"]) for slot in host[side]] == [
            (slot["name"], slot["type"]) for slot in inside[side]
        ]
        assert len({slot["name"] for slot in inside[side]}) == len(inside[side])
        assert all(slot["label"] for slot in inside[side])
    ids = [node["id"] for node in inside["nodes"]]
    assert len({*ids, host["id"]}) == len(ids) + 1
    frames = [group["id"] for group in inside["groups"]]
    assert len(set(frames)) == len(frames)
    assert inside["state"]["lastNodeId"] >= max(ids)
    assert inside["state"]["lastLinkId"] >= max(link["id"] for link in inside["links"])


@every_blueprint
def test_both_ends_of_a_link_agree_on_it(blueprint):
    """They know it, and its type."""
    _, inside = read(blueprint)
    nodes = {node["id"]: node for node in inside["nodes"]}
    seen_from_inputs, seen_from_outputs = set(), set()
    for node in nodes.values():
        seen_from_inputs |= {(entry["link"], node["id"], i) for i, entry in enumerate(node["inputs"]) if entry["link"]}
        seen_from_outputs |= {(n, node["id"], i) for i, entry in enumerate(node["outputs"]) for n in entry["links"]}
    seen_from_outputs |= {(n, INSIDE_OF_INPUTS, i) for i, slot in enumerate(inside["inputs"]) for n in slot["linkIds"]}
    seen_from_inputs |= {(n, INSIDE_OF_OUTPUTS, i) for i, slot in enumerate(inside["outputs"]) for n in slot["linkIds"]}
    links = inside["links"]
    assert len({link["id"] for link in links}) == len(links)
    assert {(link["id"], link["target_id"], link["target_slot"]) for link in links} == seen_from_inputs
    assert {(link["id"], link["origin_id"], link["origin_slot"]) for link in links} == seen_from_outputs
    for link in links:
        start = inside if link["origin_id"] == INSIDE_OF_INPUTS else nodes[link["origin_id"]]
        end = inside if link["target_id"] == INSIDE_OF_OUTPUTS else nodes[link["target_id"]]
        given = (start["inputs"] if start is inside else start["outputs"])[link["origin_slot"]]["type"]
        taken = (end["outputs"] if end is inside else end["inputs"])[link["target_slot"]]["type"]
        assert set(given.split(",")) & set(taken.split(",")), link
        assert link["type"] in (given, taken)


@every_blueprint
def test_what_may_stay_open_is_all_that_is_open(blueprint):
    _, inside = read(blueprint)
    every = {node["id"]: node for node in workflow_of(blueprint)["nodes"]}
    for node in inside["nodes"]:
        for entry, before in zip(node["inputs"], every[node["id"]]["inputs"], strict=True):
            assert entry["link"] or "widget" in entry or before["link"] is None, f"{node['type']}: {entry['name']}"


@every_blueprint
def test_values_and_model_links_inside_are_the_workflow_s(blueprint):
    _, inside = read(blueprint)
    every = {node["id"]: node for node in workflow_of(blueprint)["nodes"]}
    for node in inside["nodes"]:
        assert node.get("widgets_values") == every[node["id"]].get("widgets_values")
        assert node["properties"] == every[node["id"]]["properties"]
        for model in node["properties"].get("models", []):
            assert model["url"].startswith("https://")
            assert model["name"].endswith(".safetensors")


@pytest.mark.parametrize("blueprint", [DUAL_PORTRAIT, DUAL_PATHWAY, WITHANYONE, PARTS], ids=lambda one: one.name)
def test_photos_sentence_and_files_are_outside(blueprint):
    """And nothing is loaded or saved inside."""
    host, inside = read(blueprint)
    names = [slot["name"] for slot in host["inputs"]]
    photos = ["face", "upper", "lower", "pose"] if blueprint is PARTS else ["photo_1", "photo_2"]
    assert names[: len(photos) + 1] == [*photos, "sentence"]
    assert host["outputs"][0]["name"] == "portrait"
    kinds = {node["type"] for node in inside["nodes"]}
    assert not kinds & {"LoadImage", "SaveImage", "PreviewImage", "PreviewAny", "MarkdownNote"}
    for node in inside["nodes"]:
        if "Load" in node["type"]:  # files have other names on other people's computers
            assert node["inputs"][0]["link"], node["type"]


@pytest.mark.parametrize(
    ("slot", "words"),
    [
        (Slot("photo_3", "a third", "DHDEncodeReference", 2, "image"), "no DHDEncodeReference number 2"),
        (Slot("age", "age", "DHDEncodeReference", 0, "age"), "with age among its inputs"),
    ],
)
def test_an_input_that_the_workflow_lacks_is_refused(slot, words):
    with pytest.raises(ValueError, match=words):
        blueprints.built(replace(DUAL_PORTRAIT, inputs=(*DUAL_PORTRAIT.inputs, slot)))
