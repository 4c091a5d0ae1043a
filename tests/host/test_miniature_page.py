"""The miniature's workflows in ComfyUI's page, in both looks: no red nodes, a portrait with one press. Screenshots are kept."""

import json

import pytest
from support.comfyui import REPOSITORY

pytest.importorskip("playwright.sync_api", reason="pip install playwright (no browser download needed)")

from test_page import browser, page, screenshot  # noqa: F401 (fixtures)
from test_page import pytestmark as of_pages

pytestmark = of_pages

WORKFLOWS = REPOSITORY / "workflows"

RUN = """async () => {
    const api = window.app.api;
    const end = new Promise(done => {
        api.addEventListener('execution_success', e => done(['success', e.detail]));
        api.addEventListener('execution_error', e => done(['error', e.detail.exception_message]));
    });
    await window.app.queuePrompt(0, 1);
    return await Promise.race([end, new Promise(done => setTimeout(() => done(['timeout']), 200000))]);
}"""


def nodes(opened, expression):
    return opened.evaluate(f"window.app.graph._nodes.{expression}")


def people(opened):
    prompt = opened.evaluate("async () => (await window.app.graphToPrompt()).output")
    return [node["inputs"] for node in prompt.values() if node["class_type"] == "DHDDrawPerson"]


@pytest.mark.parametrize("name", ["mini_dual_portrait", "mini_score"])
def test_the_miniature_s_workflows_open_without_red_nodes_and_run_as_they_are(page, name):  # noqa: F811 (the fixture)
    workflow = json.loads((WORKFLOWS / f"{name}.json").read_text())
    page.evaluate("workflow => window.app.loadGraphData(workflow)", workflow)
    page.wait_for_timeout(1500)
    page.evaluate("window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.wait_for_timeout(1000)
    screenshot(page, f"{name}_opened")
    assert nodes(page, "length") == len(workflow["nodes"])
    assert nodes(page, "filter(n => n.has_errors).map(n => n.type)") == []
    assert nodes(page, "filter(n => !window.LiteGraph.registered_node_types[n.type]).map(n => n.type)") == []

    before = people(page)
    assert len(before) == 2
    ended = page.evaluate(RUN)
    page.wait_for_timeout(2500)
    screenshot(page, f"{name}_done")
    assert ended[0] == "success", ended
    assert (
        nodes(page, "filter(n => n.has_errors).map(n => n.type)") == []
    )  # a run succeeds without the nodes that cannot
    assert people(page) == before  # the sampler's seed is drawn anew after a run, they are not
    assert [problem for problem in page.problems if "dhumandiff" in problem.lower()] == []
