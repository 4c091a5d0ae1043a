"""FSDP: processes that have a part of base and adapter each train what one process trains, and go on with each other's checkpoints.

Two and four processes over gloo, with torch's own `fully_shard`; only that this is a GPU is pretended, for Accelerate.
"""

import json
import multiprocessing
import os

import pytest
import torch
from safetensors.torch import load_file
from support.pretended_fsdp import LAUNCHED, pretend_fsdp
from support.refused import refused
from support.shards import make_shards
from support.small_base import make_base, make_config
from support.together import run_together

for package in ("accelerate", "diffusers", "jsonargparse", "transformers", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from training.run.checkpoint import RunFolder

CHANGES = {
    "steps": 3,
    "data": {"batch_size": 4, "micro_batch_size": 1, "shuffle_buffer": 6},
    "objectives": {"localization": {"weight": 0.1, "word_weight": 0.01}, "face_region": {"weight": 0.5}},
    "checkpoints": {"every": 2, "keep": 5},
}

slow = pytest.mark.slow
posix = pytest.mark.skipif(os.name == "nt", reason="forks processes that find each other over gloo")


def _train(base, shards, run, changes, sharded):
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    if sharded:
        pretend_fsdp()
    from training.run.loop import train

    train(make_config(base, shards, run, **changes))


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """run, processes, sharded, changes -> trained; the folder of the run."""
    folder = tmp_path_factory.mktemp("sharded")
    base = make_base(folder / "base")
    shards = make_shards(folder / "shards", samples=14, buckets=((64, 64), (64, 96)), references=3)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["training.run.loop", "accelerate", "diffusers", "transformers", "torch.distributed.fsdp"]
    )

    def run(name, processes, sharded=True, **changes):
        data = {**CHANGES["data"], "validation": shards, "validation_batches": 2, **changes.pop("data", {})}
        changes = {**CHANGES, **changes, "data": data}
        codes = run_together(context, processes, _train, base, shards, folder / name, changes, sharded)
        assert codes == [0] * processes
        return folder / name

    return run


def tensors(run, file="adapter", step=3):
    return load_file(RunFolder(run).path(step) / f"{file}.safetensors")


def nearly_equal(one, other, step, of_a_step=1e-3):
    """Sums come in another order; where a gradient is near 0, Adam makes parts of a step (of 1e-3) of that."""
    for file in ("adapter", "average"):
        first, second = tensors(one, file, step), tensors(other, file, step)
        assert first.keys() == second.keys()
        for name, value in first.items():
            least = max(1e-5 * value.abs().max().item(), of_a_step * 1e-3)
            torch.testing.assert_close(second[name], value, rtol=1e-5, atol=least)


def losses(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@slow
@posix
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_with_parts_of_everything_train_what_one_trains(together, processes):
    base = {"gradient_checkpointing": True}
    one, parts = together(f"one_{processes}", 1, False, base=base), together(f"parts_{processes}", processes, base=base)
    nearly_equal(one, parts, 3)
    for ours, theirs in zip(losses(one), losses(parts), strict=True):
        for name in {"loss", "diffusion", "face_region", "validation", "grad_norm"} & {*ours}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5)


