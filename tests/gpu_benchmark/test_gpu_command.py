"""`python -m benchmarks.gpu`: what is kept, what is done again, and what is refused."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError
from support.refused import refused

pytest.importorskip("diffusers", reason="install it with: pip install diffusers transformers accelerate")

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import keeping, parts
from benchmarks.gpu.measure import by_turns, out_of_memory
from benchmarks.gpu.setup import find_setup


@pytest.fixture
def setup(tmp_path):
    return find_setup("cpu", True, tmp_path / "work")


@pytest.fixture
def counted(monkeypatch):
    """A part of two cases that count how often they run; the second one can be made to fail."""
    seen = {"one": 0, "two": 0, "fails": None}

    def case(name):
        seen[name] += 1
        if name == "two" and seen["fails"] is not None:
            raise seen["fails"]
        return {"value": seen[name]}

    made = parts.Part("counts", 1, lambda setup: {name: lambda name=name: case(name) for name in ("one", "two")}, ())
    monkeypatch.setitem(parts.PARTS, "counted", made)
    return seen


def kept(setup, out):
    return json.loads((out / setup.folder / "counted.json").read_text())


def test_a_file_says_on_what_by_which_command_and_when(setup, counted, tmp_path):
    assert command.run_part("counted", setup, tmp_path) == 0
    found = kept(setup, tmp_path)
    assert found["command"] == "python -m benchmarks.gpu --part counted --small"
    assert {"card", "driver", "cuda", "torch", "diffusers", "machine", "size"} <= {*found["setup"]}
    assert found["setup"]["torch"] == torch.__version__
    assert all(len(case["date"]) == 10 for case in found["cases"].values())


def test_what_is_done_is_not_done_again(setup, counted, tmp_path, capsys):
    for _ in range(2):
        assert command.run_part("counted", setup, tmp_path) == 0
    assert (counted["one"], counted["two"]) == (1, 1)
    assert "done before" in capsys.readouterr().out


def test_after_a_kill_the_case_that_was_done_stays(setup, counted, tmp_path):
    counted["fails"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        command.run_part("counted", setup, tmp_path)
    counted["fails"] = None
    assert command.run_part("counted", setup, tmp_path) == 0
    assert (counted["one"], counted["two"]) == (1, 2)


def test_after_its_minutes_no_case_begins(setup, counted, tmp_path):
    assert command.run_part("counted", setup, tmp_path, minutes=0) == 1
    assert list(kept(setup, tmp_path)["cases"]) == ["one"]
    assert command.run_part("counted", setup, tmp_path, minutes=0) == 0


def test_too_little_memory_is_a_result(setup, counted, tmp_path):
    counted["fails"] = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert command.run_part("counted", setup, tmp_path) == 0
    assert kept(setup, tmp_path)["cases"]["two"]["out_of_memory"] == "out of memory"


def test_the_words_about_memory_count_what_was_asked_for(monkeypatch):
    card = type("Card", (), {"total_memory": 12 * 2**30})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: int(10.1 * 2**30))
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 MiB free.")
    assert out_of_memory(error, "cuda") == "out of memory at 12.1 of 12.0 GiB"


def test_an_error_that_is_not_memory_is_not_hidden(setup, counted, tmp_path):
    counted["fails"] = RuntimeError("an illegal memory access")
    with pytest.raises(RuntimeError, match="illegal"):
        command.run_part("counted", setup, tmp_path)


def test_a_full_disk_is_said(setup, counted, tmp_path, monkeypatch):
    counted["fails"] = OSError(28, "No space left on device")
    with refused("work-not-written", "No space left", str(setup.work)):
        command.run_part("counted", setup, tmp_path)
    monkeypatch.setattr(keeping, "atomic_write", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")))
    with refused("result-not-written", "counted.json"):
        command.run_part("counted", setup, tmp_path / "other")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("No space left on device")])
def test_a_disk_that_fills_up_on_the_way_is_said_whoever_writes(setup, counted, tmp_path, error):
    counted["fails"] = error
    with refused("work-not-written", "No space left"):
        command.run_part("counted", setup, tmp_path)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_made(setup, counted, tmp_path, monkeypatch):
    part = dataclasses.replace(parts.PARTS["counted"], gigabytes=8)
    monkeypatch.setitem(parts.PARTS, "counted", part)
    monkeypatch.setattr(command.shutil, "disk_usage", lambda _: SimpleNamespace(free=3e9))
    with refused("no-room-for-work", "8 GB", "3.0 GB", "--work"):
        command.run_part("counted", dataclasses.replace(setup, small=False), tmp_path)
    assert counted["one"] == 0


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "other", "part": "counted", "setup": {}, "cases": {}}'])
def test_a_broken_result_is_refused(setup, counted, tmp_path, content):
    path = tmp_path / setup.folder / "counted.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with refused("not-a-gpu-result" if "other" in content else "result-not-read", "counted.json"):
        command.run_part("counted", setup, tmp_path)


@pytest.mark.parametrize(("name", "value"), [("card", "NVIDIA H100"), ("driver", "550.1"), ("torch", "1.0")])
def test_a_result_of_another_card_is_refused(setup, counted, tmp_path, name, value):
    command.run_part("counted", setup, tmp_path)
    path = tmp_path / setup.folder / "counted.json"
    found = json.loads(path.read_text())
    found["setup"][name] = value
    path.write_text(json.dumps(found))
    with refused("result-of-another-setup", value):
        command.run_part("counted", setup, tmp_path)


def test_a_missing_package_is_named(setup, counted, tmp_path, monkeypatch):
    part = parts.Part("", 1, lambda setup: {}, ("no_such_package",))
    monkeypatch.setitem(parts.PARTS, "counted", part)
    with refused("benchmark-package-missing", "no_such_package", "pip install"):
        command.run_part("counted", setup, tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no CUDA device"),
        (["--device", "cpu"], "--small"),
        (["--small", "--device", "cpu"], "--out small"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_what_cannot_be_measured_is_said_in_a_sentence(words, said, capsys):
    assert command.main([*words, "--part", "inference-512"]) == 1
    assert said in capsys.readouterr().err


def test_the_list_says_which_parts_are_done(setup, tmp_path, capsys):
    assert command.main(["--list", "--small", "--device", "cpu", "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in parts.PARTS)


def test_runs_take_turns_and_the_first_is_one():
    seen = []
    told = by_turns({name: lambda name=name: lambda: seen.append(name) for name in ("plain", "pair")}, "cpu", rounds=3)
    assert told["plain"]["ratio"] == 1
    assert told["pair"]["low"] <= told["pair"]["ratio"] <= told["pair"]["high"]
    assert told["pair"]["rounds"] == 3
    assert seen[:2] == ["plain", "pair"]
    assert [sorted(seen[i : i + 2]) for i in (2, 4, 6)] == [["pair", "plain"]] * 3


def test_one_variant_without_memory_leaves_the_others():
    def full():
        raise torch.OutOfMemoryError("out of memory")

    told = by_turns({"plain": lambda: lambda: None, "pair": lambda: full}, "cpu", rounds=1)
    assert told["pair"] == {"out_of_memory": "out of memory"}
    assert told["plain"]["ratio"] == 1


def test_all_parts_run_in_processes_of_their_own_and_a_failed_one_stops_no_other(monkeypatch, tmp_path, capsys):
    ran = []

    def run(words, **_):
        ran.append(words[words.index("--part") + 1])
        assert words[-4:] == ["--device", "cpu", "--out", str(tmp_path)]
        return SimpleNamespace(returncode=int(ran[-1] == "parts2whole"))

    monkeypatch.setattr(command.subprocess, "run", run)
    assert command.main(["--small", "--device", "cpu", "--out", str(tmp_path)]) == 1
    assert ran == list(parts.PARTS)
    assert "Not done: parts2whole" in capsys.readouterr().out
