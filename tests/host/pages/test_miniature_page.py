"""The miniature's workflows in ComfyUI's page, in both looks: no red nodes, a portrait with one press. Screenshots are kept."""

import json

import pytest
from support.comfyui import REPOSITORY
from support.page import MISSING, RUN, fit_view, nodes, open_workflow, problems, screenshot

WORKFLOWS = REPOSITORY / "workflows"


def people(opened):
    prompt = opened.evaluate("async () => (await window.app.graphToPrompt()).output")
    return [node["inputs"] for node in prompt.values() if node["class_type"] == "DHDDrawPerson"]


@pytest.mark.parametrize("name", ["mini_dual_portrait", "mini_score"])
def test_the_miniature_s_workflows_run_as_they_are(page, name):
    """They open without red nodes, too."""
    workflow = json.loads((WORKFLOWS / f"{name}.json").read_text())
    open_workflow(page, workflow)
    page.wait_for_timeout(1500)
    fit_view(page)
    page.wait_for_timeout(1000)
    screenshot(page, f"{name}_opened")
    assert nodes(page, "length") == len(workflow["nodes"])
    assert nodes(page, "filter(n => n.has_errors).map(n => n.type)") == []
    assert nodes(page, MISSING) == []

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
    assert problems(page) == []
