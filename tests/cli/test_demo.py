"""`python -m dhumandiff demo`: the sheet, what it says of faces, and every refusal before anything is computed."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

pytest.importorskip("diffusers", reason="install it with: pip install diffusers transformers accelerate")

from support.known_faces import detect
from support.portraits import draw

from dhumandiff.__main__ import main
from dhumandiff.cli import demo, demo_sheet
from dhumandiff.cli.demo_sheet import Row, Seen, draw_sheet
from dhumandiff.hosts.diffusers.pipeline import PortraitPipeline
from dhumandiff.layout.person_style import person_color
from dhumandiff.miniature import defaults, mini_adapter
from dhumandiff.miniature.design import DESIGN
from dhumandiff.miniature.faces import MiniFaces
from dhumandiff.miniature.world import SPLITS, distance
from dhumandiff.prompts import parse_prompt


@pytest.fixture
def quick(monkeypatch):
    """Two steps a picture, and faces where the world puts them."""
    monkeypatch.setitem(defaults.MINI, "steps", 2)
    monkeypatch.setattr(MiniFaces, "detect", detect)


@pytest.mark.parametrize("seed", [0, 1, 7, 4242])
def test_the_sentences_are_about_adults_of_the_test_split_who_look_unlike(seed):
    shots = demo.plan(seed)
    assert len(shots) == 4
    assert len({shot.script.scene for shot in shots}) == 4
    for shot in shots:
        first, second = shot.script.people
        assert {first.seed, second.seed} <= set(SPLITS["test"])
        assert "child" not in (first.age, second.age)
        assert distance(first, second) >= demo.APART
        assert shot.script.outfits[0].color != shot.script.outfits[1].color
        assert {mention.person for mention in parse_prompt(shot.marked).mentions} == {1, 2}
    assert [{who.gender for who in shot.script.people} for shot in shots[:3]] == [{"woman", "man"}] * 3
    assert len({who.gender for who in shots[3].script.people}) == 1
    assert {shot.script.first_is_left for shot in shots} == {True, False}
    assert shots[0].script.people == shots[1].script.people
    assert len({who for shot in shots for who in shot.script.people}) == 4


def test_another_seed_is_another_sheet_and_the_same_one_the_same():
    assert demo.plan(5) == demo.plan(5)
    assert demo.plan(5)[0].script.people != demo.plan(6)[0].script.people


def test_one_for_both_is_the_average_and_everything_else_stays():
    adapter = mini_adapter()
    shared = demo.with_one_for_both(adapter)
    assert (shared.info.shared, shared.info.layers) == (True, adapter.info.layers)
    ours, theirs = adapter.attention[3], shared.attention[3]
    assert torch.equal(theirs.to_k_ip.weight, (ours.to_k_ip1.weight + ours.to_k_ip2.weight) / 2)
    assert torch.equal(theirs.to_v_ip.weight, (ours.to_v_ip1.weight + ours.to_v_ip2.weight) / 2)
    assert torch.equal(shared.face_projection.latents, adapter.face_projection.latents)
    assert shared.has_subject_path
    tokens = torch.randn(1, 2, adapter.info.face_tokens, adapter.info.context_width).to(theirs.to_k_ip.weight)
    keys, _ = shared.keys_values(3, tokens.flip(1))
    assert torch.allclose(keys.flip(1), shared.keys_values(3, tokens)[0], atol=1e-5)  # nobody is first


def test_without_people_nobody_s_face_reaches_the_picture(quick):
    shots = demo.plan(0)
    photos = {who: demo.photo_of(who, 0) for who in (*shots[0].script.people, *shots[3].script.people)}
    references = demo.encode(photos)
    portrait, adapter = PortraitPipeline.from_base("mini", "cpu"), mini_adapter()

    def drawn(adapter, shot, **settings):
        people = [references[who] for who in shot.script.people]
        return np.asarray(
            draw(portrait, adapter, people, shots[0].marked, "", size=DESIGN.size, steps=2, mode="none", **settings)[0]
        )

    bare = demo.without_people(adapter)
    assert np.array_equal(drawn(bare, shots[0], strength=0.0), drawn(bare, shots[3], strength=0.0))
    # With the subject path a word would still carry whose face it is.
    assert not np.array_equal(drawn(adapter, shots[0], strength=0.0), drawn(adapter, shots[3], strength=0.0))


def test_the_demo_writes_a_sheet_that_says_how_it_was_made(quick, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    assert main(["demo", "--out", str(tmp_path / "demo.png"), "--seed", "3", "--photos", str(photos)]) == 0
    said = capsys.readouterr()
    assert "drawing: 100%" in said.err
    assert "of 8 faces are who the sentence says" in said.out
    sheet = Image.open(tmp_path / "demo.png")
    assert (sheet.format, sheet.mode) == ("PNG", "RGB")
    assert sheet.width > 4 * demo_sheet.WIDE
    assert np.asarray(sheet).std() > 10
    told = json.loads(sheet.text["dhumandiff"])
    assert [row["prompt"] for row in told["rows"]] == [shot.marked for shot in demo.plan(3)]
    assert set(told["rows"][0]["faces"]) == {"portrait", "plain", "shared"}
    assert [face["asked"] for face in told["rows"][1]["faces"]["portrait"]] == [2, 1]
    assert str(tmp_path) not in str(sheet.text)
    first = demo.plan(3)[0].script.people[0]
    assert len(list(photos.iterdir())) == 4
    assert np.array_equal(np.asarray(Image.open(photos / f"{first.name}.png")), demo.photo_of(first, 3))
    assert f"generate --base mini --person-1 {photos / first.name}.png" in said.out


def test_the_two_photos_and_a_sentence_of_the_sheet_make_its_portrait_with_generate(quick, tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(demo, "VERSIONS", ("portrait",))
    monkeypatch.setattr(demo_sheet, "draw_sheet", lambda rows, **_: seen.update(rows=rows) or Image.new("RGB", (8, 8)))
    monkeypatch.setattr(demo, "_tell", lambda *_: None)
    assert main(["demo", "--out", str(tmp_path / "demo.png")]) == 0
    shot = demo.plan(0)[1]
    line = ["generate", "--base", "mini", "--prompt", shot.marked, "--seed", str(shot.seed), "--device", "cpu"]
    for number, who in enumerate(shot.script.people, 1):
        Image.fromarray(demo.photo_of(who, 0)).save(tmp_path / f"{number}.png")
        line += [f"--person-{number}", str(tmp_path / f"{number}.png")]
    assert main([*line, "--out", str(tmp_path / "mine.png")]) == 0
    theirs = np.asarray(seen["rows"][1].pictures["portrait"])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "mine.png")), theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "{}/demo.jpg"], "choose a name that ends in .png"),
        (["--out", "{}/missing/demo.png"], "does not exist. Make it"),
        (["--out", "{}/folder.png"], "it is a folder"),
        (["--out", "{}/demo.png", "--seed", "-1"], "The seed is -1; it lies between 0"),
        (["--out", "{}/demo.png", "--photos", "{}/nowhere"], "there is no such folder. Make it"),
    ],
)
def test_bad_input_is_refused_before_anything_is_drawn(tmp_path, capsys, monkeypatch, options, message):
    (tmp_path / "folder.png").mkdir()
    monkeypatch.setattr(demo, "plan", None)
    assert main(["demo", *(option.format(tmp_path) for option in options)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said


def test_a_missing_package_is_told_with_its_pip_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert main(["demo", "--out", str(tmp_path / "demo.png")]) == 1
    assert "pip install diffusers transformers accelerate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("similarity", "taken", "right"),
    [((0.7, 0.1), 1, True), ((0.4, 0.5), 2, False), ((0.1, 0.2), 0, False), (None, None, False)],
)
def test_a_face_is_taken_for_the_nearer_person_unless_it_is_nobody_s(similarity, taken, right):
    seen = Seen(1, similarity, stranger=0.3)
    assert (seen.taken, seen.right) == (taken, right)


class Judge:
    """Finds faces at given centres; a face left of the middle is person 1's."""

    def __init__(self, *centres):
        self.centres = centres

    def detect(self, image):
        face = detect(None, image)[0]
        moves = [np.array([x - face.center[0], 0], dtype=np.float32) for x in self.centres]
        return [type(face)(face.box + np.tile(move, 2), face.landmarks + move) for move in moves]

    def identity(self, image, face):
        return np.array([1.0, 0.0]) if face.center[0] < image.shape[1] / 2 else np.array([0.0, 1.0])


