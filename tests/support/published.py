"""Which files git keeps, and which of them are published: `comfy node publish` leaves out what .comfyignore names."""

import shutil
import subprocess
from pathlib import Path

import pytest

from support.comfyui import REPOSITORY


def tracked(*options: str) -> list[str]:
    """The files that git keeps, as paths below the repository. `options` of ls-files choose among them."""
    try:
        command = ["git", "-C", str(REPOSITORY), "ls-files", "-z", *options]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this is no git checkout, or git cannot read it: {error}")
    return [name for name in out.split("\0") if name and (REPOSITORY / name).is_file()]


def left_out() -> set[str]:
    """What stays in the repository. The syntax of .comfyignore is that of .gitignore."""
    return set(tracked("--cached", "--ignored", "--exclude-from=.comfyignore"))


def published() -> list[str]:
    """What somebody gets who installs the pack."""
    return sorted(set(tracked()) - left_out())


def copy_published(folder: Path) -> Path:
    """The pack as it is installed, in a folder of its own."""
    for name in published():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / name, folder / name)
    return folder
