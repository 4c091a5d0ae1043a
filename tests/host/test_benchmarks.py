"""The benchmark compares like with like: what it calls the floor draws the pair's picture."""

import sys

import pytest
import torch
from support import comfyui as tests_comfyui

sys.path.append(str(tests_comfyui.REPOSITORY))
from benchmarks.comfyui import Base
from benchmarks.report import memory_table, sampling_table
from benchmarks.variants import known


@pytest.fixture(scope="module")
def base():
    return Base(channels=32, size=64, steps=2)


@pytest.mark.parametrize("masks", ["", "_masks"])
def test_the_floor_draws_what_the_pair_draws(base, masks):
    variants = known()
    floor, pair = (variants[name + masks](base)() for name in ("floor", "pair"))
    plain = variants["plain"](base)()
    assert (floor - pair).abs().max() < 1e-3 * plain.abs().max()
    assert (floor - plain).abs().max() > 1e-2 * plain.abs().max()


@pytest.mark.parametrize("name", ["one_pass", "one_pass_masks", "two_strength", "released"])
def test_every_cascade_runs(base, name):
    assert torch.isfinite(known()[name](base)()).all()


def test_tables_hold_what_was_measured():
    """A row for each measurement, a column for each setting."""
    ratio = {"q1": 1.01, "median": 1.02, "q3": 1.04}
    settings = {"size": 512, "channels": 32, "steps": 20, "rounds": 15}
    told = sampling_table([{"settings": settings, "ratios": {"pair": ratio}}, {"settings": settings, "ratios": {}}])
    assert "| pair | 1.020 (1.010 to 1.040) |  |" in told
    assert "released" not in told
    memory = {"settings": settings, "variants": {"pair": {"peak": 2**30, "share": 1.01}}}
    assert "| pair | 1024 MB, 1.010 of plain and adapter |" in memory_table([memory])


def test_the_flux_benchmark_runs_what_it_says(monkeypatch):
    """Every variant once, on a FLUX of few and narrow blocks."""
    from benchmarks import flux

    monkeypatch.setattr(flux, "DOUBLE", 1)
    monkeypatch.setattr(flux, "SINGLE", 2)
    runs = flux.variants(size=128, width=128, steps=1)
    made = {name: run() for name, run in runs.items()}
    assert list(made) == ["plain", "two_spirit", "two", "four"]
    assert all(torch.isfinite(latent).all() for latent in made.values())
    assert len({float(latent.sum()) for latent in made.values()}) == 4
