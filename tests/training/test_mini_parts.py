"""Parts2Whole on the miniature's world: what is drawn, what is read back, what is trained, and that it is what the method computes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.refused import refused

from dhumandiff.methods.parts2whole import LABELS, Parts2Whole
from dhumandiff.methods.parts2whole.part import Part
from dhumandiff.miniature.autoencoder import LATENTS
from dhumandiff.miniature.base import SIZE, mini_vae
from dhumandiff.miniature.design import DESIGN, FIRST, SECOND, save_design
from dhumandiff.miniature.world import people
from training.__main__ import main as training_main
from training.miniature import main as mini_main
from training.miniature import parts_training
from training.miniature.autoencoder import encode_all
from training.miniature.parts_batch import PartsBatch
from training.miniature.parts_data import SLOTS, bits, draw_parts_data, load_parts_data
from training.miniature.parts_drawing import PATTERNS, draw_couple, held_out
from training.miniature.parts_reading import read_clothes
from training.miniature.parts_scoring import ROWS, load_parts_results, parts_table
from training.miniature.parts_training import begin, save_weights, train_parts
from training.miniature.sampling import decode, load_parts
from training.miniature.text_to_image import sizes


@pytest.fixture(scope="module")
def couples():
    pool = people("test", 60)
    return [draw_couple(seed, (pool[2 * seed], pool[2 * seed + 1]), unseen=True) for seed in range(24)]


@pytest.fixture(scope="module")
def parts():
    return load_parts()


@pytest.fixture(scope="module")
def data(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("run") / "parts_pictures"
    draw_parts_data(folder, parts, 2, 8)
    return load_parts_data(folder)


def test_the_same_seed_gives_the_same_couple(couples):
    again = draw_couple(3, couples[3].people, unseen=True)
    assert again.clothes == couples[3].clothes
    for one, other in zip(again.parts[0], couples[3].parts[0], strict=True):
        assert np.array_equal(one.picture, other.picture)
    assert np.array_equal(again.targets[0].picture, couples[3].targets[0].picture)


def test_clothes_of_training_and_of_scores_never_meet(couples):
    assert all(held_out(one) for couple in couples for one in couple.clothes)
    trained = [draw_couple(seed, couples[0].people).clothes for seed in range(8)]
    assert not any(held_out(one) for both in trained for one in both)
    assert {one.pattern for couple in couples for one in couple.clothes} == set(PATTERNS)


def test_parts_are_what_their_label_says(couples):
    for couple in couples:
        for own, worn in zip(couple.parts, couple.clothes, strict=True):
            labels = [part.label for part in own]
            assert labels[0] == LABELS[0]
            assert labels[-1] == worn.label
            assert all(0.02 < (part.mask > 0).mean() < 0.95 for part in own)
            assert all(part.picture.shape == (SIZE[1], SIZE[0], 3) for part in own)


def test_sentences_name_garments_and_only_those_with_colors_name_colors(couples):
    for couple in couples:
        target = couple.targets[0]
        for worn in couple.clothes:
            assert f"{worn.colors[0]} {worn.garment}" in target.text_colors
            assert worn.garment in target.text
            assert f"{worn.colors[0]} {worn.garment}" not in target.text


def test_clothes_are_read_back_from_drawings_through_the_autoencoder(couples):
    vae = mini_vae()
    pictures = decode(vae, encode_all(vae, np.stack([couple.targets[0].picture for couple in couples])))
    right = [
        read_clothes(picture, person.face_box).is_of(worn)
        for picture, couple in zip(pictures, couples, strict=True)
        for person, worn in zip(couple.targets[0].people, couple.clothes, strict=True)
    ]
    swapped = [
        read_clothes(picture, person.face_box).is_of(worn)
        for picture, couple in zip(pictures, couples, strict=True)
        for person, worn in zip(couple.targets[0].people, couple.clothes[::-1], strict=True)
    ]
    assert np.mean(right) > 0.93
    assert not any(swapped)


def test_a_picture_without_a_chest_reads_as_nothing():
    low = np.array([40, 90, 70, 126]) * SIZE[0] / 128  # of a picture of the first design
    assert not read_clothes(np.zeros((SIZE[1], SIZE[0], 3), np.uint8), low).colors


def random_weights(parts):
    """As training begins, but with a pose net and image projections that do something."""
    unet, weights = begin(parts)
    weights.encoder = parts_training.make_encoder(weights.files)
    random = torch.Generator().manual_seed(1)
    new = [weights.pose_guider.conv_out.weight, *(one.to_v_dc for one in weights.image_projections)]
    for weight in new:
        weight.data = 0.1 * torch.randn(weight.shape, generator=random)
    return unet, weights


def test_training_computes_what_the_method_computes(parts, data):
    """The batch of training against PartsConditioning with each person's half as region, for every picture alone."""
    unet, weights = random_weights(parts)
    labels = torch.cat([parts.portrait.encode(label)[0] for label in LABELS])
    rows, which, count = torch.tensor([0, 1]), torch.tensor([0, 2]), 2
    seen = data["labels"] >= 0
    seen[1, 0] = False
    batch = PartsBatch(unet, weights)
    batch.encode(
        data["part_latents"][rows][seen].float(),
        labels[data["labels"][seen]],
        bits(data["masks"][seen])[:, None].float(),
        seen,
        1,
    )
    batch.embeds = data["embeds"][rows].float() * seen[..., None]
    batch.first_is_left = data["first_is_left"][rows, which]
    poses = bits(data["poses"][rows, which]).float()
    batch.pose = weights.pose_guider(poses)
    random = torch.Generator().manual_seed(3)
    noisy, text = (
        torch.randn(2, LATENTS, SIZE[1] // 8, SIZE[0] // 8, generator=random),
        data["text"][rows, which].float(),
    )
    added = {"text_embeds": data["pooled"][rows, which].float(), "time_ids": sizes(count)}
    with torch.no_grad():
        together = unet(noisy, 400, text, added_cond_kwargs=added).sample
        batch.detach()
        plain = unet(noisy, 400, text, added_cond_kwargs=added).sample
        left = torch.zeros(SIZE[1], SIZE[0])
        left[:, : SIZE[0] // 2] = 1
        for n in range(count):
            own = [
                Part(
                    LABELS[data["labels"][n, slot]],
                    data["part_latents"][n, slot : slot + 1].float(),
                    bits(data["masks"][n, slot])[None, None].float(),
                    labels[data["labels"][n, slot]][None],
                    data["embeds"][n, slot : slot + 1].float(),
                    person=1 + slot // 3,
                )
                for slot in range(SLOTS)
                if seen[n, slot]
            ]
            halves = [left, 1 - left] if batch.first_is_left[n] else [1 - left, left]
            one = {name: value[n : n + 1] for name, value in added.items()}
            with weights.attach(unet, own, poses[n : n + 1], regions=halves, guidance=False):
                alone = unet(noisy[n : n + 1], 400, text[n : n + 1], added_cond_kwargs=one).sample
            assert torch.allclose(alone, together[n : n + 1], atol=1e-4)
    assert (plain - together).abs().mean() > 1e-2


def test_what_is_saved_is_a_released_folder(parts, tmp_path):
    unet, weights = random_weights(parts)
    save_weights(tmp_path, unet, weights, steps=3)
    loaded = Parts2Whole.from_pretrained(tmp_path).float()
    assert loaded.info.hidden == weights.info.hidden
    assert loaded.info.schedule.beta_schedule == "scaled_linear"
    for one, other in zip(loaded.image_projections, weights.image_projections, strict=True):
        assert torch.allclose(one.to_v_dc, other.to_v_dc, atol=1e-3)
    assert json.loads((tmp_path / "training.json").read_text())["steps"] == 3


def test_a_step_of_training_moves_all_weights_and_a_killed_run_goes_on(parts, data, tmp_path, monkeypatch):
    monkeypatch.setattr(parts_training, "COUPLES", 2)
    monkeypatch.setattr(parts_training, "NO_PARTS", 0.0)
    begun = begin(parts)
    unet, weights = train_parts(tmp_path, parts, data, 2)
    for old, new in ((begun[0].state_dict(), unet.state_dict()), (begun[1].state_dict(), weights.state_dict())):
        names = [name for name in old if name.endswith("to_v.weight") or "to_v_dc" in name or "conv_out.weight" in name]
        assert names
        assert all(not torch.equal(old[name], new[name]) for name in names)
    encoder = weights.encoder.state_dict()
    assert not torch.equal(encoder["conv_in.weight"], begun[1].files.reference["conv_in.weight"])
    again, _ = train_parts(tmp_path, parts, data, 2)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in unet.state_dict().items())


def test_the_command_says_what_a_row_would_do(tmp_path, capsys):
    assert training_main(["mini", "--row", "parts2whole", "--out", str(tmp_path), "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert "parts_pictures parts2whole" in said
    assert training_main(["mini", "--row", "parts2whole_words", "--out", str(tmp_path), "--dry_run"]) == 0
    assert "no training" in capsys.readouterr().out


def test_weights_of_another_design_are_refused(tmp_path):
    other = SECOND if DESIGN == FIRST else FIRST
    save_design(other, tmp_path / "weights")
    (tmp_path / "weights" / "unet.safetensors").touch()
    with refused("parts-of-another-design", other.name):
        mini_main(["--row", "parts2whole", "--out", str(tmp_path)])


def test_every_row_was_scored_and_the_page_shows_its_figures():
    rows = load_parts_results()
    assert list(rows) == list(ROWS)
    assert parts_table(rows) in (Path(__file__).parents[2] / "docs" / "miniature.md").read_text(encoding="utf-8")
