"""Portrait Layout for one to four people in ComfyUI's page, in both looks: boxes that come and go, undo, saving, old workflows."""

import json

import pytest
from support.page import RUN, open_workflow, problems, remember, screenshot
from test_layout_page import EMPTY, box, build, drag, inputs, pictures

CHOOSE = """([name, value]) => {
    const node = window.app.graph._nodes.find(n => n.type === 'DHDPortraitLayout');
    const widget = node.widgets.find(w => w.name === name);
    widget.value = value;
    widget.callback?.(value);
}"""
OURS = ("portrait_layout", "layout_view")


def choose(opened, name, value):
    """As if it were chosen by hand."""
    opened.evaluate(CHOOSE, [name, value])
    opened.wait_for_timeout(400)


def shown(opened):
    """How many boxes can be seen."""
    groups = opened.locator(".dhd-layout svg > g[tabindex]")
    return sum(groups.nth(k).is_visible() for k in range(groups.count()))


def command(opened, name):
    opened.evaluate(f"window.app.extensionManager.command.execute('{name}')")
    opened.wait_for_timeout(1000)


def test_each_number_of_people_has_boxes(page, server):
    """A preset that has none for them gives way; masks follow the boxes, and nobody else has any."""
    build(page)
    for people, preset in ((3, "side by side"), (4, "side by side"), (1, "in the middle"), (2, "side by side")):
        choose(page, "people", people)
        assert (inputs(page)["people"], inputs(page)["preset"], shown(page)) == (people, preset, people)
        assert inputs(page)["boxes"].count(";") == people - 1
        screenshot(page, f"layout_{people}_people")
    choose(page, "people", 3)
    choose(page, "preset", "parent and child")
    choose(page, "people", 4)
    assert inputs(page)["preset"] == "side by side"
    choose(page, "preset", "two rows")
    choose(page, "in_front", "person 4")
    assert page.locator(".dhd-layout svg > g[tabindex]").last.get_attribute("data-person") == "3"
    assert page.evaluate(RUN)[0] == "success"
    page.wait_for_timeout(1200)
    screenshot(page, "layout_two_rows")
    first, second, _ = pictures(page, server)
    assert first.convert("L").getpixel((832 * 3 // 10, 1216 * 2 // 10)) > 250  # person 1 stands behind, on the left
    assert second.convert("L").getpixel((832 * 7 // 10, 1216 * 2 // 10)) > 250
    choose(page, "people", 3)
    assert inputs(page)["in_front"] == "as preset"  # person 4 is gone
    assert problems(page, *OURS) == []


def test_any_of_four_is_dragged_and_moved_by_keys(page):
    """Boxes of one's own stay when somebody comes or goes, one undo a gesture."""
    build(page)
    choose(page, "people", 4)
    choose(page, "preset", "faces only")
    remember(page)
    before = inputs(page)
    area, paper = box(page, 3)
    drag(page, (area["x"] + area["width"] / 2, area["y"] + area["height"] / 2), (0, 0.2 * paper["height"]))
    page.locator(".dhd-layout [data-person='2'][tabindex]").focus()
    page.keyboard.press("ArrowUp")
    page.wait_for_timeout(400)
    moved = inputs(page)
    assert moved["preset"] == "custom"
    old, new = ([[float(edge) for edge in one.split()] for one in text["boxes"].split(";")] for text in (before, moved))
    assert new[:2] == old[:2]
    assert new[2] == pytest.approx([edge - 0.01 * (k % 2) for k, edge in enumerate(old[2])], abs=1e-3)
    assert new[3] == pytest.approx([edge + 0.2 * (k % 2) for k, edge in enumerate(old[3])], abs=0.01)
    screenshot(page, "layout_four_moved")
    command(page, "Comfy.Undo")
    command(page, "Comfy.Undo")
    assert inputs(page) == before
    command(page, "Comfy.Redo")
    command(page, "Comfy.Redo")
    assert inputs(page) == moved

    choose(page, "people", 3)
    kept = moved["boxes"].split("; ")[:3]
    assert (inputs(page)["boxes"].split("; "), inputs(page)["preset"]) == (kept, "custom")
    choose(page, "people", 4)
    assert inputs(page)["boxes"].split("; ") == [*kept, "0.745 0.3 0.99 1"]  # where the fourth is side by side
    assert shown(page) == 4

    # Save and open again.
    sent = inputs(page)
    saved = json.loads(json.dumps(page.evaluate("window.app.graph.serialize()")))
    open_workflow(page, saved)
    page.wait_for_timeout(1200)
    assert inputs(page) == sent
    assert shown(page) == 4
    assert problems(page, *OURS) == []


def test_a_preset_for_others_shows_no_boxes_and_says_why_when_run(page):
    build(page)
    choose(page, "people", 3)
    choose(page, "preset", "one behind")
    assert shown(page) == 0
    assert page.locator(".dhd-layout svg text", has_text="no boxes").is_visible()
    choose(page, "preset", "close together")
    assert shown(page) == 3
    assert problems(page, *OURS) == []


def test_a_workflow_from_before_has_two_people(page):
    """Its file has a value for each input there was, in order."""
    node = {
        "id": 1,
        "type": "DHDPortraitLayout",
        "pos": [50, 50],
        "size": [400, 600],
        "flags": {},
        "order": 0,
        "mode": 0,
    }
    values = ["custom", "person 2", 832, 1216, 0.1, "0.1 0.2 0.4 0.9; 0.5 0.1 0.9 0.8"]
    open_workflow(page, {**EMPTY, "nodes": [{**node, "widgets_values": values}]})
    page.wait_for_timeout(800)
    names = ("preset", "in_front", "width", "height", "feather", "boxes", "people")
    widgets = page.evaluate("Object.fromEntries(window.app.graph._nodes[0].widgets.map(w => [w.name, w.value]))")
    assert [widgets[name] for name in names] == [*values, 2]


@pytest.mark.parametrize("value", ["constructor", "__proto__", None, [1], 7, 2.5, "3"], ids=str)
def test_a_number_of_people_of_any_kind_leaves_the_boxes_whole(page, value):
    build(page)
    page.evaluate(
        """value => {
            const node = window.app.graph._nodes.find(n => n.type === 'DHDPortraitLayout');
            node.widgets.find(w => w.name === 'people').value = value;
            node.onConnectionsChange();
        }""",
        value,
    )
    page.wait_for_timeout(400)
    assert [problem for problem in page.problems if any(name in problem for name in OURS)] == []
    assert page.locator(".dhd-layout svg").get_attribute("viewBox")


def test_a_linked_number_of_people_shows_their_boxes(page):
    """Before a run that of the node it comes from, where that can be seen."""
    build(page)
    page.evaluate(
        """() => {
            const layout = window.app.graph._nodes.find(n => n.type === 'DHDPortraitLayout');
            const number = window.LiteGraph.createNode('PrimitiveInt');
            number.pos = [40, 600];
            window.app.graph.add(number);
            number.widgets.find(w => w.name === 'value').value = 3;
            number.connect(0, layout, layout.inputs.findIndex(i => i.name === 'people'));
        }"""
    )
    page.wait_for_timeout(600)
    assert shown(page) == 3
    assert page.evaluate(RUN)[0] == "success"
    page.wait_for_timeout(800)
    assert shown(page) == 3
    assert problems(page, *OURS) == []
