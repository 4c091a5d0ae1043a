"""What checks a change: pre-commit's hooks, the workflow on GitHub, issue forms, and text files themselves."""

import importlib
import re
import sys

import pytest
from support.comfyui import REPOSITORY
from support.published import tracked

sys.path.append(str(REPOSITORY))
from tools.text_files import main, wrong_with

tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")  # pytest brings tomli there

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
DATA = ("dhumandiff/tokenizer/", "tests/artefacts/commit_")  # kept as they came


def text(name):
    return (REPOSITORY / name).read_text(encoding="utf-8")


def test_text_files_end_in_one_newline_and_can_be_read():
    names = [name for name in tracked() if not name.startswith(DATA) and b"\0" not in (REPOSITORY / name).read_bytes()]
    assert [f"{name}: {what}" for name in names if (what := wrong_with(REPOSITORY / name))] == []


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.md", b"no end", "newline"),
        ("a.md", b"two ends\n\n", "newline"),
        ("a.md", b"spaces  \nend\n", "line 1"),
        ("a.md", b"\xff\n", "UTF-8"),
        ("a.json", b"{\n", "cannot be read"),
    ],
)
def test_a_text_file_that_is_wrong_is_named(tmp_path, capsys, name, content, what):
    (tmp_path / name).write_bytes(content)
    assert what in wrong_with(tmp_path / name)
    assert main([str(tmp_path / name)]) == 1
    assert name in capsys.readouterr().out


def test_the_workflow_runs_ci_on_both_comfyuis():
    """The oldest and the newest that are promised."""
    workflow = text(".github/workflows/ci.yml")
    oldest, newest = re.search(r"comfyui: \[v([\d.]+), v([\d.]+)\]", workflow).groups()
    assert PROJECT["tool"]["comfy"]["requires-comfyui"] == f">={oldest}"
    assert f"on {oldest} and {newest}" in text("README.md")
    assert "run: pack/.ci/run\n" in workflow
    assert "comfy --skip-prompt --no-enable-telemetry node validate" in workflow


def test_pre_commit_lints_what_ci_lints():
    hooks, ci = text(".pre-commit-config.yaml"), text(".ci/run")
    assert "ruff check" in hooks
    assert "ruff format" in hooks
    linters = re.findall(r"^(ruff check|ruff format|pyright|pyrefly)", ci, re.MULTILINE)
    assert {"ruff check", "ruff format"} <= set(linters)
    assert [linter for linter in linters if linter not in hooks] == []


def test_the_issue_form_asks_for_what_helps():
    yaml = pytest.importorskip("yaml")
    form = yaml.safe_load(text(".github/ISSUE_TEMPLATE/problem.yml"))
    required = {field.get("id") for field in form["body"] if field.get("validations", {}).get("required")}
    assert required == {"what", "doctor", "comfyui", "workflow"}
