"""Optimizers of other packages, and a learning rate for each part: they resume bit for bit, and say what is missing."""

import sys

import pytest
import torch
from support.refused import refused

for package in ("accelerate", "diffusers", "jsonargparse", "transformers", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from training.run.checkpoint import RunFolder
from training.run.config import OptimizerConfig
from training.run.logging import read_log
from training.run.loop import train
from training.run.setup import setup

pytestmark = pytest.mark.usefixtures("one_thread", "fresh_accelerate")

PACKAGES = {"prodigy": "prodigyopt", "schedulefree": "schedulefree"}
RATES = {"prodigy": 1.0, "schedulefree": 1e-3}


@pytest.mark.parametrize("name", PACKAGES)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(config, name):
    pytest.importorskip(PACKAGES[name])
    settings = {"optimizer": {"name": name, "learning_rate": RATES[name]}, "checkpoints": {"every": 2, "keep": 3}}
    whole = train(config("whole", steps=5, **settings)).run
    train(config("parts", steps=2, **settings))
    parts = train(config("parts", steps=5, **settings)).run
    one, other = (RunFolder(run).load(5) for run in (whole, parts))
    assert all(torch.equal(value, other.weights[key]) for key, value in one.weights.items())
    assert all(torch.equal(value, other.ema_weights[key]) for key, value in one.ema_weights.items())
    first = RunFolder(whole).load(2)
    assert any(not torch.equal(value, one.weights[key]) for key, value in first.weights.items())


def test_schedule_free_keeps_its_own_average(config):
    """x of the paper, (1 - 1 / beta) z + y / beta, is what a checkpoint has as EMA; the weights stay y."""
    pytest.importorskip("schedulefree")
    run = train(config(steps=3, optimizer={"name": "schedulefree", "betas": (0.9, 0.999), "ema_decay": 0.9})).run
    checkpoint = RunFolder(run).load(3)
    state = checkpoint.state["optimizer"]
    name = next(name for name in checkpoint.weights if name.startswith("face_projection."))
    y, x, z = checkpoint.weights[name], checkpoint.ema_weights[name], state[0]["z"]
    torch.testing.assert_close(x, y / 0.9 + (1 - 1 / 0.9) * z)
    assert not torch.equal(x, y)


def test_prodigy_says_the_rate_that_it_found(config):
    pytest.importorskip("prodigyopt")
    run = train(config(steps=2, optimizer={"name": "prodigy", "learning_rate": 1.0})).run
    assert 0 < read_log(run / "log.jsonl")[-1]["learning_rate"] < 0.1


def test_parts_have_their_own_rates(config):
    rates = {"mapping": 1e-5, "attention": 2e-4}
    state = setup(config(optimizer={"part_learning_rates": rates, "warmup_steps": 0}))
    of = {id(parameter): group["lr"] for group in state.optimizer.param_groups for parameter in group["params"]}
    found = {name.partition(".")[0]: of[id(value)] for name, value in state.adapter.named_parameters()}
    assert found == {"face_projection": 1e-3, "identity_projection": 1e-3, **rates}


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_equal_rates_of_parts_change_nothing(config, kind):
    rates = dict.fromkeys(("face_projection", "identity_projection", "mapping", "attention"), 1e-3)
    one, other = (
        RunFolder(train(config(name, steps=2, optimizer={"name": kind, "part_learning_rates": each})).run)
        .load(2)
        .weights
        for name, each in (("a", {}), ("b", rates))
    )
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_parts_rate_is_that_of_its_matrices_under_muon_too(config):
    """Relative to the others'; and the run resumes with it."""
    settings = {"name": "muon", "muon_lr": 0.02, "part_learning_rates": {"mapping": 1e-4}, "warmup_steps": 0}
    state = setup(config(optimizer=settings))
    of = {id(parameter): group["lr"] for group in state.optimizer.param_groups for parameter in group["params"]}
    found = {
        (name.partition(".")[0], value.ndim == 2, round(of[id(value)], 6))
        for name, value in state.adapter.named_parameters()
    }
    assert {each for each in found if each[0] == "mapping"} == {
        ("mapping", True, 0.002),
        ("mapping", False, 1e-4),
    }
    assert {rate for part, _, rate in found if part != "mapping"} == {0.02, 1e-3}
    whole = train(config("whole", steps=3, optimizer=settings, checkpoints={"every": 2})).run
    train(config("parts", steps=2, optimizer=settings, checkpoints={"every": 2}))
    parts = train(config("parts", steps=3, optimizer=settings, checkpoints={"every": 2})).run
    one, other = (RunFolder(run).load(3).weights for run in (whole, parts))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_rate_of_a_part_that_is_not_trained_is_refused(config):
    with refused("rate-of-an-untrained-part", "mappings", "mapping"):
        setup(config(optimizer={"part_learning_rates": {"mappings": 1e-5}}))


@pytest.mark.parametrize(("name", "package"), [*PACKAGES.items()])
def test_a_package_that_is_missing_is_named(config, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with refused("optimizer-missing", f"pip install {package}"):
        setup(config(optimizer={"name": name, "learning_rate": 1.0}))


@pytest.mark.parametrize(
    ("values", "code", "named"),
    [
        ({"name": "prodigy", "learning_rate": 1e-4}, "setting-out-of-range", "Prodigy finds the rate itself"),
        ({"name": "schedulefree", "schedule": "cosine"}, "setting-out-of-range", "optimizer.schedule"),
        (
            {"name": "prodigy", "learning_rate": 1.0, "part_learning_rates": {"mapping": 1.0}},
            "part-rates-of-another-optimizer",
            "prodigy",
        ),
        ({"part_learning_rates": {"mapping": 0.0}}, "setting-out-of-range", "part_learning_rates.mapping"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(values, code, named):
    with refused(code, named):
        OptimizerConfig(**values)
