"""Every refusal has a stable code, and its sentence stands in tests/messages.json."""

from __future__ import annotations

import json
import sys

import pytest
from support.comfyui import REPOSITORY

sys.path.append(str(REPOSITORY))
from tools import messages

CODES_EVERYWHERE = False
"""Whether every room has given its errors codes."""

OWN = (
    "dhumandiff/cli",
    "dhumandiff/formats",
    "dhumandiff/miniature",
    "dhumandiff/testing",
    "dhumandiff/methods/paired/adapter",
)


def test_every_refusal_has_a_code_of_its_own():
    wrong = messages.faults(messages.collect())
    if not CODES_EVERYWHERE:
        wrong = [fault for fault in wrong if fault.startswith(OWN)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.skipif(not CODES_EVERYWHERE, reason="codes are being given")
def test_the_sentences_are_those_of_the_file():
    written = json.loads(messages.render(messages.collect()))
    kept = json.loads(messages.FILE.read_text(encoding="utf-8"))
    assert written == kept, "a sentence has changed; look at it once more, then run: python -m tools.messages"
