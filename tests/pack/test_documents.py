"""What README, CONTRIBUTING and docs/ link to, quote and name is there; measured tables are those of the result files."""

import ast
import json
import re
import sys
from pathlib import PurePosixPath

import pytest
from support.comfyui import REPOSITORY
from support.published import tracked

sys.path.append(str(REPOSITORY))
from benchmarks.report import tables

PAGES = [
    name
    for name in tracked()
    if name.endswith(".md") and not name.startswith((".github/", "tests/")) and name != "CHANGELOG.md"
]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```", re.DOTALL)
# In backticks: a file of the repository, by its path. Files of other places have other endings, or a word in capitals.
FILE = re.compile(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|yaml|json|md|js|toml|sh|png|jpg))`")
TITLES = {
    node["display_name"] for node in json.loads((REPOSITORY / "locales/en/nodeDefs.json").read_text("utf-8")).values()
} | {"CLIP Text Encode"}


def text(name):
    return (REPOSITORY / name).read_text(encoding="utf-8")


def anchors(page):
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", CODE.sub("", text(page)), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", LINK.sub(lambda link: link[0], heading).lower()) for heading in headings]
    return {heading.strip().replace(" ", "-") for heading in plain}


def target(page, link):
    """The repository's path that a relative link of a page leads to."""
    parts = []
    for part in (PurePosixPath(page).parent / link).parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


# --- links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_a_relative_link_leads_to_a_file_and_a_heading(page):
    files = set(tracked())
    folders = {str(parent) for name in files for parent in PurePosixPath(name).parents}
    broken = []
    for link in LINK.findall(CODE.sub("", text(page))):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        goal = target(page, path) if path else page
        if goal not in files | folders or (anchor and anchor not in anchors(goal)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES)
def test_a_file_named_in_backticks_is_there(page):
    files = set(tracked())
    named = FILE.findall(CODE.sub("", text(page)))
    assert [name for name in named if name not in files and target(page, name) not in files] == []


def test_the_index_leads_to_every_document():
    pages = {name.removeprefix("docs/") for name in PAGES if name.startswith("docs/")} - {"README.md"}
    assert pages == {link for link in LINK.findall(text("docs/README.md")) if "/" not in link}


def test_what_source_cites_of_the_documents_is_there():
    cited = set()
    for name in tracked():
        if name.endswith((".py", ".yaml", ".js")):
            cited |= set(re.findall(r"docs/(\w+\.md)(?:#([\w-]+))?", text(name)))
    pages = {name.removeprefix("docs/") for name in PAGES if name.startswith("docs/")}
    cited = {(page, anchor) for page, anchor in cited if not page.startswith("DHD")}
    assert ("method.md", "the-focus-mask") in cited
    assert [page for page, _ in cited if page not in pages] == []
    assert [(page, anchor) for page, anchor in cited if anchor and anchor not in anchors(f"docs/{page}")] == []


# --- README -----------------------------------------------------------------------------------------------------------


def test_the_readme_is_short():
    assert len((REPOSITORY / "README.md").read_bytes()) <= 10_240


def test_the_readme_s_test_command_is_the_one_that_ci_runs():
    (command,) = re.findall(r"^python -m pytest.*$", text("README.md"), re.MULTILINE)
    ci = text(".ci/run")
    assert any(line.strip().startswith(command) for line in ci.splitlines())
    assert "for tier in fast host slow" in ci


# --- troubleshooting --------------------------------------------------------------------------------------------------


def rows(page, heading):
    """Cells of the table below a heading, a list for each row."""
    section = text(page).partition(f"\n## {heading}\n")[2].partition("\n#")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


TROUBLES = rows("docs/troubleshooting.md", "What a message means")
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
        assert any(part.strip() in one for one in said), part


def test_nodes_named_in_the_table_bear_that_title():
    named = {name for row in TROUBLES for cell in row for name in re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", cell)}
    assert named >= {"Doctor", "Load Face Analysis", "Portrait Layout"}
    assert named - TITLES == set()


def test_every_node_and_workflow_is_in_the_tables_of_nodes():
    page = text("docs/nodes.md")
    ids = [name.removeprefix("web/docs/") for name in PAGES if name.startswith("web/docs/")]
    assert [name for name in ids if f"(../web/docs/{name})" not in page] == []
    workflows = [
        name.split("/")[1].removesuffix(".json") for name in tracked() if re.match(r"workflows/\w+\.json", name)
    ]
    assert [name for name in workflows if f"`{name}`" not in page] == []


# --- measured tables --------------------------------------------------------------------------------------------------


def test_tables_of_costs_are_the_benchmarks_results():
    made = tables()
    assert len(made) == 8
    assert [table for table in made if table not in text("docs/benchmarks.md")] == []


def test_the_part_about_gpus_is_what_their_result_files_say(tmp_path):
    from benchmarks.report import PAGE, write_gpu_section

    made = tmp_path / PAGE.name
    made.write_text(text("docs/benchmarks.md"), encoding="utf-8")
    write_gpu_section(made)
    assert made.read_text(encoding="utf-8") == text("docs/benchmarks.md")


def test_training_s_page_has_every_old_setting_beside_its_new_name():
    from training.renamed import RENAMED_KEYS

    page = text("docs/training.md")
    pairs = [(old, new) for command in RENAMED_KEYS.values() for old, new in command.items()]
    assert [
        old for old, new in pairs if not re.search(rf"^\| `{re.escape(old)}`[^|]* \| `{new}` \|$", page, re.M)
    ] == []
