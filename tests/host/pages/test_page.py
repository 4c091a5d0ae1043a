"""The shipped workflow in ComfyUI's page, in headless Chromium: no red nodes, runs from there. Screenshots are kept."""

import json

from support.comfyui import REPOSITORY
from support.page import MISSING, RUN, fit_view, nodes, open_page, open_workflow, problems, screenshot
from support.server import PHOTOS, TINY


def test_the_shipped_workflow_opens_and_runs(page, server):
    """No node is red, before and after."""
    workflow = json.loads((REPOSITORY / "workflows" / "dual_portrait.json").read_text())
    photos = iter(PHOTOS)
    for node in workflow["nodes"]:
        names = [entry["name"] for entry in node.get("inputs", []) if "widget" in entry]
        for name, value in TINY.get(node["type"], {}).items():
            place = names.index(name) + (1 if "seed" in names[: names.index(name)] else 0)
            node["widgets_values"][place] = value
        if node["type"] == "LoadImage":
            node["widgets_values"][0] = next(photos)
    open_workflow(page, workflow)
    page.wait_for_timeout(1500)
    fit_view(page)
    page.wait_for_timeout(1000)
    screenshot(page, "opened")
    assert page.evaluate("window.app.graph._nodes.length") == len(workflow["nodes"])
    assert page.evaluate("window.app.graph._nodes.filter(n => n.has_errors).map(n => n.type)") == []
    assert nodes(page, MISSING) == []

    ended = page.evaluate(RUN)
    page.wait_for_timeout(2500)
    screenshot(page, "done")
    assert ended[0] == "success", ended
    assert problems(page) == []


def test_help_and_labels_speak_the_language_that_is_set(page, browser, server):
    server.post("api/settings", {"Comfy.Locale": "fr"})
    try:
        french = open_page(browser, server, page.look)
        open_workflow(french, json.loads((REPOSITORY / "workflows" / "mini_dual_portrait.json").read_text()))
        french.wait_for_timeout(1500)
        fit_view(french)
        sampler = "window.app.graph._nodes.find(n => n.type === 'DHDCascadeKSampler')"
        french.evaluate(f"window.app.canvas.selectNode({sampler})")
        french.wait_for_timeout(1000)
        assert french.evaluate(f"{sampler}.title") == "KSampler (Cascade DHumanDiff)"
        assert "force_visages" in french.evaluate(f"{sampler}.widgets.map(w => w.label)")
        described = french.evaluate("window.LiteGraph.registered_node_types.DHDSubjectPrompt.nodeData.description")
        assert described.startswith("Écrivez word@1, word@2")
        french.locator('[data-testid="info-button"]').first.evaluate("button => button.click()")
        french.wait_for_function("document.querySelector('.node-help-content img')?.naturalWidth > 0", timeout=30_000)
        screenshot(french, "help")
        assert "shortest way to a good picture" in french.inner_text(".node-help-content")
        french.close()
    finally:
        server.post("api/settings", {"Comfy.Locale": "en"})
