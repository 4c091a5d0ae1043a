"""The miniature's second design: which weights are of it, its stages, its training loop, autoencoder and configurations."""

import json

import pytest
import torch
from support.refused import refused

for package in ("jsonargparse", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")


from dhumandiff.errors import HostError
from dhumandiff.hosts.diffusers.attention import cross_attention_layers
from dhumandiff.miniature.autoencoder import Autoencoder
from dhumandiff.miniature.base import build_unet
from dhumandiff.miniature.design import DESIGN, FIRST, SECOND, design_of, save_design
from dhumandiff.miniature.world import people
from training import TrainingError
from training.__main__ import main as training_main
from training.data.pictures import buckets
from training.data.settings import PrepareSettings
from training.miniature import autoencoder, larger, stages
from training.miniature import build as build_module
from training.miniature.ablations import ABLATIONS, Ablation
from training.miniature.build import MiniConfig, _end, _wanted, build, train_ablation
from training.miniature.fit import fit
from training.miniature.renders import render_pictures
from training.parsing import parse
from training.run.config import TrainConfig


def test_weights_without_a_design_are_of_the_first(tmp_path):
    assert design_of(tmp_path) is FIRST
    save_design(SECOND, tmp_path / "weights")
    assert design_of(tmp_path / "weights") is SECOND
    assert DESIGN in (FIRST, SECOND)


@pytest.mark.parametrize("text", ["", "[]", '{"design": "1x1"}', '{"name": "256x192"}'])
def test_an_unknown_design_is_refused_by_its_file(tmp_path, text):
    (tmp_path / "design.json").write_text(text)
    with refused("unknown-miniature-design", str(tmp_path / "design.json"), "256x192", error=HostError):
        design_of(tmp_path)


def test_attention_has_the_places_of_the_first_design():
    small, large = (
        [name.split(".")[0:2] for name, _ in cross_attention_layers(build_unet(d))] for d in (FIRST, SECOND)
    )
    assert (len(small), len(large)) == (13, 14)
    assert ["up_blocks", "2"] in small  # at 1 latent a place
    assert ["up_blocks", "2"] not in large  # at most at 2 latents a place: 16 x 12 of a picture of 32 x 24


def test_larger_pictures_are_decoded_at_their_size():
    vae, pixels = Autoencoder(SECOND), torch.randn(1, 3, 192, 256)
    with torch.no_grad():
        code = vae.encode(pixels).latent_dist.mean
        assert code.shape == (1, SECOND.latents, 24, 32)
        assert vae.decode(code).sample.shape == pixels.shape


# --- stages -----------------------------------------------------------------------------------------------------------


def test_every_stage_of_the_second_design_comes_after_its_needs(tmp_path):
    names = list(larger.STAGES)
    assert all(names.index(need) < names.index(name) for name, stage in larger.STAGES.items() for need in stage.needs)
    assert stages.stages_of(SECOND.name) is larger.STAGES
    assert stages.stages_of(FIRST.name) is stages.STAGES


def test_what_only_rows_need_is_not_made_with_the_rest():
    assert "prepare_unequal" not in _wanted("", larger.STAGES)
    assert "adapter" in _wanted("", larger.STAGES)
    assert _wanted("prepare_unequal", larger.STAGES)[-2:] == ["data_unequal", "prepare_unequal"]
    for row in ABLATIONS.values():
        assert row.prepare in larger.STAGES


def test_the_long_training_of_the_base_is_for_machines_with_a_gpu():
    assert "base_longer" not in _wanted("", larger.STAGES)
    assert "base_longer" not in _wanted("adapter", larger.STAGES)
    assert "base_longer" in _wanted("adapter", larger.STAGES, "cuda")
    assert _wanted("base_longer", larger.STAGES)[-3:] == ["latents_more", "latents_small", "base_longer"]


def test_unequal_data_show_mostly_young_people():
    pool = people("train", 300)
    met = [who for seed in range(300) for who in larger.mostly_young(seed, pool)]
    young = sum(who.age == "young" for who in met) / len(met)
    assert 0.88 < young < 0.98
    assert {who.age for who in met} == {"child", "young", "middle", "old"}


def test_a_row_with_data_of_its_own_needs_the_second_design(tmp_path, monkeypatch):
    monkeypatch.setattr("training.miniature.build.USED", tmp_path / "of the first")
    with refused("row-of-another-design", "unequal", "256x192", error=TrainingError):
        train_ablation(tmp_path, "unequal", [], "prepare_unequal")


def test_the_adapter_that_ships_is_the_one_before_trained_on_for_likeness(tmp_path, monkeypatch):
    trained, saved = [], []
    monkeypatch.setattr(
        larger, "train_adapter", lambda folder, run, arguments=(): trained.append((run, *arguments)) or True
    )
    monkeypatch.setattr(larger, "save_adapter", lambda run, path: saved.append(path))
    for name in ("adapter", "likeness"):
        larger.STAGES[name].run(tmp_path, "cpu")
    before = tmp_path / "runs" / "no_identity.safetensors"
    assert saved == [before, tmp_path / "weights" / "adapter.safetensors"]
    assert trained[0] == ("adapter",)
    assert trained[1][-2:] == ("--init.weights", str(before))


def test_a_row_that_begins_with_anothers_weights_gets_them(tmp_path, monkeypatch):
    calls = []
    rows = {
        "first": Ablation("first", "", {"steps": 3}),
        "second": Ablation("second", "", {"steps": 1}, begins_with="first"),
    }
    monkeypatch.setattr("training.miniature.ablations.ABLATIONS", rows)
    monkeypatch.setattr(
        build_module,
        "train_ablation",
        lambda folder, name, arguments, prepare: calls.append((name, *arguments)) or folder / name,
    )
    assert build_module._train_row(tmp_path, "second") == tmp_path / "second"
    assert calls == [("first", "--steps", "3"), ("second", "--steps", "1", "--init.weights", str(tmp_path / "first"))]


def test_a_row_is_trained_on_its_data_with_its_designs_configuration(tmp_path, monkeypatch):
    save_design(SECOND, tmp_path / "weights")
    (tmp_path / "weights" / "unet.safetensors").write_bytes(b"")
    built, commands = [], []
    monkeypatch.setattr("training.miniature.build.build", lambda folder, wanted, *_: built.extend(wanted))
    monkeypatch.setattr("training.miniature.build.start", lambda *given, **_: commands.append(given[1:2]) or [])
    monkeypatch.setattr("training.miniature.build.save_adapter", lambda run, path: None)
    train_ablation(tmp_path, "unequal", [], "prepare_unequal")
    assert built[-1] == "prepare_unequal"
    assert commands == [("row:unequal",)]
    called = []
    monkeypatch.setattr("training.train.main", called.append)
    monkeypatch.setattr(stages, "DESIGN", SECOND)
    stages.main(["row:unequal_balanced", str(tmp_path), "--data.balance", '["age_group"]'])
    assert called[0][3].endswith("mini_256.yaml")
    assert str(tmp_path / "shards_unequal") in called[0][5]
    assert called[0][-2:] == ["--data.balance", '["age_group"]']


def test_a_folder_knows_its_design(tmp_path, capsys):
    """The same command without the design goes on with it."""
    save_design(SECOND, tmp_path / "weights")
    assert training_main(["mini", "--out", str(tmp_path), "--dry_run"]) == 0
    assert "teach the decoder to make up for the base's errors" in capsys.readouterr().out


@pytest.mark.parametrize("design", [FIRST, SECOND])
def test_a_new_folder_gets_the_design_that_ships_and_an_old_one_keeps_the_first(tmp_path, monkeypatch, design):
    save_design(design, tmp_path / "shipped")
    monkeypatch.setattr("training.miniature.build.SHIPPED", tmp_path / "shipped")
    assert MiniConfig(out=str(tmp_path / "new")).stages is stages.stages_of(design.name)
    (tmp_path / "old" / "weights").mkdir(parents=True)
    assert MiniConfig(out=str(tmp_path / "old")).stages is stages.STAGES


def test_what_is_built_is_installed_with_its_design(tmp_path, monkeypatch):
    monkeypatch.setattr("training.miniature.build.SHIPPED", tmp_path / "shipped")
    (tmp_path / "run" / "done").mkdir(parents=True)
    save_design(SECOND, tmp_path / "run" / "weights")
    (tmp_path / "run" / "weights" / "unet.safetensors").write_bytes(b"made")
    assert f"They are in {tmp_path / 'shipped'} now." in _end(tmp_path / "run", MiniConfig(out=str(tmp_path / "run")))
    assert (tmp_path / "shipped" / "unet.safetensors").read_bytes() == b"made"
    assert design_of(tmp_path / "shipped") is SECOND


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--design", "64x48"], "the designs are 128x96, 256x192"),
        (["--device", "tpu"], "the devices are cpu and cuda"),
        (["--design", "256x192", "--stage", "towers"], "the stages are parts, pictures"),
    ],
)
def test_what_no_design_has_is_refused(words, message, capsys):
    assert training_main(["mini", *words]) == 1
    assert message in capsys.readouterr().err


