"""Portrait Layout in ComfyUI's page, in both looks: drag, run, save, undo, copy. Screenshots are kept."""

import json

import pytest
from PIL import Image
from support.page import (
    PROMPT,
    RUN,
    come_closer,
    empty_graph,
    open_workflow,
    problems,
    remember,
    screenshot,
    shows_widgets_of_extensions,
)

BUILD = """async () => {
    const { graph, canvas } = window.app;
    const add = (type, x, y) => {
        const node = window.LiteGraph.createNode(type);
        node.pos = [x, y];
        window.app.graph.add(node);
        return node;
    };
    const layout = add('DHDPortraitLayout', 400, 100);
    const photo = add('LoadImage', 40, 100);
    photo.widgets.find(w => w.name === 'image').value = 'person_2.jpg';
    photo.connect(0, layout, layout.inputs.findIndex(i => i.name === 'background'));
    for (const [k, y] of [[0, 80], [1, 500]]) {
        const mask = add('MaskToImage', 820, y), shown = add('PreviewImage', 1060, y);
        layout.connect(k, mask, 0);
        mask.connect(0, shown, 0);
    }
    const preview = add('PreviewImage', 1400, 80);
    layout.connect(3, preview, 0);
    preview.size = [420, 420];
    const set = (name, value) => {
        const widget = layout.widgets.find(w => w.name === name);
        widget.value = value;
        widget.callback?.(value);
    };
    set('width', 832);
    set('height', 1216);
}"""

EMPTY = {"last_node_id": 0, "last_link_id": 0, "nodes": [], "links": [], "groups": [], "config": {}, "version": 0.4}


def build(opened):
    """The node alone with a background and previews of its masks; 832 x 1216."""
    shows_widgets_of_extensions(opened)
    empty_graph(opened)
    opened.evaluate(BUILD)
    opened.wait_for_timeout(800)
    come_closer(opened)
    opened.wait_for_timeout(800)


def inputs(opened, number=0):
    """What the API form has for a layout node."""
    prompt = opened.evaluate(PROMPT)
    return [node["inputs"] for node in prompt.values() if node["class_type"] == "DHDPortraitLayout"][number]


def box(opened, person):
    """Where a person's box and the paper under the boxes are, px of the window: x, y, width, height."""
    area = opened.locator(f".dhd-layout [data-person='{person}'] rect").first.bounding_box()
    paper = opened.locator(".dhd-layout svg > rect").first.bounding_box()
    return area, paper


def drag(opened, start, by):
    opened.mouse.move(*start)
    opened.mouse.down()
    for part in (0.3, 0.7, 1.0):
        opened.mouse.move(start[0] + part * by[0], start[1] + part * by[1])
    opened.mouse.up()
    opened.wait_for_timeout(400)


def pictures(opened, server):
    """What the three previews show, left to right and top to bottom."""
    shown = opened.evaluate(
        "window.app.graph._nodes.filter(n => n.type === 'PreviewImage').map(n => window.app.nodeOutputs[n.id]?.images?.[0])"
    )
    assert all(shown), shown
    return [Image.open(server.base / "temp" / one["subfolder"] / one["filename"]) for one in shown]


def test_a_dragged_box_changes_the_mask(page, server):
    """By mouse and by keys; it survives copying, saving and opening again, and runs by API."""
    build(page)
    assert inputs(page)["preset"] == "side by side"
    assert inputs(page)["boxes"] == "0.03 0.18 0.5 1; 0.5 0.18 0.97 1"  # of a picture of this shape
    assert "layout" not in inputs(page)
    screenshot(page, "layout_new")
    area, paper = box(page, 0)
    assert paper["width"] / paper["height"] == pytest.approx(832 / 1216, rel=0.02)
    assert area["height"] / paper["height"] == pytest.approx(0.82, abs=0.02)

    ended = page.evaluate(RUN)
    assert ended[0] == "success", ended
    page.wait_for_timeout(1500)
    before = pictures(page, server)
    assert [picture.size for picture in before] == [(832, 1216)] * 3
    assert page.locator(".dhd-layout image").get_attribute("href")

    # Move person 1 up by a tenth, then take the lower right corner in.
    area, paper = box(page, 0)
    drag(page, (area["x"] + area["width"] / 2, area["y"] + area["height"] / 2), (0, -0.1 * paper["height"]))
    moved = inputs(page)
    assert moved["preset"] == "custom"
    first, second = ([float(word) for word in one.split()] for one in moved["boxes"].split(";"))
    assert first == pytest.approx([0.03, 0.08, 0.5, 0.9], abs=0.01)
    assert second == [0.5, 0.18, 0.97, 1]
    area, paper = box(page, 0)
    corner = (area["x"] + area["width"], area["y"] + area["height"])
    drag(page, corner, (-0.2 * paper["width"], -0.1 * paper["height"]))
    resized = inputs(page)["boxes"]
    assert [float(word) for word in resized.split(";")[0].split()] == pytest.approx([0.03, 0.08, 0.3, 0.8], abs=0.015)

    # Keys: person 2 one step left, then one step wider.
    page.locator(".dhd-layout [data-person='1'][tabindex]").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowRight")
    page.wait_for_timeout(500)
    keyed = inputs(page)["boxes"]
    assert keyed == resized.split(";")[0] + "; 0.49 0.18 0.97 1"

    assert page.evaluate(RUN)[0] == "success"
    page.wait_for_timeout(1500)
    after = pictures(page, server)
    assert before[0].tobytes() != after[0].tobytes()
    assert after[0].convert("L").getpixel((round(0.15 * 832), round(0.12 * 1216))) > 250
    assert after[0].convert("L").getpixel((round(0.15 * 832), round(0.9 * 1216))) < 5
    screenshot(page, "layout_moved")

    # Copy and paste.
    page.evaluate(
        """() => {
            const { canvas, graph } = window.app;
            canvas.deselectAll();
            canvas.selectNode(graph._nodes.find(n => n.type === 'DHDPortraitLayout'));
            canvas.copyToClipboard();
            canvas.pasteFromClipboard();
        }"""
    )
    page.wait_for_timeout(600)
    assert page.evaluate("window.app.graph._nodes.filter(n => n.type === 'DHDPortraitLayout').length") == 2
    pasted = page.evaluate(
        "window.app.graph._nodes.filter(n => n.type === 'DHDPortraitLayout').map(n => n.widgets.find(w => w.name === 'boxes').value)"
    )
    assert pasted == [keyed, keyed]
    assert page.locator(".dhd-layout").count() == 2
    page.evaluate("window.app.graph.remove(window.app.graph._nodes.filter(n => n.type === 'DHDPortraitLayout')[1])")
    page.wait_for_timeout(300)

    # Save and open again: the same inputs, and the same prompt.
    sent = inputs(page)
    saved = json.loads(json.dumps(page.evaluate("window.app.graph.serialize()")))
    open_workflow(page, saved)
    page.wait_for_timeout(1200)
    assert inputs(page) == sent
    area, paper = box(page, 0)
    assert area["height"] / paper["height"] == pytest.approx(0.72, abs=0.03)
    screenshot(page, "layout_reopened")

    # What the page would queue runs by API as it is.
    prompt = page.evaluate(PROMPT)
    assert len(prompt) == len(saved["nodes"]) == 7
    assert server.run(prompt)["error"] is None
    assert problems(page, "portrait_layout") == []


