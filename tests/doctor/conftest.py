"""Folders for the doctor."""

import pytest
from support.model_folders import whole_folder


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    """Nobody's own face packs and caches."""
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))


@pytest.fixture
def folder(tmp_path):
    """A ComfyUI's models folder in which all is there."""
    return whole_folder(tmp_path / "ComfyUI" / "models")
