"""Every shipped workflow runs to its end on the miniature, and its pictures are what it promises."""

import copy

import numpy as np
import pytest
from PIL import Image
from support.flux_twins import SIZE as TINY_FLUX
from support.twins import CASTS, HEIGHT, WIDTH, Cast, nodes_of, saved, twin

from dhumandiff.evaluation.score import score_image
from dhumandiff.miniature.faces import mini_judge
from dhumandiff.prompts import try_parse_prompt
from tools.workflows import NAMES
from tools.workflows.parts import IP_ADAPTER, POSES, STYLE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(workflow_server):
    """name -> (prompt, outputs, saved pictures), each run once; fails when the run does."""
    done = {}

    def once(name, prompt=None, sentences=3):
        if prompt is not None or name not in done:
            asked = prompt or twin(name, sentences)
            result = workflow_server.run(asked)
            assert result["error"] is None, result["error"]
            found = asked, result["outputs"], saved(workflow_server, asked, result["outputs"])
            if prompt is not None:
                return found
            done[name] = found
        return done[name]

    return once


@pytest.fixture(scope="module")
def judge():
    """The recogniser that took no part in drawing, and the references as it sees them."""
    from dhd_pack.dhumandiff.miniature.world import draw_reference
    from dhd_pack.nodes.miniature import drawn_person

    faces = mini_judge()

    def right(name, picture, text=None):
        """How many of the two people are who and where the sentence says."""
        cast = CASTS.get(name, Cast())
        photos = [draw_reference(drawn_person(*who), 0, 384).picture for who in cast.people]
        known = np.stack([faces.identity(photo, faces.detect(photo)[0]) for photo in photos])
        large = np.asarray(picture.resize((512, 384), Image.Resampling.BICUBIC))
        judged = score_image(large, known, faces, prompt=try_parse_prompt(text or cast.text, 2))
        return sum(person.assigned_correctly is True for person in judged.score.persons)

    return right


def pixels(picture):
    return np.asarray(picture, dtype=np.int16)


def texts(outputs):
    return [text for one in outputs.values() for text in one.get("text", ())]


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_and_ends_in_pictures_of_two_people(run, name):
    prompt, outputs, pictures = run(name)
    if name.startswith("mini_"):
        assert nodes_of(prompt, "PreviewImage")[0] in outputs
        return
    assert pictures
    tiny = name.startswith(("withanyone_", "parts_"))  # drawn by bases of their own
    for picture in pictures:
        assert picture.width % (TINY_FLUX["width"] if tiny else WIDTH) == 0 or name == "compare_adapters"
        assert picture.size == tuple(TINY_FLUX.values()) or not name.startswith("withanyone_")
        assert len(picture.resize((16, 16)).getcolors(256)) > 60  # a picture, not one colour


@pytest.mark.parametrize(
    "name",
    [
        "dual_portrait",
        "parent_and_child",
        "painted_regions",
        "custom_sampler",
        "two_friends",
        "face_repair",
        "style_lora",
        "dual_pathway",
        "other_expression",
        "full_body",
        "other_age",
        "old_photo_to_reality",
    ],
)
def test_the_right_people_are_on_it(run, judge, name):
    _, _, pictures = run(name)
    assert judge(name, pictures[-1]) == 2


def test_the_wedding_saves_the_best_of_four(run, judge):
    """Of every sentence, and scores it."""
    prompt, outputs, pictures = run("wedding_preview")
    sentences = CASTS["wedding_preview"].text.splitlines()[:3]
    assert len(pictures) == len(sentences)
    assert len({picture.tobytes() for picture in pictures}) == 3
    assert all(picture.size == (WIDTH, HEIGHT) for picture in pictures)
    (tries,) = (prompt[key]["inputs"]["batch_size"] for key in nodes_of(prompt, "EmptyLatentImage"))
    assert tries == 4
    told = "\n".join(texts(outputs))
    assert told.count("picture 1: passed") + told.count("picture 1: FAILED") == 3  # one score a portrait
    assert (
        sum(f"{place}. picture" in line for place in range(1, 5) for line in told.splitlines()) == 12
    )  # each try in its place
    right = [judge("wedding_preview", picture, text) for picture, text in zip(pictures, sentences, strict=True)]
    assert sum(right) >= 5


def test_the_wedding_saves_ten_pictures_of_ten_sentences(run):
    assert len(run("wedding_preview", twin("wedding_preview"))[2]) == 10


