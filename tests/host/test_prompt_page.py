"""Who is who in the sentence, on the node in ComfyUI's page, in both looks: after a run, other texts, undo, copies. Screenshots are kept."""

import json

import pytest

pytest.importorskip("playwright.sync_api", reason="pip install playwright (no browser download needed)")

from test_layout_page import shows_widgets_of_extensions
from test_miniature_page import RUN
from test_page import browser, empty_graph, page, remember, screenshot  # noqa: F401 (fixtures)
from test_page import pytestmark as of_pages

pytestmark = of_pages

PANEL = ".dhd-who-is-who"
BUILD = """async () => {
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
    for (const person of [1, 2]) {
        const photo = add('DHDDrawPerson', 40, 60 + 260 * person), face = add('DHDEncodeReference', 420, 500 * person - 440);
        photo.widgets.find(w => w.name === 'person').value = person;
        photo.connect(0, face, 0);
        mini.connect(3, face, 1);
        mini.connect(4, face, 2);
        face.connect(0, sentence, sentence.inputs.findIndex(i => i.name === `reference_${person}`));
    }
}"""
SENTENCE = "A woman@1 and a man@2 on a bench. The woman@1 wears a white dress, the man@2 a black tuxedo."
NODE = "window.app.graph._nodes.filter(n => n.type === 'DHDSubjectPrompt')"


def build(opened):
    """Two drawn people and a sentence; what was bound is all that comes out."""
    shows_widgets_of_extensions(opened)
    empty_graph(opened)
    opened.evaluate(BUILD)
    opened.wait_for_timeout(800)
    opened.evaluate("window.app.canvas.ds.offset = [40, 40]; window.app.canvas.ds.scale = 1.25")
    opened.evaluate("window.app.canvas.setDirty(true, true)")
    opened.wait_for_timeout(500)


def write(opened, sentence):
    opened.evaluate(
        f"""text => {{
            const widget = {NODE}[0].widgets.find(w => w.name === 'text');
            widget.value = text;
            widget.callback?.(text);
        }}""",
        sentence,
    )


def run(opened):
    ended = opened.evaluate(RUN)
    assert ended[0] == "success", ended
    opened.wait_for_timeout(800)


def words(opened):
    """(text, person, is_subject) of every word that the first panel marks."""
    found = opened.locator(PANEL).first.locator("[data-person]").all()
    return [
        (
            word.evaluate("word => word.firstChild.data"),
            int(word.get_attribute("data-person")),
            word.get_attribute("data-subject") == "true",
        )
        for word in found
    ]


def sentence_shown(opened):
    """The panel's text without the persons' numbers."""
    return opened.evaluate(
        f"""() => {{
            const copy = document.querySelector('{PANEL}').cloneNode(true);
            copy.querySelectorAll('sup').forEach(number => number.remove());
            return copy.textContent;
        }}"""
    )


def ours(opened):
    return [problem for problem in opened.problems if "dhumandiff" in problem.lower() or "who_is_who" in problem]


def test_a_run_shows_the_sentence_with_each_person_in_a_colour_a_dash_and_a_number(page):  # noqa: F811 (the fixture)
    build(page)
    assert page.locator(PANEL).count() == 0  # nothing before a run
    write(page, SENTENCE)
    run(page)
    screenshot(page, "who_is_who")
    assert page.locator(PANEL).count() == 1
    assert sentence_shown(page) == SENTENCE.replace("@1", "").replace("@2", "")
    assert words(page) == [("woman", 1, True), ("man", 2, True), ("woman", 1, False), ("man", 2, False)]

    style = """word => {
        const { backgroundColor, borderBottomColor, borderBottomStyle } = getComputedStyle(word);
        return [backgroundColor, borderBottomColor, borderBottomStyle, word.querySelector('sup').textContent];
    }"""
    blue, vermilion = "rgb(0, 114, 178)", "rgb(213, 94, 0)"
    none = "rgba(0, 0, 0, 0)"
    looks = [word.evaluate(style) for word in page.locator(f"{PANEL} [data-person]").all()]
    assert looks == [
        [blue, blue, "solid", "1"],
        [vermilion, vermilion, "dashed", "2"],
        [none, blue, "solid", "1"],
        [none, vermilion, "dashed", "2"],
    ]
    inside(page)
    assert ours(page) == []


def inside(opened):
    """The whole sentence is on the node: nothing is cut off, and the node is as large as it has to be."""
    panel = opened.locator(PANEL).first.bounding_box()
    for word in opened.locator(f"{PANEL} [data-person]").all():
        box = word.bounding_box()
        assert panel["x"] <= box["x"]
        assert box["x"] + box["width"] <= panel["x"] + panel["width"] + 1
        assert box["y"] + box["height"] <= panel["y"] + panel["height"] + 2
    if opened.look == "classic":
        scale, offset = opened.evaluate("[window.app.canvas.ds.scale, window.app.canvas.ds.offset]")
        canvas = opened.locator("canvas#graph-canvas").bounding_box()
        y, width, height = opened.evaluate(f"(n => [n.pos[1], ...n.size])({NODE}[0])")
        bottom = canvas["y"] + (y + height + offset[1]) * scale
        assert panel["y"] + panel["height"] <= bottom + 2
        assert panel["width"] <= width * scale


