"""What is augmented at random in a sample: order, dropped faces and text, references, mentions."""

import pytest
import torch
from support.refused import refused
from support.shards import make_shards

pytest.importorskip("webdataset", reason="install it with: pip install webdataset")

from dataclasses import replace

from training.data.batch import NO_AUGMENTATION, BatchMaker
from training.data.dataset import Sample, open_dataset
from training.data.seeding import seeded_rng


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = make_shards(tmp_path_factory.mktemp("data") / "shards", samples=4, references=4, chunks=2)
    return open_dataset(str(path))


@pytest.fixture(scope="module")
def sample(folder):
    place, *content = next(folder.read(0))
    return Sample((0, 0, place), *content)


@pytest.fixture
def batch(folder, sample):
    """changed shares, number of rows -> a batch of one sample, changed anew in every row."""

    def make(rows=1, **shares):
        maker = BatchMaker(
            [folder], replace(NO_AUGMENTATION, **shares), "identity", lambda *names: seeded_rng(7, *names)
        )
        return maker([sample] * rows, list(range(rows)), 0)

    return make


def test_nothing_changed_is_the_sample_itself(batch, sample):
    made, tensors = batch(), sample.tensors()
    assert torch.equal(made.text[0], tensors["text"])
    assert torch.equal(made.pooled[0], tensors["pooled"])
    assert torch.equal(made.ids[0], tensors["ids_l"].long())
    assert (tensors["ref_2.identity"] == made.identity[0, 1]).all(dim=1).any()
    assert torch.equal(made.masks[0, 0], tensors["mask_1"].float() / 255)
    assert torch.equal(made.faces[0, 1], tensors["face_2"].float() / 255)
    assert made.time_ids.tolist() == [[64, 64, 0, 0, 64, 64]]
    assert made.subject_token_index.tolist() == [[0, 0, 0, 2], [0, 1, 0, 5]]
    assert not made.drop_identity.any()


def test_the_latent_is_drawn_from_its_posterior_anew_in_each_row(batch, sample):
    rows = batch(200)
    tensors = sample.tensors()
    off = (rows.latents - tensors["latent_mean"].float()) / tensors["latent_std"].float()
    assert off.std() == pytest.approx(1, abs=0.02)
    assert rows.noise.std() == pytest.approx(1, abs=0.02)
    assert (rows.noise * off).mean().abs() < 0.02
    assert 0 <= rows.levels.min() < 0.1
    assert 0.9 < rows.levels.max() < 1


def test_the_same_draw_is_changed_alike_and_other_settings_leave_its_noise_alone(batch):
    first, again, other = batch(3), batch(3), batch(3, swap_order=1, drop_text=1)
    assert torch.equal(first.noise, again.noise)
    assert torch.equal(first.noise, other.noise)
    assert not torch.equal(first.noise[0], first.noise[1])


def test_everything_follows_when_the_order_is_swapped(batch):
    plain, swapped = batch(), batch(swap_order=1)
    for name in ("hidden", "identity", "masks", "faces"):
        assert torch.equal(getattr(swapped, name), getattr(plain, name).flip(1)), name
    assert sorted(swapped.subject_token_index.tolist()) == [
        [0, 0, 0, 5],
        [0, 1, 0, 2],
    ]  # person 1 is now the second noun
    assert torch.equal(swapped.text, plain.text)


def test_about_half_are_swapped_at_a_share_of_a_half(batch):
    rows = batch(300, swap_order=0.5)
    plain = batch()
    share = (rows.masks[:, 0] == plain.masks[0, 0]).flatten(1).all(dim=1).float().mean()
    assert share == pytest.approx(0.5, abs=0.1)


def test_one_dropped_face_loses_its_words_and_the_other_keeps_them(batch):
    rows = batch(100, drop_one_face=1)
    assert torch.equal(rows.drop_identity.sum(dim=1), torch.ones(100))
    assert rows.drop_identity[:, 0].float().mean() == pytest.approx(0.5, abs=0.15)
    for row, person, *_ in rows.subject_token_index.tolist():
        assert not rows.drop_identity[row, person]
    assert len(rows.subject_token_index) == 100


def test_both_faces_dropped_leave_the_text(batch, sample):
    made = batch(drop_faces=1)
    assert made.drop_identity.all()
    assert len(made.subject_token_index) == 0
    assert torch.equal(made.text[0], sample.tensors()["text"])


def test_dropped_text_is_the_empty_prompt_repeated_without_words(batch, folder):
    made = batch(drop_text=1)
    assert torch.equal(made.text[0], folder.common["empty_text"].repeat(2, 1))
    assert torch.equal(made.pooled[0], folder.common["empty_pooled"])
    assert len(made.subject_token_index) == 0
    assert not made.drop_identity.any()


