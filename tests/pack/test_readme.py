"""What the README quotes and names is there."""

import ast
import json
import re
import sys

import pytest
from support.comfyui import REPOSITORY

sys.path.append(str(REPOSITORY))
from benchmarks.report import tables

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
TITLES = {
    node["display_name"] for node in json.loads((REPOSITORY / "locales/en/nodeDefs.json").read_text("utf-8")).values()
} | {"CLIP Text Encode"}


def rows(heading):
    """Cells of the table below a heading, a list for each row."""
    section = README.partition(f"\n### {heading}\n")[2].partition("\n#")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


TROUBLES = rows("Troubleshooting")
QUOTES = [quote for row in TROUBLES for quote in re.findall(r'"([^"]+)"', row[0])]


@pytest.fixture(scope="module")
def said():
    """Every string of the nodes and the method but docstrings. Pieces that stand together are joined; holes part them."""
    found = set()
    for folder in ("nodes", "dhumandiff"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            every = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
            documenting = {node.value for node in every if isinstance(node, ast.Expr)}
            constants = [node for node in every if isinstance(node, ast.Constant) and node not in documenting]
            found |= {node.value for node in constants if isinstance(node.value, str)}
    return found


def test_troubles_have_three_cells_each_and_most_quote_a_message():
    assert TROUBLES
    assert {len(row) for row in TROUBLES} == {3}
    assert all(all(row) for row in TROUBLES)
    assert len(QUOTES) > len(TROUBLES)


@pytest.mark.parametrize("quote", QUOTES)
def test_a_quoted_message_is_one_that_the_code_gives(said, quote):
    for part in quote.split("…"):
        assert any(part.strip() in text for text in said), part


def test_nodes_named_in_the_table_bear_that_title():
    named = {name for row in TROUBLES for cell in row for name in re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", cell)}
    assert named >= {"Doctor", "Load Face Analysis", "Portrait Layout"}
    assert named - TITLES == set()


def test_the_tables_of_what_it_costs_are_those_of_the_benchmarks_results():
    made = tables()
    assert len(made) == 4
    assert [table for table in made if table not in README] == []