SENTENCES = {
    "Chinese": (
        "新郎@1 和 新娘@2 站在海边。新郎@1 穿黑色礼服",
        [("新郎", 1, True), ("新娘", 2, True), ("新郎", 1, False)],
    ),
    "Arabic": ("رجل@1 و امرأة@2 في حديقة", [("رجل", 1, True), ("امرأة", 2, True)]),
    "markup": (
        "<img src=x onerror=window.hacked=1><b>man@1</b> & <script>window.hacked=1</script> woman@2",
        [("man", 1, True), ("woman", 2, True)],
    ),
    "long": (
        "A man@1 and a woman@2 " + "on a bench in a garden with very tall hydrangeas and " * 12,
        [("man", 1, True), ("woman", 2, True)],
    ),
}


def test_whatever_the_sentence_holds_is_shown_as_it_stands_and_wraps(page):  # noqa: F811 (the fixture)
    build(page)
    for name, (sentence, marked) in SENTENCES.items():
        write(page, sentence)
        run(page)
        screenshot(page, f"who_is_who_{name}")
        assert words(page) == marked, name
        assert sentence_shown(page) == sentence.replace("@1", "").replace("@2", ""), name
        assert page.locator(f"{PANEL} img, {PANEL} b, {PANEL} script").count() == 0, name
        assert page.evaluate("window.hacked === undefined"), name
        assert page.evaluate(f"(p => p.scrollWidth <= p.clientWidth + 1)(document.querySelector('{PANEL}'))"), name
        assert ours(page) == [], name


def test_one_person_and_another_text_after_the_run(page):  # noqa: F811 (the fixture)
    build(page)
    page.evaluate(f"(n => n.disconnectInput(n.inputs.findIndex(i => i.name === 'reference_2')))({NODE}[0])")
    write(page, "An old man@1 reads")
    run(page)
    assert words(page) == [("man", 1, True)]
    write(page, "An old sailor@1 reads")
    page.wait_for_timeout(300)
    faded = f"getComputedStyle(document.querySelector('{PANEL}')).opacity"
    assert float(page.evaluate(faded)) < 0.6  # what is shown is the last run's
    assert sentence_shown(page) == "An old man reads"
    run(page)
    assert float(page.evaluate(faded)) == 1
    assert words(page) == [("sailor", 1, True)]
    assert ours(page) == []


def test_it_survives_undo_is_not_copied_and_leaves_no_trace_in_what_is_saved_or_queued(page):  # noqa: F811
    build(page)
    write(page, SENTENCE)
    before = page.evaluate("window.app.graph.serialize()")
    remember(page)
    run(page)
    shown = words(page)
    assert len(shown) == 4
    remember(page)

    saved = page.evaluate("window.app.graph.serialize()")
    values = [
        [node.get("widgets_values") for node in graph["nodes"] if node["type"] == "DHDSubjectPrompt"]
        for graph in (before, saved)
    ]
    assert values[0] == values[1]
    assert "who_is_who" not in json.dumps(saved)
    prompt = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    sent = next(node["inputs"] for node in prompt.values() if node["class_type"] == "DHDSubjectPrompt")
    assert set(sent) == {"clip", "adapter", "reference_1", "reference_2", "text", "mentions"}

    page.evaluate(
        f"(n => {{ n.pos = [n.pos[0] + 60, n.pos[1] + 20]; window.app.graph.setDirtyCanvas(true, true); }})({NODE}[0])"
    )
    remember(page)
    page.evaluate("window.app.extensionManager.command.execute('Comfy.Undo')")
    page.wait_for_timeout(1200)
    assert page.locator(PANEL).count() == 1
    assert words(page) == shown
    screenshot(page, "who_is_who_undone")

    page.evaluate(
        f"""() => {{
            const {{ canvas }} = window.app;
            canvas.deselectAll();
            canvas.selectNode({NODE}[0]);
            canvas.copyToClipboard();
            canvas.pasteFromClipboard();
        }}"""
    )
    page.wait_for_timeout(800)
    assert page.evaluate(f"{NODE}.length") == 2
    assert page.locator(PANEL).count() == 1  # the copy did not run
    page.evaluate(f"window.app.graph.remove({NODE}[1])")

    page.evaluate("workflow => window.app.loadGraphData(workflow)", saved)
    page.wait_for_timeout(1200)
    assert page.locator(PANEL).count() == 0  # opened anew, nothing ran yet
    run(page)
    assert page.locator(PANEL).count() == 1
    assert words(page) == shown
    assert ours(page) == []
