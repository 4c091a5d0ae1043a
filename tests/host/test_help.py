"""Every node has a help page, and what the pages say is true."""

import ast
import re
import urllib.request

import pytest
from PIL import Image
from support.comfyui import REPOSITORY

from tools import interface

INFOS = interface.node_infos()
DOCS = REPOSITORY / "web" / "docs"
PICTURE = re.compile(r"!\[[^\]]+\]\(([^)]+)\)")


def page(node):
    return (DOCS / f"{node}.md").read_text(encoding="utf-8")


def inputs_told(node):
    """Input -> what the page says in brackets behind it: its limits or choices."""
    return dict(re.findall(r"^- `(\w+)` \(([^)]*)\):", page(node), re.MULTILINE))


def code_texts():
    """All texts in the code, what is filled in left out: one string a text, its parts kept apart by a control character."""
    for room in ("nodes", "dhumandiff"):
        for source in (REPOSITORY / room).rglob("*.py"):
            for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
                elif isinstance(node, ast.JoinedStr):
                    yield "\0".join(part.value for part in node.values if isinstance(part, ast.Constant))


def test_there_is_a_page_for_every_node():
    """And for nothing else."""
    assert {path.stem for path in DOCS.glob("*.md")} == set(INFOS)


@pytest.mark.parametrize("node", INFOS)
def test_a_page_begins_with_the_node_s_name(node):
    """And is neither a line nor a book."""
    lines = page(node).splitlines()
    assert lines[0] == f"# {INFOS[node]['display_name']}"
    assert 25 <= len(lines) <= 60


@pytest.mark.parametrize("node", INFOS)
def test_a_page_tells_of_every_input_and_output(node):
    told = set(re.findall(r"`([^`]+)`", page(node)))
    assert {*interface.inputs_of(INFOS[node]), *INFOS[node]["output_name"]} - told == set()


@pytest.mark.parametrize("node", INFOS)
def test_a_page_names_no_input_that_is_not_there(node):
    assert sorted(inputs_told(node)) == sorted(interface.inputs_of(INFOS[node]))


@pytest.mark.parametrize("node", INFOS)
def test_a_page_tells_limits_and_choices_as_they_are(node):
    told = inputs_told(node)
    for name, (kind, options) in interface.inputs_of(INFOS[node]).items():
        if kind in ("INT", "FLOAT") and name != "seed":
            assert f"{options['min']:g} to {options['max']:g}" in told[name], name
        elif kind == "BOOLEAN":
            assert told[name] == "off, on", name
        elif kind == "COMBO" and name not in interface.CHANGING_CHOICES:
            assert told[name] == ", ".join(options["options"]), name


@pytest.mark.parametrize("node", INFOS)
def test_a_page_quotes_messages_that_the_code_gives(node):
    given = list(code_texts())
    for quoted in re.findall(r'\*\*"(.+?)"\*\*', page(node), re.DOTALL):
        for part in re.split(" ?… ?", " ".join(quoted.split())):
            assert any(part in text for text in given), part


def test_every_picture_of_a_page_is_there():
    """And every picture that is there is shown."""
    shown = {name for node in INFOS for name in PICTURE.findall(page(node))}
    assert shown == {path.name for path in DOCS.iterdir() if path.suffix != ".md"}
    for name in shown:
        with Image.open(DOCS / name) as picture:
            picture.load()


def test_the_server_hands_out_pages_and_pictures(server):
    """Where the page looks for them, byte for byte."""
    module = server.get("object_info/DHDLoadAdapter")["DHDLoadAdapter"]["python_module"].split(".")[-1]
    for path in DOCS.iterdir():
        with urllib.request.urlopen(f"{server.url}extensions/{module}/docs/{path.name}", timeout=30) as answer:
            assert answer.headers.get_content_type() != "text/html"
            assert answer.read() == path.read_bytes()
