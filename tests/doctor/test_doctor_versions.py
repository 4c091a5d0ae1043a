"""The doctor on packages and on what ONNX Runtime computes on: all the ways in which they can be wrong."""

import importlib
import shutil
import sys
from types import SimpleNamespace

import pytest
from support.comfyui import REPOSITORY

from dhumandiff.doctor import versions
from dhumandiff.doctor.findings import DAMAGED, MISSING, NOTE, OK
from dhumandiff.doctor.runtime import providers
from dhumandiff.onnx_bytes import tiny_model

REAL = importlib.import_module
CUDA, CPU, TENSORRT = "CUDAExecutionProvider", "CPUExecutionProvider", "TensorrtExecutionProvider"


@pytest.fixture(autouse=True)
def card(monkeypatch):
    """No NVIDIA card, or one, whatever this computer has."""
    there = SimpleNamespace(nvidia=False)
    monkeypatch.setattr(shutil, "which", lambda name: "nvidia-smi" if there.nvidia else None)
    return there


@pytest.fixture
def installed(monkeypatch):
    """Distributions as pip would list them; others are not there."""
    pip = {}
    monkeypatch.setattr(versions, "version", pip.get)
    monkeypatch.setattr("dhumandiff.doctor.runtime.version", pip.get)
    return pip


def importing(monkeypatch, name, result):
    """`import name` gives, or raises, this."""

    def answer(module, package=None):
        if module != name:
            return REAL(module, package)
        if isinstance(result, BaseException):
            raise result
        return result

    monkeypatch.setattr(importlib, "import_module", answer)


def finding(found, name):
    return next(f for f in found if f.name == name)


def test_versions_are_those_that_pip_tells():
    import numpy
    import torch

    assert finding(versions.packages(comfyui=True), "numpy").text == f"numpy {numpy.__version__}"
    text = finding(versions.system("0.33.0", None), "torch").text
    assert f"torch {torch.__version__}, a build for " in text
    assert versions.version("a-package-that-is-not-there") is None


def test_a_missing_package_says_what_for_and_how_to_install_it(monkeypatch, installed):
    importing(monkeypatch, "einops", ModuleNotFoundError("No module named 'einops'", name="einops"))
    found = finding(versions.packages(comfyui=True), "einops")
    assert found.state == MISSING
    assert "turns tensors around" in found.text
    assert found.todo == "python -m pip install einops"


@pytest.mark.parametrize(
    "error",
    [
        AttributeError("_ARRAY_API not found\nmore"),
        SystemExit(3),
        OSError("libcudart.so.12: cannot open shared object file"),
        type("PanicException", (BaseException,), {})("rust"),
    ],
)
def test_an_import_that_raises_something_strange_is_a_finding(monkeypatch, installed, error):
    installed["insightface"] = "2.1"
    importing(monkeypatch, "insightface", error)
    found = finding(versions.face_packages(), "insightface")
    assert found.state == DAMAGED
    assert f"insightface 2.1 is there, but cannot be imported ({type(error).__name__}" in found.text
    assert "pip install --force-reinstall --no-deps insightface" in found.todo
    assert "more" not in found.text


def test_a_package_that_lacks_another_one_names_it(monkeypatch, installed):
    installed["insightface"] = "2.1"
    importing(monkeypatch, "insightface", ModuleNotFoundError("No module named 'cv2'", name="cv2"))
    assert finding(versions.face_packages(), "insightface").todo.startswith("Install what it lacks (cv2).")


def test_the_keyboard_still_interrupts(monkeypatch):
    importing(monkeypatch, "einops", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        versions.packages(comfyui=True)


def test_in_comfyui_diffusers_may_be_missing_and_without_it_may_not(monkeypatch, installed):
    importing(monkeypatch, "diffusers", ModuleNotFoundError("No module named 'diffusers'", name="diffusers"))
    assert finding(versions.packages(comfyui=True), "diffusers").state == NOTE
    found = finding(versions.packages(comfyui=False), "diffusers")
    assert found.state == MISSING
    assert "pip install diffusers transformers accelerate" in found.todo


def test_an_old_comfyui_is_to_be_updated():
    assert finding(versions.system("0.3.63", None), "a newer ComfyUI").state == MISSING
    for version in ("0.3.64", "0.33.0", "1.0", "of unknown version"):
        assert finding(versions.system(version, None), "ComfyUI").state == OK
    assert f'requires-comfyui = ">={versions.OLDEST_COMFYUI}"' in (REPOSITORY / "pyproject.toml").read_text()


def test_the_packages_are_those_of_requirements_txt():
    lines = (REPOSITORY / "requirements.txt").read_text().splitlines()
    assert {package.name for package in versions.ALWAYS} == {line for line in lines if not line.startswith("#")}


# --- torch ------------------------------------------------------------------------------------------------------------


def torch_like(cuda=None, hip=None, card=False, mps=False):
    return SimpleNamespace(
        __version__="2.9.0",
        version=SimpleNamespace(cuda=cuda, hip=hip),
        cuda=SimpleNamespace(is_available=lambda: card, get_device_name=lambda index: "NVIDIA H100"),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps)),
    )


