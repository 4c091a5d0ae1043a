"""The blueprints in ComfyUI's page, in both looks: found by their names, added, run, opened. Screenshots are kept."""

import json

import pytest
from support import parts_twins
from support.flux_twins import SIZE, STEPS
from support.page import RUN, fit_view, problems, readable, screenshot
from support.server import NO_BLUEPRINTS, PHOTOS, TINY

from tools.blueprints import BLUEPRINTS, DUAL_PATHWAY, DUAL_PORTRAIT, MINIATURE, PARTS, WITHANYONE

KINDS = {
    DUAL_PORTRAIT: {"DHDEncodeReference", "DHDApplyPair", "DHDSubjectPrompt", "DHDCascadeKSampler"},
    DUAL_PATHWAY: {"DHDEncodeReference", "DHDApplyDualPathway", "DHDSubjectPrompt", "DHDPortraitLayout"},
    MINIATURE: {"DHDEncodeReference", "DHDApplyPair", "DHDSubjectPrompt", "DHDCascadeKSampler"},
    WITHANYONE: {"DHDEncodeReference", "DHDApplyWithAnyone", "DHDPortraitLayout", "DHDLoadSigLIP"},
    PARTS: {"DHDLoadParts2Whole", "DHDEncodePart", "DHDApplyParts", "PrimitiveInt"},
}

HOST = "window.app.graph._nodes.find(node => node.isSubgraphNode?.())"

ADD = """([type, x, y]) => {
    const node = window.LiteGraph.createNode(type);
    node.pos = [x, y];
    window.app.graph.add(node);
    return node.id;
}"""

# Nodes around the blueprint: a photo for each input that asks for one, and a place for the portrait.
CONNECT = """([photos, portrait]) => {
    const graph = window.app.graph, host = graph._nodes.find(node => node.isSubgraphNode?.());
    const ends = [];
    for (const [input, id, file] of photos) {
        const photo = graph.getNodeById(id);
        const choice = photo.widgets.find(widget => widget.name === 'image');
        choice.value = file;
        choice.callback?.(file);
        photo.connect(0, host, host.inputs.findIndex(slot => slot.name === input));
        ends.push(host.inputs.find(slot => slot.name === input).link);
    }
    ends.push(host.connect(host.outputs.findIndex(slot => slot.name === 'portrait'), graph.getNodeById(portrait), 0)?.id);
    return ends;
}"""


# The blueprint's people are found by the tests' stand-in for antelopev2: WithAnyone takes no other recognizer.
FACES = """() => {
    const inside = window.app.graph._nodes.find(node => node.isSubgraphNode?.()).subgraph;
    const faces = window.LiteGraph.createNode('DrawnFacesForWithAnyone');
    inside.add(faces);
    for (const node of inside._nodes.filter(node => node.type === 'DHDEncodeReference')) {
        faces.connect(0, node, node.inputs.findIndex(slot => slot.name === 'face_analysis'));
    }
}"""
DRAWN = {
    DUAL_PORTRAIT: PHOTOS,
    DUAL_PATHWAY: PHOTOS,
    MINIATURE: (),
    WITHANYONE: ("person_1.png", "person_2.png"),
    PARTS: ("face.png", "jacket.png", "trousers.png"),
}


@pytest.fixture(autouse=True)
def _known(server):
    if server.blueprints() is None:
        pytest.skip(NO_BLUEPRINTS)


