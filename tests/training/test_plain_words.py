"""What somebody reads who follows the documents: advice that fits the command that gives it, and one name for one thing."""

import json
import re
import sys
from pathlib import Path

import pytest

for package in ("diffusers", "jsonargparse", "matplotlib", "scipy", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from support.drawn import couple, settings_for
from support.refused import refused
from support.shards import make_shards

from dhumandiff.errors import FaceError
from training import TrainingError, train
from training.__main__ import main
from training.data.dataset import open_dataset
from training.data.encode import load_faces
from training.data.settings import FaceSettings
from training.parsing import parse
from training.run.config import TrainConfig
from training.run.logging import _smooth
from training.wording import counted, note_lines

REPOSITORY = Path(__file__).resolve().parents[2]


def test_prepare_s_advice_on_missing_face_models_is_for_prepare(tmp_path):
    with refused("pack-missing", "--faces.pack", str(tmp_path), "insightface/releases", error=FaceError) as caught:
        load_faces(FaceSettings("buffalo_l", root=str(tmp_path)))
    assert not re.search("switch|ComfyUI|allow_download", str(caught.value))


def test_evaluation_is_said_to_draw_on_any_base(capsys):
    main(["--help"])
    assert "judge trained weights: by pictures of cases on any base" in " ".join(capsys.readouterr().out.split())
    for path in ("training/evaluate.py", "training/evaluation/run.py", "training/__main__.py"):
        assert not re.search(r"base mini only|on the base mini\b", (REPOSITORY / path).read_text(encoding="utf-8"))


def test_a_folder_that_was_not_prepared_is_named_once_with_what_to_do(tmp_path):
    couple(tmp_path, 0)
    with refused("cannot-open", "dataset.json", "training prepare", error=TrainingError) as caught:
        open_dataset(str(tmp_path))
    assert str(caught.value).count("Make it with") == 1
    assert "TrainingError" not in str(caught.value)


@pytest.mark.parametrize("words", [["--data.folders", "shards"], ["--data.folders=shards"]])
def test_a_folder_that_is_no_list_is_shown_as_one(words):
    with refused("setting-refused", "--data.folders+ '{path: shards}'", error=TrainingError):
        parse(TrainConfig, "train", words)


def test_a_smoothed_curve_follows_few_points():
    assert _smooth((1.0, 0.5))[-1] == pytest.approx(0.74, abs=0.01)  # their mean, nearly; of old 0.975
    assert _smooth((2.0,)) == [2.0]
    assert _smooth((3.0,) * 50)[-1] == pytest.approx(3.0)


def test_the_base_has_one_name_everywhere():
    files = [
        *REPOSITORY.glob("docs/*.md"),
        *REPOSITORY.glob("training/**/*.py"),
        *REPOSITORY.glob("training/configs/*.yaml"),
    ]
    files += [
        REPOSITORY / "README.md",
        *REPOSITORY.glob("dhumandiff/hosts/**/*.py"),
        *REPOSITORY.glob("dhumandiff/cli/*.py"),
    ]
    odd = [
        (path.name, found)
        for path in files
        for found in re.findall(
            r"(?<!stabilityai/)(?<!stable-diffusion-xl-)\b(?:stable-diffusion-xl-base-1\.0|sdxl-base(?!-1\.0))",
            path.read_text(encoding="utf-8"),
        )
    ]
    assert odd == []


def test_what_was_set_aside_is_said_in_words(tmp_path):
    from support.drawn import draw, prepared, skin

    draw(tmp_path / "data" / "a.png", [(32, 34, 12, skin(3)), (96, 34, 12, skin(4))])
    (tmp_path / "data" / "a.txt").write_text("Nobody is here")
    assert "Set aside: 1 words (the caption does not say who is who)" in prepared(tmp_path / "data", tmp_path / "out")


def test_the_help_of_a_part_names_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/somewhere/__main__.py", "prepare"])
    with pytest.raises(SystemExit):
        main(["prepare", "--sources.help", "training.data.settings.Source"])
    told = capsys.readouterr().out
    assert "__main__.py" not in told
    assert "usage: python -m training prepare" in told


def test_one_of_something_is_no_plural():
    assert [counted(number, "shard") for number in (0, 1, 2)] == ["0 shards", "1 shard", "2 shards"]
    assert [counted(number, "person", "people") for number in (1, 3)] == ["1 person", "3 people"]


def test_flags_beside_a_run_change_its_settings(tmp_path):
    shards = make_shards(tmp_path / "shards", samples=2)
    (tmp_path / "run").mkdir()
    told = {"steps": 7, "data": {"folders": [{"path": str(shards)}], "batch_size": 4}}
    (tmp_path / "run" / "config.yaml").write_text(json.dumps(told))
    words = ["--data.prefetch", "2", f"--run={tmp_path / 'run'}", "--steps", "9"]
    config, _ = parse(TrainConfig, "train", train._with_settings_of_run(words))
    assert (config.steps, config.data.prefetch, config.data.batch_size) == (9, 2, 4)
    assert [folder.path for folder in config.data.folders] == [str(shards)]


def test_a_slice_says_how_to_join_with_the_same_split(tmp_path):
    from support.drawn import analyzer, encoders

    from training.data.pipeline import prepare

    for number in range(3):
        couple(tmp_path / "data", number)
    settings = settings_for(tmp_path / "data", tmp_path / "out", shard_size=1, slice="1/3", validation=0.25)
    told = prepare(settings, encoders(), analyzer())
    assert told.endswith(f"python -m training prepare --merge {tmp_path / 'out'} --validation 0.25")


def test_many_notes_are_counted_not_listed():
    notes = [f"row {number}" for number in range(25)]
    assert note_lines(notes, "- ", "report.json has all")[-2:] == ["- row 9", "- 15 more (report.json has all)"]
    assert note_lines(notes[:3], "- ", "") == ["- row 0", "- row 1", "- row 2"]
