"""The shipped workflows: made by the package `shipped`, laid out to be read, with links to safe files, in every ComfyUI the same."""

import itertools
import json
import re

import pytest
from support.server import api_form

from tools import workflows as shipped
from tools.workflows import BUILDERS, WORKFLOWS
from tools.workflows.graph import TITLE, Graph
from tools.workflows.known import WIDGETS, in_known_order, known_nodes, read_nodes

TEXTS = shipped.texts()
MADE = {name: json.loads(text) for name, text in TEXTS.items()}
FOLDERS = {"checkpoints", "clip_vision", "controlnet", "ipadapter", "loras"}
FLUX_FOLDERS = {"clip_vision", "diffusion_models", "text_encoders", "vae", "withanyone"}


def frame(node):
    """Left, top, right, bottom of a node with its title."""
    (x, y), (wide, high) = node["pos"], node["size"]
    return x, y - TITLE, x + wide, y + high


def test_the_shipped_files_are_what_the_builder_makes():
    there = {path.stem: path.read_text(encoding="utf-8") for path in WORKFLOWS.glob("*.json")}
    assert there.keys() == TEXTS.keys()
    differ = [name for name, text in TEXTS.items() if there[name] != text]
    assert differ == [], "made by hand, or not made anew: python -m tools.workflows"


def test_building_twice_gives_the_same_text():
    """And every file has an id of its own."""
    assert shipped.texts() == TEXTS
    assert len({one["id"] for one in MADE.values()}) == len(BUILDERS)


