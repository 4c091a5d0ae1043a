"""The frozen base in fewer bits, on the CPU block by block, and compiled: what is trained stays what it would be, or nearly."""

import sys

import pytest
import torch
from support.refused import refused

for package in ("accelerate", "diffusers", "jsonargparse", "transformers", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from training.run import frozen, setup
from training.run.checkpoint import RunFolder
from training.run.config import BaseConfig
from training.run.estimate import dry_run
from training.run.logging import read_log
from training.run.loop import train

pytestmark = pytest.mark.usefixtures("one_thread", "fresh_accelerate")


@pytest.fixture
def config(config):
    """The settings of the base in `base`."""

    def make(run="run", base=None, **changes):
        settings = config(run, **changes)
        settings.base = BaseConfig(path=settings.base.path, **(base or {}))
        return settings

    return make


def weights(run, step=2):
    return RunFolder(run).load(step).weights


def test_blocks_on_the_cpu_train_the_same_one_at_a_time(config, monkeypatch):
    made = []

    class Watched(frozen.BlockOffload):
        def __init__(self, *given):
            super().__init__(*given)
            made.append(self)

    monkeypatch.setattr(setup, "BlockOffload", Watched)
    with_all = train(config("a", steps=2, base={"gradient_checkpointing": True})).run
    by_blocks = train(config("b", steps=2, base={"gradient_checkpointing": True, "offload": True})).run
    one, other = weights(with_all), weights(by_blocks)
    for name, value in one.items():  # sums of gradients come in another order
        torch.testing.assert_close(value, other[name], rtol=1e-5, atol=1e-6)
    assert (made[0].present, made[0].most) == (0, 1)


def test_a_block_comes_and_leaves_in_both_directions():
    block = type("ResnetBlock2D", (torch.nn.Linear,), {})(4, 4).requires_grad_(False)
    unet = torch.nn.Sequential(block)
    offload = frozen.BlockOffload(unet, torch.device("cpu"))
    resting = block.weight.data_ptr()
    seen = []
    block.register_forward_hook(lambda module, *_: seen.append(module.weight.data_ptr()), prepend=True)
    given = torch.randn(2, 4, requires_grad=True)
    torch.utils.checkpoint.checkpoint(block, given, use_reentrant=False).sum().backward()
    assert all(pointer != resting for pointer in seen)
    assert block.weight.data_ptr() == resting
    assert offload.present == 0
    torch.testing.assert_close(given.grad, block.weight.sum(0).expand(2, 4))


@pytest.mark.parametrize(("kind", "package"), [("fp8", "torchao"), ("int8", "torchao"), ("nf4", "bitsandbytes")])
def test_fewer_bits_train_nearly_the_same(config, kind, package):
    pytest.importorskip(package)
    whole, few = (
        train(config(name, steps=2, base={"quantization": each})).run for name, each in (("a", "none"), ("b", kind))
    )
    one, other = (read_log(run / "log.jsonl")[0]["loss"] for run in (whole, few))
    assert one != other
    assert one == pytest.approx(other, rel=0.05)
    assert RunFolder(few).load(2).contents == RunFolder(whole).load(2).contents  # the base is the same one


def test_compiled_layers_compute_the_same(config, monkeypatch):
    monkeypatch.setattr(frozen, "BACKEND", "eager")
    plain, compiled = (
        train(config(name, steps=1, base={"compile": each})).run for name, each in (("a", False), ("b", True))
    )
    one, other = weights(plain, 1), weights(compiled, 1)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name])


def test_dry_run_counts_fewer_bits_and_blocks_on_the_cpu(config):
    def base(**changes):
        text = dry_run(config("x", base={"gradient_checkpointing": True, **changes}, precision="bf16"))
        (line,) = (line for line in text.splitlines() if "frozen base" in line)
        return float(line.split()[0]), line

    plain, fp8, nf4, offload = base(), base(quantization="fp8"), base(quantization="nf4"), base(offload=True)
    assert plain[0] >= fp8[0] >= nf4[0]
    assert plain[0] >= offload[0]
    assert "Linear layers in nf4" in nf4[1]
    assert "all but one block on the CPU" in offload[1]


@pytest.mark.parametrize(("kind", "package"), [("fp8", "torchao"), ("nf4", "bitsandbytes")])
def test_a_package_that_is_missing_is_named(config, monkeypatch, kind, package):
    for name in (package, f"{package}.quantization", f"{package}.nn"):
        monkeypatch.setitem(sys.modules, name, None)
    with refused("quantization-package-missing", f"pip install {package}"):
        train(config(steps=1, base={"quantization": kind}))


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"offload": True}, "offload-without-checkpointing"),
        ({"offload": True, "gradient_checkpointing": True, "quantization": "fp8"}, "offload-of-quantized"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(values, code):
    with refused(code, "base.offload"):
        BaseConfig(**values)
