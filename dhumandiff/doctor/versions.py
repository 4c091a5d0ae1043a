"""Versions: Python, ComfyUI, torch, and the packages that a portrait needs."""

from __future__ import annotations

import contextlib
import importlib
import io
import platform
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from .. import __version__
from ..errors import short_error
from .findings import DAMAGED, MISSING, NOTE, OK, Finding
from .folders import PROJECT

__all__ = ["OLDEST_COMFYUI", "attempt", "face_packages", "packages", "pip", "system", "version"]

OLDEST_COMFYUI = "0.3.64"

RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml")
"""Distributions that all install a package called onnxruntime, each over the other's files."""


@dataclass(frozen=True)
class Package:
    """A package by the name it is imported by, that of its distribution, and what it is for."""

    module: str
    purpose: str
    distribution: str = ""

    @property
    def name(self) -> str:
        """What pip calls it."""
        return self.distribution or self.module


ALWAYS = (
    Package("safetensors", "reads weights"),
    Package("huggingface_hub", "fetches the released weights"),
    Package("einops", "turns tensors around"),
    Package("numpy", "computes with pictures"),
    Package("PIL", "opens photos", "pillow"),
    Package("scipy", "matches faces with people"),
    Package("tqdm", "shows progress"),
)
"""What requirements.txt installs."""

WITHOUT_COMFYUI = (
    Package("diffusers", "runs SDXL without ComfyUI"),
    Package("transformers", "runs the text and image encoders without ComfyUI"),
    Package("accelerate", "loads models without ComfyUI"),
)

INSIGHTFACE = Package("insightface", "finds faces and tells them apart")
OPENCV = Package("cv2", "aligns faces", "opencv-python-headless")


def system(comfyui: str | None, device: str | None) -> list[Finding]:
    """The pack, Python, ComfyUI and torch.

    Args:
        comfyui: its version; None where there is none.
        device: where the host computes; None: the best there is.
    """
    where = f"{platform.system()} {platform.release()}, {platform.machine()}"
    found = [
        Finding(OK, "DHumanDiff", f"DHumanDiff {__version__}"),
        Finding(OK, "Python", f"Python {platform.python_version()} on {where}; `python` below is {sys.executable}"),
    ]
    return [*found, _comfyui(comfyui), _torch(device)]


def _comfyui(comfyui: str | None) -> Finding:
    if comfyui is None and PROJECT.parent.name == "custom_nodes":
        text = "This is about portraits without ComfyUI, but the pack lies in a ComfyUI."
        return Finding(NOTE, "ComfyUI", text, "For ComfyUI: python -m dhumandiff doctor --models ../../models")
    if comfyui is None:
        return Finding(
            OK, "ComfyUI", "portraits without ComfyUI (for those in ComfyUI, give its models folder: --models)"
        )
    numbers = [int(number) for number in re.findall(r"\d+", comfyui)[:3]]
    if numbers and numbers < [int(number) for number in OLDEST_COMFYUI.split(".")]:
        return Finding(MISSING, "a newer ComfyUI", f"ComfyUI {comfyui}; {OLDEST_COMFYUI} is needed.", "Update ComfyUI.")
    return Finding(OK, "ComfyUI", f"ComfyUI {comfyui}")


def _torch(device: str | None) -> Finding:
    torch, error = attempt("torch")
    if error is not None:
        return _cannot(
            Package("torch", "computes everything"), error, "Install it: https://pytorch.org/get-started/locally/"
        )
    cuda, hip = getattr(torch.version, "cuda", None), getattr(torch.version, "hip", None)
    mps = torch.backends.mps.is_available()
    build = f"CUDA {cuda}" if cuda else f"ROCm {hip}" if hip else "Mac (MPS)" if mps else "the CPU"
    best = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    device = device or best
    card = f" ({torch.cuda.get_device_name(0)})" if best == "cuda" and device.startswith("cuda") else ""
    text = f"torch {torch.__version__}, a build for {build}; portraits are made on the device {device}{card}"
    if best == "cpu" and shutil.which("nvidia-smi"):
        todo = "Choose your CUDA version on https://pytorch.org/get-started/locally/ and install that build."
        if cuda:
            todo = "Update the NVIDIA driver, and restart the computer."
        return Finding(NOTE, "torch", f"{text}. This computer seems to have an NVIDIA card, which it cannot use.", todo)
    return Finding(OK, "torch", text)