def test_the_parts_that_see_are_taken_as_they_ship(tmp_path):
    larger._parts(tmp_path)
    assert {path.stem for path in (tmp_path / "weights").iterdir()} == set(larger.TAKEN)


def test_a_gpu_has_one_process_that_is_told_so(tmp_path, monkeypatch):
    started = []

    class Process:
        def __init__(self, command, env, **_):
            started.append((command[3:], env.get("WORLD_SIZE")))
            (tmp_path / "done").mkdir(exist_ok=True)
            (tmp_path / "done" / f"{command[3]}.json").write_text("{}")

        def poll(self):
            return 0

        def kill(self):
            """Of one that has ended, nothing."""

    monkeypatch.setattr("training.miniature.build.subprocess.Popen", Process)
    alone = {"base": stages.Stage((), print, 1, "train", 2, together=True, on_device=True)}
    for device in ("cpu", "cuda"):
        build(tmp_path, ["base"], stages=alone, device=device)
        (tmp_path / "done" / "base.json").unlink()
    place = str(tmp_path)
    assert started == [(["base", place], "2"), (["base", place], "2"), (["base", place, "--device", "cuda"], None)]


# --- what is new in the loop and in the autoencoder ----------------------------------------------------------------------


def test_rates_fall_only_in_the_last_share_of_the_steps(tmp_path):
    torch.manual_seed(0)
    models = {decay: torch.nn.Linear(2, 2) for decay in (1.0, 0.2)}
    for model in models.values():
        model.load_state_dict(models[1.0].state_dict())

    def far(model, steps, decay):
        before = model.weight.detach().clone()
        losses = lambda *_: {"up": model.weight.sum()}  # noqa: E731
        fit(tmp_path / str(decay), "part", model, losses, steps=steps, decay=decay, ema=0.0)
        return (model.weight - before).norm()

    assert far(models[0.2], 100, 0.2) > 1.3 * far(models[1.0], 100, 1.0)


