"""Every refusal has a stable code, and its sentence stands in tests/messages.json."""

from __future__ import annotations

import json
import sys

from support.comfyui import REPOSITORY

sys.path.append(str(REPOSITORY))
from tools import messages


def test_every_refusal_has_a_code_of_its_own():
    wrong = messages.faults(messages.collect())
    assert not wrong, "\n".join(wrong)


def test_the_sentences_are_those_of_the_file():
    written = json.loads(messages.render(messages.collect()))
    kept = json.loads(messages.FILE.read_text(encoding="utf-8"))
    changed = sorted(code for code in {*written, *kept} if written.get(code) != kept.get(code))
    assert not changed, f"look once more at what these say, then run `python -m tools.messages`: {', '.join(changed)}"


def test_codes_that_lack_or_serve_twice_are_found(tmp_path, monkeypatch):
    """A raise without a code, one code for two faults."""
    (tmp_path / "dhumandiff").mkdir()
    (tmp_path / "dhumandiff" / "errors.py").write_text(
        "class DHumanDiffError(ValueError): ...\nclass A(DHumanDiffError): ...\n"
    )
    (tmp_path / "dhumandiff" / "one.py").write_text('raise A("no code")\nraise A(f"{x} is empty.", code="empty")\n')
    (tmp_path / "dhumandiff" / "two.py").write_text('raise A("Choose another base model.", code="empty")\n')
    monkeypatch.setattr(messages, "ROOT", tmp_path)
    found = messages.collect()
    assert messages.faults(found) == [
        "dhumandiff/one.py:1: no code",
        "dhumandiff/one.py:2 and dhumandiff/two.py:1: two faults under one code, 'empty'",
    ]
    assert json.loads(messages.render(found)) == {"empty": ["Choose another base model.", "{x} is empty."]}
