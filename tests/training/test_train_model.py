"""The pair inside a trained UNet computes what inference computes, row by row, and lets gradients through."""

import pytest
import torch
from support.layouts import random_reference
from support.refused import refused
from support.shards import make_shards
from support.small_base import SD15, SIZES, make_base

for package in ("diffusers", "transformers", "webdataset"):
    pytest.importorskip(package, reason=f"install it with: pip install {package}")

from dataclasses import replace

from dhumandiff import testing as tiny
from dhumandiff.hosts.diffusers.attention import attach
from dhumandiff.hosts.diffusers.parts import sdxl_scheduler, sdxl_tokenizer
from dhumandiff.hosts.diffusers.text import encode_prompt
from dhumandiff.prompts import locate_tokens, parse_prompt
from training.data.batch import NO_AUGMENTATION, Batch, BatchMaker
from training.data.dataset import Sample, open_dataset
from training.data.seeding import seeded_rng
from training.run.base import BaseModel, check_shards_compatible, load_base
from training.run.config import InitConfig
from training.run.init import init_adapter
from training.run.model import TrainableModel

SENTENCES = ("A man@1 and a woman@2 on a bench in a garden", "The bride@2 beside an old groom@1")


@pytest.fixture(scope="module")
def adapter():
    return tiny.tiny_adapter()


@pytest.fixture(scope="module")
def encoders():
    return tiny.tiny_text_encoders()


@pytest.fixture(scope="module")
def people(adapter):
    made = [random_reference(adapter.info, seed=seed, clip_tokens=50) for seed in range(1, 5)]
    return [replace(person, clip_hidden_zero=made[0].clip_hidden_zero) for person in made]


@pytest.fixture
def model(adapter, encoders, people):
    base = BaseModel(tiny.tiny_unet(), sdxl_scheduler(), encoders[0], None, "tiny")
    return TrainableModel(base, adapter, people[0].clip_hidden_zero)


def batch_of(encoders, people, sentences=SENTENCES, dropped=((False, False), (False, False))):
    """A batch as `prepare` and BatchMaker would make it: row i has the people 2i and 2i + 1."""
    tokenizers = (sdxl_tokenizer(), sdxl_tokenizer(second=True))
    text, pooled, ids, words = [], [], [], []
    for row, sentence in enumerate(sentences):
        prompt = parse_prompt(sentence)
        embeds, pool, _ = encode_prompt(tokenizers, encoders, prompt.text)
        text.append(embeds[0])
        pooled.append(pool[0])
        ids.append(torch.tensor(tokenizers[0](prompt.text, padding="max_length", max_length=77)["input_ids"])[None])
        flat = lambda words: tokenizers[0](words, add_special_tokens=False)["input_ids"]  # noqa: E731 (a name for the next two lines)
        bound = [token for token in locate_tokens(prompt, flat) if not dropped[row][token.person - 1]]
        words += [[row, token.person - 1, 0, 1 + token.index] for token in bound]
    rows = len(sentences)
    generator = torch.Generator().manual_seed(5)
    zeros = torch.zeros(rows, 2, 8, 8)
    return Batch(
        names=[f"row {row}" for row in range(rows)],
        latents=torch.randn(rows, 4, 8, 8, generator=generator),
        noise=torch.randn(rows, 4, 8, 8, generator=generator),
        levels=torch.rand(rows, generator=generator),
        text=torch.stack(text),
        pooled=torch.stack(pooled),
        time_ids=torch.tensor([[64.0, 64, 0, 0, 64, 64]] * rows),
        ids=torch.stack(ids),
        subject_token_index=torch.tensor(words).reshape(-1, 4),
        hidden=torch.stack([torch.stack([p.clip_hidden[0] for p in people[2 * i : 2 * i + 2]]) for i in range(rows)]),
        identity=torch.stack(
            [torch.stack([p.identity_swapped[0] for p in people[2 * i : 2 * i + 2]]) for i in range(rows)]
        ),
        drop_identity=torch.tensor(dropped),
        drop_face_tokens=torch.tensor(dropped),
        masks=zeros,
        faces=zeros,
        truth=torch.zeros(rows, 2, 512),
        landmarks=torch.zeros(rows, 2, 5, 2),
        people=torch.zeros(rows, 2, dtype=torch.long),
    )


