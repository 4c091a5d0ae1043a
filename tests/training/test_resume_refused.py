"""What a run does not resume from: other data, another base, a folder in use, a checkpoint that lacks or hides something."""

import json
import multiprocessing
import os
import shutil
import socket
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.refused import refused
from support.shards import make_shards
from support.small_base import make_base, make_config

for package in ("accelerate", "diffusers", "jsonargparse", "transformers", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from training.run.checkpoint import RunFolder
from training.run.lock import LOCK, run_lock
from training.run.loop import train

pytestmark = pytest.mark.usefixtures("one_thread", "fresh_accelerate")


# Other data, another base


def test_other_pictures_under_the_same_names_are_refused(small_base, tmp_path):
    shards = make_shards(tmp_path / "shards", samples=8, references=3)
    train(make_config(small_base, shards, tmp_path / "run", steps=1))
    shutil.rmtree(shards)
    make_shards(shards, samples=8, references=3, seed=9)
    with refused("run-with-other-data", "run", "2 of 2 shards", "--run"):
        train(make_config(small_base, shards, tmp_path / "run", steps=2))
    shutil.rmtree(shards)
    make_shards(shards, samples=8, references=3)
    moved = shards.rename(tmp_path / "moved")  # the same data elsewhere
    assert train(make_config(small_base, moved, tmp_path / "run", steps=2)).step == 2


def test_data_of_another_checksum_is_refused(small_base, tmp_path):
    shards = make_shards(tmp_path / "shards", samples=8, references=3)
    header = json.loads((shards / "dataset.json").read_text())
    for number, shard in enumerate(header["shards"]):
        shard["sha256"] = f"{number:064x}"
    (shards / "dataset.json").write_text(json.dumps(header))
    train(make_config(small_base, shards, tmp_path / "run", steps=1))
    header["shards"][1]["sha256"] = "f" * 64
    (shards / "dataset.json").write_text(json.dumps(header))
    with refused("run-with-other-data", "1 of 2 shards"):
        train(make_config(small_base, shards, tmp_path / "run", steps=2))


def test_other_shards_beside_an_old_description_are_refused(small_base, tmp_path):
    """dataset.json says what it said, and its checksums are those of other files."""
    shards = make_shards(tmp_path / "shards", samples=8, references=3)
    other = make_shards(tmp_path / "other", samples=8, references=3, seed=9)
    for folder in (shards, other):
        header = json.loads((folder / "dataset.json").read_text())
        header["shards"] = [{**shard, "sha256": "a" * 64} for shard in header["shards"]]
        (folder / "dataset.json").write_text(json.dumps(header))
    train(make_config(small_base, shards, tmp_path / "run", steps=1))
    for tar in other.glob("*.tar"):
        shutil.copy(tar, shards)
    with refused("run-with-other-data", "2 of 2 shards"):
        train(make_config(small_base, shards, tmp_path / "run", steps=2))


def test_a_shard_of_another_size_than_its_description_is_refused(small_base, tmp_path):
    shards = make_shards(tmp_path / "shards", samples=8, references=3)
    header = json.loads((shards / "dataset.json").read_text())
    for shard in header["shards"]:
        shard["bytes"] = (shards / shard["name"]).stat().st_size
    header["shards"][1]["bytes"] += 512
    (shards / "dataset.json").write_text(json.dumps(header))
    with refused("shard-of-another-size", header["shards"][1]["name"], "dataset.json"):
        train(make_config(small_base, shards, tmp_path / "run", steps=1))


def test_shards_behind_a_url_without_checksums_are_compared(small_base, tmp_path):
    shards = make_shards(tmp_path / "shards", samples=8, references=3)
    url = shards.as_uri()
    train(make_config(small_base, url, tmp_path / "run", steps=1))
    assert train(make_config(small_base, url, tmp_path / "run", steps=2)).step == 2
    shutil.rmtree(shards)
    make_shards(shards, samples=8, references=3, seed=9)
    with refused("run-with-other-data", "2 of 2 shards"):
        train(make_config(small_base, url, tmp_path / "run", steps=3))


def test_another_base_of_the_same_sizes_is_refused_and_the_same_elsewhere_is_not(small_shards, tmp_path):
    base = make_base(tmp_path / "base")
    train(make_config(base, small_shards, tmp_path / "run", steps=1))
    moved = base.rename(tmp_path / "moved")
    make_base(base, seed=1)
    with refused("run-on-another-base", str(base), "other weights"):
        train(make_config(base, small_shards, tmp_path / "run", steps=2))
    assert train(make_config(moved, small_shards, tmp_path / "run", steps=2)).step == 2


def test_other_validation_data_under_the_same_names_are_said(small_base, small_shards, tmp_path, capsys):
    held_out = make_shards(tmp_path / "held_out", samples=4)
    data = {"validation": [held_out], "validation_batches": 1}
    train(make_config(small_base, small_shards, tmp_path / "run", steps=1, data=data))
    train(make_config(small_base, small_shards, tmp_path / "run", steps=2, data=data))
    assert "scores before and after are not comparable" not in capsys.readouterr().out
    shutil.rmtree(held_out)
    make_shards(held_out, samples=4, seed=5)
    train(make_config(small_base, small_shards, tmp_path / "run", steps=3, data=data))
    assert "scores before and after are not comparable" in capsys.readouterr().out


def test_a_run_of_an_earlier_version_has_no_checksums_and_is_resumed(config):
    ended = train(config(steps=1))
    path = ended.checkpoint / "state.json"
    info = json.loads(path.read_text())
    del info["contents"]
    path.write_text(json.dumps(info))
    assert train(config(steps=2)).step == 2


# Two processes


def _hold(folder, ready, over):
    with run_lock(folder):
        ready.set()
        over.wait(60)


def test_two_processes_never_train_on_one_folder(config, tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, over = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "run", ready, over))
    other.start()
    assert ready.wait(60)
    with refused("run-in-use", "run", f"process {other.pid} on {socket.gethostname()}", "--run"):
        train(config(steps=1))
    other.kill()  # whatever it leaves behind is no lock
    other.join()
    assert (tmp_path / "run" / LOCK).is_file()
    assert train(config(steps=1)).step == 1
    assert not (tmp_path / "run" / LOCK).exists()