def add_as_a_person_does(opened, blueprint):
    """The search that a double click on the canvas opens, its name, Enter."""
    opened.evaluate("window.app.graph.clear()")
    opened.evaluate("window.app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    opened.wait_for_function("document.activeElement?.tagName === 'INPUT'", timeout=20_000)
    opened.keyboard.type(blueprint.name, delay=20)
    opened.get_by_text("Subgraph Blueprints / DHumanDiff").first.wait_for(timeout=20_000)
    opened.wait_for_timeout(500)
    screenshot(opened, f"{name_of(blueprint)}_search")
    opened.keyboard.press("Enter")
    opened.wait_for_function(f"{HOST} !== undefined", timeout=20_000)
    for place in (1180, 1200):  # a new node hangs on the pointer until it is put down
        opened.mouse.move(place, 400)
        opened.wait_for_timeout(300)
    opened.mouse.click(1200, 400, delay=50)
    opened.wait_for_function(f"!{HOST}.flags.ghost", timeout=20_000)
    opened.wait_for_timeout(500)


def name_of(blueprint):
    return "blueprint_" + blueprint.workflow


def set_values(opened, values):
    """As if chosen by hand: that also takes away the red of files that are not there."""
    opened.evaluate(
        f"""values => {{
            for (const [name, value] of Object.entries(values)) {{
                const host = {HOST}, widget = host.widgets.find(w => w.name === name), before = widget.value;
                widget.value = value;
                widget.callback?.(value);
                host.onWidgetChanged?.(name, value, before, widget);
            }}
        }}""",
        values,
    )


def look(opened, name):
    fit_view(opened)
    opened.wait_for_timeout(1200)
    screenshot(opened, name)


def wrong_nodes(opened, graph="window.app.graph"):
    missing = "!node.isSubgraphNode?.() && !window.LiteGraph.registered_node_types[node.type]"
    return opened.evaluate(f"{graph}._nodes.filter(node => node.has_errors || {missing}).map(node => node.type)")


def small(blueprint):
    """Values with which it runs on the tests' tiny models."""
    if blueprint is WITHANYONE:  # its files lie under the names that it has
        return {**SIZE, "steps": STEPS}
    if blueprint is PARTS:
        return {"width": parts_twins.WIDTH, "height": parts_twins.WIDTH * 3 // 2, "steps": parts_twins.STEPS}
    return {
        slot.name: TINY[slot.node][slot.inside] for slot in blueprint.inputs if slot.inside in TINY.get(slot.node, {})
    }


@pytest.mark.parametrize("blueprint", BLUEPRINTS, ids=lambda one: one.name)
def test_a_blueprint_is_added_run_and_opened(page, blueprint):
    """Found by its name, as a person does."""
    add_as_a_person_does(page, blueprint)
    page.evaluate(f"{HOST}.pos = [500, 0]")
    assert page.evaluate(f"{HOST}.title") == blueprint.name
    assert page.evaluate(f"{HOST}.inputs.map(slot => slot.name)") == [slot.name for slot in blueprint.inputs]
    assert page.evaluate(f"{HOST}.inputs.map(slot => slot.label)") == [slot.label for slot in blueprint.inputs]
    assert page.evaluate(f"{HOST}.outputs.map(slot => slot.name)") == [slot.name for slot in blueprint.outputs]

    photos = [slot.name for slot in blueprint.inputs if slot.inside == "image"]
    loaders = [page.evaluate(ADD, ["LoadImage", 0, 400 * number]) for number in range(len(photos))]
    saver = page.evaluate(ADD, ["SaveImage", 1100, 0])
    ends = page.evaluate(CONNECT, [list(zip(photos, loaders, DRAWN[blueprint], strict=True)), saver])
    assert None not in ends
    if photos:
        tiny = small(blueprint)
        chosen = {"ckpt_name", "clip_name", "pack", "adapter_name", "steps"}
        assert set(tiny) == (chosen if blueprint in (DUAL_PORTRAIT, DUAL_PATHWAY) else {"width", "height", "steps"})
        set_values(page, tiny)
    if blueprint is WITHANYONE:
        page.evaluate(FACES)
    look(page, f"{name_of(blueprint)}_added")

    seed = page.evaluate(f"{HOST}.widgets.find(w => w.name === 'seed').value")
    ended = page.evaluate(RUN)
    page.wait_for_timeout(2500)
    look(page, f"{name_of(blueprint)}_done")
    assert ended[0] == "success", ended
    assert wrong_nodes(page) == []
    assert page.evaluate(f"window.app.nodeOutputs[{saver}].images.length") == 1
    assert page.evaluate(f"{HOST}.widgets.find(w => w.name === 'seed').value") != seed  # another portrait next time

    page.evaluate(f"window.app.canvas.openSubgraph({HOST}.subgraph, {HOST})")
    page.wait_for_timeout(1500)
    look(page, f"{name_of(blueprint)}_inside")
    inside = f"{HOST}.subgraph"
    assert page.evaluate("window.app.canvas.subgraph.name") == blueprint.name
    assert wrong_nodes(page, inside) == []
    kinds = page.evaluate(f"{inside}._nodes.map(node => node.type)")
    assert KINDS[blueprint] <= set(kinds)
    assert problems(page, "blueprint", "Blueprint") == []


def test_refusals_inside_can_be_read_outside(page):
    """What a node inside refuses can be read on the blueprint, and inside once it is opened."""
    page.evaluate(
        "workflow => window.app.loadGraphData(workflow)", json.loads(MINIATURE.path.read_text(encoding="utf-8"))
    )
    page.wait_for_timeout(800)
    saver = page.evaluate(ADD, ["SaveImage", 600, 0])
    assert None not in page.evaluate(CONNECT, [[], saver])
    set_values(page, {"sentence": "A man @1 and a woman@2"})
    assert page.evaluate(RUN)[0] == "error"
    page.wait_for_timeout(1500)
    look(page, "blueprint_refused")
    assert readable(page, "no word stands directly before @1")
    set_values(page, {"sentence": "A man@1 and a woman@2"})
    assert page.evaluate(RUN)[0] == "success"
    page.wait_for_timeout(500)
    assert not readable(page, "no word stands directly before @1")
    assert "$$node-text-preview" not in page.evaluate(f"{HOST}.widgets.map(widget => widget.name)")

    page.evaluate(f"window.app.canvas.openSubgraph({HOST}.subgraph, {HOST})")
    page.wait_for_timeout(1000)
    set_values(page, {"sentence": "A man @1 and a woman@2"})
    assert page.evaluate(RUN)[0] == "error"
    page.wait_for_timeout(1500)
    look(page, "blueprint_refused_inside")
    prompt = f"{HOST}.subgraph._nodes.find(node => node.type === 'DHDSubjectPrompt')"
    assert "$$node-text-preview" in page.evaluate(f"{prompt}.widgets.map(widget => widget.name)")
    assert readable(page, "no word stands directly before @1")
