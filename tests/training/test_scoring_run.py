"""Scoring pictures: records, groups, comparisons, resuming after a stop, and bad pictures."""

import json
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from support.color_faces import BLUE, GREEN, LEFT_RIGHT, RED, ColorFaces, cases_of, measure, paint
from support.refused import refused

for package in ("jsonargparse", "matplotlib", "scipy", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from training import TrainingError
from training.evaluation.cases import read_cases
from training.evaluation.measure import Clip, Measurer, measure_all, read_records
from training.evaluation.page import page
from training.evaluation.tables import compare, groups_of, markdown, summarize_records


@pytest.fixture
def folder(tmp_path):
    paint(tmp_path / "red.png", RED)
    paint(tmp_path / "green.png", GREEN)
    return tmp_path


def test_right_swapped_and_undecidable_pairs_are_told_apart(folder):
    right, swapped, undecided = measure(
        folder, ((RED, GREEN), LEFT_RIGHT), ((GREEN, RED), LEFT_RIGHT), ((RED, GREEN), "A man@1 and a woman@2.")
    )
    assert [person["right"] for person in right["persons"]] == [True, True]
    assert [person["right"] for person in swapped["persons"]] == [False, False]
    assert [person["right"] for person in undecided["persons"]] == [None, None]
    assert (right["said_by"], undecided["said_by"]) == ("sides", "")
    for record in (right, swapped, undecided):
        assert [person["sim_ref"] for person in record["persons"]] == pytest.approx([1, 1])
    assert right["scores"] == {"present": True, "all_right": True, "blending": right["scores"]["blending"]}


def test_masks_and_boxes_of_a_case_decide(folder):
    for number, x in ((1, 80), (2, 0)):
        mask = np.zeros((40, 120), dtype=np.uint8)
        mask[:, x : x + 40] = 255
        Image.fromarray(mask).save(folder / f"mask_{number}.png")
    boxes = [[80, 0, 120, 40], [0, 0, 40, 40]]
    (by_boxes,) = measure(folder, ((GREEN, None, RED), "A man@1 and a woman@2."), boxes=boxes)
    (by_masks,) = measure(folder, ((GREEN, None, RED), LEFT_RIGHT), masks=["mask_1.png", "mask_2.png"])
    assert (by_boxes["said_by"], by_masks["said_by"]) == ("boxes", "masks")
    assert by_boxes["scores"]["all_right"]
    assert by_masks["scores"]["all_right"]


def test_too_few_or_many_faces_fail(folder):
    """Faces that miss or are too many count as failed."""
    none, one, three = measure(folder, ((), LEFT_RIGHT), ((RED,), LEFT_RIGHT), ((RED, GREEN, BLUE), LEFT_RIGHT))
    for record in (none, one, three):
        assert not record["scores"]["present"]
        assert [person["right"] for person in record["persons"]] == [False, False]
    assert [person["sim_ref"] for person in none["persons"]] == [0, 0]
    assert [person["sim_ref"] for person in one["persons"]] == pytest.approx([1, 0])
    assert summarize_records([none, one, three])["right"].mean == 0
    assert "Too few faces: 2 pictures, too many: 1." in markdown([none, one, three])


def test_truth_gives_sim_gt_and_copy_paste(folder):
    red = tuple(int(value) for value in np.array(RED) * 0.6 + np.array(BLUE) * 0.4)
    paint(folder / "truth.png", GREEN, red)
    (copied,) = measure(folder, ((RED, GREEN), LEFT_RIGHT), truth="truth.png")
    (real,) = measure(folder, ((red, GREEN), LEFT_RIGHT), truth="truth.png")
    assert copied["persons"][0]["copy_paste"] == pytest.approx(1)
    assert real["persons"][0]["copy_paste"] == pytest.approx(-1)
    assert real["persons"][0]["sim_gt"] == pytest.approx(1)
    assert copied["persons"][1]["copy_paste"] == 0  # her real picture is her reference
    paint(folder / "truth.png", GREEN)
    (record,) = measure(folder, ((RED, GREEN), LEFT_RIGHT), truth="truth.png")
    assert "shows 1 faces of 2 people" in record["problem"]


def test_unusable_pictures_are_reported(folder):
    """Pictures that cannot be used are told and set aside."""
    (folder / "made_1.png").write_bytes(b"not a picture")
    paint(folder / "green.png")
    nobody, damaged, missing = measure(folder, ((RED, GREEN), LEFT_RIGHT), (None, LEFT_RIGHT), (None, LEFT_RIGHT))
    assert "green.png: No face was found" in nobody["problem"]
    assert "problem" in damaged
    assert "made_2.png" in missing["problem"]
    text = markdown([nobody, damaged, missing])
    assert text.startswith("0 pictures scored, 3 set aside")
    assert all(f"- c{number}: " in text for number in range(3))
    assert summarize_records([nobody]) == {}


def test_pictures_of_any_size_and_kind_are_scored(folder):
    cases = cases_of(folder, ((RED, GREEN), LEFT_RIGHT), ((RED, GREEN), LEFT_RIGHT))
    paint(folder / "made_1.png", RED, GREEN, width=400)
    grey = Image.open(folder / "made_0.png").convert("RGBA")
    grey.save(folder / "made_0.png")
    records = measure_all(cases, Measurer(ColorFaces()), folder / "scores.jsonl")
    assert [record["size"] for record in records] == [[120, 40], [400, 40]]
    assert all(record["scores"]["all_right"] for record in records)


def test_a_run_resumes_and_measures_changes(folder):
    """A run goes on where it was and measures again what changed."""
    cases = cases_of(folder, *[((RED, GREEN), LEFT_RIGHT)] * 4)
    path = folder / "scores.jsonl"
    counted = Measurer(ColorFaces())
    seen = []
    inner = counted.measure
    counted.measure = lambda case: seen.append(case.name) or inner(case)
    first = measure_all(cases[:2], counted, path)
    with path.open("a") as file:
        file.write('{"id": "c2", "pro')  # killed while it wrote
    assert [record["id"] for record in read_records(path)] == ["c0", "c1"]
    assert measure_all(cases, counted, path)[:2] == first
    assert seen == ["c0", "c1", "c2", "c3"]
    paint(folder / "made_1.png", GREEN, RED)
    again = measure_all(cases, counted, path)
    assert seen[4:] == ["c1"]
    assert again[1]["scores"]["all_right"] is False
    assert read_records(path) == again
    measure_all([replace(cases[0], sentence="A man@1 and a woman@2.")], counted, path)
    assert seen[5:] == ["c0"]
    paint(folder / "red.png", GREEN)
    assert measure_all(cases[2:3], Measurer(ColorFaces()), path)[0]["contents"] != again[2]["contents"]  # other photos
    path.write_text('{"id": 1}\nrubbish\n{"id": 2}\n')
    with refused("bad-record", "Line 2", error=TrainingError):
        measure_all(cases, counted, path)


def test_a_run_killed_twice_loses_one_line(folder):
    cases = cases_of(folder, *[((RED, GREEN), LEFT_RIGHT)] * 3)
    path = folder / "scores.jsonl"
    measure_all(cases[:1], Measurer(ColorFaces()), path)
    for done in (1, 2):
        with path.open("a") as file:
            file.write('{"id": "c')
        killed = Measurer(ColorFaces())
        inner = killed.measure

        def measure_one(case, inner=inner, last=cases[done]):
            if case is not last:
                raise KeyboardInterrupt
            return inner(case)

        killed.measure = measure_one
        with suppress(KeyboardInterrupt):
            measure_all(cases, killed, path)
        assert len(read_records(path)) == done + 1


def test_plugin_scores_get_a_column(folder):
    """Scores of others get a column and their errors set the picture aside."""

    class Brightness:
        name = "brightness"

        def __call__(self, picture, sentence):
            if len(sentence) > 60:
                raise KeyError("too long")
            return picture.mean()

    cases = cases_of(folder, ((RED, GREEN), LEFT_RIGHT), ((RED, GREEN), LEFT_RIGHT + " They smile at each other."))
    fine, failed = measure_all(cases, Measurer(ColorFaces(), scorers=[Brightness()]), folder / "scores.jsonl")
    assert fine["scores"]["brightness"] > 0
    assert "brightness failed with KeyError" in failed["problem"]
    assert "| brightness ↑ |" in markdown([fine])
    assert fine["measured_with"] == "colours, brightness"


def test_groups_are_told_apart_by_their_own_people(folder):
    people = [{"gender": "male"}, {"gender": "female"}]
    records = measure(folder, ((RED, BLUE), LEFT_RIGHT), ((RED, GREEN), LEFT_RIGHT), people=people)
    groups = groups_of(records)
    assert {value: len(found) for value, found in groups["gender"].items()} == {"female": 2, "male": 2}
    assert summarize_records(records, ("gender", "male"))["sim_ref"].mean == pytest.approx(1)
    assert summarize_records(records, ("gender", "female"))["sim_ref"].mean < 0.9
    assert "By gender:" in markdown(records)


@pytest.mark.slow
def test_two_runs_compare_picture_by_picture(folder):
    worse = [(BLUE, GREEN) if number % 2 else (RED, GREEN) for number in range(12)]
    ours = measure(folder, *[((RED, GREEN), LEFT_RIGHT)] * 12)
    theirs = measure(folder, *[(colors, LEFT_RIGHT) for colors in worse])
    found = compare(ours, theirs)
    assert found["sim_ref"].pictures == 12
    assert found["sim_ref"].low > 0
    assert found["sim_ref"].p < 0.05
    assert compare(ours, ours)["sim_ref"].p == 1
    assert compare(ours, theirs[:3])["right"].pictures == 3
    assert compare(ours, []) == {}
    assert "Against theirs, picture by picture" in markdown(ours, theirs, "theirs")


def test_clip_scores_fit_and_the_real_picture(folder, tmp_path):
    transformers = pytest.importorskip("transformers", reason="install it with: pip install '.[train]'")
    from dhumandiff.hosts.diffusers.parts import sdxl_tokenizer

    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**text, "image_size": 32, "patch_size": 16}
    config = transformers.CLIPConfig(text_config={**text, "vocab_size": 49408}, vision_config=vision, projection_dim=8)
    transformers.CLIPModel(config).save_pretrained(tmp_path / "clip")
    size = {"shortest_edge": 32}
    images = transformers.CLIPImageProcessor(size=size, crop_size={"height": 32, "width": 32})
    transformers.CLIPProcessor(images, sdxl_tokenizer()).save_pretrained(tmp_path / "clip")
    clip = Clip.load(str(tmp_path / "clip"))
    cases = cases_of(folder, ((RED, GREEN), LEFT_RIGHT + " word" * 200), truth="made_0.png")
    (record,) = measure_all(cases, Measurer(ColorFaces(), clip), folder / "scores.jsonl")
    assert record["scores"]["clip_i"] == pytest.approx(1)
    assert -1 <= record["scores"]["clip_t"] <= 1
    with refused("clip-not-loaded", "nothing", error=TrainingError):
        Clip.load(str(tmp_path / "nothing"))


