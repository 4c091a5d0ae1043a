"""ComfyUI's page in headless Chromium: opened, emptied, run and read. Used by tests/host/pages.

The page is drawn without a GPU, so what is not looked at is switched off: animations, most frames a second, the network.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = os.environ.get("CHROMIUM_PATH") or shutil.which("chromium") or shutil.which("google-chrome")
SCREENSHOTS = Path(os.environ.get("DHUMANDIFF_SCREENSHOTS") or tempfile.gettempdir()) / "dhumandiff_screenshots"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",  # nothing outside is ever asked
]
VIEWPORT = {"width": 2560, "height": 1440}
# The page asks for sixty frames a second, and each is drawn by the processor: ten are enough to see what is there.
FEWER_FRAMES = """{
    window.requestAnimationFrame = draw => setTimeout(() => draw(performance.now()), 100);
    window.cancelAnimationFrame = clearTimeout;
}"""

RUN = """async () => {
    const api = window.app.api;
    const end = new Promise(done => {
        api.addEventListener('execution_success', e => done(['success', e.detail]));
        api.addEventListener('execution_error', e => done(['error', e.detail.exception_message]));
    });
    await window.app.queuePrompt(0, 1);
    return await Promise.race([end, new Promise(done => setTimeout(() => done(['timeout']), 200000))]);
}"""
PROMPT = "async () => (await window.app.graphToPrompt()).output"
MISSING = "filter(n => !window.LiteGraph.registered_node_types[n.type]).map(n => n.type)"


def open_page(browser: Any, server: Any, look: str) -> Any:
    """The server's page in one look, "nodes2" or "classic"; `problems` holds what its console complains of."""
    settings = {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": look == "nodes2", "Comfy.UseNewMenu": "Top"}
    server.post("api/settings", settings)
    page = browser.new_page(viewport=VIEWPORT, reduced_motion="reduce")
    page.add_init_script(FEWER_FRAMES)
    page.look, page.problems = look, []
    page.on("console", lambda message: page.problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.goto(server.url, wait_until="domcontentloaded")
    ready(page)
    assert problems(page) == []
    return page


def ready(page: Any) -> None:
    """Wait for the page, and for its own first workflow: it may come late, and in the place of what was opened meanwhile."""
    page.wait_for_function("window.app?.graph && window.app.vueAppReady", timeout=90_000)
    page.wait_for_function("window.app.graph._nodes.length > 0", timeout=90_000)
    page.wait_for_timeout(1000)


def empty_graph(page: Any) -> None:
    """Nothing on the canvas."""
    empty = {"last_node_id": 0, "last_link_id": 0, "nodes": [], "links": [], "groups": [], "config": {}, "version": 0.4}
    open_workflow(page, empty)


def open_workflow(page: Any, workflow: dict[str, Any]) -> None:
    """The page opens a workflow as if it were dropped on it."""
    page.evaluate("workflow => window.app.loadGraphData(workflow)", workflow)


def fit_view(page: Any) -> None:
    """Everything on the canvas comes into view."""
    page.evaluate("window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")


def remember(page: Any) -> None:
    """What undo goes back to."""
    page.evaluate(
        """() => {
            const tracker = window.app.extensionManager.workflow.activeWorkflow.changeTracker;
            (tracker.captureCanvasState ?? tracker.checkState).call(tracker);
        }"""
    )


def screenshot(page: Any, name: str) -> None:
    """Kept for whoever wants to see what the test saw."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}_{page.look}.png")


def nodes(page: Any, expression: str) -> Any:
    """What an expression says of all nodes of the graph."""
    return page.evaluate(f"window.app.graph._nodes.{expression}")


def shows_widgets_of_extensions(page: Any) -> None:
    """Skip where the page cannot."""
    version = [int(part) for part in page.evaluate("window.__COMFYUI_FRONTEND_VERSION__").split(".")[:2]]
    if page.look == "nodes2" and version < [1, 28]:
        pytest.skip("the first Nodes 2.0, ComfyUI 0.3.64's, shows no widgets of extensions; the inputs are there")


def come_closer(page: Any) -> None:
    """The upper left corner of the canvas, large."""
    page.evaluate("window.app.canvas.ds.offset = [40, 40]; window.app.canvas.ds.scale = 1.25")
    page.evaluate("window.app.canvas.setDirty(true, true)")


def readable(page: Any, text: str) -> bool:
    """Whether a text can be seen somewhere on the page, and not under or outside of something."""
    return page.evaluate(
        """text => {
            const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
            for (let node; (node = walker.nextNode()); ) {
                if (!node.data.includes(text)) continue;
                const area = document.createRange();
                area.selectNodeContents(node);
                const box = area.getBoundingClientRect();
                const [x, y] = [box.x + Math.min(box.width / 2, 40), box.y + Math.min(box.height / 2, 8)];
                const top = box.width && document.elementFromPoint(x, y);
                if (top && (node.parentElement.contains(top) || top.contains(node.parentElement))) return true;
            }
            return false;
        }""",
        text,
    )


def problems(page: Any, *words: str) -> list[str]:
    """What the page's console complains of that names the pack, or one of `words`."""
    return [text for text in page.problems if "dhumandiff" in text.lower() or any(word in text for word in words)]


# --- two drawn people and a sentence ------------------------------------------------------------------------------------

TWO_DRAWN_PEOPLE = """async () => {
    const add = (type, x, y) => {
        const node = window.LiteGraph.createNode(type);
        node.pos = [x, y];
        window.app.graph.add(node);
        return node;
    };
    const mini = add('DHDLoadMiniature', 40, 60), sentence = add('DHDSubjectPrompt', 840, 60), shown = add('PreviewAny', 1400, 60);
    sentence.size = [420, 260];
    sentence.connect(1, shown, 0);
    mini.connect(1, sentence, 0);
    mini.connect(5, sentence, 1);
    const into = (from, output, node, name) => from.connect(output, node, node.inputs.findIndex(i => i.name === name));
    for (const person of [1, 2]) {
        const photo = add('DHDDrawPerson', 40, 60 + 260 * person), face = add('DHDEncodeReference', 420, 500 * person - 440);
        photo.widgets.find(w => w.name === 'person').value = person;
        into(photo, 0, face, 'image');
        into(mini, 3, face, 'clip_vision');
        into(mini, 4, face, 'face_analysis');
        into(face, 0, sentence, `reference_${person}`);
    }
}"""
PROMPT_NODES = "window.app.graph._nodes.filter(n => n.type === 'DHDSubjectPrompt')"


def write(page: Any, sentence: str) -> None:
    """Type a sentence into the first prompt node."""
    page.evaluate(
        f"""text => {{
            const widget = {PROMPT_NODES}[0].widgets.find(w => w.name === 'text');
            widget.value = text;
            widget.callback?.(text);
        }}""",
        sentence,
    )
