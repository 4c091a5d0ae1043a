"""`python -m training train` on a small base: what it learns, keeps, tells and refuses."""

import re
import time
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from support.layouts import ip_adapter_file, released_folder
from support.refused import refused
from support.small_base import make_base, make_config

for package in ("accelerate", "diffusers", "jsonargparse", "transformers", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from dhumandiff import Adapter
from dhumandiff.miniature import mini_adapter
from training.data.batch import NO_AUGMENTATION, BatchMaker
from training.data.dataset import Sample, open_dataset
from training.data.seeding import seeded_rng
from training.objectives.config import DiffusionConfig, LocalizationConfig, ObjectivesConfig
from training.objectives.losses import build_objectives, compute_losses
from training.run import setup, validation
from training.run.base import load_base
from training.run.checkpoint import adapter_of_run
from training.run.config import InitConfig
from training.run.init import cast_frozen, init_adapter
from training.run.logging import read_log
from training.run.loop import train
from training.run.model import TrainableModel
from training.run.timing import StepTimer

pytestmark = pytest.mark.usefixtures("one_thread", "fresh_accelerate")

LAYERS = {"hidden": (64,) * 4, "context_width": 192, "clip_width": 64, "text_width": 64, "face_width": 64, "depth": 1}
"""Sizes for `layouts` that fit the small base and the shards."""


def weights_of(ended, file="adapter.safetensors"):
    return load_file(ended.checkpoint / file)


def a_batch(folder, count=2):
    samples = [Sample((0, 0, place), *content) for place, *content in folder.read(0)][:count]
    same = [sample for sample in samples if sample.group == samples[0].group]
    return BatchMaker([folder], NO_AUGMENTATION, "identity", seeded_rng)(same, list(range(len(same))), 0)


def test_a_step_lowers_the_loss_of_its_batch_and_leaves_the_base_bit_equal(small_base, small_shards):
    frozen = load_base(str(small_base), text_encoder=True, vae=False)
    folder = open_dataset(str(small_shards))
    adapter = init_adapter(InitConfig(face_width=64, token_width=64, mapping_width=64), frozen, folder, 0)
    model = TrainableModel(frozen, adapter, folder.common["clip_hidden_zero"])
    before = {
        name: value.clone() for part in (frozen.unet, frozen.text_encoder) for name, value in part.state_dict().items()
    }
    batch, objectives = a_batch(folder), build_objectives(ObjectivesConfig())
    optimiser = torch.optim.AdamW(adapter.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        (loss,) = compute_losses(model, batch, frozen, objectives, DiffusionConfig())
        losses.append(loss.item())
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]
    for part in (frozen.unet, frozen.text_encoder):
        for name, value in part.state_dict().items():
            assert torch.equal(value, before[name]), name


def test_localisation_alone_teaches_faces_to_stay_off_the_other_person(small_base, small_shards):
    frozen = load_base(str(small_base), text_encoder=True, vae=False)
    folder = open_dataset(str(small_shards))
    adapter = init_adapter(InitConfig(face_width=64, token_width=64, mapping_width=64), frozen, folder, 0)
    model = TrainableModel(frozen, adapter, folder.common["clip_hidden_zero"], frozenset({"faces"}), min_layer_size=16)
    batch = a_batch(folder, 1)
    (objective,) = build_objectives(ObjectivesConfig(localization=LocalizationConfig(weight=1.0, min_layer_size=16)))[
        1:
    ]
    optimiser = torch.optim.AdamW(adapter.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        (loss,) = compute_losses(model, batch, frozen, [objective], DiffusionConfig())
        diffusion = 0.0 if losses else 1e-3 * model(batch, batch.latents, torch.tensor([5]))[0].square().mean()
        (loss + diffusion).backward()  # values start at zero: one step of the other loss wakes them
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert losses[1] == pytest.approx(0.5, abs=0.05)
    assert losses[-1] < 0.4


def test_the_first_prediction_from_scratch_is_the_bases_own(small_base, small_shards):
    frozen = load_base(str(small_base), text_encoder=False, vae=False)
    folder = open_dataset(str(small_shards))
    batch, times = a_batch(folder), torch.tensor([500, 20])
    added = {"text_embeds": batch.pooled, "time_ids": batch.time_ids}
    with torch.no_grad():
        plain = frozen.unet(batch.latents, times[: len(batch)], batch.text.float(), added_cond_kwargs=added).sample
        adapter = init_adapter(InitConfig(face_width=64, subject_path=False), frozen, folder, 0)
        model = TrainableModel(frozen, adapter, folder.common["clip_hidden_zero"])
        ours, _ = model(batch, batch.latents, times[: len(batch)])
    torch.testing.assert_close(ours, plain)


def test_a_fresh_mapping_makes_words_of_an_ordinary_length(small_base, small_shards):
    frozen = load_base(str(small_base), text_encoder=True, vae=False)
    folder = open_dataset(str(small_shards))
    adapter = init_adapter(InitConfig(face_width=64, token_width=64, mapping_width=64), frozen, folder, 0)
    model = TrainableModel(frozen, adapter, folder.common["clip_hidden_zero"])
    table = frozen.text_encoder.get_input_embeddings().weight
    batch = a_batch(folder)
    rows, persons, chunks, places = batch.subject_token_index.T
    made = model.subject_tokens(batch, rows, persons, table[batch.ids[rows, chunks, places]])
    assert made.norm(dim=1).mean().item() == pytest.approx(table.norm(dim=1).mean().item(), rel=0.5)


def test_a_run_ends_with_a_checkpoint_a_log_a_plot_and_its_configuration(config):
    ended = train(config(steps=4, objectives={"localization": {"weight": 0.1}, "face_region": {"weight": 0.5}}))
    assert (ended.step, ended.signal) == (4, 0)
    assert ended.plot.is_file()
    assert sorted(path.name for path in ended.checkpoint.iterdir()) == [
        "adapter.safetensors",
        "average.safetensors",
        "state.json",
        "state.pt",
    ]
    entries = read_log(ended.run / "log.jsonl")
    assert [entry["step"] for entry in entries] == [1, 2, 3, 4]
    first = entries[0]
    assert first["loss"] == pytest.approx(
        first["diffusion"] + 0.1 * first["localization"] + 0.5 * first["face_region"], rel=1e-5
    )
    assert "batch_size: 4" in (ended.run / "config.yaml").read_text()
    Adapter.from_pretrained(ended.checkpoint / "adapter.safetensors")


def test_validation_keeps_no_graph(config, small_shards, monkeypatch):
    """Otherwise the memory of all its batches is held at once."""
    seen = []

    def losses(*inputs):
        found = compute_losses(*inputs)
        seen.append(torch.is_grad_enabled() or any(loss.requires_grad for loss in found))
        return found

    monkeypatch.setattr(validation, "compute_losses", losses)
    train(config(steps=1, data={"validation": small_shards, "validation_batches": 2}))
    assert seen == [False, False]


def test_validation_is_the_same_number_for_the_same_weights(config, small_shards, capsys):
    changes = {
        "optimizer": {"learning_rate": 1e-12, "ema_decay": 0.0},
        "data": {"validation": small_shards, "validation_batches": 3},
    }
    train(config(steps=2, checkpoints={"every": 1}, **changes))
    found = re.findall(r"validation (\d+\.\d+)", capsys.readouterr().out)
    assert len(found) == 2
    assert found[0] == found[1]


def test_without_averages_the_weights_themselves_are_kept(config):
    ended = train(config(steps=2, optimizer={"ema_decay": 0.0}))
    assert not (ended.checkpoint / "average.safetensors").exists()
    assert adapter_of_run(ended.run).info.layers == 4


def test_averages_lag_behind_the_weights(config):
    ended = train(config(steps=6, optimizer={"ema_decay": 0.9}))
    now, average = weights_of(ended), weights_of(ended, "average.safetensors")
    assert not torch.equal(now["mapping.fc1.weight"], average["mapping.fc1.weight"])


@pytest.mark.parametrize("kind", ["released", "native", "run"])
def test_trained_weights_are_a_start(config, tmp_path, kind):
    path = tmp_path / kind
    if kind == "run":
        path = train(config("earlier", steps=2, optimizer={"ema_decay": 0.0})).run
        expected = adapter_of_run(path).state_dict()
    else:
        released_folder(path, **LAYERS)
        expected = Adapter.from_pretrained(path).state_dict()
        if kind == "native":
            Adapter.from_pretrained(path).save_pretrained(path := tmp_path / "pair.safetensors")
    ended = train(config(steps=1, init={"weights": str(path)}, optimizer={"learning_rate": 1e-12, "weight_decay": 0.0}))
    found = weights_of(ended)
    assert {*found} == {*expected}
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)
    source = Adapter.from_pretrained(ended.checkpoint / "adapter.safetensors").info.source
    assert source.endswith("trained further")


def test_an_ip_adapters_one_projection_starts_both_persons_and_the_subject_path_is_fresh(
    small_base, small_shards, tmp_path
):
    path = ip_adapter_file(tmp_path / "plus.safetensors", **{**LAYERS, "context_width": 192, "clip_width": 64})
    file = load_file(path)
    frozen, folder = load_base(str(small_base), text_encoder=True, vae=False), open_dataset(str(small_shards))
    monkey = InitConfig(weights=str(path), token_width=64, mapping_width=64)
    adapter = init_adapter(monkey, frozen, folder, 0)
    assert adapter.has_subject_path
    assert not adapter.info.shared
    assert adapter.info.persons == 2
    for k in range(4):
        for person in (1, 2):
            ours = getattr(adapter.attention[k], f"to_v_ip{person}").weight
            assert torch.equal(ours, file[f"ip_adapter.{2 * k + 1}.to_v_ip.weight"])


def test_without_the_subject_path_clip_l_is_not_loaded_and_not_kept(config, monkeypatch):
    asked = []
    real = setup.load_base
    monkeypatch.setattr(setup, "load_base", lambda *args, **settings: asked.append(settings) or real(*args, **settings))
    ended = train(config(steps=1, init={"subject_path": False}))
    assert asked[0]["text_encoder"] is False
    assert not any(name.startswith(("mapping", "identity")) for name in weights_of(ended))


def test_parts_that_do_not_learn_stay_bit_equal_in_half_precision_too(config, tmp_path):
    path = released_folder(tmp_path / "released", **LAYERS)
    init = {"weights": str(path), "train": ["face_projection", "mapping"]}
    ended = train(config(steps=3, init=init, precision="bf16"))
    before, after = Adapter.from_pretrained(path).state_dict(), weights_of(ended)
    for name, value in before.items():
        learns = name.startswith(("face_projection", "mapping"))
        assert torch.equal(after[name], value) != learns, name


def test_what_does_not_learn_is_held_in_the_dtype_that_computes(small_base, small_shards, tmp_path):
    path = released_folder(tmp_path / "released", **LAYERS)
    frozen, folder = load_base(str(small_base), text_encoder=True, vae=False), open_dataset(str(small_shards))
    adapter = init_adapter(InitConfig(weights=str(path), train=["mapping"]), frozen, folder, 0)
    fp32_frozen = cast_frozen(adapter, torch.bfloat16)
    assert adapter.attention[0].to_k_ip1.weight.dtype == torch.bfloat16
    assert adapter.mapping.fc1.weight.dtype == torch.float32
    assert fp32_frozen["attention.0.to_k_ip1.weight"].dtype == torch.float32
    assert cast_frozen(init_adapter(InitConfig(weights=str(path)), frozen, folder, 0), torch.bfloat16) == {}


@pytest.mark.parametrize(
    ("sizes", "code", "named"),
    [
        ({"clip_width": 32}, "weights-for-another-encoder", ["image encoder", "width 32", "prepared with 64"]),
        ({"identity_width": 256}, "weights-for-another-encoder", ["face embeddings", "width 256", "prepared with 512"]),
        ({"text_width": 32}, "weights-for-another-encoder", ["CLIP-L", "width 32"]),
        ({"hidden": (64,) * 6}, "weights-for-another-base", ["6 cross-attention layers", "has 4"]),
    ],
)
def test_weights_for_something_else_are_refused(config, tmp_path, sizes, code, named):
    path = released_folder(tmp_path / "released", **{**LAYERS, **sizes})
    with refused(code, "released", *named):
        train(config(steps=1, init={"weights": str(path)}))


def test_passes_that_cannot_be_shared_and_fp16_without_a_gpu_are_refused(config):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with refused("fp16-without-gpu", "fp16"):
        train(config(steps=1, precision="fp16"))


@pytest.mark.parametrize("kind", ["adamw", "muon", "adafactor"])
def test_every_optimiser_moves_the_weights(config, kind):
    ended = train(config(steps=2, optimizer={"name": kind, "ema_decay": 0.0, "warmup_steps": 0}))
    assert weights_of(ended)["attention.0.to_v_ip1.weight"].any()


def test_a_missing_bitsandbytes_is_told(config):
    try:
        import bitsandbytes  # noqa: F401 (only whether it can be)
    except ImportError:
        with refused("bitsandbytes-missing", "adamw8bit", "pip install bitsandbytes"):
            train(config(steps=1, optimizer={"name": "adamw8bit"}))
    else:
        pytest.skip("bitsandbytes is installed")


def test_bf16_learns_with_weights_in_float32(config):
    ended = train(config(steps=3, precision="bf16"))
    assert {value.dtype for value in weights_of(ended).values()} == {torch.float32}
    assert 0 < ended.loss < 10


def test_sample_grids_show_the_faces_the_picture_and_what_is_drawn(tmp_path, small_shards):
    base = make_base(tmp_path / "base", vae=True)
    logging = {"samples_every": 2, "samples": 2, "sample_steps": 2, "tensorboard": True}
    ended = train(make_config(base, small_shards, tmp_path / "run", steps=2, logging=logging))
    from PIL import Image

    with Image.open(ended.grid) as grid:
        assert grid.height == 2 * 256 + 4
        assert grid.width > 2 * 256
    assert any((ended.run / "tensorboard").iterdir())


def test_a_base_without_a_vae_has_no_sample_grids_and_says_so(config, capsys):
    ended = train(config(steps=1, logging={"samples_every": 1}))
    assert ended.grid is None
    assert "No sample grids: the base" in capsys.readouterr().out


def test_identity_losses_train_with_and_without_sample_grids(tmp_path, small_shards):
    base = make_base(tmp_path / "base", vae=True)
    identity = {"weight": 0.1, "infonce_weight": 0.1, "recognizer": "mini", "max_noise_level": 1.0}
    made = make_config(base, small_shards, tmp_path / "run", steps=2, objectives={"identity": identity})
    ended = train(made)
    assert ended.grid is None
    for entry in read_log(ended.run / "log.jsonl"):
        assert 0 < entry["identity"] < 2
        assert entry["infonce"] > 0


def test_the_timer_says_where_the_time_goes():
    timer = StepTimer()
    for name, seconds in (
        ("data", 0.03),
        ("forward", 0.05),
        ("backward", 0.05),
        ("optimizer", 0.02),
        ("pause", 0.1),
    ):
        with timer(name):
            time.sleep(seconds)
    assert timer.data_wait_fraction == pytest.approx(0.03 / 0.15, abs=0.08)
    timer.restart()
    assert timer.spans == {}


def test_the_log_holds_the_fraction_of_time_that_waits_for_data(config):
    ended = train(config(steps=3))
    shares = [entry["data_wait_fraction"] for entry in read_log(ended.run / "log.jsonl")]
    assert all(0 <= share < 1 for share in shares)


def test_the_miniature_s_own_adapter_is_a_start():
    base = load_base("mini", text_encoder=True, vae=False)
    header = {"vision": {"clip_width": 128}, "recogniser": {"width": 512}, "base": {"text_width": 64}}
    adapter = init_adapter(InitConfig(weights="mini"), base, SimpleNamespace(path="shards", header=header), 0)
    shipped = mini_adapter().state_dict()
    assert all(torch.equal(value, shipped[name]) for name, value in adapter.state_dict().items())
    assert adapter.info.source.endswith("trained further")
    assert all(value.requires_grad for value in adapter.parameters())