@pytest.mark.slow
def test_memory_stays_flat_over_thousands_of_pictures(folder):
    """1,000 pictures of 4 MB each: 4 GB, were they kept."""
    psutil = pytest.importorskip("psutil")
    paint(folder / "large.png", RED, GREEN)
    Image.open(folder / "large.png").resize((17 * 120, 17 * 40), Image.Resampling.NEAREST).save(folder / "large.png")

    class Large(ColorFaces):
        def detect(self, image):
            return super().detect(self._small(image))

        def identity(self, image, face, swap_channels=False):
            return super().identity(self._small(image), face)

        def _small(self, image):
            return image[::17, ::17] if image.shape[1] > 1000 else image

    lines = [
        json.dumps(
            {
                "id": f"c{number}",
                "prompt": LEFT_RIGHT,
                "references": ["red.png", "green.png"],
                "picture": f"{number}.png",
            }
        )
        for number in range(1000)
    ]
    (folder / "cases.jsonl").write_text("\n".join(lines))
    for number in range(1000):
        (folder / f"{number}.png").hardlink_to(folder / "large.png")
    cases, process, used = read_cases(folder / "cases.jsonl"), psutil.Process(), []
    measurer = Measurer(Large())
    for part in (cases[:300], cases[300:]):
        measure_all(part, measurer, folder / "scores.jsonl")
        used.append(process.memory_info().rss)
    assert {record.get("problem") for record in read_records(folder / "scores.jsonl")} == {None}
    assert used[1] - used[0] < 60e6
    records = measure_all(cases, measurer, folder / "scores.jsonl")
    before = process.memory_info().rss
    page(records, folder, "many", markdown(records))
    assert process.memory_info().rss - before < 100e6