@pytest.mark.parametrize(
    ("torch", "words"),
    [
        ({}, "a build for the CPU; portraits are made on the device cpu"),
        ({"cuda": "12.8", "card": True}, "a build for CUDA 12.8; portraits are made on the device cuda (NVIDIA H100)"),
        ({"hip": "6.4", "card": True}, "a build for ROCm 6.4"),
        ({"mps": True}, "a build for Mac (MPS); portraits are made on the device mps"),
    ],
)
def test_torch_tells_its_build_and_device(monkeypatch, torch, words):
    importing(monkeypatch, "torch", torch_like(**torch))
    assert words in finding(versions.system(None, None), "torch").text


@pytest.mark.parametrize(("build", "todo"), [(None, "install that build"), ("12.8", "Update the NVIDIA driver")])
def test_a_card_that_torch_cannot_use_is_told(monkeypatch, card, build, todo):
    card.nvidia = True
    importing(monkeypatch, "torch", torch_like(cuda=build))
    found = finding(versions.system(None, None), "torch")
    assert found.state == NOTE
    assert todo in found.todo


def test_the_device_of_the_host_is_the_one_that_is_told(monkeypatch):
    importing(monkeypatch, "torch", torch_like(cuda="12.8", card=True))
    assert "on the device cpu" in finding(versions.system("0.33.0", "cpu"), "torch").text


# --- ONNX Runtime -----------------------------------------------------------------------------------------------------


def test_no_runtime_names_the_one_for_this_computer(monkeypatch, installed, card):
    importing(monkeypatch, "onnxruntime", ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime"))
    assert finding(versions.face_packages(), "onnxruntime").todo == "python -m pip install insightface onnxruntime"
    card.nvidia = True
    assert "pip install onnxruntime-gpu" in finding(versions.face_packages(), "onnxruntime").todo
    assert providers() == []


def test_two_runtimes_are_told_with_the_way_back_to_one(installed):
    installed |= {"onnxruntime": "1.23.0", "onnxruntime-gpu": "1.22.0"}
    found = finding(versions.face_packages(), "ONNX Runtime")
    assert found.state == NOTE
    assert "onnxruntime 1.23.0 and onnxruntime-gpu 1.22.0" in found.text
    assert "the CPU one hides the others" in found.text
    assert "pip uninstall -y onnxruntime onnxruntime-gpu, then python -m pip install onnxruntime-gpu" in found.todo


def test_a_runtime_whose_files_went_with_the_other_one_is_installed_again(monkeypatch, installed):
    installed["onnxruntime-gpu"] = "1.22.0"
    importing(monkeypatch, "onnxruntime", ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime"))
    found = finding(versions.face_packages(), "onnxruntime-gpu")
    assert found.state == DAMAGED
    assert "pip install --force-reinstall --no-deps onnxruntime-gpu" in found.todo


def runtime(listed, loads, error=None):
    """An ONNX Runtime that lists providers, of which some load."""

    def session(model, options, providers):
        assert model == tiny_model()
        if error:
            raise error
        return SimpleNamespace(get_providers=lambda: [p for p in providers if p in loads] or [CPU])

    return SimpleNamespace(
        get_available_providers=lambda: listed, SessionOptions=SimpleNamespace, InferenceSession=session
    )


def test_the_real_runtime_runs_the_tiny_model():
    onnxruntime = pytest.importorskip("onnxruntime")
    import numpy as np

    session = onnxruntime.InferenceSession(tiny_model(), providers=[CPU])
    (out,) = session.run(None, {"x": np.array([3.5], np.float32)})
    assert out.tolist() == [3.5]
    found = finding(providers(), "CPU")
    assert (found.state, found.text) == (OK, f"CPU: works (a session says {CPU})")


def test_a_provider_that_is_listed_but_does_not_load_is_told(monkeypatch, installed):
    importing(monkeypatch, "onnxruntime", runtime([TENSORRT, CUDA, CPU], [CPU]))
    found = providers()
    assert finding(found, "CUDA").state == NOTE
    assert f"lists it, but a session then runs on {CPU}" in finding(found, "CUDA").text
    assert "onnxruntime-gpu as the only runtime" in finding(found, "CUDA").todo
    assert finding(found, "CPU").state == OK
    assert TENSORRT in finding(found, "others").text


def test_a_provider_that_loads_is_well(monkeypatch, installed):
    importing(monkeypatch, "onnxruntime", runtime([CUDA, CPU], [CUDA, CPU]))
    assert [f.state for f in providers()] == [OK, OK]


def test_the_gpu_runtime_without_cuda_is_told(monkeypatch, installed):
    installed["onnxruntime-gpu"] = "1.22.0"
    importing(monkeypatch, "onnxruntime", runtime([CPU], [CPU]))
    assert "offers no CUDA" in finding(providers(), "CUDA").text


def test_a_runtime_that_runs_nothing_stands_in_the_way(monkeypatch, installed):
    importing(monkeypatch, "onnxruntime", runtime([CPU], [], RuntimeError("illegal instruction")))
    (found,) = providers()
    assert found.state == DAMAGED
    assert "RuntimeError: illegal instruction" in found.text
    importing(monkeypatch, "onnxruntime", runtime([], []))
    assert [f.state for f in providers()] == [DAMAGED]


def test_nothing_that_is_imported_prints_into_the_report(monkeypatch, tmp_path, capsys):
    (tmp_path / "loud.py").write_text("import warnings; print('hello'); warnings.warn('careful')")
    monkeypatch.syspath_prepend(tmp_path)
    assert versions.attempt("loud")[0] is sys.modules["loud"]
    assert capsys.readouterr() == ("", "")
