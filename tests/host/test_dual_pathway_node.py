"""The dual pathway in ComfyUI: the same numbers as in diffusers, what is true of any such form, and what is refused."""

import itertools

import comfy.samplers
import dhd_pack.dhumandiff.testing as tiny
import pytest
import torch
import torch._dynamo
from comfy_extras.nodes_torch_compile import TorchCompileModel
from dhd_pack.dhumandiff.hosts.diffusers.dual_pathway import attach_dual
from dhd_pack.dhumandiff.methods.dual_pathway import DualPathway, DualPathwaySettings
from dhd_pack.dhumandiff.methods.dual_pathway.finding import FindRegions
from dhd_pack.nodes import dual_pathway as node_module
from dhd_pack.nodes.comfy.adapter import load_adapter
from dhd_pack.nodes.comfy.attention import people_of
from dhd_pack.nodes.comfy.dual import apply_dual
from dhd_pack.nodes.comfy.guider import CascadeGuider
from dhd_pack.nodes.comfy.patch import apply_people
from dhd_pack.nodes.dual_pathway import DHDApplyDualPathway
from support import tiny_comfy
from support.refused import refused
from support.sampling import diffusers_prediction, guider, left_and_right, predict, sample, sigma_at, tiled
from support.tiny_dual import tiny_dual

from dhumandiff.testing import tiny_adapter

POSITIVE, NEGATIVE = tiny_comfy.conditioning(1), tiny_comfy.conditioning(2)
PICTURE = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3)) * 10
HALVES = left_and_right(16, 16)
SOURCES = ("given", "attention", "router")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("dual") / "pathway.safetensors"
    tiny_dual(tiny_adapter()).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def trained(file):
    return load_adapter(file)


def dual(model, adapter, people, masks=HALVES, strengths=None, **settings):
    settings = DualPathwaySettings(**settings)
    return apply_dual(model, adapter, people, settings, person_strengths=strengths, masks=masks)[0]


def plain(model, cfg=5.0, positive=POSITIVE):
    return guider(model, positive, NEGATIVE, cfg)


def differ(one, other, sigma, picture=PICTURE):
    """How far the noise of two guiders is apart."""
    return float((predict(one, picture, sigma) - predict(other, picture, sigma)).abs().max() / sigma)


# --- the same numbers in both hosts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("regions", ["given", "router"])
@pytest.mark.parametrize("parts", ["untrained", "trained"])
def test_predictions_equal_those_of_diffusers(file, model, adapter, trained, people, regions, parts):
    if (regions, parts) == ("router", "untrained"):
        with refused("dual-no-router"):
            dual(model, adapter, people, regions=regions)
        return
    unet, timestep = tiny.tiny_unet(), 601
    theirs = DualPathway.from_pretrained(file) if parts == "trained" else DualPathway(tiny.tiny_adapter())
    settings = DualPathwaySettings(identity_strength=0.9, text_strength=0.3, regions=regions)
    masks = torch.stack(HALVES) if regions == "given" else None
    sigma = sigma_at(model, timestep)
    with attach_dual(unet, theirs, people, settings, (1.0, 0.8), masks):
        negative, positive = diffusers_prediction(unet, PICTURE, sigma, timestep, [NEGATIVE, POSITIVE])
    given = HALVES if regions == "given" else ()
    made = trained if parts == "trained" else adapter
    patched = apply_dual(model, made, people, settings, person_strengths=(1.0, 0.8), masks=given)[0]
    for cfg, expected in ((0.0, negative), (1.0, positive)):
        assert (predict(plain(patched, cfg), PICTURE, sigma) - expected).abs().max() / sigma < 1e-4


