"""Checkpoints of a run: what is kept, what is refused, and how a run ends that does not end by itself."""

import itertools
import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file
from support.refused import refused
from support.shards import make_shards
from support.small_base import make_config

for package in ("accelerate", "diffusers", "jsonargparse", "transformers", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from training import TrainingError
from training.data.batch import BatchMaker
from training.run import checkpoint, loop
from training.run.checkpoint import RunFolder, adapter_of_run
from training.run.logging import Logger, read_log
from training.run.loop import train
from training.run.setup import setup
from training.run.shutdown import SignalHandler
from training.train import main as command

pytestmark = pytest.mark.usefixtures("one_thread", "fresh_accelerate")


def weights_of(ended, file="adapter.safetensors"):
    return load_file(ended.checkpoint / file)


def test_a_run_that_is_over_trains_nothing_when_started_again(config, capsys):
    first = train(config(steps=2))
    again = train(config(steps=2))
    assert again.checkpoint == first.checkpoint
    assert "Resuming from" in capsys.readouterr().out


def test_the_folder_alone_resumes_a_run(config, capsys):
    ended = train(config(steps=1))
    command(["--run", str(ended.run), "--steps", "2"])
    assert "Resuming from" in capsys.readouterr().out
    command([f"--run={ended.run}"])  # with the steps that were set last
    assert RunFolder(ended.run).steps()[-1] == 2


def test_the_log_forgets_what_came_after_the_checkpoint_a_run_goes_on_from(config):
    ended = train(config(steps=3))
    with (ended.run / "log.jsonl").open("a") as file:
        file.write(json.dumps({"step": 4, "loss": 9.0}) + '\n{"step": 5, "lo')
    train(config(steps=5))
    assert [entry["step"] for entry in read_log(ended.run / "log.jsonl")] == [1, 2, 3, 4, 5]


def test_a_damaged_log_never_ends_a_run(config):
    ended = train(config(steps=1))
    damage = [b"2", b'{"loss": 1}', b'{"step": "x"}', b'{"step": 1, "loss": "x"}', b"[]", b"\xff\xfe", b"[" * 100_000]
    log = ended.run / "log.jsonl"
    log.write_bytes(log.read_bytes() + b"\n".join(damage) + b"\n")
    train(config(steps=2))
    assert [entry["step"] for entry in read_log(log)] == [1, 2]


@pytest.mark.parametrize(("name", "board"), [("log.jsonl", False), ("config.yaml", False), ("tensorboard", True)])
def test_a_run_folder_in_disorder_is_named(config, tmp_path, name, board):
    path = tmp_path / "run" / name
    path.parent.mkdir()
    path.write_text("x") if board else path.mkdir()
    if board:
        pytest.importorskip("tensorboard")
    with pytest.raises(TrainingError) as caught:
        train(config(steps=1, logging={"tensorboard": board}))
    assert caught.value.code in ("log-not-written", "file-not-written")
    assert str(path) in str(caught.value)
    assert "there is a folder of this name, or a file in the place of a folder" in str(caught.value)


def test_the_last_checkpoints_and_the_best_one_are_kept(config, monkeypatch):
    scores = iter([3.0, 1.0, 2.0, 4.0, 5.0])
    monkeypatch.setattr(loop, "validate", lambda *_: next(scores))
    made = config(steps=5, checkpoints={"every": 1, "keep": 2})
    made.data.validation = made.data.folders
    ended = train(made)
    run = RunFolder(ended.run)
    assert run.steps() == [2, 4, 5]
    assert run.best() == 2
    assert torch.equal(
        adapter_of_run(ended.run).mapping.fc1.weight,
        load_file(run.path(2) / "average.safetensors")["mapping.fc1.weight"],
    )


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"init": {"face_width": 128}}, "adapter.face_projection"),
        ({"data": {"micro_batch_size": 4}}, "data.micro_batch_size: 2 -> 4"),
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"init": {"subject_path": False}}, "adapter.identity_projection"),
        ({"optimizer": {"name": "adafactor"}}, "optimizer.name: 'adamw' -> 'adafactor'"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused_with_what_differs(config, changes, named):
    train(config(steps=1))
    with refused("run-of-another-configuration", named, "--run"):
        train(config(steps=2, **changes))


def test_a_run_on_other_shards_is_refused(config, small_base, tmp_path):
    train(config(steps=1))
    other = make_shards(tmp_path / "other", samples=200, per_shard=1)
    with refused("run-of-another-configuration", "shards: ", "-> [[['000000.tar', 1]", "config.yaml") as caught:
        train(make_config(small_base, other, tmp_path / "run", steps=2))
    assert len(str(caught.value)) < 600  # 200 shards are cut short


def test_a_changed_rate_is_told_and_taken(config, capsys):
    train(config(steps=2))
    ended = train(config(steps=3, optimizer={"learning_rate": 5e-4}))
    assert (
        "Changed since the checkpoint: steps: 2 -> 3; optimizer.learning_rate: 0.001 -> 0.0005."
        in capsys.readouterr().out
    )
    assert read_log(ended.run / "log.jsonl")[-1]["learning_rate"] == pytest.approx(5e-4)


def test_a_damaged_checkpoint_is_named(config):
    ended = train(config(steps=1))
    (ended.checkpoint / "state.pt").write_bytes(b"nothing")
    with refused("checkpoint-damaged", "step-00000001"):
        train(config(steps=2))


def test_nan_stops_with_the_samples_written_down_and_the_checkpoint_intact(config, monkeypatch):
    first = train(config(steps=2))
    real = BatchMaker.__call__

    def spoil(self, samples, draws, lane):
        batch = real(self, samples, draws, lane)
        batch.latents[:] = float("nan")
        return batch

    monkeypatch.setattr(BatchMaker, "__call__", spoil)
    with refused("loss-not-finite", "Step 3", "nan-step-00000003-process-0.json"):
        train(config(steps=4))
    told = json.loads((first.run / "nan-step-00000003-process-0.json").read_text())
    assert len(told["samples"]) == 4
    assert all("sample 0000" in sample["name"] and 0 <= sample["level"] < 1 for sample in told["samples"])
    assert RunFolder(first.run).steps() == [2]


def test_a_shard_that_breaks_off_ends_the_run_with_what_was_learnt_saved(small_base, tmp_path):
    shards = make_shards(tmp_path / "shards", samples=16, per_shard=8)
    shard = shards / "000001.tar"
    shard.write_bytes(shard.read_bytes()[:9000])
    made = make_config(
        small_base, shards, tmp_path / "run", steps=50, data={"shuffle_buffer": 2, "prefetch": 1, "batch_size": 2}
    )
    with refused("damaged-shard", "000001.tar"):
        train(made)
    steps = RunFolder(made.run).steps()
    assert steps == [] or steps[-1] >= 1  # none, when the broken shard comes first


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends(config, number, capsys, monkeypatch):
    before = signal.getsignal(signal.SIGINT)  # ignored, where the tests run in the background
    steps = itertools.count(1)
    monkeypatch.setattr(Logger, "step", lambda *_: os.kill(os.getpid(), number) if next(steps) == 3 else None)
    ended = train(config(steps=100000, logging={"every": 1000}))
    assert ended.signal == number
    assert 3 <= ended.step < 100
    assert RunFolder(ended.run).steps() == [ended.step]
    assert "Finishing this step, then saving" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_twice_ends_at_once():
    with SignalHandler() as signals:
        signal.raise_signal(signal.SIGINT)
        assert signals.requested == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_no_room_for_a_checkpoint_is_told_and_the_earlier_one_is_intact(config, monkeypatch):
    first = train(config(steps=2))
    before = weights_of(first)
    usage = checkpoint.shutil.disk_usage(first.run)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with refused("checkpoint-not-written", "no space left on the disk", "step 2"):
        train(config(steps=3))
    monkeypatch.undo()
    assert [path.name for path in (first.run / "checkpoints").iterdir()] == ["step-00000002"]
    assert all(torch.equal(value, before[name]) for name, value in weights_of(first).items())
    assert train(config(steps=3)).step == 3


def test_a_disk_that_fills_up_while_writing_leaves_nothing_half_written(config, monkeypatch):
    first = train(config(steps=1))

    def full(*_):
        raise RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos 64 vs 0")

    monkeypatch.setattr(checkpoint.torch, "save", full)
    with refused("checkpoint-not-written", "disk is full", "step 1"):
        train(config(steps=2))
    assert [path.name for path in (first.run / "checkpoints").iterdir()] == ["step-00000001"]


def test_what_a_killed_process_left_half_written_is_removed(config):
    first = train(config(steps=1))
    for name in (".step-00000002.part", ".step-00000000.gone"):
        (first.run / "checkpoints" / name).mkdir()
    train(config(steps=2))
    assert sorted(path.name for path in (first.run / "checkpoints").iterdir()) == ["step-00000001", "step-00000002"]


def test_the_names_on_the_disk_stay_those_of_the_first_version(config):
    """Runs made by any version are resumed; whoever renames a part of the state changes checkpoint.py's tables, not these."""
    ended = train(config(steps=1))
    assert sorted(path.name for path in ended.checkpoint.iterdir()) == [
        "adapter.safetensors",
        "average.safetensors",
        "state.json",
        "state.pt",
    ]
    info = json.loads((ended.checkpoint / "state.json").read_text())
    assert {*info} == {"format", "version", "step", "smoothed", "positions", "score", "config", "agree", "contents"}
    assert (info["format"], info["version"]) == ("dhumandiff-checkpoint", 1)
    parts = {"base", "adapter", "learning", "shards", "seed", "optimiser.kind"}
    assert {*info["agree"]} == parts | {"data.batch", "data.micro_batch", "data.shuffle"}
    state = torch.load(ended.checkpoint / "state.pt", weights_only=True)
    assert {*state} == {"optimiser", "scheduled", "averaged", "scaler", "random"}


def test_a_state_that_is_loaded_is_the_state_that_was_given(config):
    train(config(steps=2))
    state = setup(config(steps=2))  # resumes
    before = state.state_dict()
    other = setup(config("other", steps=2))
    assert not torch.equal(other.adapter.mapping.fc1.weight, state.adapter.mapping.fc1.weight)
    other.load_state_dict(before)
    after = other.state_dict()
    assert {*after} == {*before}
    for name in ("step", "smoothed_loss", "stream_positions", "ema_steps", "scheduler"):
        assert after[name] == before[name]
    for name in ("adapter", "ema"):
        assert all(torch.equal(after[name][key], value) for key, value in before[name].items())
    for number, moments in before["optimizer"].items():
        assert all(torch.equal(after["optimizer"][number][key], value) for key, value in moments.items())
