"""The time before it starts: arithmetic that is counted, on a device that is measured."""

import re

import pytest
import torch

for package in ("accelerate", "diffusers", "jsonargparse", "transformers", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from training.run import time_estimate
from training.run.estimate import dry_run
from training.run.time_estimate import operations, speed, time_line


def test_a_linear_layer_takes_two_operations_a_weight_and_sample_three_times():
    """Forward, the gradient of the weights, and that of what goes in."""
    weight = torch.empty(30, 20, device="meta", requires_grad=True)
    given = torch.empty(7, 20, device="meta", requires_grad=True)
    assert operations(lambda: given @ weight.T) == 3 * 2 * 7 * 20 * 30


def test_a_frozen_layer_takes_a_third_less():
    weight = torch.empty(30, 20, device="meta")
    given = torch.empty(7, 20, device="meta", requires_grad=True)
    assert operations(lambda: given @ weight.T) == 2 * 2 * 7 * 20 * 30


def test_this_device_has_a_speed():
    assert 1e8 < speed(torch.device("cpu"), torch.float32, seconds=0.05) < 1e15


def test_the_line_is_the_quotient(monkeypatch):
    monkeypatch.setattr(time_estimate, "speed", lambda *_: 1e12)
    line = time_line(4e12, 900, torch.device("cpu"), torch.float32)
    assert line.startswith("2 h 30 min or more on this cpu")
    assert "4 TFLOP a step" in line


@pytest.mark.usefixtures("one_thread", "fresh_accelerate")
def test_dry_run_tells_it(config, monkeypatch):
    monkeypatch.setattr(time_estimate, "speed", lambda *_: 1e9)
    short, long = (
        next(line for line in dry_run(config("x", steps=steps)).splitlines() if line.startswith("Time"))
        for steps in (1000, 3000)
    )
    assert "An estimate" in short
    found = [re.search(r"(?:(\d+) h )?(\d+) min", line).groups(default="0") for line in (short, long)]
    minutes = [60 * int(hours) + int(rest) for hours, rest in found]
    assert minutes[1] == pytest.approx(3 * minutes[0], abs=3)
    assert minutes[0] > 5