@pytest.mark.parametrize("size", [(128, 96), (256, 192)])
def test_the_critic_sharpens_the_decoder_alone(tmp_path, monkeypatch, size):
    monkeypatch.setattr(autoencoder, "CROPS", 2)
    renders = render_pictures(tmp_path / "pictures", 3, 1, size=size)
    torch.manual_seed(0)
    vae = Autoencoder(SECOND)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    vae.requires_grad_(False)
    autoencoder.train_sharp_decoder(tmp_path, vae, renders, 2, bf16=True)
    moved = {name.split(".")[0] for name, value in vae.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"to_patch", "decoder"}


def test_the_configurations_of_the_second_design_are_valid():
    data = json.dumps([{"path": "shards"}])
    both = [word for name in ("mini", "mini_256") for word in ("--config", str(stages.CONFIGS / f"{name}.yaml"))]
    config, _ = parse(TrainConfig, "train", [*both, "--data.folders", data, "--run", "r"])
    assert config.objectives.diffusion.min_snr_gamma is None
    assert config.base.path == "mini"
    likeness = ["--config", str(stages.CONFIGS / "mini_256_likeness.yaml")]
    config, _ = parse(TrainConfig, "train", [*both, *likeness, "--data.folders", data, "--run", "r"])
    assert config.objectives.identity.weight > 0
    assert config.steps < 1000
    both = [
        word for name in ("mini", "mini_256") for word in ("--config", str(stages.CONFIGS / f"{name}_prepare.yaml"))
    ]
    settings, _ = parse(PrepareSettings, "prepare", [*both, "--data", "d", "--out", "o"])
    settings.check()
    assert settings.faces.pack == "mini"
    assert (192, 256) in buckets(settings.resolution, settings.bucket_step, settings.max_aspect)