@pytest.mark.parametrize("regions", SOURCES)
def test_a_whole_run_ends_where_one_with_diffusers_ends(file, model, trained, people, regions):
    """Four steps of Euler by hand around diffusers' UNet, with the regions found on the way."""
    settings, steps, cfg = DualPathwaySettings(regions=regions), 4, 3.0
    given = HALVES if regions == "given" else ()
    patched = apply_dual(model, trained, people, settings, masks=given)[0]
    got = model.model.process_latent_in(sample(plain(patched, cfg), PICTURE.shape, steps))

    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", steps)
    noise = torch.randn(PICTURE.shape, generator=torch.Generator().manual_seed(0))
    x = sampling.noise_scaling(sigmas[0], noise, torch.zeros_like(noise), True)
    unet, mode = tiny.tiny_unet(), FindRegions(settings)
    masks = torch.stack(given) if given else None
    mode.begin((16, 16), 1)
    with attach_dual(unet, DualPathway.from_pretrained(file), people, settings, None, masks) as attached:
        for sigma, following in itertools.pairwise(sigmas):
            step = mode.begin_step()
            attached.strength, attached.record = step.strength, step.store
            negative, positive = diffusers_prediction(
                unet, x, sigma, sampling.timestep(sigma), [NEGATIVE, POSITIVE]
            ).split(1)
            clean = negative + cfg * (positive - negative)
            x = x + (x - clean) / sigma * (following - sigma)
    assert (got - x).abs().max() < 1e-4 * x.abs().max()


# --- true of any form ----------------------------------------------------------------------------------------------------


def test_a_region_of_everything_is_the_pair_at_the_identity_strength(model, adapter, people):
    sigma, whole = sigma_at(model, 500), (torch.ones(1, 16, 16),)
    ours = dual(model, adapter, people[:1], whole, identity_strength=0.8)
    assert differ(plain(ours), plain(apply_people(model, adapter, people[:1], 0.8)), sigma) < 1e-4
    everywhere, notes = apply_dual(model, adapter, people, DualPathwaySettings(), masks=whole * 2)
    assert "covers the whole picture" in notes[0]
    assert "untrained" in notes[1]
    assert differ(plain(everywhere), plain(apply_people(model, adapter, people)), sigma) < 1e-4


def test_no_region_is_the_path_of_the_words(model, adapter, people):
    """Which an untrained adapter takes for a weaker identity; nothing is found yet in the first step."""
    ours = dual(model, adapter, people, (), regions="attention", text_strength=0.4)
    assert differ(plain(ours), plain(apply_people(model, adapter, people, 0.4)), sigma_at(model, 500)) < 1e-4


def test_paths_that_are_equal_make_the_region_void(model, adapter, people):
    soft = (torch.linspace(0, 1, 16).expand(1, 16, 16),)
    ours = dual(model, adapter, people[:1], soft, identity_strength=0.7, text_strength=0.7)
    assert differ(plain(ours), plain(apply_people(model, adapter, people[:1], 0.7)), sigma_at(model, 500)) < 1e-4


def test_without_any_strength_the_prediction_is_exactly_the_model_s_own(model, trained, people):
    sigma = sigma_at(model, 500)
    expected = predict(plain(model), PICTURE, sigma)
    for given in ({"identity_strength": 0.0, "text_strength": 0.0}, {"strengths": (0.0, 0.0)}):
        assert torch.equal(predict(plain(dual(model, trained, people, **given)), PICTURE, sigma), expected)


def test_the_negative_reads_nobody_and_the_model_stays_as_it_was(model, trained, people):
    sigma = sigma_at(model, 500)
    before = predict(plain(model), PICTURE, sigma)
    others = [tiny_comfy.reference(3), tiny_comfy.reference(4)]
    first, second = (dual(model, trained, pair) for pair in (people, others))
    assert differ(plain(first, 0.0), plain(second, 0.0), sigma) == 0
    assert differ(plain(first, 1.0), plain(second, 1.0), sigma) > 1e-3
    assert torch.equal(predict(plain(model), PICTURE, sigma), before)


# --- every batching ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("regions", SOURCES)
def test_prompts_give_the_same_together_and_apart(monkeypatch, trained, people, regions):
    """Two positives of unlike lengths, one of them an area; the second step, when regions are found."""
    model = tiny_comfy.model_patcher()
    area = [[tiny_comfy.conditioning(7, 154)[0][0], {**POSITIVE[0][1], "area": (8, 8, 4, 8), "strength": 1.0}]]
    patched = dual(model, trained, people, HALVES if regions == "given" else (), regions=regions)
    guide = plain(patched, positive=[*POSITIVE, *area])
    sigma = sigma_at(model, 500)
    together = predict(guide, PICTURE, sigma, twice=True)
    monkeypatch.setattr(model.model, "memory_required", lambda *args, **kwargs: 1e18)  # what low memory does
    apart = predict(guide, PICTURE, sigma, twice=True)
    assert (together - apart).abs().max() / sigma < 1e-3