def test_undo_takes_back_one_gesture(page):
    """And a preset that is chosen again brings its boxes."""
    build(page)
    remember(page)
    start = inputs(page)
    area, paper = box(page, 1)
    drag(page, (area["x"] + area["width"] / 2, area["y"] + area["height"] / 2), (0, -0.1 * paper["height"]))
    assert inputs(page)["preset"] == "custom"
    page.evaluate("window.app.extensionManager.command.execute('Comfy.Undo')")
    page.wait_for_timeout(1000)
    assert inputs(page) == start
    page.evaluate("window.app.extensionManager.command.execute('Comfy.Redo')")
    page.wait_for_timeout(1000)
    assert inputs(page)["preset"] == "custom"

    choose = """value => {
        const node = window.app.graph._nodes.find(n => n.type === 'DHDPortraitLayout');
        const widget = node.widgets.find(w => w.name === 'preset');
        widget.value = value;
        widget.callback?.(value);
    }"""
    page.evaluate(choose, "parent and child")
    page.wait_for_timeout(400)
    assert inputs(page)["boxes"] == "0.06 0.08 0.62 1; 0.5 0.46 0.92 1"
    screenshot(page, "layout_parent_and_child")
    area, paper = box(page, 0)
    drag(page, (area["x"] + area["width"] / 4, area["y"] + area["height"] / 2), (0.03 * paper["width"], 0))
    assert inputs(page)["preset"] == "custom"
    assert inputs(page)["in_front"] == "person 2"  # as it was in the preset
    assert problems(page, "portrait_layout") == []


@pytest.mark.parametrize("node_id", ['1"], #vue-app, [x="', '"', '1"]', "a.b > c", "__proto__", "<img src=x>"])
def test_a_node_id_of_any_letters_leaves_the_page_whole(page, node_id):
    """A shared workflow may hold any text in the place of a number."""
    node = {"id": node_id, "type": "DHDPortraitLayout", "pos": [50, 50], "size": [400, 600], "flags": {}, "order": 0}
    values = ["side by side", "as preset", 1024, 1024, 0.05, ""]
    open_workflow(page, {**EMPTY, "nodes": [{**node, "mode": 0, "widgets_values": values}]})
    page.wait_for_timeout(1000)
    assert page.evaluate("!!document.querySelector('#vue-app') && !!document.querySelector('canvas')")
    assert [problem for problem in page.problems if "valid selector" in problem] == []


@pytest.mark.parametrize("value", ["constructor", "__proto__", "toString", None, [1]], ids=str)
def test_a_value_of_any_kind_leaves_the_boxes_whole(page, value):
    """What is no choice is custom, and what are no boxes is said in their place."""
    node = {"id": 1, "type": "DHDPortraitLayout", "pos": [50, 50], "size": [400, 600], "flags": {}, "order": 0}
    draw = """value => {
        const layout = window.app.graph._nodes[0];
        for (const name of ['preset', 'in_front', 'width', 'height', 'boxes']) {
            layout.widgets.find(w => w.name === name).value = value;
        }
        layout.onConnectionsChange();
    }"""
    open_workflow(page, {**EMPTY, "nodes": [{**node, "mode": 0}]})
    page.evaluate(draw, value)
    page.wait_for_timeout(500)
    ours = ("portrait_layout", "layout_view", "node_panel")  # the page itself does not like every value
    assert [problem for problem in page.problems if any(name in problem for name in ours)] == []
    assert (
        page.evaluate("document.querySelector('.dhd-layout svg').getAttribute('viewBox')").split()[2:]
        == ["1064.96"] * 2
    )
