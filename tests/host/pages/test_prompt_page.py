"""Who is who in the sentence, on the node in ComfyUI's page, in both looks: after a run, other texts, undo, copies. Screenshots are kept."""

import json

from support.page import (
    PROMPT,
    PROMPT_NODES,
    RUN,
    TWO_DRAWN_PEOPLE,
    come_closer,
    empty_graph,
    open_workflow,
    problems,
    remember,
    screenshot,
    shows_widgets_of_extensions,
    write,
)

PANEL = ".dhd-who-is-who"
SENTENCE = "A woman@1 and a man@2 on a bench. The woman@1 wears a white dress, the man@2 a black tuxedo."


def build(opened):
    """Two drawn people and a sentence; what was bound is all that comes out."""
    shows_widgets_of_extensions(opened)
    empty_graph(opened)
    opened.evaluate(TWO_DRAWN_PEOPLE)
    opened.wait_for_timeout(800)
    come_closer(opened)
    opened.wait_for_timeout(500)


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


def test_a_run_shows_who_is_who(page):
    """Each person has a colour, a dash and a number in the sentence."""
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
    assert problems(page, "who_is_who") == []


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
        y, width, height = opened.evaluate(f"(n => [n.pos[1], ...n.size])({PROMPT_NODES}[0])")
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


def test_any_sentence_is_shown_as_it_stands(page):
    """It wraps, and markup in it is text."""
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
        assert problems(page, "who_is_who") == [], name


def test_one_person_and_another_text_after_the_run(page):
    build(page)
    page.evaluate(f"(n => n.disconnectInput(n.inputs.findIndex(i => i.name === 'reference_2')))({PROMPT_NODES}[0])")
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
    assert problems(page, "who_is_who") == []


def test_what_is_shown_survives_undo_alone(page):
    """It is not copied, and leaves no trace in what is saved or queued."""
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
    prompt = page.evaluate(PROMPT)
    sent = next(node["inputs"] for node in prompt.values() if node["class_type"] == "DHDSubjectPrompt")
    assert set(sent) == {"clip", "adapter", "reference_1", "reference_2", "text", "mentions"}

    page.evaluate(
        f"(n => {{ n.pos = [n.pos[0] + 60, n.pos[1] + 20]; window.app.graph.setDirtyCanvas(true, true); }})({PROMPT_NODES}[0])"
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
            canvas.selectNode({PROMPT_NODES}[0]);
            canvas.copyToClipboard();
            canvas.pasteFromClipboard();
        }}"""
    )
    page.wait_for_timeout(800)
    assert page.evaluate(f"{PROMPT_NODES}.length") == 2
    assert page.locator(PANEL).count() == 1  # the copy did not run
    page.evaluate(f"window.app.graph.remove({PROMPT_NODES}[1])")

    open_workflow(page, saved)
    page.wait_for_timeout(1200)
    assert page.locator(PANEL).count() == 0  # opened anew, nothing ran yet
    run(page)
    assert page.locator(PANEL).count() == 1
    assert words(page) == shown
    assert problems(page, "who_is_who") == []


def test_four_people_have_four_looks(page):
    build(page)
    page.evaluate(
        """() => {
            const prompt = window.app.graph._nodes.find(n => n.type === 'DHDSubjectPrompt');
            const at = name => prompt.inputs.findIndex(input => input.name === name);
            for (const [there, added] of [['reference_1', 'reference_3'], ['reference_2', 'reference_4']]) {
                prompt.getInputNode(at(there)).connect(0, prompt, at(added));
            }
        }"""
    )
    write(page, "A woman@1, a man@2, a girl@3 and a boy@4 on a bench.")
    run(page)
    screenshot(page, "who_is_who_of_four")
    assert words(page) == [("woman", 1, True), ("man", 2, True), ("girl", 3, True), ("boy", 4, True)]
    look = "word => { const { backgroundColor, borderBottomStyle } = getComputedStyle(word); return [backgroundColor, borderBottomStyle]; }"
    looks = [word.evaluate(look) for word in page.locator(f"{PANEL} [data-person]").all()]
    assert len({color for color, _ in looks}) == len({line for _, line in looks}) == 4
    assert problems(page, "who_is_who") == []
