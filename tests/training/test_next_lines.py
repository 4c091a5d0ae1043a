"""What a command advises at its end can be pasted as it is, and is said only where it can."""

import json
import shlex

import pytest

pytest.importorskip("jsonargparse", reason="install it with: pip install '.[train]'")

from training.evaluate import EvaluateConfig, _ending
from training.miniature.build import MiniConfig, _end


def next_lines(text):
    return [shlex.split(line.removeprefix("Next: ")) for line in text.splitlines() if line.startswith("Next: ")]


def test_scores_of_a_run_go_onto_its_card(tmp_path):
    config = EvaluateConfig(run="runs/a pair", out=str(tmp_path))
    (words,) = next_lines(_ending(config, tmp_path, {"right person": "1"}, [], []))
    assert words[:3] == ["python", "-m", "training"]
    assert words[words.index("--run") + 1] == "runs/a pair"
    assert words[words.index("--out") + 1] == "runs/a pair/export"
    assert json.loads((tmp_path / "scores.json").read_text())["right person"] == "1"


def test_scores_of_no_run_advise_no_command_that_needs_one(tmp_path):
    text = _ending(EvaluateConfig(cases="a.jsonl", out=str(tmp_path)), tmp_path, {}, [], [])
    assert next_lines(text) == []
    assert str(tmp_path / "scores.json") in text.splitlines()[-1]


def test_a_miniature_in_a_folder_of_its_own_goes_on_there(tmp_path):
    out = str(tmp_path / "my mini")
    (words,) = next_lines(_end(tmp_path, MiniConfig(out=out, stage="pictures")))
    assert words == ["python", "-m", "training", "mini", "--out", out]
    (tmp_path / "weights").mkdir()
    (words,) = next_lines(_end(tmp_path, MiniConfig(out=out, install=False)))
    assert words == ["python", "-m", "training", "mini", "--row", "full", "--out", out]
    assert next_lines(_end(tmp_path, MiniConfig(stage="pictures"))) == [["python", "-m", "training", "mini"]]