class BytesLocked:
    """Windows' msvcrt as Microsoft describes it: a byte of a file is one process's until that unlocks it or ends."""

    LK_UNLCK, LK_NBLCK = 0, 2

    def __init__(self):
        self.held = {}

    def locking(self, handle, mode, count):
        byte = (os.fstat(handle).st_ino, os.lseek(handle, 0, os.SEEK_CUR), count)
        if (mode == self.LK_NBLCK) == (byte in self.held):
            raise PermissionError(13, "Permission denied")
        if mode == self.LK_NBLCK:
            self.held[byte] = handle
        else:
            del self.held[byte]


def test_the_lock_of_windows_holds_and_ends(tmp_path, monkeypatch):
    windows = BytesLocked()
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", windows)
    with run_lock(tmp_path / "run"):
        assert len(windows.held) == 1
        with refused("run-in-use", f"process {os.getpid()}"), run_lock(tmp_path / "run"):
            pass
        assert (tmp_path / "run" / LOCK).is_file()
    assert windows.held == {}
    assert not (tmp_path / "run").exists()
    with run_lock(tmp_path / "run"), run_lock(tmp_path / "another"):
        assert len(windows.held) == 2


def test_a_run_that_is_refused_leaves_no_folder(config, small_shards, tmp_path):
    with refused("shards-for-another-base"):
        train(make_config(make_base(tmp_path / "base", kind="sd15"), small_shards, tmp_path / "run", steps=1))
    assert not (tmp_path / "run").exists()
    assert not os.path.lexists(tmp_path / "run" / LOCK)


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_loaded(config, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr("training.run.loop.setup", None)
    with refused("run-folder-not-written", "file"):
        train(config("file/run", steps=1))


# Missing and damaged parts


@pytest.fixture(scope="module")
def trained(small_base, small_shards, tmp_path_factory):
    """A run of one step, to be copied."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    ended = train(make_config(small_base, small_shards, tmp_path_factory.mktemp("trained") / "run", steps=1))
    torch.set_num_threads(threads)
    return ended.run


def change_json(**values):
    def change(folder):
        info = json.loads((folder / "state.json").read_text())
        for name, value in values.items():
            if value is None:
                del info[name]
            else:
                info[name] = value
        (folder / "state.json").write_text(json.dumps(info))

    return change


def change_tensors(**values):
    def change(folder):
        state = torch.load(folder / "state.pt", weights_only=True)
        for name, value in values.items():
            if value is None:
                del state[name]
            else:
                state[name] = value
        torch.save(state, folder / "state.pt")

    return change


def change_weights(name, how):
    def change(folder):
        from safetensors import safe_open

        with safe_open(folder / name, "pt") as file:
            metadata = file.metadata()
        tensors = load_file(folder / name)
        tensors["mapping.fc1.weight"] = how(tensors["mapping.fc1.weight"])
        save_file(tensors, folder / name, metadata=metadata)

    return change


def in_a_folders_place(name):
    def change(folder):
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


def change_moments(folder):
    state = torch.load(folder / "state.pt", weights_only=True)
    state["optimiser"][0]["exp_avg"] = torch.zeros(3)
    torch.save(state, folder / "state.pt")


@pytest.mark.parametrize(
    "change",
    [
        *(change_json(**{name: None}) for name in ("step", "score", "smoothed", "positions", "config", "agree")),
        *(change_json(step=value) for value in (-1, 2, "1", True, 1.0)),
        *(change_json(score=value) for value in ("low", float("nan"), [])),
        *(change_json(positions=value) for value in ([], {}, {"0": {}}, {"0": []}, {"x": 1})),
        change_json(agree={}),
        change_json(config={}),
        change_json(config=[]),
        *(change_tensors(**{name: None}) for name in ("optimiser", "scheduled", "averaged", "scaler", "random")),
        *(change_tensors(**{name: "x"}) for name in ("optimiser", "scheduled", "averaged", "scaler", "random")),
        change_tensors(averaged=-1),
        change_tensors(random=[{}]),
        change_tensors(optimiser={0: []}),
        change_moments,
        change_weights("average.safetensors", lambda weight: weight[:1]),
        change_weights("average.safetensors", lambda weight: weight * float("nan")),
        change_weights("adapter.safetensors", lambda weight: weight + float("inf")),
        *(in_a_folders_place(name) for name in ("state.json", "state.pt", "adapter.safetensors", "average.safetensors")),
        *(lambda folder, name=name: (folder / name).unlink() for name in ("state.pt", "adapter.safetensors", "average.safetensors")),
        lambda folder: (folder / "state.json").write_text("[" * 100_000),
    ],
)  # fmt: skip
def test_a_checkpoint_that_lacks_or_hides_something_is_named(config, trained, tmp_path, change):
    shutil.copytree(trained, tmp_path / "run")
    change(RunFolder(tmp_path / "run").path(1))
    with refused("checkpoint-damaged", "step-00000001"):
        train(config(steps=2))


def test_a_damaged_checkpoint_among_several_is_named_before_training(config):
    ended = train(config(steps=2, checkpoints={"every": 1}))
    (RunFolder(ended.run).path(1) / "state.json").write_text("{}")
    with refused("checkpoint-damaged", "step-00000001"):
        train(config(steps=3))


def test_files_in_a_leftovers_place_are_removed(config, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / ".step-00000002.part").write_text("x")
    assert train(config(steps=2)).step == 2
