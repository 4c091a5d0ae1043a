"""One Chromium for all pages, and one page a file and look: Nodes 2.0 and the classic canvas. All of it is slow."""

from pathlib import Path

import pytest
from support.page import CHROMIUM, FLAGS, empty_graph, open_page

HERE = Path(__file__).parent
NODES_2 = (1, 28)
"""The page of ComfyUI 0.3.64 is 1.27; none between it and 1.48 was looked at."""


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="pip install playwright (it needs no browser of its own)"
    )
    if not CHROMIUM:
        pytest.skip("no Chromium: install it (apt install chromium), or set CHROMIUM_PATH")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="module", params=["nodes2", "classic"], ids=["Nodes 2.0", "classic canvas"])
def opened(request, browser, server):
    """The page in one look."""
    page = open_page(browser, server, request.param)
    version = page.evaluate("window.__COMFYUI_FRONTEND_VERSION__")
    if request.param == "nodes2" and tuple(map(int, version.split(".")[:2])) < NODES_2:
        page.close()
        pytest.skip(f"in the page {version} Nodes 2.0 was an experiment: it shows neither notes nor what packs draw")
    yield page
    page.close()


@pytest.fixture
def page(opened):
    """The page with nothing on its canvas and no complaints of before."""
    empty_graph(opened)
    opened.problems.clear()
    yield opened
    opened.keyboard.press("Escape")  # what a failed run opened