def test_everything_dropped_is_the_unconditional_half(batch, folder):
    made = batch(drop_all=1)
    assert made.drop_identity.all()
    assert torch.equal(made.text[0], folder.common["empty_text"].repeat(2, 1))


def test_what_is_dropped_comes_in_its_shares(batch, folder):
    rows = batch(600, drop_one_face=0.1, drop_faces=0.2, drop_text=0.3, drop_all=0.05)
    gone = rows.drop_identity.sum(dim=1)
    empty = (rows.text == folder.common["empty_text"].repeat(2, 1)).all(dim=2).all(dim=1)
    shares = [(gone == 1), (gone == 2) & ~empty, (gone == 0) & empty, (gone == 2) & empty]
    assert [float(share.float().mean()) for share in shares] == pytest.approx([0.1, 0.2, 0.3, 0.05], abs=0.06)


def test_a_dropped_subject_path_keeps_faces_and_text(batch):
    made = batch(drop_subject=1)
    assert len(made.subject_token_index) == 0
    assert not made.drop_identity.any()


def test_dropped_tokens_leave_the_mapped_words_alone_with_the_face(batch):
    made = batch(drop_face_tokens=1)
    assert made.drop_face_tokens.all()
    assert not made.drop_identity.any()
    assert len(made.subject_token_index) == 2
    assert not batch().drop_face_tokens.any()


@pytest.mark.parametrize("share", ["drop_subject", "drop_text"])
def test_tokens_stay_where_no_word_carries_the_face(batch, share):
    assert not batch(**{"drop_face_tokens": 1, share: 1}).drop_face_tokens.any()


def test_a_dropped_face_has_no_tokens(batch):
    rows = batch(50, drop_one_face=1)
    assert torch.equal(rows.drop_face_tokens, rows.drop_identity)


def test_all_mentions_carry_the_face_if_asked(batch):
    assert batch(all_mentions=1).subject_token_index.tolist() == [
        [0, 0, 0, 2],
        [0, 0, 1, 1],
        [0, 1, 0, 5],
        [0, 1, 1, 2],
    ]


def test_references_are_paired_and_augmented_in_their_shares(batch, sample):
    own = sample.tensors()["ref_1.identity"]  # rows: plain, augmented, plain, of another photo

    def chosen(**shares):
        rows = batch(400, **shares).identity[:, 0]
        return [(rows == row).all(dim=1).float().mean().item() for row in own]

    assert chosen() == pytest.approx([0.5, 0, 0.5, 0], abs=0.08)
    assert chosen(augmented=1) == [0, 1, 0, 0]
    assert chosen(paired=1) == [0, 0, 0, 1]
    assert chosen(paired=0.5, augmented=0.5) == pytest.approx([0.125, 0.25, 0.125, 0.5], abs=0.08)


def test_a_sample_without_paired_references_uses_its_own(tmp_path):
    folder = open_dataset(str(make_shards(tmp_path / "own", samples=1, references=1, paired=False)))
    _, *content = next(folder.read(0))
    maker = BatchMaker([folder], replace(NO_AUGMENTATION, paired=1, augmented=1), "identity", seeded_rng)
    made = maker([Sample((0, 0, 0), *content)], [0], 0)
    assert torch.equal(made.identity[0, 0], Sample((0, 0, 0), *content).tensors()["ref_1.identity"][0])


def test_the_channel_swapped_identity_is_taken_for_adapters_that_read_it(folder, sample):
    made = BatchMaker([folder], NO_AUGMENTATION, "identity_swapped", seeded_rng)([sample], [0], 0)
    assert (sample.tensors()["ref_1.identity_swapped"] == made.identity[0, 0]).all(dim=1).any()


def test_bases_without_a_pooled_embedding_have_none(tmp_path):
    folder = open_dataset(str(make_shards(tmp_path / "sd15", samples=1, sizes={"pooled_width": 0})))
    _, *content = next(folder.read(0))
    assert (
        BatchMaker([folder], NO_AUGMENTATION, "identity", seeded_rng)([Sample((0, 0, 0), *content)], [0], 0).pooled
        is None
    )


def test_a_sample_that_lacks_something_is_named(folder, sample):
    metadata = {**sample.metadata, "persons": sample.metadata["persons"][:1]}
    with refused("damaged-sample", "000000.tar, sample 00000000", "1 persons instead of 2"):
        BatchMaker([folder], NO_AUGMENTATION, "identity", seeded_rng)([replace(sample, metadata=metadata)], [0], 0)
