"""One Chromium for all pages, and one page a file and look: Nodes 2.0 and the classic canvas. All of it is slow."""

from pathlib import Path

import pytest
from support.page import CHROMIUM, FLAGS, empty_graph, open_page

HERE = Path(__file__).parent


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
    yield page
    page.close()


@pytest.fixture
def page(opened):
    """The page with nothing on its canvas and no complaints of before."""
    empty_graph(opened)
    opened.problems.clear()
    yield opened
    opened.keyboard.press("Escape")  # what a failed run opened
