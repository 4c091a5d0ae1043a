"""Every part of `python -m benchmarks.gpu` on tiny models on the CPU: the code that a card runs, but for its sizes."""

import pytest
import torch

pytest.importorskip("diffusers", reason="install it with: pip install diffusers transformers accelerate")

pytest.importorskip("jsonargparse", reason="install it with: pip install '.[train]'")

from support.gpu_benchmark import run_small

from benchmarks.gpu import compiled
from benchmarks.gpu.bases import fill, sdxl_unet
from benchmarks.gpu.inference import VARIANTS, Sampler
from benchmarks.gpu.setup import find_setup
from benchmarks.gpu.shards import TINY, write_shards
from benchmarks.gpu.tables import section
from benchmarks.gpu.training import recognizer, tiny_recognizer
from dhumandiff.conditioning.token_conditioning import TokenConditioning
from training.data.config import FolderConfig
from training.data.dataset import open_datasets


def run(part, tmp_path):
    """The cases of a part, and the page's part made of them."""
    return run_small(part, tmp_path), section(tmp_path / "out")


@pytest.mark.slow
def test_inference(tmp_path):
    cases, page = run("inference-512", tmp_path)
    assert set(cases) == {f"512px_batch{images}_{dtype}" for images in (1,) for dtype in ("fp16", "bf16")}
    for case in cases.values():
        assert set(case["variants"]) == set(VARIANTS)
        assert all(figures["seconds"] > 0 and figures["ratio"] > 0 for figures in case["variants"].values())
    assert "| cascade `released` | " in page
    assert "512px, batch1, fp16" in page


@pytest.mark.slow
def test_compiled(tmp_path):
    cases, page = run("compiled-512-batch1-fp16", tmp_path)
    for case in cases.values():
        assert case["graphs"] >= 1
        assert case["breaks_by_us"] == 0
        assert case["compilations"] >= 2
        assert set(case["first_run_seconds"]) == set(case["variants"])
    assert "graph breaks" in page


@pytest.mark.slow
def test_training(tmp_path):
    cases, page = run("training-sdxl_12gb", tmp_path)
    assert set(cases) == {"512px", "512px_identity", "1024px", "1024px_identity"}
    for case in cases.values():
        assert case["samples_per_second"] > 0
        assert 0 < case["unet_share"] <= 1
        assert case["peak_bytes"] > 0
        assert case["hours_for_our_recipe"] > 0
    assert cases["512px"]["unet_share"] > cases["512px_identity"]["unet_share"]
    assert "| 512px | " in page


@pytest.mark.slow
def test_checks(tmp_path):
    cases, page = run("checks", tmp_path)
    same = cases["same picture as on the CPU"]
    assert max(value for name, value in same.items() if name.endswith("difference")) == 0  # it is the CPU
    assert same["one_pass_focus_agrees"] == 1
    assert cases["fp16 and bf16 beside fp32"]["bf16_error"] < 0.05
    assert cases["averages on the CPU"]["agree"] is True
    assert cases["waits from the second step on"]["pair"] is None  # nobody counts them here
    assert "| averages on the CPU | largest difference 0; agree yes |" in page


@pytest.mark.slow
def test_the_dual_pathway(tmp_path):
    cases, page = run("dual-pathway", tmp_path)
    assert {"plain", "pair", "trained, router"} <= {*cases["1024px_fp16"]["variants"]}
    assert "trained, router" in page


@pytest.mark.slow
def test_parts2whole(tmp_path, monkeypatch):
    from benchmarks import parts

    for name in ("WIDTHS", "CONTEXT", "POSE"):
        monkeypatch.setattr(parts, name, getattr(parts, name))  # puts back what the small part changes
    cases, _ = run("parts2whole", tmp_path)
    assert {"plain", "1 parts", "4 masks", "4 dropped"} <= {*cases["512px_bf16"]["variants"]}


@pytest.mark.slow
def test_the_miniature_is_planned(tmp_path):
    cases, _ = run("miniature", tmp_path)
    assert cases["plan"]["lines"] > 5


# --- what the parts are made of, fast -----------------------------------------------------------------------------------


def test_people_are_on_the_unet_for_a_run_alone(tmp_path):
    """And each variant draws another picture."""
    unet = sdxl_unet(find_setup("cpu", True, tmp_path), torch.float32)
    sampler = Sampler(find_setup("cpu", True, tmp_path), unet, 512, 1)
    runs = {name: sampler.run(name) for name in ("plain", "pair", "pair_masks", "one_pass", "ip_adapters")}
    made = {name: run() for name, run in runs.items()}
    assert torch.equal(runs["plain"](), made["plain"])
    assert all(torch.isfinite(latent).all() for latent in made.values())
    assert len({round(float(latent.double().sum()), 6) for latent in made.values()}) == len(made)


def test_without_memory_for_one_s_keys_and_values_the_unet_stays_as_it_was(tmp_path, monkeypatch):
    unet = sdxl_unet(find_setup("cpu", True, tmp_path), torch.float32)
    sampler = Sampler(find_setup("cpu", True, tmp_path), unet, 512, 1)
    before = sampler.run("plain")()

    def full(*_):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(TokenConditioning, "finish", full)
    with pytest.raises(torch.OutOfMemoryError):
        sampler.run("pair")
    monkeypatch.undo()
    assert torch.equal(sampler.run("plain")(), before)
    assert torch.isfinite(sampler.run("pair")()).all()


def test_random_weights_keep_activations_of_their_size():
    layer = fill(torch.nn.Linear(512, 512))
    spread = layer(torch.randn(64, 512)).std()
    assert 0.7 < spread < 1.4
    assert not layer.weight.requires_grad
    kernel = fill(torch.nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last))  # as ComfyUI may lay it out
    assert torch.equal(kernel.weight, fill(torch.nn.Conv2d(8, 8, 3)).weight)


def test_random_shards_are_what_training_reads(tmp_path):
    folder = write_shards(tmp_path / "shards", 64, 4, TINY)
    [dataset], _ = open_datasets([FolderConfig(str(folder))])
    assert dataset.samples == 4
    before = {path: path.read_bytes() for path in folder.iterdir()}
    write_shards(folder, 64, 4, TINY)
    assert before == {path: path.read_bytes() for path in folder.iterdir()}


def test_the_real_recognizer_is_as_large_as_arcface_s():
    weights = sum(value.numel() for value in recognizer().parameters())
    assert 38e6 < weights < 50e6  # w600k_r50 has 43.6 million
    assert tiny_recognizer()(torch.randn(2, 3, 112, 112)).shape == (2, 512)


@pytest.mark.parametrize("ours", [True, False])
def test_graph_breaks_are_told_from_one_s_own(monkeypatch, ours):
    monkeypatch.setattr(compiled, "OURS", __file__ if ours else "/nowhere")

    class Breaks(torch.nn.Module):
        def forward(self, x):
            x = x + 1
            torch._dynamo.graph_break()
            return x * 2

    looked = compiled._Explained(Breaks())
    for _ in range(2):
        assert float(looked(torch.zeros(()))) == 2
    assert [mine for _, mine in looked.breaks] == [ours]
    assert looked.graphs == 2
    torch._dynamo.reset()
