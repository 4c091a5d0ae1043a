"""Expressions and turns of heads that a sentence asks for: what is drawn and said, what learns the words, what reads faces, what is scored."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from support.refused import refused

for package in ("diffusers", "matplotlib", "transformers"):
    pytest.importorskip(package, reason=f"install it with: pip install {package}")

from dhumandiff.hosts.diffusers.parts import sdxl_tokenizer
from dhumandiff.miniature.base import SIZE, TABLE, compact_vocabulary, mini_text_encoders, mini_unet, mini_vae
from dhumandiff.miniature.design import DESIGN, FIRST, FOLDER, SECOND, SHIPPED, save_design
from dhumandiff.miniature.faces import mini_judge
from dhumandiff.miniature.weights import load_part, save_part
from dhumandiff.miniature.world import (
    EXPRESSIONS,
    head_of,
    people,
    reference_pose,
    sample_script,
    sample_strangers,
    write_caption,
    write_dataset,
)
from dhumandiff.miniature.world.caption import EXPRESSION_WORDS, HEAD_WORDS
from training.__main__ import main as training_main
from training.miniature import build as build_module
from training.miniature import main as mini_main
from training.miniature import told_base, told_words
from training.miniature.ablations import FIRST_FOLDER
from training.miniature.base import Texts
from training.miniature.latents import Latents, draw_latents
from training.miniature.scoring import CONDITIONING_VIEW, Evaluator, held_out_cases, oracle_pictures
from training.miniature.stages import STAGES
from training.miniature.told_base import train_told_base
from training.miniature.told_data import HEADS, TOLD, draw_told, head_label, render_told_faces
from training.miniature.told_reading import FaceReader, load_reader, save_reader, train_reader
from training.miniature.told_scoring import MEASURES, load_told_results, sheet, told_cases, told_measures
from training.miniature.told_table import plot_told, told_table
from training.miniature.told_words import FaceWords, new_words, save_told_towers, train_face_words


def tokens(texts):
    return {token for ids in sdxl_tokenizer()(list(texts)).input_ids for token in ids}


@pytest.fixture(scope="module", autouse=True)
def untaught(tmp_path_factory):
    """Text towers that know no words for faces. Those of the second design were taught them."""
    folder, about = tmp_path_factory.mktemp("untaught"), [*EXPRESSION_WORDS.values(), *HEAD_WORDS.values()]
    scripts = [sample_script(seed, sample_strangers(seed)) for seed in range(400)]
    other = tokens(write_caption(script, seed, looks=True)[1].text for seed, script in enumerate(scripts))
    faces = torch.tensor(sorted(tokens(words for some in about for words in some) - other))
    for part in told_words.PARTS:
        tensors = load_part(part)
        ids, table = tensors.pop("token_ids"), tensors.pop(TABLE)
        kept = ~torch.isin(ids, faces)
        table = torch.cat([table[:1], table[1:][kept]])
        save_part(part, compact_vocabulary(tensors, ids[kept], table), folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(told_words, "load_part", partial(load_part, folder=folder))
        patch.setattr(told_words, "mini_text_encoders", partial(mini_text_encoders, folder))
        yield folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("told") / "told_latents"
    draw_latents(folder, mini_vae(), 24, 50_000_000, draw=draw_told)
    return Latents.load(folder)


def test_most_sentences_say_faces_and_the_others_describe_people(data):
    told = [one for one in data.descriptions if "faces" in one]
    assert abs(len(told) / len(data.descriptions) - TOLD) < 0.25
    assert all(one["looks"] == [{}, {}] for one in told)
    silent = [one for one in data.descriptions if "faces" not in one]
    assert silent
    assert any(any(one["looks"]) for one in silent)


def test_meetings_that_are_written_tell_faces(tmp_path):
    assert write_dataset(tmp_path, range(3), people("train", 6), references=1, tell=1.0) == 3
    for path in (tmp_path / "annotations").glob("*.json"):
        told = json.loads(path.read_text(encoding="utf-8"))
        said = told["image_caption"]["match_info"][-1]["sentence"]
        for person in told["people"]:
            assert any(words in said for words in EXPRESSION_WORDS[person["expression"]])


def test_the_words_that_are_new_are_those_for_faces(data):
    words = {sdxl_tokenizer().decode([token]).strip() for token in new_words(data.descriptions).tolist()}
    assert {"smiling", "closed", "eyes"} & words
    assert not words & {"wears", "left", "red", "beach"}


def test_what_is_asked_at_new_words_is_whose_face_they_are_about(data):
    told = [one for one in data.descriptions if "faces" in one]
    new = new_words(told)
    words = FaceWords.of(told, new)
    for one, row, answers in zip(told, words.low, words.answers.permute(1, 0, 2), strict=True):
        asked = (answers[0] >= 0).nonzero()[:, 0]
        assert torch.isin(row[asked], new).all()
        sides = [("left", "right")[k] for k in answers[0, asked].tolist()]
        assert list(dict.fromkeys(sides)) == one["sides"]
        ends = (answers[1] >= 0).nonzero()[:, 0]
        said = [[EXPRESSIONS[e], HEADS[h]] for e, h in answers[1:, ends].T.tolist()]
        assert said == one["faces"]


def test_towers_read_everything_but_the_new_words_as_before(data, untaught, tmp_path, monkeypatch):
    monkeypatch.setattr(told_words, "BATCH", 4)
    new = new_words(data.descriptions)
    words = FaceWords.of(data.descriptions, new)
    save_told_towers(train_face_words(tmp_path, words, new, 2), new, tmp_path / "told")
    low = words.low[:2]
    first = torch.isin(low, new).int().argmax(dim=1)
    for old, taught in zip(mini_text_encoders(untaught), mini_text_encoders(tmp_path / "told"), strict=True):
        before, after = (tower(low, output_hidden_states=True).hidden_states[-2] for tower in (old, taught))
        for n, place in enumerate(first.tolist()):
            assert torch.equal(before[n, :place], after[n, :place])
            assert not torch.equal(before[n, place], after[n, place])


def test_a_step_of_training_moves_the_unet_and_a_finished_run_is_loaded(data, tmp_path, monkeypatch):
    monkeypatch.setattr(told_base, "BATCH", 2)
    texts = Texts(*mini_text_encoders())
    unet = train_told_base(tmp_path, data, texts, 1)
    again = train_told_base(tmp_path, data, texts, 1)
    for name, value in unet.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert not torch.equal(unet.conv_out.weight, mini_unet().conv_out.weight)


def test_a_reader_learns_from_faces_that_the_detector_finds(tmp_path):
    faces = tmp_path / "faces.npz"
    render_told_faces(faces, mini_vae(), mini_judge(), "judge", 20, 16)
    found = dict(np.load(faces))
    assert len(found["crops"]) >= 28
    assert found["crops"].shape[1:] == (64, 64, 3)
    assert set(found["heads"]) <= {0, 1, 2}
    reader = train_reader(tmp_path, faces, 2).eval()
    save_reader(reader, tmp_path / "told")
    loaded = load_reader(tmp_path / "told").read(found["crops"])
    assert all(len(each) == len(found["crops"]) for each in loaded)


def test_a_turn_to_the_other_is_a_turn_to_the_right_for_who_stands_left():
    assert head_label("inward", "left") == head_label("outward", "right") == HEADS.index("inward")
    assert head_label("outward", "left") == head_label("inward", "right") == HEADS.index("outward")
    assert head_label("ahead", "left") == head_label("ahead", "right") == HEADS.index("ahead")


def test_cases_ask_for_what_the_photos_do_not_show():
    cases = told_cases(6)
    for case, plain in zip(cases, held_out_cases(6), strict=True):
        assert case.script.people == plain.script.people
        assert case.script.outfits == plain.script.outfits
        for person, who in enumerate(case.script.people):
            photo = reference_pose(who, CONDITIONING_VIEW)
            assert case.script.expressions[person] != photo.expression
            assert case.script.heads[person] != head_of(photo, case.script.side(person))
    assert [case.text for case in told_cases(3)] == [case.text for case in cases[:3]]


class Knowing(FaceReader):
    """Reads what it is told, picture after picture."""

    def __init__(self, expressions, heads):
        super().__init__()
        self.said = iter(list(zip(expressions, heads, strict=True)))

    def read(self, crops):
        return next(self.said)


def test_a_picture_counts_as_asked_where_the_reader_says_so_and_never_without_two_faces():
    evaluator, cases = Evaluator(), told_cases(6)
    pictures = oracle_pictures(mini_vae(), cases, range(6))
    two = [n for n, faces in enumerate(evaluator.faces.detect_all(list(pictures))) if len(faces) == 2][:4]
    cases, pictures = [cases[n] for n in two], pictures[two]
    pictures[3] = 128
    expressions = [np.array([EXPRESSIONS.index(name) for name in case.script.expressions]) for case in cases[:3]]
    heads = [
        np.array([head_label(name, case.script.side(k)) for k, name in enumerate(case.script.heads)])
        for case in cases[:3]
    ]
    heads[1] = (heads[1] + 1) % 3
    photos = [reference_pose(who, CONDITIONING_VIEW).expression for who in cases[2].script.people]
    expressions[2] = np.array([EXPRESSIONS.index(name) for name in photos])
    found = told_measures(evaluator, Knowing(expressions, heads), pictures, cases)
    assert found["by_pair"]["expression"] == [1, 1, 0, 0]
    assert found["by_pair"]["head"] == [1, 0, 1, 0]
    assert found["by_pair"]["kept"] == [0, 0, 1, 0]
    assert found["by_pair"]["asked"][:2] == found["by_pair"]["recognition"][:2]
    assert set(found["measures"]) == set(MEASURES)
    assert sheet(cases, pictures).size == (4 * 2 * SIZE[0], 2 * SIZE[1] + 14)


def row(name, expression, recognition):
    values = dict.fromkeys(MEASURES, 0.9) | {"expression": expression, "recognition": recognition}
    measures = {key: {"mean": value, "low": value, "high": value} for key, value in values.items()}
    return {"title": name, "held_out": {"measures": measures, "by_pair": {key: [v] * 20 for key, v in values.items()}}}


def test_table_and_plot_hold_a_row_against_dhumandiff_at_equal_recognition(tmp_path):
    rows = {
        "told_base": row("base", 0.9, 0.05),
        "told_off_0.7": row("weak", 0.8, 0.2),
        "told_off_1": row("strong", 0.4, 0.8),
        "told_dual_given_1_0": row("dual", 0.75, 0.5),
    }
    text = told_table(rows)
    assert "| dual | one strength | 15.0 points (15.0 to 15.0) |" in text
    assert "| dual | -15.0 points (-15.0 to -15.0) |" in text
    assert "one_pass" not in text
    assert told_table({}) == ""
    assert plot_told(rows, tmp_path / "expressions.png").stat().st_size > 5000
    with refused("expressions-not-written", "expressions.png"):
        plot_told(rows, tmp_path / "nowhere" / "expressions.png")


def test_the_command_says_what_a_row_would_do_and_refuses_another_design(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(build_module, "USED", tmp_path / "of the first")
    assert training_main(["mini", "--row", "told_full", "--out", str(tmp_path), "--dry_run"]) == 0
    said = "told_latents told_words told_base told_reader told_data told_shards told_adapter"
    assert said in capsys.readouterr().out
    assert all(STAGES[name].for_rows for name in STAGES if name.startswith("told"))
    other = SECOND if DESIGN == FIRST else FIRST
    save_design(other, tmp_path / "weights")
    (tmp_path / "weights" / "unet.safetensors").touch()
    with refused("told-of-another-design", other.name):
        mini_main(["--row", "told_full", "--out", str(tmp_path)])


def test_what_stands_on_the_taught_base_gets_its_weights(tmp_path, monkeypatch):
    places = {}

    def start(folder, name, weights, *, stage, device):
        places[name] = weights
        (folder / "done").mkdir(exist_ok=True)
        (folder / "done" / f"{name}.json").touch()
        return []

    monkeypatch.setattr(build_module, "start", start)
    monkeypatch.setattr(build_module.time, "sleep", lambda _: None)
    build_module.build(tmp_path, ["told_base", "told_shards"], tmp_path / "others")
    assert places == {"told_base": tmp_path / "others", "told_shards": tmp_path / "told"}


@pytest.mark.skipif(FOLDER != SHIPPED, reason="the page shows figures of the weights that ship")
def test_the_page_shows_the_figures_of_the_rows_that_were_scored():
    """Of the miniature that ships; until it has rows, of the first one, whose page is beside its files."""
    rows, page = load_told_results(), Path(__file__).parents[2] / "docs" / "miniature.md"
    if not rows:
        rows, page = load_told_results(FIRST_FOLDER / "told"), FIRST_FOLDER / "README.md"
    assert {"told_full", "told_base", "told_ceiling", "told_dual_given_1_0"} <= set(rows)
    assert told_table(rows) in page.read_text(encoding="utf-8")
