"""Every shipped workflow in ComfyUI's page, in both looks: nothing red, nothing lost, nothing in the way. Screenshots are kept."""

import itertools
import json
import tarfile
from pathlib import Path

from support.page import MISSING, PROMPT, nodes, problems, screenshot
from support.server import api_form
from support.twins import shipped_file

from tools.workflows import NAMES

OPEN = """async workflow => {
    await window.app.loadGraphData(workflow);
    await new Promise(done => setTimeout(done, 500));
    await window.app.extensionManager.command.execute('Comfy.Canvas.FitView');
    await new Promise(done => setTimeout(done, 700));
}"""
AGAIN = """async workflow => {
    await window.app.loadGraphData(workflow);
    await new Promise(done => setTimeout(done, 200));
}"""
# Where nodes are as they are drawn, px of the canvas: left, top, right, bottom. Classic ones have their title above.
DRAWN = """vue => Object.fromEntries(window.app.graph._nodes.map(node => {
    const name = `${node.id} ${node.title}`;
    const { offset, scale } = window.app.canvas.ds;
    const shown = vue ? document.querySelector(`[data-node-id="${node.id}"]`) : null;
    if (!shown) {
        const [left, top, wide, high] = [...node.pos, ...node.size];
        return [name, [left, top - 30, left + wide, top + high]];
    }
    const box = shown.getBoundingClientRect(), paper = window.app.canvas.canvas.getBoundingClientRect();
    const x = value => (value - paper.left) / scale - offset[0], y = value => (value - paper.top) / scale - offset[1];
    return [name, [x(box.left), y(box.top), x(box.right), y(box.bottom)]];
}))"""
# Texts of Nodes 2.0 that need to be scrolled: height of the text, of its place, and the node's id.
HIDDEN = """() => [...document.querySelectorAll('[data-node-id] *')]
    .filter(one => one.clientHeight > 20 && one.scrollHeight > one.clientHeight + 3)
    .filter(one => getComputedStyle(one).overflowY !== 'visible')
    .map(one => [one.scrollHeight, one.clientHeight, one.closest('[data-node-id]').dataset.nodeId])"""


def wanted(workflow):
    """The API form of a file, without the page's own button beside a choice of pictures."""
    prompt = api_form(workflow)
    for node in prompt.values():
        node["inputs"].pop("upload", None)
    return prompt


def inputs(prompt):
    """Id -> type and inputs of a prompt, without what the page tells besides."""
    return {
        key: (node["class_type"], {n: v for n, v in node["inputs"].items() if n != "upload"})
        for key, node in prompt.items()
    }


def told(there, asked):
    """Whether a node is there with all that was asked: pages of ComfyUI 0.3.64 also tell what Preview Any shows."""
    return there is not None and there[0] == asked[0] and asked[1].items() <= there[1].items()


def overlapping(drawn):
    """Pairs of nodes that cover each other by more than a frame's width."""
    return [
        (one, other)
        for (one, a), (other, b) in itertools.combinations(drawn.items(), 2)
        if min(a[2], b[2]) - max(a[0], b[0]) > 4 and min(a[3], b[3]) - max(a[1], b[1]) > 4
    ]


def test_every_workflow_opens_and_is_saved_as_it_was(page):
    """Nothing is missing, red, lost, covered or cut off."""
    wrong = {}
    for name in NAMES:
        workflow = shipped_file(name)
        page.evaluate(OPEN, workflow)
        screenshot(page, f"workflow_{name}")
        saved = json.loads(page.evaluate("JSON.stringify(window.app.graph.serialize())"))
        first = page.evaluate(PROMPT)
        wrongs = {
            "missing": nodes(page, MISSING),
            "red": nodes(page, "filter(n => n.has_errors).map(n => n.type)"),
            "nodes": nodes(page, "length") - len(workflow["nodes"]),
            "groups": len(saved["groups"]) - len(workflow["groups"]),
            "values": [one for one in inputs(wanted(workflow)).items() if not told(inputs(first).get(one[0]), one[1])],
            "titles": {n["id"]: n.get("title") for n in workflow["nodes"] if n.get("title")}.items()
            - {n["id"]: n.get("title") for n in saved["nodes"]}.items(),
            "overlapping": overlapping(page.evaluate(DRAWN, page.look == "nodes2")),
            "cut off": page.evaluate(HIDDEN),
            "not drawn": page.look == "nodes2" and page.locator("[data-node-id]").count() < len(workflow["nodes"]),
            "downloads": [n["properties"].get("models") for n in workflow["nodes"] if "models" in n["properties"]]
            != [n["properties"].get("models") for n in saved["nodes"] if n["properties"].get("models")],
        }
        page.evaluate(AGAIN, saved)
        wrongs["saved again"] = inputs(page.evaluate(PROMPT)) != inputs(first)
        wrongs["console"] = problems(page)
        page.problems.clear()
        if found := {what: one for what, one in wrongs.items() if one}:
            wrong[name] = found
    assert wrong == {}


def test_a_reloaded_page_still_has_the_workflow(page):
    page.evaluate(OPEN, shipped_file("wedding_preview"))
    before = page.evaluate(PROMPT)
    page.wait_for_timeout(2500)  # the page writes its draft a little later
    page.reload(wait_until="domcontentloaded")
    page.wait_for_function("window.app?.graph && window.app.vueAppReady", timeout=90_000)
    page.wait_for_function("window.app.graph._nodes.some(n => n.type === 'DHDSentences')", timeout=20_000)
    page.wait_for_timeout(1000)
    assert inputs(page.evaluate(PROMPT)) == inputs(before)


def test_links_of_files_made_with_0_1_0_lead_where_they_led(page):
    """Inputs stand in another order since some may be left open."""
    made = Path(__file__).parents[2] / "artefacts" / "commit_4cd81fe" / "workflows.tar.xz"
    wrong = {}
    with tarfile.open(made) as archive:
        for file in archive.getmembers():
            if not file.name.startswith("workflows/") or not file.isfile():
                continue
            workflow = json.load(archive.extractfile(file))
            page.evaluate(AGAIN, workflow)
            now, then = inputs(page.evaluate(PROMPT)), inputs(wanted(workflow))
            links = {
                key: {name: value for name, value in given.items() if isinstance(value, list)}
                for key, (_, given) in then.items()
            }
            lost = [key for key, given in links.items() if not given.items() <= now[key][1].items()]
            if lost:
                wrong[file.name] = [(then[key][0], links[key], now[key][1]) for key in lost]
    assert wrong == {}
