"""A portrait without ComfyUI on a pretended card: 8 GB are enough for 1024 x 1024 px, when models take turns."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("diffusers", reason="install it with: pip install diffusers transformers accelerate")

TESTS = Path(__file__).parents[1]
GIB = 2**30


@pytest.mark.slow
def test_8_gb_are_enough_for_a_portrait_of_1024_px():
    """Driver, desktop and cuDNN's own memory come on top of what is counted."""
    where = {**os.environ, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "support.pretended_portrait"]
    done = subprocess.run(command, cwd=TESTS, env=where, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    peaks = json.loads(done.stdout.splitlines()[-1])
    limits = {"words and people": 3.2, "a step": 5.3, "decoding": 3.5, "decoding in tiles": 1.5}
    assert {name: peak for name, peak in peaks.items() if peak > limits[name] * GIB} == {}