def test_every_row_is_predicted_as_inference_predicts_it(model, adapter, encoders, people):
    batch, times = batch_of(encoders, people), torch.tensor([700, 20])
    with torch.no_grad():
        ours, maps = model(batch, batch.latents, times)
    assert maps == []
    tokenizers = (sdxl_tokenizer(), sdxl_tokenizer(second=True))
    for row, sentence in enumerate(SENTENCES):
        pair = people[2 * row : 2 * row + 2]
        text, pooled, _ = encode_prompt(tokenizers, encoders, parse_prompt(sentence), adapter, pair)
        unet = tiny.tiny_unet()
        with torch.no_grad(), attach(unet, adapter, pair):
            theirs = unet(
                batch.latents[row : row + 1],
                times[row],
                text,
                added_cond_kwargs={"text_embeds": pooled, "time_ids": batch.time_ids[row : row + 1]},
            ).sample
        torch.testing.assert_close(ours[row : row + 1], theirs, rtol=1e-4, atol=1e-5)


def test_a_dropped_face_is_the_unconditional_one(model, adapter, encoders, people):
    batch = batch_of(encoders, people, dropped=((True, False), (False, True)))
    with torch.no_grad():
        tokens = model.face_tokens(batch.hidden, batch.drop_identity)
    for row, person in ((0, 0), (1, 1)):
        torch.testing.assert_close(tokens[row, person], adapter.unconditional_tokens(people[0])[0])
        torch.testing.assert_close(tokens[row, 1 - person], adapter.face_tokens(people[2 * row + 1 - person])[0])


def test_a_row_without_words_keeps_the_stock_encoding(model, encoders, people):
    batch = batch_of(encoders, people, dropped=((True, True), (False, False)))
    with torch.no_grad():
        text, columns = model.encode_text(batch)
    assert torch.equal(text[0], batch.text[0])
    assert not torch.equal(text[1], batch.text[1])
    assert torch.equal(text[1][:, 64:], batch.text[1][:, 64:])  # CLIP-G's channels
    assert columns[0].sum() == 0
    assert columns[1].sum() == 2


def test_gradients_reach_every_part_of_the_adapter_and_nothing_of_the_base(model, adapter, encoders, people):
    adapter.requires_grad_(True)
    try:
        prediction, _ = model(batch_of(encoders, people), torch.zeros(2, 4, 8, 8), torch.tensor([5, 900]))
        prediction.square().mean().backward()
        silent = [name for name, value in adapter.named_parameters() if value.grad is None or not value.grad.any()]
        assert silent == []
        assert all(value.grad is None for value in model.base.unet.parameters())
        assert all(value.grad is None for value in model.base.text_encoder.parameters())
    finally:
        adapter.zero_grad()
        adapter.requires_grad_(False)


def test_a_batch_without_words_still_gives_the_subject_path_a_gradient_of_zero(model, adapter, encoders, people):
    adapter.requires_grad_(True)
    model.train()
    try:
        batch = batch_of(encoders, people, dropped=((True, True), (True, True)))
        model(batch, batch.latents, torch.tensor([5, 900]))[0].square().mean().backward()
        assert all(value.grad is not None and not value.grad.any() for value in adapter.mapping.parameters())
    finally:
        adapter.zero_grad()
        adapter.requires_grad_(False)
        model.eval()