def packages(comfyui: bool) -> list[Finding]:
    """What the pack needs besides face recognition. With ComfyUI, diffusers' family may be missing and is not imported."""
    found = [_package(package, pip(package.name)) for package in ALWAYS]
    line = pip(*(package.name for package in WITHOUT_COMFYUI))
    for package in WITHOUT_COMFYUI:
        if not comfyui:
            found.append(_package(package, line))
        elif version(package.name):
            found.append(Finding(OK, package.name, f"{package.name} {version(package.name)}"))
        else:
            text = f"{package.name}: not installed. It {package.purpose}; in ComfyUI it is not needed."
            found.append(Finding(NOTE, package.name, text, f"Nothing, or: {line}"))
    return found


def face_packages() -> list[Finding]:
    """InsightFace, ONNX Runtime and OpenCV, in all the ways in which they can be wrong together. The first may be missing."""
    insightface, opencv = _package(INSIGHTFACE, _install_faces()), _package(OPENCV, pip(OPENCV.name))
    if insightface.state == MISSING:
        text = f"{insightface.text} Without it face packs run on ONNX Runtime alone, with the same results."
        insightface = Finding(NOTE, insightface.name, text, insightface.todo)
    return [insightface, _runtime(), opencv]


def _runtime() -> Finding:
    package = Package("onnxruntime", "runs the face models")
    there = {name: version(name) for name in RUNTIMES if version(name)}
    module, error = attempt(package.module)
    names = " and ".join(f"{name} {number}" for name, number in there.items())
    keep = "onnxruntime-directml" if "onnxruntime-directml" in there else "onnxruntime-gpu"
    if len(there) > 1:
        text = f"{names}: more than one ONNX Runtime. They share a folder, so the CPU one hides the others."
        todo = f"python -m pip uninstall -y {' '.join(there)}, then {pip(keep)} (without a graphics card: onnxruntime)"
        return Finding(NOTE if module else DAMAGED, "ONNX Runtime", text, todo)
    if error is not None and there:
        (name,) = there
        text = f"{names} is installed, but cannot be imported ({short_error(error, kind=True)}). It {package.purpose}."
        return Finding(DAMAGED, name, text, pip("--force-reinstall", "--no-deps", name))
    if error is not None:
        return _cannot(package, error, _install_faces())
    return Finding(OK, "onnxruntime", names or f"onnxruntime {getattr(module, '__version__', 'of unknown version')}")


def _install_faces() -> str:
    if shutil.which("nvidia-smi"):
        gpu = pip("onnxruntime-gpu", "onnx", "opencv-python-headless", "requests", "scikit-image", "scipy")
        return (
            f"{gpu}, then {pip('--no-deps', 'insightface')}. Not onnxruntime beside it: the CPU build hides the other."
        )
    return pip("insightface", "onnxruntime")


def _package(package: Package, todo: str) -> Finding:
    module, error = attempt(package.module)
    if error is not None:
        return _cannot(package, error, todo)
    number = version(package.name) or getattr(module, "__version__", "of unknown version")
    return Finding(OK, package.name, f"{package.name} {number}")


def _cannot(package: Package, error: BaseException, todo: str) -> Finding:
    number = version(package.name)
    absent = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
    if absent == package.module and not number:
        return Finding(MISSING, package.name, f"{package.name}: not installed. It {package.purpose}.", todo)
    if package.module != "torch" and absent == package.module:
        todo = pip("--force-reinstall", "--no-deps", package.name)
    elif package.module != "torch" and absent:
        todo = f"Install what it lacks ({absent}). {todo}"
    elif package.module != "torch":
        todo = f"{pip('--force-reinstall', '--no-deps', package.name)}; when that does not help, send this text."
    text = f"{package.name} {number or ''} is there, but cannot be imported ({short_error(error, kind=True)}). It {package.purpose}."
    return Finding(DAMAGED, package.name, text, todo)


def pip(*names: str) -> str:
    """The line that installs packages into this Python."""
    return f"python -m pip install {' '.join(names)}"


def version(distribution: str) -> str | None:
    """The version that pip would tell, or None."""
    try:
        return metadata.version(distribution)
    except Exception:  # not there, or a half-removed one whose files cannot be read
        return None


def attempt(module: str) -> tuple[Any, BaseException | None]:
    """(the module, None), or (None, what its import raised)."""
    try:
        with _silence():
            return importlib.import_module(module), None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a package may exit at import, and a panic of one written in Rust is no Exception
        return None, error


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep what packages print and warn of at import out of the report."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
