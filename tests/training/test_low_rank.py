"""Low-rank training: small checkpoints, the same after a resume, and an export that both hosts load."""

import math

import pytest
import torch
from support.layouts import ip_adapter_file
from support.refused import refused

for package in ("accelerate", "diffusers", "jsonargparse", "peft", "transformers", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]' peft")

from dhumandiff import Adapter
from training import export
from training.run.checkpoint import RunFolder, adapter_of_run
from training.run.estimate import dry_run
from training.run.loop import train

pytestmark = pytest.mark.usefixtures("one_thread", "fresh_accelerate")


@pytest.fixture
def trained(config, tmp_path):
    """A full adapter as a file, from a short run."""
    run = train(config("first", steps=2)).run
    (native, *_) = export.export(export.ExportConfig(run=str(run), out=str(tmp_path / "full"), dtype="float32"))
    return native


def init(weights, **changes):
    return {"weights": str(weights), "rank": 2, **changes}


def test_only_the_factors_are_trained_and_kept(config, trained):
    run = train(config("couple", steps=2, init=init(trained))).run
    checkpoint = RunFolder(run).load(2)
    assert all(".lora_" in name for name in checkpoint.weights)
    full = Adapter.from_pretrained(trained).state_dict()
    assert (
        sum(value.numel() for value in checkpoint.weights.values()) < sum(value.numel() for value in full.values()) / 3
    )
    found = adapter_of_run(run).state_dict()
    moved = [name for name, value in full.items() if not torch.equal(value, found[name])]
    assert moved
    for name in moved:
        rank = torch.linalg.matrix_rank(found[name].double() - full[name].double(), rtol=1e-3)
        assert rank <= 2, name


def test_it_trains_in_bf16_on_a_cpu_too(config, trained):
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)  # the full adapter was trained in float32 in this process
    run = train(config("couple", steps=2, init=init(trained), precision="bf16")).run
    assert all(value.isfinite().all() for value in RunFolder(run).load(2).weights.values())


def test_before_the_first_step_it_is_the_full_adapter(config, trained):
    from training.data.dataset import open_datasets
    from training.run.base import load_base
    from training.run.init import init_adapter
    from training.run.low_rank import kept_tensors

    settings = config("couple", init=init(trained))
    base, folder = (
        load_base(settings.base.path, text_encoder=True, vae=False),
        open_datasets(settings.data.folders)[0][0],
    )
    adapter = init_adapter(settings.init, base, folder, 0)
    tokens = torch.randn(1, 2, 3, adapter.info.context_width)
    before, after = (each.keys_values(1, tokens) for each in (Adapter.from_pretrained(trained), adapter))
    assert torch.equal(before[0], after[0])
    assert all(bool((value == 0).all()) for name, value in kept_tensors(adapter).items() if "lora_B" in name)


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(config, trained):
    whole = train(config("whole", steps=4, init=init(trained))).run
    train(config("parts", steps=2, init=init(trained)))
    parts = train(config("parts", steps=4, init=init(trained))).run
    one, other = (RunFolder(run).load(4) for run in (whole, parts))
    for first, second in ((one.weights, other.weights), (one.ema_weights, other.ema_weights)):
        assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_the_export_is_small_and_loads_beside_its_full_adapter(config, trained, tmp_path):
    run = train(config("couple", steps=2, init=init(trained))).run
    made = export.export(export.ExportConfig(run=str(run), out=str(trained.parent), name="couple"))
    assert [path.name for path in made] == ["couple.safetensors", "README.md"]
    assert made[0].stat().st_size < trained.stat().st_size / 4
    found, expected = Adapter.from_pretrained(made[0]).state_dict(), adapter_of_run(run).state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(found[name].float(), value, atol=2e-3, rtol=2e-3)
    assert "loaded together with `full.safetensors`" in made[1].read_text()


def test_the_merged_export_needs_no_other_file(config, trained, tmp_path):
    run = train(config("couple", steps=2, init=init(trained))).run
    settings = {"merged": True, "dtype": "float32"}
    (native, *_) = export.export(export.ExportConfig(run=str(run), out=str(tmp_path / "alone"), **settings))
    expected = adapter_of_run(run).state_dict()
    trained.unlink()
    found = Adapter.from_pretrained(native).state_dict()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_an_ip_adapter_is_changed_for_each_person(config, tmp_path):
    full = ip_adapter_file(
        tmp_path / "plus-face.safetensors", hidden=(64, 64, 64, 64), context_width=192, clip_width=64
    )
    settings = init(full, subject_path=False, train=["attention"])
    run = train(config("couple", steps=2, init=settings)).run
    (small, _) = export.export(export.ExportConfig(run=str(run), out=str(tmp_path / "out"), name="couple"))
    found = Adapter.from_pretrained(small).state_dict()  # the full one lies one folder further up
    first, second = found["attention.0.to_k_ip1.weight"], found["attention.0.to_k_ip2.weight"]
    assert not torch.equal(first, second)


def test_a_new_subject_path_is_trained_whole(config, tmp_path):
    full = ip_adapter_file(
        tmp_path / "plus-face.safetensors", hidden=(64, 64, 64, 64), context_width=192, clip_width=64
    )
    run = train(config("couple", steps=1, init=init(full))).run
    names = RunFolder(run).load(1).weights
    assert "mapping.fc1.weight" in names
    assert adapter_of_run(run).has_subject_path


def test_dry_run_counts_the_factors(config, trained):
    whole, small = (dry_run(config("x", init=each)) for each in (init(trained, rank=0), init(trained)))
    trained_weights = [
        next(float(line.split()[0]) for line in text.splitlines() if "weights are trained" in line)
        for text in (whole, small)
    ]
    assert trained_weights[1] < trained_weights[0] / 3
    assert all(math.isfinite(value) for value in trained_weights)


def test_other_weights_under_the_same_name_are_refused(config, trained):
    run = train(config("couple", steps=1, init=init(trained))).run
    train(config("second", steps=3))
    Adapter.from_tensors(
        {name: value + 0.01 for name, value in Adapter.from_pretrained(trained).state_dict().items()},
        Adapter.from_pretrained(trained).info.metadata,
    ).save_pretrained(trained)
    with refused("another-full-adapter", "full.safetensors"):
        adapter_of_run(run)
    with refused("run-of-another-configuration", "base_adapter_sha256"):
        train(config("couple", steps=2, init=init(trained)))


def test_changes_of_changes_are_refused(config, trained):
    run = train(config("couple", steps=1, init=init(trained))).run
    with refused("low-rank-on-low-rank", "couple"):
        train(config("third", steps=1, init=init(run)))
    train(config("further", steps=1, init=init(run, rank=0)))  # with the changes in it


def test_from_scratch_there_is_nothing_to_change(config):
    with refused("low-rank-from-scratch", "init.rank"):
        config("x", init={"rank": 4})


def test_merging_what_is_no_low_rank_run_is_refused(config, tmp_path):
    run = train(config("plain", steps=1)).run
    with refused("nothing-to-merge", "plain"):
        export.export(export.ExportConfig(run=str(run), out=str(tmp_path / "out"), merged=True))


def test_without_peft_the_command_to_install_it_is_named(config, trained, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with refused("peft-missing", "pip install --no-deps peft"):
        train(config("couple", steps=1, init=init(trained)))
