"""The parts of `python -m benchmarks.gpu` that need a ComfyUI, on tiny models on the CPU."""

import sys

import pytest
from support import comfyui as tests_comfyui

sys.path.append(str(tests_comfyui.REPOSITORY))
from support.gpu_benchmark import run_small

from benchmarks import comfyui, flux
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import comfy
from benchmarks.gpu.setup import find_setup

pytestmark = pytest.mark.slow


def test_runs_in_comfyui(tmp_path):
    cases = run_small("comfyui-sampling", tmp_path)
    assert set(cases["1024px_fp16"]["variants"]) == set(comfy.VARIANTS)


def test_withanyone_on_flux(tmp_path, monkeypatch):
    for name in ("DOUBLE", "SINGLE"):
        monkeypatch.setattr(flux, name, getattr(flux, name))
    cases = run_small("withanyone", tmp_path)
    assert set(cases["512px_bf16"]["variants"]) == {"plain", "two_spirit", "two", "four"}


def test_options_of_comfyui(tmp_path):
    cases = run_small("comfyui-options", tmp_path)
    for case in cases.values():
        assert all(case[name]["finite"] for name in ("plain", "pair", "one_pass"))


def test_an_option_that_is_refused_is_a_result(tmp_path):
    found = comfy._with_flags(find_setup("cpu", True, tmp_path), "--no-such-option")
    assert "--no-such-option" in found["failed"]


def test_the_host_tests_with_the_device(tmp_path):
    [case] = run_small("comfyui-tests", tmp_path).values()
    assert case["passed"] > 10
    assert case["failures"] == []


def test_without_a_comfyui_the_part_is_refused_in_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    words = ["--small", "--device", "cpu", "--part", "comfyui-options", "--out", str(tmp_path / "out")]
    assert command.main(words) == 1
    assert str(tmp_path) in capsys.readouterr().err


def test_comfyui_is_loaded_once():
    assert comfyui.load() is sys.modules["dhd_pack"]
