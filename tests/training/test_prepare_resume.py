"""Prepare killed, sliced, spread over processes, out of space: the shards are the same bytes, and nothing is lost."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("diffusers", reason="install it with: pip install '.[train]'")
for package in ("jsonargparse", "matplotlib", "scipy", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from support.drawn import SETTINGS, analyzer, contents, draw, encoders, prepared, settings_for, world
from support.refused import refused

from training import TrainingError
from training.__main__ import main
from training.data import pipeline
from training.data.pipeline import merge_slices, prepare
from training.data.settings import PrepareSettings

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
BUSY = {"shard_size": 2, "batch_size": 1}  # so that a shard stays half written while its second picture is looked at


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return world(tmp_path_factory.mktemp("world") / "world", good=6)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """What a run without any interruption writes."""
    out = tmp_path_factory.mktemp("whole")
    prepared(data, out, **BUSY)
    return contents(out)


def start(data, out, workers=0):
    words = {**SETTINGS, **BUSY, "workers": workers, "data": data, "out": out}
    words |= {"faces.pack": "support.drawn:analyzer", "faces.min_size": 10, "faces.same_person": 0.995}
    paths = [str(REPOSITORY / "tests"), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, "-m", "training", "prepare", *(f"--{name}={value}" for name, value in words.items())],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "DRAWN_SLOW": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(there, process, seconds=90):
    end = time.monotonic() + seconds
    while not there():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "the run did not come so far"
        time.sleep(0.002)


def test_a_killed_run_writes_the_same(data, whole, tmp_path):
    """SIGKILL: while a shard is being written, between a shard and its journal or so, and at a random moment."""
    chance = random.Random(3)
    finished = 0
    for moment in ("a file half written", "a shard more", "any"):
        process = start(data, tmp_path)
        if moment == "a file half written":
            wait_for(lambda: any(tmp_path.glob(".00000*.part")), process)
        else:
            wait_for(lambda done=finished: len(list(tmp_path.glob("journal/*.json"))) > done, process)
        if moment == "any":
            time.sleep(chance.uniform(0, 0.2))
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        finished = len(list(tmp_path.glob("journal/*.json")))
        for path in tmp_path.glob("*.tar"):  # whatever has its name is whole
            assert path.read_bytes() == whole[path.name]
    assert not (tmp_path / "dataset.json").exists()
    prepared(data, tmp_path, **BUSY)
    assert contents(tmp_path) == whole
    assert not list(tmp_path.rglob("*.part"))


def test_workers_end_with_a_parent_that_was_killed(data, whole, tmp_path):
    psutil = pytest.importorskip("psutil")
    process = start(data, tmp_path, workers=1)
    wait_for(lambda: any(tmp_path.glob("00000*.tar")), process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert psutil.wait_procs(children, timeout=20)[1] == []
    prepared(data, tmp_path, **BUSY)
    assert contents(tmp_path) == whole


def test_a_run_resumes_at_any_file(data, whole, tmp_path, monkeypatch):
    """Stopped before and after every single file gets its name, one run after the other into one folder."""

    class Stopped(BaseException):
        pass

    replace = os.replace
    for run in range(24):
        calls = iter(range(1000))

        def stopping(old, new, calls=calls, run=run):
            if next(calls) != run // 2 % 3:  # the first, second or third file of this run
                replace(old, new)
                return
            if run % 2:
                replace(old, new)
            raise Stopped

        monkeypatch.setattr(os, "replace", stopping)
        with pytest.raises(Stopped):
            prepared(data, tmp_path, **BUSY)
        monkeypatch.setattr(os, "replace", replace)
    prepared(data, tmp_path, **BUSY)
    assert contents(tmp_path) == whole


def test_a_finished_folder_is_not_made_again(data, whole, tmp_path):
    prepared(data, tmp_path, **BUSY)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.tar")}

    class Unused:
        def __getattr__(self, name):
            raise AssertionError("the models are not needed")

    told = prepare(settings_for(data, tmp_path, **BUSY), Unused(), Unused())
    assert "6 samples from 16 pictures" in told
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.tar")} == before


def test_a_damaged_shard_is_made_again(data, whole, tmp_path):
    """A shard that was lost or cut off is made again."""
    prepared(data, tmp_path, **BUSY)
    (tmp_path / "000000.tar").unlink()
    (tmp_path / "000001.tar").write_bytes(b"cut off")
    with refused("shards-missing", "2 of 8", "0 to 1", error=TrainingError):
        merge_slices(PrepareSettings(merge=str(tmp_path)))
    prepared(data, tmp_path, **BUSY)
    assert contents(tmp_path) == whole


def test_slices_of_several_machines_merge_to_the_same(data, whole, tmp_path):
    for part in (3, 1, 2):
        told = prepared(data, tmp_path / str(part), slice=f"{part}/3", **BUSY)
        assert f"The slice {part}/3" in told
        assert "prepare --merge" in told
        shutil.copytree(tmp_path / str(part), tmp_path / "all", dirs_exist_ok=True)
    assert main(["prepare", "--merge", str(tmp_path / "all")]) == 0
    assert contents(tmp_path / "all") == whole
    merge_slices(PrepareSettings(merge=str(tmp_path / "all")))
    assert contents(tmp_path / "all") == whole


def test_slices_in_one_folder_are_merged_by_the_last(data, whole, tmp_path):
    prepared(data, tmp_path, slice="2/2", **BUSY)
    with refused("shards-missing", "4 of 8", "0 to 3", error=TrainingError):
        merge_slices(PrepareSettings(merge=str(tmp_path)))
    assert "Next: python -m training train" in prepared(data, tmp_path, slice="1/2", **BUSY)
    assert contents(tmp_path) == whole


def test_worker_processes_and_this_process_write_the_same(data, whole, tmp_path):
    prepared(data, tmp_path, workers=2, **BUSY)
    assert contents(tmp_path) == whole


def test_a_worker_that_dies_stops_the_run_with_advice(data, tmp_path):
    settings = settings_for(data, tmp_path, workers=1, faces__pack="support.drawn:Deadly", **BUSY)
    with refused("worker-died", "--workers than 1", error=TrainingError):
        prepare(settings, encoders(), analyzer())
    assert not list(tmp_path.rglob("*.part"))


def test_a_full_disk_loses_nothing(data, whole, tmp_path, capsys):
    """The system's own limit on file sizes stands in for the full disk: it stops a write in the middle alike."""
    prepared(data, tmp_path, slice="1/8", **BUSY)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with refused("no-space-left", "000001.tar", "Nothing is lost", error=TrainingError):
            prepared(data, tmp_path, **BUSY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(path.name for path in tmp_path.glob("*.tar*")) == ["000000.tar"]
    prepared(data, tmp_path, **BUSY)
    assert contents(tmp_path) == whole


def test_a_folder_of_other_settings_is_left_alone(data, tmp_path):
    """A folder that was begun with other settings is left alone."""
    prepared(data, tmp_path, slice="1/8", **BUSY)
    with refused("begun-with-other-settings", "references.augmented: 1 -> 2", error=TrainingError):
        prepared(data, tmp_path, references__augmented=2, **BUSY)
    with refused("begun-with-other-settings", "shard_size: 2 -> 3", error=TrainingError):
        prepared(data, tmp_path, shard_size=3)


def test_pictures_that_came_or_went_meanwhile_are_noticed(tmp_path):
    data = world(tmp_path / "data", good=3, refused=False)
    prepared(data, tmp_path / "out", slice="1/2", **BUSY)
    draw(data / "new.png", [])
    with refused("begun-with-other-settings", "3 then, 4 now", error=TrainingError):
        prepared(data, tmp_path / "out", slice="2/2", **BUSY)


def test_a_folder_with_other_things_is_left_alone(data, tmp_path):
    (tmp_path / "photos.tar").write_bytes(b"")
    with refused("out-holds-other-tars", "--out", error=TrainingError):
        prepared(data, tmp_path)
    (tmp_path / "file").write_text("x")
    with refused("out-is-a-file", "file", error=TrainingError):
        prepared(data, tmp_path / "file")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "plan.json").write_text("{")
    with refused("unreadable-plan", "plan.json", error=TrainingError):
        prepared(data, tmp_path / "broken")
    with refused("no-shards-folder", "plan.json", "--out", error=TrainingError):
        merge_slices(PrepareSettings(merge=str(tmp_path)))


def test_an_interrupted_command_says_that_it_goes_on(monkeypatch, capsys):
    def interrupted(settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "prepare", interrupted)
    assert main(["prepare", "--data", "x", "--out", "y"]) == 130
    assert "the same command goes on from there" in capsys.readouterr().err


def test_the_order_is_not_the_disks(data, whole, tmp_path):
    """The order does not depend on the order of the disk."""
    copied = tmp_path / "world"
    for path in sorted(data.rglob("*"), reverse=True):
        if path.is_file():
            target = copied / path.relative_to(data)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    prepared(copied, tmp_path / "out", **BUSY)
    tars = {name: content for name, content in contents(tmp_path / "out").items() if name.endswith(".tar")}
    assert tars == {name: content for name, content in whole.items() if name.endswith(".tar")}


def test_checksums_are_those_of_the_shards(data, whole):
    import hashlib

    told = json.loads(whole["dataset.json"])
    for shard in told["shards"]:
        assert hashlib.sha256(whole[shard["name"]]).hexdigest() == shard["sha256"]
        assert len(whole[shard["name"]]) == shard["bytes"]