@slow
@posix
@pytest.mark.parametrize(
    ("name", "rate", "more", "of_a_step"),
    [
        ("muon", 1e-3, {"muon_lr": 1e-3, "part_learning_rates": {"mapping": 1e-4}}, 1e-3),
        ("prodigy", 1.0, {"warmup_steps": 0}, 1e-3),
        ("schedulefree", 1e-3, {}, 0.1),  # without a first moment a single gradient of rounding makes a step
    ],
)
def test_every_optimizer_that_is_offered_takes_the_steps_of_one_process(together, name, rate, more, of_a_step):
    pytest.importorskip({"prodigy": "prodigyopt"}.get(name, name)) if name != "muon" else None
    changes = {"optimizer": {"name": name, "learning_rate": rate, **more}, "data": {"micro_batch_size": 2}}
    one, parts = (together(f"{name}_{each}", each, each > 1, **changes) for each in (1, 2))
    nearly_equal(one, parts, 3, of_a_step)
    for ours, theirs in zip(losses(one), losses(parts), strict=True):
        for measure in {"loss", "validation"} & {*ours}:
            assert ours[measure] == pytest.approx(theirs[measure], rel=1e-5)
    found, same = (RunFolder(run).load(3).state["optimizer_groups"] for run in (one, parts))
    for ours, theirs in zip(found, same, strict=True):  # what Prodigy adds up over all parts, to find its rate
        assert {key: float(value) for key, value in ours.items()} == pytest.approx(
            {key: float(value) for key, value in theirs.items()}, rel=1e-3, abs=0
        )


@slow
@posix
def test_runs_go_on_with_each_others_checkpoints(together):
    """In parts as if nothing had happened, bit for bit; from parts to one process, and back, nearly."""
    whole = together("whole", 2)
    together("stopped", 2, steps=2)
    stopped = together("stopped", 2)
    for file in ("adapter", "average"):
        assert all(torch.equal(value, tensors(stopped, file)[name]) for name, value in tensors(whole, file).items())
    together("to_one", 2, steps=2)
    to_one = together("to_one", 1, False)
    together("from_one", 1, False, steps=2)
    from_one = together("from_one", 2)
    nearly_equal(whole, to_one, 3)
    nearly_equal(whole, from_one, 3)
    moments = (RunFolder(run).load(3).state["optimizer"] for run in (whole, to_one))
    for first, second in zip(*(each.values() for each in moments), strict=True):
        assert {key: value.shape for key, value in first.items()} == {key: value.shape for key, value in second.items()}


@slow
@posix
def test_a_run_in_parts_is_exported_as_any(together, tmp_path):
    from dhumandiff import Adapter
    from training.export import ExportConfig, export

    run = together("exported", 2, steps=2)
    (file, *_) = export(ExportConfig(run=str(run), out=str(tmp_path / "out"), dtype="float32"))
    average = tensors(run, "average", 2)
    assert all(torch.equal(value, average[name]) for name, value in Adapter.from_pretrained(file).state_dict().items())


@slow
@posix
def test_a_low_rank_run_is_trained_in_parts(together):
    pytest.importorskip("peft")
    init = {"weights": str(together("full", 1, False, steps=2)), "rank": 2}
    one, parts = (together(f"rank_{each}", each, each > 1, init=init) for each in (1, 2))
    nearly_equal(one, parts, 3)


@slow
@posix
def test_half_precision_is_computed_in_as_without_parts(together):
    """bf16 rounds sums of another order otherwise, by some 0.4 %."""
    one, parts = (together(f"bf16_{each}", each, each > 1, precision="bf16") for each in (1, 2))
    for ours, theirs in zip(losses(one), losses(parts), strict=True):
        for name in {"loss", "validation"} & {*ours}:
            assert ours[name] == pytest.approx(theirs[name], rel=0.01)
    assert {str(value.dtype) for value in tensors(parts).values()} == {"torch.float32"}


@slow
@posix
def test_a_dual_pathway_is_trained_in_parts(together):
    full = together("identity", 1, False, steps=2)
    changes = {
        "method": "dual_pathway",
        "init": {"weights": str(full)},
        "dual": {"train": ["tca", "gates", "router"]},
        "objectives": {"text_consistency": {"weight": 1.0}, "routing": {"weight": 0.1}},
    }
    one, parts = (together(f"dual_{each}", each, each > 1, **changes) for each in (1, 2))
    nearly_equal(one, parts, 3)


