"""Cases out of .jsonl files, folders of finished pictures and MultiID-Bench's layout, and what is wrong with them."""

import json

import pytest
from support.refused import refused

pytest.importorskip("webdataset", reason="install it with: pip install '.[train]'")

from training import TrainingError
from training.evaluation.cases import read_bench, read_cases, with_pictures


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "b1.jpg", "b2.jpg", "truth.jpg", "made.png", "mask_1.png", "mask_2.png"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def write(folder, *lines):
    path = folder / "cases.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


PAIR = {"prompt": "A man@1 and a woman@2.", "references": ["a.jpg", ["b1.jpg", "b2.jpg"]]}


def test_a_case_is_photos_and_a_sentence(folder):
    first, second = read_cases(write(folder, PAIR, "", {**PAIR, "id": "wedding", "seed": 7}))
    assert first.references == ((folder / "a.jpg",), (folder / "b1.jpg", folder / "b2.jpg"))
    assert (first.name, first.sentence, first.seed, first.problem) == ("0000", PAIR["prompt"], 0, "")
    assert (second.name, second.seed) == ("wedding", 7)


def test_a_case_says_who_should_be_where(folder):
    """A case tells who should be where and of which group people are."""
    given = {
        "picture": "made.png",
        "truth": "truth.jpg",
        "boxes": [[0, 0, 10, 20], [10, 0, 20, 20]],
        "masks": ["mask_1.png", "mask_2.png"],
        "clothes": ["a red coat", "a blue dress"],
        "topic": "wedding",
        "people": [{"gender": "Male", "age_group": "adult", "height": 3}, {"skin_tone": " Dark "}],
    }
    (case,) = read_cases(write(folder, {**PAIR, **given}))
    assert (case.picture, case.truth) == (folder / "made.png", folder / "truth.jpg")
    assert case.boxes == ((0, 0, 10, 20), (10, 0, 20, 20))
    assert case.masks == (folder / "mask_1.png", folder / "mask_2.png")
    assert case.clothes == ("a red coat", "a blue dress")
    assert case.groups == ({"gender": "male", "age_group": "adult"}, {"skin_tone": "dark"})
    assert not case.problem


def test_pairhumans_annotation_tells_groups_clothes_and_topic(folder):
    people = [
        {
            "object_id": 2,
            "gender": "female",
            "age_group": "young adult",
            "details_of_clothes_and_shoes": "a white dress",
        },
        {"object_id": 1, "gender": "male", "skin_tone": "light", "details_of_clothes_and_shoes": "a black suit"},
    ]
    (folder / "x.json").write_text(json.dumps({"Information": {"Image category": "wedding"}, "people": people}))
    (case,) = read_cases(write(folder, {**PAIR, "annotation": "x.json"}))
    assert case.topic == "wedding"
    assert case.clothes == ("a black suit", "a white dress")
    assert case.groups == ({"gender": "male", "skin_tone": "light"}, {"gender": "female", "age_group": "young adult"})


def test_a_missing_file_is_the_cases_problem(folder):
    """A missing file is the case's problem not the file s."""
    (case,) = read_cases(write(folder, {**PAIR, "references": ["a.jpg", "gone.jpg"], "truth": "lost.jpg"}))
    assert "person 2 is not there" in case.problem
    assert "lost.jpg" in case.problem


@pytest.mark.parametrize(
    ("line", "code", "named"),
    [
        ("{", "bad-case", "cases"),
        ("[1]", "case-no-object", "a list"),
        ({"references": ["a.jpg"]}, "case-without-prompt", '"prompt"'),
        ({"prompt": "A man."}, "case-without-references", '"references"'),
        ({"prompt": "A man.", "references": [[]]}, "case-without-references", '"references"'),
        ({"prompt": "A man.", "references": [3]}, "bad-case-file", "3"),
        ({**PAIR, "boxes": [[0, 0, 1, 1]]}, "case-entries-not-people", "boxes"),
        ({**PAIR, "boxes": [[0, 0, 1, 1], [5, 0, 1, 1]]}, "bad-case-box", "x0 < x1"),
        ({**PAIR, "seed": -1}, "bad-case-seed", "-1"),
        ({**PAIR, "id": "a/b"}, "bad-case-id", "a/b"),
        ({**PAIR, "people": ["man", "woman"]}, "bad-case-people", "gender"),
    ],
)
def test_a_line_that_is_no_case_is_refused(folder, line, code, named):
    with refused(code, named, "Line 1", error=TrainingError):
        read_cases(write(folder, line))


def test_ids_are_unique_and_there_is_a_case(folder):
    with refused("case-id-twice", "Line 2", 'id "x"', error=TrainingError):
        read_cases(write(folder, {**PAIR, "id": "x"}, {**PAIR, "id": "x"}))
    with refused("no-cases", "cases", error=TrainingError):
        read_cases(write(folder, ""))
    with refused("unreadable-cases", "nothing.jsonl", error=TrainingError):
        read_cases(folder / "nothing.jsonl")


def test_finished_pictures_are_found_by_id_and_seed(folder):
    cases = read_cases(write(folder, {**PAIR, "id": "x_1"}, {**PAIR, "id": "y"}, {**PAIR, "id": "z"}))
    made = folder / "made"
    made.mkdir()
    for name in ("x_1.png", "y_0.jpg", "y_10.webp", "y_9.png", "stranger.png", "notes.txt"):
        (made / name).write_bytes(b"")
    found, strange = with_pictures(cases, made)
    assert [(case.name, case.picture and case.picture.name) for case in found] == [
        ("x_1", "x_1.png"), ("y_0", "y_0.jpg"), ("y_9", "y_9.png"), ("y_10", "y_10.webp"), ("z", None),
    ]  # fmt: skip
    assert "no picture z.png" in found[-1].problem
    assert [path.name for path in strange] == ["stranger.png"]
    with refused("no-such-folder", "nowhere", error=TrainingError):
        with_pictures(cases, folder / "nowhere")


def test_multi_id_bench_folders_are_read(tmp_path):
    """Multi id bench folders are read and what they lack is told."""
    for name, files in {
        "10": ("out.jpg", "ori.jpg", "ref_1.jpg", "ref_2.jpg"),
        "9": ("out.png", "ref_1.jpg"),
        "11": ("ori.jpg", "ref_1.jpg"),
        "12": ("out.jpg", "ref_2.jpg"),
        "13": ("out.jpg",),
    }.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_bytes(b"")
        (tmp_path / name / "meta.json").write_text(json.dumps({"prompt": f"people {name}"}))
    (tmp_path / "11" / "meta.json").write_text("{")
    (tmp_path / "other").mkdir()
    cases = {case.name: case for case in read_bench(tmp_path)}
    assert list(cases) == ["9", "10", "11", "12", "13"]
    ten = cases["10"]
    assert (ten.sentence, ten.picture.name, ten.truth.name, ten.problem) == ("people 10", "out.jpg", "ori.jpg", "")
    assert [photos[0].name for photos in ten.references] == ["ref_1.jpg", "ref_2.jpg"]
    assert cases["9"].truth is None
    assert "meta.json cannot be read" in cases["11"].problem
    assert "out.jpg is missing" in cases["11"].problem
    assert "numbered 2" in cases["12"].problem
    assert "no reference" in cases["13"].problem
    with refused("no-cases", "other", "meta.json", error=TrainingError):
        read_bench(tmp_path / "other")
    with refused("no-such-folder", "nowhere", error=TrainingError):
        read_bench(tmp_path / "nowhere")
