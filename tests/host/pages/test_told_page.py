"""What nodes tell is readable in ComfyUI's page, in both looks: reports, and what goes wrong. Screenshots are kept."""

from support.page import RUN, TWO_DRAWN_PEOPLE, empty_graph, readable, screenshot, shows_widgets_of_extensions, write

QUEUE = """async () => { try { await window.app.queuePrompt(0, 1); } catch (error) { return String(error); } }"""


def details(opened):
    """Newer pages say first that something went wrong, and what it was behind a button."""
    button = opened.get_by_role("button", name="View details")
    if button.count():
        button.first.click()
        opened.wait_for_timeout(1500)


def test_refusals_of_a_run_are_readable(page):
    """On the node at once, with details behind a button, until a run succeeds."""
    empty_graph(page)
    page.evaluate(TWO_DRAWN_PEOPLE)
    page.wait_for_timeout(800)
    write(page, "A man @1 and a woman@2")
    ended = page.evaluate(RUN)
    assert ended[0] == "error"
    page.wait_for_timeout(1500)
    screenshot(page, "error")
    assert readable(page, "no word stands directly before @1")  # on the node, at once
    details(page)
    screenshot(page, "error_details")
    shown = "window.app.graph._nodes.find(n => n.type === 'DHDSubjectPrompt').widgets.map(w => w.name)"
    assert "$$node-text-preview" in page.evaluate(shown)
    write(page, "A man@1 and a woman@2")
    assert page.evaluate(RUN)[0] == "success"
    assert "$$node-text-preview" not in page.evaluate(shown)


def test_what_somebody_typed_is_no_markup_in_a_message(page):
    empty_graph(page)
    page.evaluate(TWO_DRAWN_PEOPLE)
    page.wait_for_timeout(800)
    write(page, "<img src=x onerror=window.hacked=1> @1 and a woman@2")
    assert page.evaluate(RUN)[0] == "error"
    page.wait_for_timeout(1500)
    screenshot(page, "error_markup")
    assert readable(page, "no word stands directly before @1")
    assert page.evaluate("window.hacked === undefined")


def test_refusals_before_a_run_are_readable(page):
    empty_graph(page)
    page.evaluate(
        """() => {
            const node = window.LiteGraph.createNode('DHDPortraitLayout');
            node.pos = [300, 200];
            window.app.graph.add(node);
            const set = (name, value) => (node.widgets.find(w => w.name === name).value = value);
            set('preset', 'custom');
            set('boxes', '0.1 0.1 0.5');
        }"""
    )
    page.wait_for_timeout(800)
    page.evaluate(QUEUE)
    page.wait_for_timeout(1500)
    details(page)
    row = page.get_by_text("Portrait Layout - boxes")
    if row.count():
        row.first.locator("xpath=following::button[1]").click()
        page.wait_for_timeout(500)
    screenshot(page, "refused")
    assert readable(page, "boxes needs 2 boxes and has 1")


def test_the_doctor_s_report_stands_on_its_node(page):
    """It can be marked and copied."""
    shows_widgets_of_extensions(page)
    empty_graph(page)
    page.evaluate(
        """() => {
            const node = window.LiteGraph.createNode('DHDDoctor');
            node.pos = [300, 100];
            window.app.graph.add(node);
        }"""
    )
    page.wait_for_timeout(800)
    assert page.evaluate(RUN)[0] == "success"
    page.wait_for_timeout(1500)
    screenshot(page, "doctor")
    report = page.locator(".dhd-status-text").inner_text()
    assert report.startswith("System\n")
    assert "in the way of a first portrait" in report or "missing" in report
    assert len(report.splitlines()) > 10
    assert readable(page, "ComfyUI ")
    assert page.evaluate("getComputedStyle(document.querySelector('.dhd-status-text > div')).userSelect") == "text"