@pytest.mark.parametrize("regions", SOURCES)
def test_a_batch_of_three_gives_what_three_single_pictures_give(model, trained, people, regions):
    patched, sigma = (
        dual(model, trained, people, HALVES if regions == "given" else (), regions=regions),
        sigma_at(model, 500),
    )
    pictures = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(6)) * 10
    together = predict(plain(patched), pictures, sigma, twice=True)
    single = torch.cat([predict(plain(patched), one[None], sigma, twice=True) for one in pictures])
    assert (together - single).abs().max() / sigma < 1e-3


@pytest.mark.parametrize("regions", SOURCES)
def test_tiles_in_one_batch_give_what_single_tiles_give(model, trained, people, regions):
    patched, sigma = (
        dual(model, trained, people, HALVES if regions == "given" else (), regions=regions),
        sigma_at(model, 500),
    )
    single, together = (
        predict(plain(tiled(patched, batched)), PICTURE, sigma, twice=True) for batched in (False, True)
    )
    assert (single - together).abs().max() / sigma < 1e-3


def test_each_picture_of_a_batch_may_have_regions_of_its_own(model, trained, people):
    left, right = HALVES
    sigma, twice = sigma_at(model, 500), PICTURE.repeat(2, 1, 1, 1)
    both = dual(model, trained, people, (torch.cat([left, right]), torch.cat([right, left])))
    made = predict(plain(both), twice, sigma)
    for one, masks in zip(made, (HALVES, HALVES[::-1]), strict=True):
        alone = predict(plain(dual(model, trained, people, masks)), PICTURE, sigma)
        assert (one - alone).abs().max() / sigma < 1e-3


@pytest.mark.parametrize("latent", [(24, 16), (13, 17), (15, 9)], ids=str)
def test_regions_lie_right_at_every_shape(model, adapter, people, latent):
    """As diffusers lays them."""
    picture = torch.randn(1, 4, *latent, generator=torch.Generator().manual_seed(1)) * 10
    masks = left_and_right(*(side * 8 for side in latent))
    unet, timestep = tiny.tiny_unet(), 601
    sigma = sigma_at(model, timestep)
    with attach_dual(unet, DualPathway(tiny.tiny_adapter()), people, DualPathwaySettings(), None, torch.stack(masks)):
        expected = diffusers_prediction(unet, picture, sigma, timestep, [NEGATIVE, POSITIVE])[1:]
    got = predict(plain(dual(model, adapter, people, masks), 1.0), picture, sigma)
    assert (got - expected).abs().max() / sigma < 1e-4


# --- whole runs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("regions", SOURCES)
def test_a_compiled_model_draws_the_same(model, trained, people, regions):
    torch._dynamo.reset()
    patched = dual(model, trained, people, HALVES if regions == "given" else (), regions=regions)
    compiled = TorchCompileModel.execute(patched, "eager").result[0]
    one, other = (sample(plain(made), (1, 4, 16, 16), steps=3) for made in (compiled, patched))
    torch._dynamo.reset()
    assert (one - other).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_model_of_half_precision_gets_keys_and_values_of_its_own(trained, people, dtype):
    model = tiny_comfy.model_patcher(dtype=dtype)
    patched = dual(model, trained, people)
    applied = people_of(patched)[0].people
    assert applied.keys_values.dtype == applied.text_keys_values.dtype == dtype
    full = sample(plain(dual(tiny_comfy.model_patcher(), trained, people)), (1, 4, 16, 16), steps=2)
    assert (sample(plain(patched), (1, 4, 16, 16), steps=2) - full).abs().max() < 0.1 * full.abs().max()


def test_people_act_in_their_share_of_sampling_only(model, trained, people):
    shape = (1, 4, 16, 16)
    whole, late, none = (
        sample(plain(made), shape, steps=4)
        for made in (dual(model, trained, people), dual(model, trained, people, start=0.5), model)
    )
    assert not torch.allclose(whole, late, atol=1e-3)
    assert not torch.allclose(none, late, atol=1e-3)


