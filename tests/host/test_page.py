"""The shipped workflow in ComfyUI's page, in headless Chromium: no red nodes, runs from there. Screenshots are kept."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from support.comfyui import REPOSITORY
from support.server import PHOTOS, TINY

CHROMIUM = os.environ.get("CHROMIUM_PATH") or shutil.which("chromium") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright (no browser download needed)")

pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium: install it, or set CHROMIUM_PATH"),
    pytest.mark.slow,
]

SCREENSHOTS = Path(os.environ.get("DHUMANDIFF_SCREENSHOTS") or tempfile.gettempdir()) / "dhumandiff_screenshots"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(params=[True, False], ids=["Nodes 2.0", "classic canvas"])
def page(request, browser, server):
    settings = {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": request.param, "Comfy.UseNewMenu": "Top"}
    server.post("api/settings", settings)
    opened = browser.new_page(viewport={"width": 2560, "height": 1440})
    opened.problems = []
    opened.on("console", lambda m: opened.problems.append(m.text) if m.type == "error" else None)
    opened.on("pageerror", lambda error: opened.problems.append(str(error)))
    inside = f"127.0.0.1:{server.port}"
    opened.route("**/*", lambda r: r.continue_() if inside in r.request.url else r.abort())
    opened.goto(server.url, wait_until="domcontentloaded")
    ready(opened)
    opened.look = "nodes2" if request.param else "classic"
    yield opened
    opened.close()


def ready(page):
    """Wait for the page, and for its own first workflow: it may come late, and in the place of what was opened meanwhile."""
    page.wait_for_function("window.app?.graph && window.app.vueAppReady", timeout=90_000)
    page.wait_for_function("window.app.graph._nodes.length > 0", timeout=90_000)
    page.wait_for_timeout(1000)


def empty_graph(page):
    """Nothing on the canvas."""
    empty = {"last_node_id": 0, "last_link_id": 0, "nodes": [], "links": [], "groups": [], "config": {}, "version": 0.4}
    page.evaluate("workflow => window.app.loadGraphData(workflow)", empty)


def remember(page):
    """What undo goes back to."""
    page.evaluate(
        """() => {
            const tracker = window.app.extensionManager.workflow.activeWorkflow.changeTracker;
            (tracker.captureCanvasState ?? tracker.checkState).call(tracker);
        }"""
    )


def screenshot(page, name):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}_{page.look}.png")


def test_the_shipped_workflow_opens_without_red_nodes_and_runs(page, server):
    workflow = json.loads((REPOSITORY / "workflows" / "dual_portrait.json").read_text())
    photos = iter(PHOTOS)
    for node in workflow["nodes"]:
        names = [entry["name"] for entry in node.get("inputs", []) if "widget" in entry]
        for name, value in TINY.get(node["type"], {}).items():
            place = names.index(name) + (1 if "seed" in names[: names.index(name)] else 0)
            node["widgets_values"][place] = value
        if node["type"] == "LoadImage":
            node["widgets_values"][0] = next(photos)
    page.evaluate("workflow => window.app.loadGraphData(workflow)", workflow)
    page.wait_for_timeout(1500)
    page.evaluate("window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.wait_for_timeout(1000)
    screenshot(page, "opened")
    assert page.evaluate("window.app.graph._nodes.length") == len(workflow["nodes"])
    assert page.evaluate("window.app.graph._nodes.filter(n => n.has_errors).map(n => n.type)") == []
    missing = "window.app.graph._nodes.filter(n => !window.LiteGraph.registered_node_types[n.type]).map(n => n.type)"
    assert page.evaluate(missing) == []

    ended = page.evaluate(
        """async () => {
            const api = window.app.api;
            const end = new Promise(done => {
                api.addEventListener('execution_success', e => done(['success', e.detail]));
                api.addEventListener('execution_error', e => done(['error', e.detail.exception_message]));
            });
            await window.app.queuePrompt(0, 1);
            return await Promise.race([end, new Promise(done => setTimeout(() => done(['timeout']), 200000))]);
        }"""
    )
    page.wait_for_timeout(2500)
    screenshot(page, "done")
    assert ended[0] == "success", ended
    ours = [problem for problem in page.problems if "dhumandiff" in problem.lower()]
    assert ours == []


def test_the_page_speaks_the_language_that_is_set_and_shows_help_with_its_picture(page, server):
    server.post("api/settings", {"Comfy.Locale": "fr"})
    try:
        page.reload(wait_until="domcontentloaded")
        ready(page)
        workflow = json.loads((REPOSITORY / "workflows" / "mini_dual_portrait.json").read_text())
        page.evaluate("workflow => window.app.loadGraphData(workflow)", workflow)
        page.wait_for_timeout(1500)
        page.evaluate("window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        sampler = "window.app.graph._nodes.find(n => n.type === 'DHDCascadeKSampler')"
        page.evaluate(f"window.app.canvas.selectNode({sampler})")
        page.wait_for_timeout(1000)
        assert page.evaluate(f"{sampler}.title") == "KSampler (Cascade DHumanDiff)"
        assert "force_visages" in page.evaluate(f"{sampler}.widgets.map(w => w.label)")
        described = page.evaluate("window.LiteGraph.registered_node_types.DHDSubjectPrompt.nodeData.description")
        assert described.startswith("Écrivez word@1 et word@2")
        page.locator('[data-testid="info-button"]').first.evaluate("button => button.click()")
        page.wait_for_function("document.querySelector('.node-help-content img')?.naturalWidth > 0", timeout=30_000)
        screenshot(page, "help")
        assert "shortest way to a good picture" in page.inner_text(".node-help-content")
    finally:
        server.post("api/settings", {"Comfy.Locale": "en"})