def test_a_commented_sentence_has_no_picture(run):
    prompt = twin("wedding_preview", 2)
    (key,) = nodes_of(prompt, "DHDSentences")
    prompt[key]["inputs"]["text"] = "# " + prompt[key]["inputs"]["text"]
    assert len(run("wedding_preview", prompt)[2]) == 1


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_repair_changes_both_faces_and_nothing_else(run, workflow_server, scale):
    prompt = twin("face_repair")
    (key,) = nodes_of(prompt, "ImageScaleBy")
    prompt[key]["inputs"]["scale_by"] = scale
    prompt, outputs, (before, after) = run("face_repair", prompt)
    assert before.size == after.size == (scale * WIDTH, scale * HEIGHT)
    shown = [outputs[key]["images"][0]["filename"] for key in nodes_of(prompt, "MaskPreview")]
    masks = [np.asarray(Image.open(workflow_server.base / "temp" / name).convert("L")) for name in shown]
    assert len(masks) == 2
    changed = np.abs(pixels(before) - pixels(after)).max(axis=-1)
    assert changed[np.maximum(*masks) == 0].max() == 0
    assert all(changed[mask > 200].mean() > 3 for mask in masks)
    centres = [np.average(np.arange(mask.shape[1]), weights=mask.sum(axis=0)) / mask.shape[1] for mask in masks]
    assert centres[0] < 0.45  # person 1, on the left
    assert centres[1] > 0.55


def test_the_grid_has_seeds_as_rows_and_adapters_as_columns(run):
    prompt, outputs, (grid,) = run("compare_adapters")
    one = grid.width // 2, grid.height // 2
    parts = [grid.crop((x * one[0], y * one[1], (x + 1) * one[0], (y + 1) * one[1])) for y in (0, 1) for x in (0, 1)]
    assert len({part.tobytes() for part in parts}) == 4
    files = [prompt[key]["inputs"]["adapter_name"] for key in nodes_of(prompt, "DHDLoadAdapter")]
    assert files == [IP_ADAPTER]  # the first is the miniature's own
    reports = [text for text in texts(outputs) if text.startswith("picture 1") and "person 1" in text]
    assert len(reports) == 2
    assert reports[0] != reports[1]


@pytest.mark.parametrize(
    ("name", "kind", "strength", "file"),
    [
        ("style_lora", "LoraLoader", {"strength_model": 0.0, "strength_clip": 0.0}, STYLE),
        ("fixed_poses", "ControlNetApplyAdvanced", {"strength": 0.0}, POSES),
    ],
)
def test_a_file_that_a_stock_loader_reads_changes_the_picture(run, name, kind, strength, file):
    prompt, _, (changed,) = run(name)
    assert any(file in node["inputs"].values() for node in prompt.values())
    without = copy.deepcopy(prompt)
    (key,) = nodes_of(without, kind)
    without[key]["inputs"] |= strength
    (unchanged,) = run(name, without)[2]
    assert np.abs(pixels(changed) - pixels(unchanged)).mean() > 1


def test_painted_regions_and_not_the_words_say_where_people_are(run):
    """Exchanged regions give another picture; an unpainted one would be black all over."""
    prompt, _, (as_painted,) = run("painted_regions")
    exchanged = copy.deepcopy(prompt)
    (key,) = nodes_of(exchanged, "DHDApplyPair")
    inputs = exchanged[key]["inputs"]
    inputs["mask_1"], inputs["mask_2"] = inputs["mask_2"], inputs["mask_1"]
    (other,) = run("painted_regions", exchanged)[2]
    assert np.abs(pixels(as_painted) - pixels(other)).mean() > 2


def test_the_light_of_old_photos_is_evened_out(run):
    prompt, _, (evened,) = run("old_photos")
    as_it_is = copy.deepcopy(prompt)
    for key in nodes_of(as_it_is, "DHDEncodeReference"):
        assert as_it_is[key]["inputs"]["normalise_light"] is True
        as_it_is[key]["inputs"]["normalise_light"] = False
    (other,) = run("old_photos", as_it_is)[2]
    assert evened.tobytes() != other.tobytes()


def test_twins_keep_everything_but_what_is_loaded_and_said():
    from support.server import api_form
    from support.twins import shipped_file

    for name in NAMES:
        before, after = api_form(shipped_file(name)), twin(name)
        kept = {key for key in before if key in after and before[key]["class_type"] == after[key]["class_type"]}
        gone = {before[key]["class_type"] for key in before.keys() - kept}
        assert gone <= {
            "CheckpointLoaderSimple",
            "CLIPVisionLoader",
            "DHDLoadFaceAnalysis",
            "DHDLoadAdapter",
            "LoadImage",
            "FluxKontextImageScale",
        }
