"""What runs ask of a GPU, on one that is pretended (`support.pretended_card`): no mixed devices, no waits, few launches, little memory.

SDXL and the adapter at their own sizes, 1024 x 1024 px, fp16; tiny FLUX and Stable Diffusion 1.5. Each run has three steps.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
GIB = 2**30

MORE_LAUNCHES = {
    "pair": 0.15,
    "pair at 0.7": 0.15,
    "pair of unlike strengths": 0.15,
    "pair with masks": 0.15,
    "pair with masks of two devices": 0.15,
    "one_pass, focus given": 0.15,
    "dual pathway, regions given": 0.16,
    "dual pathway, regions found": 0.25,
    "one_pass": 0.25,
    "two_strength": 0.25,
}
"""How many more than a run without people has, at most; those above 0.2 look at the attention of 11 layers."""

OTHERS = ("WithAnyone", "Parts2Whole")


def run(*arguments):
    """What each run asked for."""
    where = {**os.environ, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "support.pretended_runs", "--show", *arguments]
    done = subprocess.run(command, cwd=TESTS, env=where, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def large():
    """Runs on a card with room for everything."""
    return run("plain", *MORE_LAUNCHES, "released", *OTHERS)


@pytest.fixture(scope="module")
def small():
    """Runs on a card of 8 GB, with ComfyUI's older memory management."""
    return run("plain", "pair", "--gigabytes", "8")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MORE_LAUNCHES, *OTHERS])
def test_from_the_second_step_on_nothing_waits_for_the_card(large, name):
    assert large[name]["waits"][1:] == [0, 0]
    assert large[name]["copies"][1:] == [0, 0], large[name]["where"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "share"), MORE_LAUNCHES.items())
def test_a_step_launches_few_more_kernels_than_without_people(large, name, share):
    assert large[name]["launches"][-1] <= (1 + share) * large["plain"]["launches"][-1]


@pytest.mark.slow
def test_the_second_run_of_released_does_not_wait(large):
    """In the first one each step is asked whether it is the last."""
    assert large["released"]["waits"][-2:] == [0, 0]
    assert large["released"]["copies"][-2:] == [0, 0]


@pytest.mark.slow
def test_in_the_first_step_one_copy_brings_all_keys_and_values(large):
    assert large["pair"]["copies"][0] <= 5


@pytest.mark.slow
def test_on_8_gb_the_model_stays_whole(small):
    """The adapter makes room for it, as far as that is needed."""
    plain, pair = small["plain"], small["pair"]
    assert pair["moved"][-1] == plain["moved"][-1] < 1 << 20  # no weights
    assert pair["peak"][-1] < 6.8 * GIB
