"""A run that was killed at any moment and started again ends with the very weights of one that was not.

The runs are processes forked from one that has everything imported, so that killing twenty of them costs seconds.
"""

import json
import multiprocessing
import os
import random
import signal
import time

import pytest
import torch
from safetensors.torch import load_file
from support.shards import make_shards
from support.small_base import make_base, make_config
from support.together import run_together

for package in ("accelerate", "diffusers", "jsonargparse", "transformers", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from training.run.checkpoint import RunFolder

STEPS = 10
CHANGES = {
    "steps": STEPS,
    "data": {"batch_size": 4, "micro_batch_size": 2, "shuffle_buffer": 6},
    "objectives": {"localization": {"weight": 0.1, "word_weight": 0.01}, "face_region": {"weight": 0.5}},
    "optimizer": {"schedule": "cosine"},
    "checkpoints": {"every": 2, "keep": 2},
}

pytestmark = pytest.mark.skipif(os.name == "nt", reason="SIGKILL and fork are POSIX")


def _train(base, shards, run, changes):
    """One process of a run."""
    torch.set_num_threads(1)
    from training.run.loop import train

    train(make_config(base, shards, run, **changes))


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """run, changes -> a started process that trains."""
    base = make_base(tmp_path_factory.mktemp("base"))
    shards = make_shards(
        tmp_path_factory.mktemp("data") / "shards", samples=14, buckets=((64, 64), (64, 96)), references=3
    )
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["training.run.loop", "accelerate", "diffusers", "transformers", "webdataset.tariterators"]
    )

    def make(run, **changes):
        process = context.Process(target=_train, args=(base, shards, run, {**CHANGES, **changes}))
        process.start()
        return process

    return make


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """A run that nothing disturbed, and how long it took."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    start(run, steps=1).join()  # the first one pays for the imports
    began = time.monotonic()
    process = start(run)
    process.join()
    assert process.exitcode == 0
    return run, time.monotonic() - began


def finish(start, run, **changes):
    process = start(run, **changes)
    process.join()
    assert process.exitcode == 0


def same(first, second, step=STEPS):
    """Bit-equal weights, averages, optimiser, place in the data and best score."""
    ours, theirs = RunFolder(first).path(step), RunFolder(second).path(step)
    for name in ("adapter.safetensors", "average.safetensors"):
        found, expected = load_file(ours / name), load_file(theirs / name)
        assert {*found} == {*expected}
        assert [key for key in expected if not torch.equal(found[key], expected[key])] == [], name
    states = [torch.load(path / "state.pt", weights_only=True) for path in (ours, theirs)]
    for number, moments in states[1]["optimiser"].items():
        for key, value in moments.items():
            assert torch.equal(states[0]["optimiser"][number][key], value)
    told = [json.loads((path / "state.json").read_text()) for path in (ours, theirs)]
    for key in ("step", "positions", "smoothed", "score"):
        assert told[0][key] == told[1][key], key


def kill_and_go_on(start, run, duration, kills, chance, **changes):
    """Kill the run again and again, each time at a moment of which nothing is known; then let it end."""
    for _ in range(kills):
        process = start(run, **changes)
        process.join(chance.uniform(0.1, 0.9) * duration)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
    finish(start, run, **changes)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [3])
def test_killed_and_resumed_equals_not_killed(start, whole, tmp_path, kills):
    path, duration = whole
    kill_and_go_on(start, tmp_path / "run", duration, kills, random.Random(kills))
    same(tmp_path / "run", path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_killed_at_twenty_random_moments_and_resumed_equals_not_killed(start, whole, tmp_path, seed):
    path, duration = whole
    kill_and_go_on(start, tmp_path / "run", duration, 2, random.Random(seed))
    same(tmp_path / "run", path)


@pytest.mark.slow
def test_ended_by_sigterm_and_resumed_equals_not_ended(start, whole, tmp_path):
    path, _ = whole
    process = start(tmp_path / "run", logging={"every": 1})
    log = tmp_path / "run" / "log.jsonl"
    while process.is_alive() and not (log.exists() and log.read_text().count("\n") >= 3):
        time.sleep(0.02)
    process.terminate()
    process.join()
    assert process.exitcode == 0
    assert RunFolder(tmp_path / "run").steps()[-1] < STEPS
    finish(start, tmp_path / "run")
    same(tmp_path / "run", path)


@pytest.mark.slow
def test_the_seed_decides_everything(start, whole, tmp_path):
    path, _ = whole
    finish(start, tmp_path / "again")
    same(tmp_path / "again", path)
    finish(start, tmp_path / "other", seed=1)
    name = "step-00000010/adapter.safetensors"
    ours, theirs = (load_file(run / "checkpoints" / name) for run in (tmp_path / "other", path))
    assert not torch.equal(ours["mapping.fc1.weight"], theirs["mapping.fc1.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["muon", "adafactor"])
def test_other_optimisers_resume_exactly_too(start, tmp_path, kind):
    settings = {"optimizer": {"name": kind}}
    finish(start, tmp_path / "whole", **settings)
    process = start(tmp_path / "run", **settings)
    log = tmp_path / "run" / "log.jsonl"
    while process.is_alive() and not (log.exists() and log.read_text().count("\n") >= 5):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    finish(start, tmp_path / "run", **settings)
    same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_a_dual_pathway_killed_and_resumed_equals_not_killed(start, whole, tmp_path):
    """With all of its parts, on the adapter that the undisturbed run trained."""
    identity, duration = whole
    settings = {
        "method": "dual_pathway",
        "init": {"weights": str(identity)},
        "dual": {"train": ["tca", "gates", "router"], "rank": 4, "router_width": 8, "regions": "faces"},
        "objectives": {
            "localization": {"min_layer_size": 16},
            "face_region": {"weight": 0.5},
            "text_consistency": {"weight": 1.0},
            "routing": {"weight": 0.1},
        },
    }
    finish(start, tmp_path / "whole", **settings)
    kill_and_go_on(start, tmp_path / "run", duration, 4, random.Random(5), **settings)
    same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("several", [2, 4])
def test_several_processes_give_one_processs_losses_and_weights(tmp_path, several):
    """At the same global batch, within 1e-5 relative; and a run of several goes on with one."""
    base = make_base(tmp_path / "base")
    shards = make_shards(tmp_path / "shards", samples=14, buckets=((64, 64), (64, 96)), references=3)
    data = {**CHANGES["data"], "micro_batch_size": 4 // several, "validation": shards, "validation_batches": 3}
    changes = {**CHANGES, "steps": 5, "data": data}
    context = multiprocessing.get_context("forkserver")
    for processes, name in ((1, "one"), (several, "several")):
        codes = run_together(context, processes, _train, base, shards, tmp_path / name, changes)
        assert codes == [0] * processes
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("one", "several")]
    for ours, theirs in zip(*([json.loads(line) for line in log] for log in logs), strict=True):
        for name in {"loss", "diffusion", "localization", "face_region", "validation"} & {*ours}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5), (ours["step"], name)
    first, second = (
        load_file(RunFolder(tmp_path / name).path(5) / "adapter.safetensors") for name in ("one", "several")
    )
    for name, value in first.items():
        # Sums of four in another order are rounded otherwise, of which Adam makes parts of a step of 1e-3 where gradients are near 0.
        least = max(1e-5 * value.abs().max().item(), 1e-4 * 1e-3)
        torch.testing.assert_close(second[name], value, rtol=1e-5, atol=least)
    told = [json.loads((RunFolder(tmp_path / name).path(5) / "state.json").read_text()) for name in ("one", "several")]
    assert told[0]["positions"] == told[1]["positions"]
    process = context.Process(target=_train, args=(base, shards, tmp_path / "several", {**changes, "steps": 6}))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert RunFolder(tmp_path / "several").steps()[-1] == 6