@pytest.mark.parametrize("watch", [frozenset(), frozenset({"faces", "words"})])
def test_gradient_checkpointing_changes_neither_loss_nor_gradients(adapter, encoders, people, watch):
    found = []
    adapter.requires_grad_(True)
    try:
        for checkpointing in (False, True):
            base = BaseModel(tiny.tiny_unet(), sdxl_scheduler(), encoders[0], None, "tiny")
            model = TrainableModel(base, adapter, people[0].clip_hidden_zero, watch, min_layer_size=4)
            if checkpointing:
                base.unet.enable_gradient_checkpointing()
                base.unet.train()
            batch = batch_of(encoders, people)
            prediction, maps = model(batch, batch.latents, torch.tensor([5, 900]))
            loss = prediction.square().mean() + sum(part.faces.std() + part.words.std() for part in maps)
            loss.backward()
            found.append((loss.detach(), len(maps), [value.grad.clone() for value in adapter.parameters()]))
            adapter.zero_grad()
    finally:
        adapter.requires_grad_(False)
    (loss, layers, gradients), (loss_again, layers_again, gradients_again) = found
    assert layers == layers_again == (17 if watch else 0)
    torch.testing.assert_close(loss_again, loss)
    torch.testing.assert_close(gradients_again, gradients)


def test_the_watched_maps_are_attention_weighed_by_value_and_attention_to_words(adapter, encoders, people):
    base = BaseModel(tiny.tiny_unet(), sdxl_scheduler(), encoders[0], None, "tiny")
    model = TrainableModel(base, adapter, people[0].clip_hidden_zero, frozenset({"faces", "words"}), min_layer_size=16)
    batch = batch_of(encoders, people)
    with torch.no_grad():
        _, maps = model(batch, batch.latents, torch.tensor([5, 900]))
    assert [tuple(part.faces.shape) for part in maps] == [
        (2, 2, 16)
    ] * 5  # 8 x 8 latents: only the outer level has 16 places
    for part in maps:
        assert (part.faces > 0).all()
        assert ((part.words > 0) & (part.words < 1)).all()


def test_an_sd15_shaped_base_needs_neither_pooled_text_nor_sizes(tmp_path):
    base = load_base(str(make_base(tmp_path / "base", kind="sd15")), text_encoder=True, vae=False)
    folder = open_dataset(str(make_shards(tmp_path / "shards", samples=2, sizes=SD15)))
    check_shards_compatible(base, [folder])
    assert base.sizes["pooled_width"] == 0
    model = TrainableModel(base, init_adapter(InitConfig(**SIZES), base, folder, 0), folder.common["clip_hidden_zero"])
    samples = [Sample((0, 0, place), *content) for place, *content in folder.read(0)]
    batch = BatchMaker([folder], NO_AUGMENTATION, "identity", seeded_rng)(samples, [0, 1], 0)
    model(batch, batch.latents, torch.tensor([1, 2]))[0].mean().backward()
    assert model.adapter.mapping.fc1.weight.grad.any()
    assert model.adapter.info.base_family == "sd15"


def test_only_what_training_needs_of_a_folder_is_loaded(tmp_path):
    base = load_base(str(make_base(tmp_path / "base")), text_encoder=False, vae=False)
    assert base.text_encoder is None
    assert base.vae is None
    assert load_base(str(tmp_path / "base"), text_encoder=False, vae=True).vae is None  # there is none
    (tmp_path / "base" / "text_encoder" / "model.safetensors").write_bytes(b"no")
    with refused("base-not-loaded", "text_encoder"):
        load_base(str(tmp_path / "base"), text_encoder=True, vae=False)


def test_a_base_that_the_shards_were_not_made_for_is_refused(tmp_path):
    base = load_base(str(make_base(tmp_path / "base", kind="sd15")), text_encoder=True, vae=False)
    folder = open_dataset(str(make_shards(tmp_path / "shards", samples=1)))
    with refused("shards-for-another-base", "(tiny)", "context_width 192 instead of 64"):
        check_shards_compatible(base, [folder])


def test_a_folder_that_is_no_base_is_refused(tmp_path):
    with refused("not-a-diffusers-folder", "unet/config.json"):
        load_base(str(tmp_path), text_encoder=False, vae=False)