@slow
@posix
def test_pictures_are_drawn_by_all_processes_together(together, tmp_path):
    import numpy as np
    from PIL import Image

    from training.data.settings import FaceSettings
    from training.run.config import PromptConfig

    random = np.random.default_rng(0)
    photos = [str(tmp_path / f"{name}.png") for name in ("anna", "ben")]
    for photo in photos:
        Image.fromarray(random.integers(0, 255, (160, 160, 3), dtype=np.uint8)).save(photo)
    logging = {
        "prompts": [PromptConfig("On the left a man@1 and on the right a woman@2.", photos)],
        "prompt_size": [64, 64],
        "prompt_faces": FaceSettings(pack="tiny"),
        "image_encoder": "tiny",
        "sample_steps": 2,
        "samples": 1,
        "samples_every": 2,
    }
    one, parts = (
        together(f"drawn_{each}", each, each > 1, steps=2, base={"path": "tiny"}, logging=logging) for each in (1, 2)
    )
    for name in ("prompts/step-00000002-held_out.png", "samples/step-00000002.png"):
        first, second = (np.asarray(Image.open(run / name)).astype(float) for run in (one, parts))
        assert np.abs(first - second).mean() < 1


@pytest.fixture
def sharded(small_base, small_shards, tmp_path, monkeypatch):
    """changes -> training, where Accelerate is configured for FSDP by these variables of the environment."""
    import accelerate
    from accelerate.state import AcceleratorState

    def start(kind="FSDP", variables=(), **changes):
        from accelerate.utils import FullyShardedDataParallelPlugin

        from training.run.loop import train

        for name, value in {**LAUNCHED, **dict(variables)}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(accelerate.Accelerator, "distributed_type", accelerate.DistributedType[kind])
        monkeypatch.setattr(AcceleratorState, "fsdp_plugin", FullyShardedDataParallelPlugin(), raising=False)
        return train(make_config(small_base, small_shards, tmp_path / "run", steps=1, **changes))

    AcceleratorState._reset_state()
    yield start
    AcceleratorState._reset_state()


@pytest.mark.parametrize("kind", ["DEEPSPEED", "MEGATRON_LM"])
def test_other_ways_to_shard_are_refused_before_anything_is_loaded(sharded, kind):
    with refused("sharding-not-supported", kind, "--use_fsdp"):
        sharded(kind)


@pytest.mark.parametrize(
    ("variables", "changes", "named"),
    [
        ({"FSDP_VERSION": "1"}, {}, "fsdp_version"),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, {}, "base.gradient_checkpointing"),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, {}, "fsdp_offload_params"),
        ({}, {"base": {"quantization": "nf4"}}, "base.quantization nf4"),
        ({}, {"base": {"offload": True, "gradient_checkpointing": True}}, "base.offload"),
        ({}, {"base": {"compile": True}}, "base.compile"),
        ({}, {"optimizer": {"name": "adafactor"}}, "optimizer.name adafactor"),
    ],
)
def test_what_does_not_go_with_it_is_named(sharded, variables, changes, named):
    with refused("sharding-does-not-go-with", named):
        sharded(variables=variables, **changes)


def test_prodigy_in_fp16_is_refused(sharded, monkeypatch):
    """Its parts have their gradients only in its step, where the scaler has looked already."""
    import accelerate

    monkeypatch.setattr(accelerate.Accelerator, "mixed_precision", "fp16")
    with refused("sharding-does-not-go-with", "prodigy", "bf16"):
        sharded(optimizer={"name": "prodigy", "learning_rate": 1.0})


def test_the_estimate_says_what_more_gpus_leave_on_each(config):
    from training.run.estimate import dry_run, estimates

    sizes = estimates(config(precision="bf16"), (1, 2, 4))
    assert sizes[1] > sizes[2] > sizes[4] > 0
    assert "by FSDP" in dry_run(config())
    for changes in ({"base": {"quantization": "fp8"}}, {"optimizer": {"name": "adafactor"}}):
        assert "by FSDP" not in dry_run(config(**changes))
