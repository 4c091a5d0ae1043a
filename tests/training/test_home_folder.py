"""~ in settings: a YAML file has no shell that reads it. The home folder, or a name like any other where there is no such user."""

import pytest

for package in ("diffusers", "jsonargparse", "matplotlib", "scipy", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from support.drawn import draw, skin
from support.refused import refused
from support.shards import make_shards

from dhumandiff.errors import DHumanDiffError
from training.data.captions import read_captions
from training.data.dataset import open_dataset
from training.data.settings import Source
from training.data.sources import list_pictures, reference_photos
from training.evaluation.cases import read_bench, read_cases
from training.evaluation.files import make_folder
from training.run.base import load_base
from training.run.checkpoint import RunFolder

NOBODY = "~nobody-of-this-name/x"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    return tmp_path


def test_the_home_folder_is_read_and_written(home):
    draw(home / "data" / "a.png", [(32, 34, 12, skin(3)), (96, 34, 12, skin(4))])
    make_shards(home / "shards", samples=2)
    assert [picture.name for picture in list_pictures(Source("~/data"))[0]] == ["a.png"]
    assert open_dataset("~/shards").samples == 2
    assert RunFolder("~/run").folder == home / "run"
    assert make_folder("~/scores") == home / "scores"


@pytest.mark.parametrize(
    ("read", "code"),
    [
        (lambda: list_pictures(Source(NOBODY)), "no-such-source"),
        (lambda: reference_photos(Source(".", references=NOBODY)), "no-references-folder"),
        (lambda: read_captions(Source(".", captions=NOBODY), None, []), "no-captions"),
        (lambda: list_pictures(Source(".", annotations=NOBODY)), "no-annotations"),
        (lambda: open_dataset(NOBODY), "cannot-open"),
        (lambda: read_cases(NOBODY), "unreadable-cases"),
        (lambda: read_bench(NOBODY), "no-such-folder"),
        (lambda: load_base(NOBODY, text_encoder=False, vae=False), "base-missing"),
    ],
)
def test_the_folder_of_nobody_is_refused(read, code):
    with refused(code, "nobody", error=DHumanDiffError):
        read()
