"""Fixtures that several rooms share: real faces, and the models that find them. Says what did not run, and why."""

import os
from pathlib import Path

import pytest
from support.comfyui import why_not


@pytest.fixture(scope="session")
def faces_root() -> Path:
    """The folder with `models/mini` (a small InsightFace pack) and `photos/`; skips, saying what to set, when absent."""
    root = Path(os.environ.get("DHUMANDIFF_TEST_FACES") or Path(__file__).parents[2] / "shared" / "faces")
    if not (root / "models" / "mini").is_dir() or not (root / "photos").is_dir():
        pytest.skip(f"no real faces at {root}: set DHUMANDIFF_TEST_FACES to a folder with models/mini and photos")
    return root


@pytest.fixture(scope="session")
def face_photos(faces_root: Path) -> Path:
    """The folder with obama.jpg, obama2.jpg (one person) and biden.jpg."""
    return faces_root / "photos"


@pytest.fixture(scope="session")
def face_analyzer(faces_root: Path):
    """A real detector and recogniser, small enough for tests."""
    pytest.importorskip("insightface", reason="install it with: pip install insightface onnxruntime")
    from dhumandiff.faces import InsightFaceAnalyzer

    return InsightFaceAnalyzer.from_pack("mini", root=faces_root, provider="CPU")


@pytest.fixture(scope="module")
def unet():
    """The tiny SDXL's UNet; with diffusers only."""
    from dhumandiff.testing import tiny_unet

    return tiny_unet()


@pytest.fixture(scope="module")
def adapter():
    """Random weights that fit the tiny SDXL."""
    from dhumandiff.testing import tiny_adapter

    return tiny_adapter()


@pytest.fixture(scope="module")
def people(adapter):
    """Two people for `adapter`."""
    from support.tiny_pair import two_people

    return two_people(adapter)


@pytest.fixture(scope="module")
def portrait():
    """The tiny SDXL that draws portraits; with diffusers only."""
    from dhumandiff.hosts.diffusers.pipeline import PortraitPipeline

    return PortraitPipeline.from_base("tiny", "cpu")


def pytest_collection_modifyitems(items):
    """Each test is in one tier: slow by its mark, host by its folder, fast if neither."""
    for item in items:
        if item.get_closest_marker("slow") is None and item.get_closest_marker("host") is None:
            item.add_marker(pytest.mark.fast)


def pytest_terminal_summary(terminalreporter):
    if why_not() is not None:
        terminalreporter.section("THE COMFYUI TESTS DID NOT RUN")
        terminalreporter.write_line(f"tests/host was left out: {why_not()}")
