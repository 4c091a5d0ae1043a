"""Captions written by a function of somebody's own, for pictures that have none."""

import json

import pytest

pytest.importorskip("diffusers", reason="install it with: pip install '.[train]'")
for package in ("jsonargparse", "matplotlib", "scipy", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from support.drawn import draw, prepared, samples, skin
from support.refused import refused

from training import TrainingError
from training.__main__ import main
from training.caption import CaptionConfig, caption

TEXT = "A woman@1 hugs another woman@2 before a wall of {} {} {}"


def make():
    return lambda image: TEXT.format(*image[0, 0])


def one_person():
    return lambda image: "A portrait"


def silent():
    return lambda image: "  "


def third_time_unlucky():
    seen = []

    def write(image):
        seen.append(image)
        if len(seen) == 3:
            raise RuntimeError("out of memory")
        return make()(image)

    return write


@pytest.fixture
def here(monkeypatch):
    """The functions above, as a module of somebody's own."""
    import sys

    monkeypatch.setitem(sys.modules, "own_captions", sys.modules[__name__])
    return "own_captions"


@pytest.fixture
def data(tmp_path):
    for number in range(4):
        draw(tmp_path / "data" / f"{number}.png", [(32, 34, 12, skin(3)), (96, 34, 12, skin(4))], paper=(number, 9, 9))
    (tmp_path / "data" / "0.txt").write_text("A woman beside another woman")
    return tmp_path / "data"


def rows(path):
    return {row["file_name"]: row["text"] for row in map(json.loads, path.read_text(encoding="utf-8").splitlines())}


def test_pictures_without_a_caption_get_one_that_prepare_reads(data, tmp_path, here, capsys):
    assert main(["caption", "--data", str(data), "--captioner", f"{here}:make"]) == 0
    assert rows(data / "captions.jsonl") == {f"{number}.png": TEXT.format(number, 9, 9) for number in (1, 2, 3)}
    assert f"Next: python -m training prepare --data {data} --out shards" in capsys.readouterr().out
    prepared(data, tmp_path / "out")
    assert {told["picture"]: told["caption"] for told, _ in samples(tmp_path / "out").values()}["2.png"].endswith(
        "2 9 9"
    )


def test_a_captioner_that_fails_goes_on_where_it_was(data, here):
    with refused("captioner-failed", "3.png", "out of memory", error=TrainingError):
        caption(CaptionConfig(str(data), captioner=f"{here}:third_time_unlucky"))
    path = data / "captions.jsonl"
    assert list(rows(path)) == ["1.png", "2.png"]
    path.write_bytes(path.read_bytes() + b'{"file_name": "3.p')  # killed while it wrote
    assert "1 caption written" in caption(CaptionConfig(str(data), captioner=f"{here}:make"))
    assert list(rows(path)) == ["1.png", "2.png", "3.png"]
    assert "0 captions written" in caption(CaptionConfig(str(data), captioner="no_such_module:make"))


def test_a_hand_written_last_line_stays(data, here):
    (data / "captions.jsonl").write_text('{"file_name": "1.png", "text": "A man and a boy"}')
    caption(CaptionConfig(str(data), captioner=f"{here}:make"))
    assert rows(data / "captions.jsonl")["1.png"] == "A man and a boy"


def test_captions_that_do_not_name_two_people_and_damaged_pictures_are_counted(data, here):
    (data / "2.png").write_bytes(b"no picture")
    told = caption(CaptionConfig(str(data), captioner=f"{here}:one_person"))
    assert "2 of them do not name two people, and would be set aside: 1.png, 3.png" in told
    assert "1 picture cannot be read and so without: 2.png" in told


def test_a_dry_run_only_counts(data):
    assert "3 of 4 pictures" in caption(CaptionConfig(str(data)), dry_run=True)
    assert not (data / "captions.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("", "no-captioner"),
        ("no_such_module:make", "no-such-plugin"),
        ("own_captions:silent", "captioner-without-text"),
    ],
)
def test_a_captioner_that_is_none_is_refused(data, here, name, code):
    with refused(code, "captioner", error=TrainingError):
        caption(CaptionConfig(str(data), captioner=name))


def test_pictures_that_are_nowhere_or_elsewhere_are_refused(data, here):
    with refused("nothing-to-caption", "--data"):
        caption(CaptionConfig(captioner=f"{here}:make"))
    with refused("nowhere-for-captions", "--out captions.jsonl"):
        caption(CaptionConfig("memory://photos", captioner=f"{here}:make"))
