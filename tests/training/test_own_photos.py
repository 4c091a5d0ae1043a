"""Somebody's own photos, from a folder to a picture, by the commands that docs/training_data.md shows and nothing else."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("diffusers", reason="install it with: pip install '.[train]'")
for package in ("accelerate", "jsonargparse", "matplotlib", "scipy", "transformers", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def documented():
    """The commands under "Your own photos in ten minutes" that are of the drawn world."""
    text = (REPOSITORY / "docs" / "training_data.md").read_text(encoding="utf-8")
    block = re.search(r"take the drawn world that ships.*?```bash\n(.*?)```", text, re.DOTALL)[1]
    return [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]


def run(words, folder):
    """What a command line prints, that is typed in `folder`; the repository's own files are found as in a clone."""
    assert words[0] == "python"
    words = [str(REPOSITORY / word) if word.startswith("training/configs/") else word for word in words[1:]]
    settings = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=settings, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_own_photos_become_an_adapter_by_the_documented_commands(tmp_path):
    album, prepare, train, export = documented()
    assert "40 pictures of 10 couples" in run(album, tmp_path)
    told = run([*prepare, "--workers", "0"], tmp_path)
    assert "40 samples from 40 pictures" in told
    assert "Held out for validation: 4 of the 40 samples" in told
    assert "80 people have a photo beside the picture" in (tmp_path / "shards" / "report.md").read_text()
    assert "sides 40." in (tmp_path / "shards" / "report.md").read_text()
    following = shlex.split(told.strip().splitlines()[-1].removeprefix("Next: "))
    assert run([*following, "--dry_run"], tmp_path).count("Note  ") == 1  # 1600 times through 36 samples

    train[train.index("--steps") + 1] = "2"
    told = run([*train, "--logging.samples_every", "0"], tmp_path)
    assert "36 samples in 1 shard;" in told
    assert "Note:" not in told
    following = shlex.split(told.strip().splitlines()[-1].removeprefix("Next: "))
    assert following == export
    told = run(export, tmp_path)
    assert "- Data: `shards`, 36 samples" in (tmp_path / "runs" / "shards" / "export" / "README.md").read_text()

    following = shlex.split(told.strip().splitlines()[-1].removeprefix("Next: "))
    own = {f"{name}.jpg": f"photos_portraits/couple_01_{number}.png" for number, name in ((1, "anna"), (2, "ben"))}
    run([*(own.get(word, word) for word in following), "--steps", "2"], tmp_path)
    assert (tmp_path / "portrait.png").is_file()
