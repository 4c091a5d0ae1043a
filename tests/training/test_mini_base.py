"""The latents of the miniature's second design, and the training of its base on them."""

import itertools
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

for package in ("jsonargparse", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from accelerate import Accelerator

from dhumandiff.miniature.autoencoder import Autoencoder
from dhumandiff.miniature.base import SIZE, build_unet, mini_text_encoders, mini_unet
from dhumandiff.miniature.design import DESIGN, FIRST
from dhumandiff.miniature.weights import load_part
from dhumandiff.miniature.world import sample_pair
from training.__main__ import main as training_main
from training.miniature import autoencoder, larger, latents
from training.miniature.base import FRESH, LONGER, Texts, train_base
from training.miniature.latents import Latents, describe_strangers, draw_latents, draw_strangers
from training.miniature.look import average_of, look


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Eight pictures' latents in two chunks, by an untrained autoencoder."""
    folder = tmp_path_factory.mktemp("latents")
    torch.manual_seed(0)
    vae = Autoencoder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latents, "CHUNK", 4)
        draw_latents(folder, vae, 8, first=30)
    return folder, vae


def test_latents_are_of_the_worlds_pictures(drawn):
    folder, vae = drawn
    found = Latents.load(folder)
    sample = sample_pair(35, references=0, size=SIZE)
    expected = autoencoder.encode_all(vae, sample.picture[None])[0]
    assert found.latents.shape == (8, DESIGN.latents, SIZE[1] // 8, SIZE[0] // 8)
    assert torch.allclose(found.latents[5].float(), expected, atol=2e-3)
    assert found.descriptions[5]["scene"] == sample.script.scene
    assert np.allclose(found.boxes[5, 0], sample.people[0].face_box)


def test_half_of_the_sentences_say_what_faces_do_and_the_others_describe_people():
    said = [describe_strangers(seed) for seed in range(60)]
    faces = [one for one in said if "faces" in one]
    assert 15 < len(faces) < 45
    assert all(one["looks"] == [{}, {}] for one in faces)
    assert any(any(one["looks"]) for one in said)


def test_towers_that_know_the_words_already_stay_as_they_are(drawn, tmp_path, monkeypatch):
    """As those that ship do once this design ships."""
    taught = []
    monkeypatch.setattr("training.miniature.told_words.teach_face_words", lambda *given: taught.append(given[2]))
    (tmp_path / "latents").symlink_to(drawn[0])
    for unknown in ([], [7]):
        monkeypatch.setattr("training.miniature.told_words.new_words", lambda _, unknown=unknown: torch.tensor(unknown))
        larger.STAGES["words"].run(tmp_path)
    assert taught == [tmp_path / "weights"]


def test_chunks_that_are_there_are_not_drawn_again(drawn, monkeypatch):
    folder, vae = drawn
    monkeypatch.setattr(latents, "CHUNK", 4)
    (folder / "00001.npz").unlink()
    before = (folder / "00000.npz").stat().st_mtime_ns
    draw_latents(folder, vae, 8, first=30)
    assert (folder / "00000.npz").stat().st_mtime_ns == before
    assert len(Latents.load(folder).descriptions) == 8


@pytest.mark.slow
def test_processes_draw_the_same_latents(drawn, tmp_path, monkeypatch):
    folder, vae = drawn
    monkeypatch.setattr(latents, "CHUNK", 4)
    draw_latents(tmp_path, vae, 8, first=30, workers=2)
    one, two = Latents.load(folder), Latents.load(tmp_path)
    assert torch.equal(one.latents, two.latents)
    assert one.descriptions == two.descriptions


def test_a_killed_base_ends_as_one_that_was_not(drawn, tmp_path, monkeypatch):
    data, texts = Latents.load(drawn[0]), Texts(*mini_text_encoders())
    course = replace(FRESH, astray_from=1)
    monkeypatch.setattr("training.miniature.base.ASTRAY_EVERY", 1)
    monkeypatch.setattr("training.miniature.base.SAVE_MINUTES", 0.0)  # after every step
    whole = train_base(tmp_path / "whole", data, texts, 3, Accelerator(cpu=True), course=course, batch=2)

    class Killed(Exception):
        pass

    calls, forward = itertools.count(), Texts.forward

    def dying(*given):
        if next(calls) == 2:
            raise Killed
        return forward(*given)

    monkeypatch.setattr(Texts, "forward", dying)
    with pytest.raises(Killed):
        train_base(tmp_path / "run", data, texts, 3, Accelerator(cpu=True), course=course, batch=2)
    again = train_base(tmp_path / "run", data, texts, 3, Accelerator(cpu=True), course=course, batch=2)
    for (name, one), other in zip(whole.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_a_base_that_goes_on_begins_with_the_weights_in_use_and_sees_small_pictures(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr("training.miniature.base.SMALL_EVERY", 2)  # steps 0 and 1: a picture of the design, a small one
    folder, vae = drawn
    draw_latents(tmp_path / "small", vae, 4, draw=partial(draw_strangers, size=FIRST.size))
    small, seen = Latents.load(tmp_path / "small"), []
    assert small.size == FIRST.size
    assert Latents.load(folder).size == SIZE
    unet_class = type(mini_unet())
    forward = unet_class.forward

    def noting(unet, noisy, *rest, **how):
        seen.append((tuple(noisy.shape[2:]), how["added_cond_kwargs"]["time_ids"][0].tolist()))
        return forward(unet, noisy, *rest, **how)

    monkeypatch.setattr(unet_class, "forward", noting)
    course = replace(LONGER, learning_rate=0.0, muon_lr=0.0)
    data, texts = Latents.load(folder), Texts(*mini_text_encoders())
    unet = train_base(tmp_path, data, texts, 2, Accelerator(cpu=True), course=course, small=small, batch=2)
    assert all(torch.equal(a, b) for a, b in zip(unet.parameters(), mini_unet().parameters(), strict=True))
    assert [shape for shape, _ in seen] == [tuple(one.latents.shape[2:]) for one in (data, small)]
    assert [ids[:2] for _, ids in seen] == [[height, width] for width, height in (SIZE, FIRST.size)]


def test_a_look_shows_the_averaged_base_beside_the_world(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr("training.miniature.look.COLUMNS", 2)
    unet = train_base(tmp_path, Latents.load(drawn[0]), Texts(*mini_text_encoders()), 1, Accelerator(cpu=True), batch=2)
    path = look(tmp_path, 3)
    assert path.name == "look_000001.png"
    width, height = SIZE
    assert Image.open(path).size == (4 * width, 2 * height)
    other = build_unet()
    assert average_of(tmp_path, "base", other) == 1
    assert all(torch.equal(a, b) for a, b in zip(unet.parameters(), other.parameters(), strict=True))
    kept = load_part("unet", tmp_path / "weights")
    assert torch.equal(kept["conv_in.weight"], unet.conv_in.weight.half().float())


def test_nothing_can_be_looked_at_before_there_is_a_base(tmp_path, capsys):
    assert training_main(["mini", "--out", str(tmp_path), "--look", "2"]) == 1
    assert "has not got to its first checkpoint" in capsys.readouterr().err


def test_hidden_words_read_as_unknown_ones(drawn):
    texts = Texts(*mini_text_encoders())
    ids = torch.full((1, 77), 320)  # "a"
    last, none = torch.tensor([False]), torch.zeros(1, 77, dtype=torch.bool)
    seen, _ = texts(ids, ids, last, none)
    hidden, _ = texts(ids, ids, last, ~none)
    other, _ = texts(torch.full_like(ids, texts._unknown), torch.full_like(ids, texts._unknown), last, none)
    assert torch.equal(hidden, other)
    assert not torch.allclose(seen, hidden)
