"""Sentences on a real server: everything behind it runs once for each line."""

import pytest


def prompt(text, **shared):
    return {
        "1": {"class_type": "DHDSentences", "inputs": {"text": text, **shared}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }


@pytest.mark.parametrize("shared", [{}, {"before": "", "after": ""}])
def test_what_follows_runs_once_a_sentence(workflow_server, shared):
    result = workflow_server.run(prompt("a man@1\n\n# no\na woman@2", **shared))
    assert result["error"] is None
    assert result["outputs"]["2"]["text"] == ["a man@1", "a woman@2"]


def test_what_they_share_is_added_to_each(workflow_server):
    result = workflow_server.run(prompt("a\nb", before="photo of", after="in white"))
    assert result["outputs"]["2"]["text"] == ["photo of a in white", "photo of b in white"]


@pytest.mark.parametrize("text", ["", "# all\n# of them"])
def test_no_sentence_says_what_to_do(workflow_server, text):
    assert "Write one sentence a line" in workflow_server.run(prompt(text))["error"]
