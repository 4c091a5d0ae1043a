"""What is said to exist agrees with the README and with what is read."""

from __future__ import annotations

import pytest
from support.comfyui import REPOSITORY

from dhumandiff.catalogue import CATALOGUE, DHUMANDIFF, KnownWeights
from dhumandiff.formats.released import AS_RELEASED, FILES


def test_the_released_files_are_those_that_are_read():
    assert set(DHUMANDIFF.files) == set(FILES.values())
    assert DHUMANDIFF.files[-1] == FILES["attention"]
    assert AS_RELEASED["licence"] == DHUMANDIFF.license


@pytest.mark.parametrize("known", CATALOGUE, ids=lambda known: known.title)
def test_the_readme_says_license_and_place(known: KnownWeights):
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8").replace("*", "")
    assert known.license in readme
    assert f"{known.folder}/" in readme
