"""Models that take turns on a GPU that is too small for all of them, and pictures that are decoded in tiles."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.portraits import draw
from support.tiny_dual import halves, tiny_dual
from support.tiny_pair import MARKED, SMALL

pytest.importorskip("diffusers", reason="install it with: pip install diffusers transformers accelerate")

from dhumandiff.hosts.diffusers import memory
from dhumandiff.hosts.diffusers.dual_pathway import draw_dual
from dhumandiff.hosts.diffusers.pipeline import PortraitPipeline
from dhumandiff.hosts.diffusers.vae import decode
from dhumandiff.methods.dual_pathway import DualPathwaySettings
from dhumandiff.methods.paired.settings import SamplingSettings


def moves(monkeypatch, models):
    """Where these models are sent, in order: (name, device)."""
    seen = []
    for name, model in models.items():
        real = model.to
        monkeypatch.setattr(
            model, "to", lambda *to, name=name, real=real: seen.append((name, str(to[0]))) or real("cpu")
        )
    return seen


@pytest.mark.parametrize("mode", ["none", "one_pass", "two_strength", "released"])
def test_models_that_take_turns_draw_the_same_picture(portrait, adapter, people, mode):
    settings = {"mode": mode, "scene_strength": 0.2, **SMALL}
    whole, focus = draw(portrait, adapter, people, MARKED, **settings)
    turns = PortraitPipeline(portrait.pipeline, "cpu", offload=True)
    picture, same = draw(turns, adapter, people, MARKED, **settings)
    assert np.array_equal(np.asarray(picture), np.asarray(whole))
    assert focus is same is None or torch.equal(focus, same)


def test_each_model_is_on_the_device_in_its_turn_alone(adapter, people, monkeypatch):
    portrait = PortraitPipeline.from_base("tiny", "cpu", offload=True)
    portrait.turns.device = torch.device("meta")  # only said: `moves` sends nothing there
    parts = portrait.pipeline
    models = {"text": parts.text_encoder, "text 2": parts.text_encoder_2, "adapter": adapter, "unet": parts.unet}
    seen = moves(monkeypatch, {**models, "vae": parts.vae})
    draw(portrait, adapter, people, MARKED, **SMALL)
    first = ["text", "text 2", "adapter"]
    turns = [
        (first, "meta"),
        (first, "cpu"),
        (["unet"], "meta"),
        (["unet"], "cpu"),
        (["vae"], "meta"),
        (["vae"], "cpu"),
    ]
    assert seen == [(name, where) for names, where in turns for name in names]


@pytest.mark.parametrize("regions", ["given", "attention", "router"])
def test_the_dual_pathway_draws_the_same_picture_when_models_take_turns(portrait, adapter, people, regions):
    dual, sampling = tiny_dual(adapter), SamplingSettings(**SMALL)
    given = {"settings": DualPathwaySettings(regions=regions), "sampling": sampling}
    given["masks"] = halves(size=(12, 8)) if regions == "given" else None
    turns = PortraitPipeline(portrait.pipeline, "cpu", offload=True)
    (whole, focus), (picture, same) = (draw_dual(made, dual, people, MARKED, **given) for made in (portrait, turns))
    assert np.array_equal(np.asarray(picture), np.asarray(whole))
    assert focus is same is None or torch.equal(focus, same)


@pytest.mark.parametrize("regions", ["attention", "router"])
def test_of_the_dual_pathway_only_a_router_is_on_the_device_while_sampling(adapter, people, monkeypatch, regions):
    portrait, dual = PortraitPipeline.from_base("tiny", "cpu", offload=True), tiny_dual(adapter)
    portrait.turns.device = torch.device("meta")  # only said: `moves` sends nothing there
    parts = portrait.pipeline
    models = {"text": parts.text_encoder, "text 2": parts.text_encoder_2, "dual": dual, "unet": parts.unet}
    seen = moves(monkeypatch, {**models, "router": dual.router, "vae": parts.vae})
    settings = DualPathwaySettings(regions=regions)
    draw_dual(portrait, dual, people, MARKED, settings=settings, sampling=SamplingSettings(**SMALL))
    first, sampling = ["text", "text 2", "dual"], ["unet", "router"] if regions == "router" else ["unet"]
    turns = [(names, where) for names in (first, sampling, ["vae"]) for where in ("meta", "cpu")]
    assert seen == [(name, where) for names, where in turns for name in names]


def test_after_an_error_nothing_stays_on_the_device(adapter, people, monkeypatch):
    portrait = PortraitPipeline.from_base("tiny", "cpu", offload=True)
    seen = moves(monkeypatch, {"unet": portrait.pipeline.unet})
    monkeypatch.setattr(portrait, "loop", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        draw(portrait, adapter, people, MARKED, **SMALL)
    assert [where for _, where in seen] == ["cpu", "cpu"]
    assert all(type(module.processor).__name__ != "PairedProcessor" for module in attentions(portrait.pipeline.unet))


def attentions(unet):
    return [module for module in unet.modules() if hasattr(module, "processor")]


@pytest.mark.parametrize(("gigabytes", "too_small"), [(8, True), (12, True), (16, False), (24, False)])
def test_small_gpus_are_told_by_their_memory(monkeypatch, gigabytes, too_small):
    """By SDXL's own sizes in fp16."""
    properties = SimpleNamespace(total_memory=gigabytes * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    with torch.device("meta"):
        weights = torch.nn.ParameterList([torch.empty(3_470_000_000, dtype=torch.float16)])
    assert memory.too_small_for([weights], torch.device("cuda")) is too_small
    assert not memory.too_small_for([weights], torch.device("cpu"))


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("MPS backend out of memory")]
)
def test_without_memory_for_the_whole_picture_it_is_decoded_in_tiles(portrait, monkeypatch, caplog, error):
    vae = portrait.pipeline.vae
    latent = torch.randn(1, 4, 12, 8, generator=torch.Generator().manual_seed(0))
    whole, real, tiled = decode(vae, latent), vae.decode, []

    def short(given):
        tiled.append(vae.use_tiling)
        if not vae.use_tiling:
            raise error
        return real(given)

    monkeypatch.setattr(vae, "decode", short)
    with caplog.at_level("INFO"):
        assert np.array_equal(np.asarray(decode(vae, latent)), np.asarray(whole))
    assert tiled == [False, True]
    assert not vae.use_tiling
    assert "in tiles" in caplog.text


def test_another_error_of_decoding_is_not_taken_for_lack_of_memory(portrait, monkeypatch):
    monkeypatch.setattr(portrait.pipeline.vae, "decode", lambda latent: (_ for _ in ()).throw(RuntimeError("broken")))
    with pytest.raises(RuntimeError, match="broken"):
        decode(portrait.pipeline.vae, torch.zeros(1, 4, 8, 8))