KNOWN = (np.array([1.0, 0.0]), np.array([0.0, 1.0]))


def test_faces_are_asked_for_by_side_not_by_order_of_detection():
    left_first, right_first = demo.plan(0)[:2]
    for centres in ((90, 30), (30, 90)):
        seen = demo.look(Judge(*centres), Image.new("RGB", (128, 96)), left_first, KNOWN, 0.3)
        assert [(one.asked, one.taken) for one in seen] == [(1, 1), (2, 2)]
        seen = demo.look(Judge(*centres), Image.new("RGB", (128, 96)), right_first, KNOWN, 0.3)
        assert [(one.asked, one.taken) for one in seen] == [(2, 1), (1, 2)]


@pytest.mark.parametrize(
    ("centres", "taken"), [((), [None, None]), ((30,), [1, None]), ((90,), [None, 2]), ((30, 90, 60), [1, 2])]
)
def test_a_face_that_is_missing_is_missing_on_its_side(centres, taken):
    seen = demo.look(Judge(*centres), Image.new("RGB", (128, 96)), demo.plan(0)[0], KNOWN, 0.3)
    assert [one.taken for one in seen] == taken


def test_two_people_on_one_half_are_left_and_right_of_each_other():
    seen = demo.look(Judge(20, 50), Image.new("RGB", (128, 96)), demo.plan(0)[0], KNOWN, 0.3)
    assert [one.taken for one in seen] == [1, 1]


def test_the_sheet_grows_with_its_sentences_and_shows_words_in_the_people_s_colours():
    picture = Image.new("RGB", (128, 96), "grey")
    reference = np.full((96, 96, 3), 200, dtype=np.uint8)
    seen = (Seen(1, (0.6, -0.2), 0.3), Seen(2, None, 0.3))
    names = ("portrait", "plain", "shared")

    def sheet(sentence, rows=1):
        focus = np.zeros((12, 16), dtype=bool)
        row = Row(sentence, (reference, reference), dict.fromkeys(names, picture), focus, dict.fromkeys(names, seen))
        return np.asarray(draw_sheet([row] * rows, same=0.8, stranger=0.3, how="Seed 0. euler, 20 steps"))

    one, long = sheet("A man@1 and a woman@2."), sheet("A man@1 and a woman@2 stand " * 20)
    assert one.shape[1] == long.shape[1]
    assert long.shape[0] > one.shape[0]
    assert sheet("A man@1.", rows=3).shape[0] > 2 * one.shape[0] - 600
    for person in (0, 1):
        assert (one == ImageColor.getrgb(person_color(person))).all(axis=-1).sum() > 200
    assert (one[:, -30:] == 255).all()  # nothing runs over the margin
    assert (long[:, -30:] == 255).all()