def test_it_stands_beside_a_pair_and_other_people(model, adapter, trained, people):
    """Each adds to what is there, and the order does not count."""
    sigma = sigma_at(model, 500)
    pair_first = dual(apply_people(model, adapter, people, 0.5), trained, people)
    pair_last = apply_people(dual(model, trained, people), adapter, people, 0.5)
    assert differ(plain(pair_first), plain(pair_last), sigma) < 1e-3
    assert differ(plain(pair_first), plain(dual(model, trained, people)), sigma) > 1e-3


def test_weights_of_the_dual_pathway_draw_a_pair_as_an_adapter_does(model, adapter, trained, people):
    ours, theirs = (apply_people(model, one, people) for one in (trained, adapter))
    assert differ(plain(ours), plain(theirs), sigma_at(model, 500)) == 0


# --- the node ------------------------------------------------------------------------------------------------------------


def by_node(model, adapter, people, preset="none", regions="given", **more):
    references = {f"reference_{number}": person for number, person in enumerate(people, 1)}
    masks = {f"mask_{number}": mask for number, mask in enumerate(HALVES, 1)}
    given = {"identity_strength": 1.0, "text_strength": 0.4, **masks, **more}
    return DHDApplyDualPathway.execute(model, adapter, preset=preset, regions=regions, **references, **given).args[0]


def test_a_preset_stands_in_for_the_numbers(model, trained, people):
    made = people_of(by_node(model, trained, people, "another expression", identity_strength=3.0, end=0.9))[0]
    assert made.people.settings == DualPathwaySettings(0.8, 0.1, "attention", face_share=0.1, start=0.2, end=0.9)
    assert (made.start, made.end) == (0.2, 0.9)
    assert DHDApplyDualPathway.validate_inputs(0.5, 0.3, "another age") is True
    assert "before end" in DHDApplyDualPathway.validate_inputs(0.5, 0.3, "none")


def test_the_node_draws_what_its_function_draws_and_says_what_is_untrained(monkeypatch, model, adapter, people):
    told = []
    monkeypatch.setattr(node_module, "tell", lambda node, text: told.append(text))
    ours = by_node(model, adapter, people, strength_2=0.5)
    theirs = dual(model, adapter, people, strengths=(1.0, 0.5))
    assert differ(plain(ours), plain(theirs), sigma_at(model, 500)) == 0
    assert "untrained" in told[0]


# --- bad input -----------------------------------------------------------------------------------------------------------


def test_what_makes_no_picture_is_refused_before_sampling(model, adapter, trained, people):
    black = torch.zeros(1, 16, 16)
    with refused("dual-untrained"):
        by_node(model, adapter, people, require_trained=True)
    with refused("dual-region-empty", "person 2"):
        by_node(model, trained, people, mask_2=black)
    with refused("dual-region-count", "2 people", "1 region"):
        by_node(model, trained, people, mask_2=None)
    with refused("mask-without-person", "mask_2"):
        by_node(model, trained, people[:1])
    with refused("dual-no-reference"):
        dual(model, trained, [])
    with refused("not-a-choice", "preset"):
        by_node(model, trained, people, "younger")
    with refused("adapter-of-another-base", "70 layers"):
        by_node(tiny_comfy.model_patcher(depth="sdxl"), trained, people)
    with refused("mask-of-another-shape"):
        predict(
            plain(by_node(model, trained, people, mask_1=torch.ones(1, 16, 40), mask_2=torch.ones(1, 16, 40))),
            PICTURE,
            sigma_at(model, 500),
        )
    with refused("strength-not-a-number"):
        dual(model, trained, people, strengths=(1.0, float("nan")))


def test_the_cascade_is_refused(model, trained, people):
    with refused("cascade-on-dual-pathway", "Apply Dual Pathway"):
        CascadeGuider(dual(model, trained, people)).set_cascade()


def test_trained_parts_alone_and_damaged_ones_are_named(tmp_path, model, people):
    made = tiny_dual(tiny_adapter())
    made.save_pretrained(tmp_path / "parts.safetensors", ("tca", "gates"))
    with refused("dual-identity-missing", "parts.safetensors", "convert"):
        load_adapter(tmp_path / "parts.safetensors")
    made.tca.layers[0].to_k.down.weight[0, 0] = float("nan")
    made.save_pretrained(tmp_path / "nan.safetensors")
    with refused("adapter-not-finite", "tca"):
        dual(model, load_adapter(tmp_path / "nan.safetensors"), people)