@pytest.mark.parametrize("name", MADE)
def test_nodes_stand_apart_within_their_groups(name):
    frames = {(node["id"], node["type"]): frame(node) for node in MADE[name]["nodes"]}
    for (one, a), (other, b) in itertools.combinations(frames.items(), 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (one, other)
    groups = [group["bounding"] for group in MADE[name]["groups"]]
    for (x, y, wide, high), (x2, y2, wide2, high2) in itertools.combinations(groups, 2):
        assert x + wide <= x2 or x2 + wide2 <= x or y + high <= y2 or y2 + high2 <= y
    for node, (left, top, right, bottom) in frames.items():
        if node[1] != "MarkdownNote":
            assert any(
                x < left and y < top and right < x + wide and bottom < y + high for x, y, wide, high in groups
            ), node


@pytest.mark.parametrize("name", MADE)
def test_links_run_from_left_to_right(name):
    frames = {node["id"]: frame(node) for node in MADE[name]["nodes"]}
    back = [link for link in MADE[name]["links"] if frames[link[1]][2] >= frames[link[3]][0]]
    assert back == []


@pytest.mark.parametrize("name", MADE)
def test_it_opens_with_everything_in_view(name):
    view, nodes = MADE[name]["extra"]["ds"], [frame(node) for node in MADE[name]["nodes"]]
    for x, y in [(n[0], n[1]) for n in nodes] + [(n[2], n[3]) for n in nodes]:
        on_screen = [(value + offset) * view["scale"] for value, offset in zip((x, y), view["offset"], strict=True)]
        assert 0 < on_screen[0] < 1920
        assert 0 < on_screen[1] < 1010


@pytest.mark.parametrize("name", MADE)
def test_a_note_says_what_to_change_first(name):
    """And whom to ask."""
    (note,) = [node for node in MADE[name]["nodes"] if node["type"] == "MarkdownNote"]
    (text,) = note["widgets_values"]
    assert text.startswith("## ")
    assert "**Change first**" in text or name == "mini_score"
    assert "with their leave" in text or name.startswith("mini_")


@pytest.mark.parametrize("name", MADE)
def test_downloads_are_safe_files(name):
    """Of the names that the nodes ask for."""
    offered = 0
    for node in MADE[name]["nodes"]:
        for one in node["properties"].get("models", ()):
            offered += 1
            assert one.keys() == {"name", "url", "directory"}
            assert one["name"] in [str(value).rpartition("/")[2] for value in node["widgets_values"]]
            assert re.fullmatch(
                r"https://huggingface\.co/[\w-]+/[\w.-]+/resolve/main/[\w./-]+\.safetensors", one["url"]
            )
            assert one["directory"] in (FLUX_FOLDERS if name.startswith("withanyone_") else FOLDERS)
    assert (offered > 0) == (not name.startswith("mini_"))


@pytest.mark.parametrize("name", MADE)
def test_its_picture_is_small_and_its_file_too(name):
    assert (WORKFLOWS / f"{name}.jpg").stat().st_size < 200_000
    assert len(TEXTS[name].encode()) < 60_000


def test_the_files_count_on_inputs_that_are_there(workflow_server):
    """Whatever version it is: values are kept by their place among the widgets, links by their output's place."""
    told = workflow_server.get("object_info")
    known = known_nodes()
    now = read_nodes(told, known)
    used = {node["type"] for one in MADE.values() for node in one["nodes"]} - {"MarkdownNote"}
    assert used == set(known)
    for kind, facts in known.items():
        widgets, there = (
            [(n, i["type"]) for n, i in one["inputs"].items() if i["type"] in WIDGETS] for one in (facts, now[kind])
        )
        assert there[: len(widgets)] == widgets, kind
        assert facts["inputs"].keys() <= now[kind]["inputs"].keys(), kind
        assert told[kind]["output"][: len(facts["outputs"])] == list(facts["outputs"].values()), kind


@pytest.mark.parametrize("name", MADE)
def test_the_server_accepts_what_is_shipped(workflow_server, name):
    """Queued and at once deleted: the check of the inputs is what counts, the twins run."""
    answer = workflow_server.post("prompt", {"prompt": api_form(MADE[name])})
    workflow_server.post("queue", {"clear": True})
    workflow_server.post("interrupt", {})
    assert answer.get("node_errors") == {}, answer


def test_inputs_stay_in_their_order_when_nodes_are_read_anew():
    """New ones come behind: links and values of files count on it."""
    known = {"Node": {"inputs": {"a": 1, "gone": 1, "b": 1}, "outputs": {}}}
    facts = {
        "Node": {"inputs": {"new": 2, "b": 2, "a": 2}, "outputs": {}},
        "Other": {"inputs": {"c": 2}, "outputs": {}},
    }
    ordered = in_known_order(facts, known)
    assert ordered == facts
    assert list(ordered["Node"]["inputs"]) == ["a", "b", "new"]


# --- the builder ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def graph():
    made = Graph("test")
    made.group("group")
    return made


def test_an_input_that_is_not_there_is_refused(graph):
    with pytest.raises(ValueError, match="EmptyLatentImage has no depth"):
        graph.add("EmptyLatentImage", depth=3)


def test_a_link_of_another_type_is_refused(graph):
    latent = graph.add("EmptyLatentImage")["LATENT"]
    with pytest.raises(ValueError, match="images takes IMAGE, and EmptyLatentImage gives LATENT"):
        graph.add("SaveImage", images=latent)


def test_an_open_input_is_refused(graph):
    with pytest.raises(ValueError, match="VAEDecode: vae is not connected"):
        graph.add("VAEDecode", samples=graph.add("EmptyLatentImage")["LATENT"])


def test_a_file_has_to_be_named(graph):
    with pytest.raises(ValueError, match="ckpt_name has no default"):
        graph.add("CheckpointLoaderSimple")


def test_an_output_that_is_not_there_is_refused(graph):
    with pytest.raises(KeyError, match="no output 'IMAGE': it has LATENT"):
        graph.add("EmptyLatentImage")["IMAGE"]


def test_a_seed_keeps_the_value_of_its_second_widget(graph):
    graph.add("RandomNoise", noise_seed=7, control="fixed")
    (node,) = graph.file()["nodes"]
    assert node["widgets_values"] == [7, "fixed"]
