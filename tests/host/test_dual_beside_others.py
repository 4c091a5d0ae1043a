"""The dual pathway beside what else is done to a model: both act, neither acts in the other's place, or it is refused."""

import comfy.cldm.cldm
import comfy.context_windows as cw
import comfy.controlnet
import comfy.ops
import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_advanced_samplers import SamplerLCMUpscale
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from comfy_extras.nodes_sag import SelfAttentionGuidance
from dhd_pack.dhumandiff.conditioning.kv_cache import KVCache
from dhd_pack.dhumandiff.methods.dual_pathway import DualPathwaySettings
from dhd_pack.dhumandiff.methods.dual_pathway.finding import FindRegions
from dhd_pack.nodes.comfy.adapter import load_adapter
from dhd_pack.nodes.comfy.dual import apply_dual
from dhd_pack.nodes.comfy.patch import check_compatible
from support import tiny_comfy
from support.other_packs import Chaining, with_chain, with_ip_adapter
from support.refused import refused
from support.sampling import guider, left_and_right, predict, sample, sigma_at
from support.tiny_dual import tiny_dual

from dhumandiff.testing import tiny_adapter

POSITIVE, NEGATIVE = tiny_comfy.conditioning(1), tiny_comfy.conditioning(2)
PICTURE = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3)) * 10
HALVES = left_and_right(16, 16)
SOURCES = ("given", "attention", "router")
every_source = pytest.mark.parametrize("regions", SOURCES)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("dual") / "pathway.safetensors"
    tiny_dual(tiny_adapter()).save_pretrained(path)
    return load_adapter(path)


@pytest.fixture
def keys(model, trained):
    return check_compatible(model, trained.model.info)


def dual(model, adapter, people, regions="given", **settings):
    masks = HALVES if regions == "given" else ()
    return apply_dual(model, adapter, people, DualPathwaySettings(regions=regions, **settings), masks=masks)[0]


def run(model, positive=POSITIVE, negative=NEGATIVE, cfg=5.0):
    """The second prediction of a run: the one in which regions are found."""
    return predict(guider(model, positive, negative, cfg), PICTURE, sigma_at(model, 500), twice=True)


def apart(one, other):
    """How far two clean pictures are apart, counted in noise."""
    return float((one - other).abs().max())


def two_pictures_of_a_layer(model, trained, keys, other=lambda model: model, **prompts):
    """What the first layer gives, [H, W, C], with two people of whom the second is another one each time."""
    made = []
    for seed in (3, 4):
        people = [tiny_comfy.reference(1), tiny_comfy.reference(seed)]
        made.append(first_layer(other(dual(model, trained, people, feather=0)), keys, **prompts))
    return made


def first_layer(model, keys, **prompts):
    """What the first layer's attention gives for the conditional sample, [H, W, C]."""
    seen = []

    def look(n, extra):
        if (*extra["block"], extra["block_index"]) == keys[0]:
            seen.append(n[-1:].clone())
        return n

    watched = model.clone()
    watched.set_model_attn2_output_patch(look)
    run(watched, cfg=1.0, **prompts)
    side = int(seen[0].shape[1] ** 0.5)
    return seen[0].reshape(side, side, -1)


def changed_columns(one, other):
    """Of two outputs of a layer: how much each column changed at most, left half and right half."""
    return (one - other).abs().amax(dim=(0, 2)).chunk(2)


# --- ControlNet -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def controlled():
    """Prompts with a real ControlNet of random weights, as Apply ControlNet makes them, and its network."""
    config = {name: value for name, value in tiny_comfy.unet_config().items() if name != "out_channels"}
    network = comfy.cldm.cldm.ControlNet(**config, hint_channels=3, operations=comfy.ops.disable_weight_init)
    random = torch.Generator().manual_seed(11)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=random) / max(1, parameter[0].numel()) ** 0.5
    loaded = comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"))
    control = loaded.copy().set_cond_hint(torch.rand(1, 3, 128, 128, generator=random), 0.5, (0.0, 1.0))
    options = {"control": control, "control_apply_to_uncond": False}
    return [[[p[0][0], {**p[0][1], **options}]] for p in (POSITIVE, NEGATIVE)], network


@every_source
def test_a_controlnet_and_people_both_act_and_the_controlnet_never_reads_them(
    model, trained, people, controlled, regions
):
    prompts, network = controlled
    said = []
    hook = network.register_forward_hook(lambda _, __, out: said.append([t.clone() for t in out["output"]]))
    patched = dual(model, trained, people, regions)
    try:
        both, control_only = run(patched, *prompts), run(model, *prompts)
    finally:
        hook.remove()
    assert len(said) == 4
    assert all(torch.equal(a, b) for a, b in zip(said[0], said[-1], strict=True))
    assert apart(both, control_only) > 1e-2
    assert apart(both, run(patched)) > 1e-2


def test_each_person_keeps_to_their_half_beside_a_controlnet_and_adds_what_they_add_without(
    model, trained, people, keys, controlled
):
    positive, negative = controlled[0]
    given = {"positive": positive, "negative": negative}
    patched = dual(model, trained, people)
    assert torch.equal(first_layer(patched, keys, **given), first_layer(patched, keys))
    left, right = changed_columns(*two_pictures_of_a_layer(model, trained, keys, **given))
    assert not left.any()
    assert right.min() > 0


# --- attention of other packs ----------------------------------------------------------------------------------------------


@every_source
@pytest.mark.parametrize("other", [with_chain, with_ip_adapter], ids=["chaining replace", "IPAdapter_plus"])
def test_another_attention_patch_works_before_and_after(model, trained, people, keys, other, regions):
    patched = dual(model, trained, people, regions)
    before, after = run(dual(other(model, keys), trained, people, regions)), run(other(patched, keys))
    assert torch.allclose(before, after, atol=1e-3)
    assert apart(after, run(patched)) > 1e-2
    assert apart(after, run(other(model, keys))) > 1e-2


def test_each_person_keeps_to_their_half_beside_an_ip_adapter(model, trained, keys):
    left, right = changed_columns(
        *two_pictures_of_a_layer(model, trained, keys, lambda patched: with_ip_adapter(patched, keys))
    )
    assert not left.any()
    assert right.min() > 0


def test_an_ip_adapter_of_one_half_leaves_the_other_half_of_a_layer_to_the_people(model, trained, people, keys):
    patched = dual(model, trained, people)
    side = first_layer(patched, keys).shape[0]
    half = torch.zeros(1, side, side, 1)
    half[:, :, : side // 2] = 1

    def halved(out, q, *_, size, **__):
        return size * q * half.reshape(1, -1, 1) if q.shape[1] == side**2 else torch.zeros_like(q)

    beside = with_ip_adapter(patched, keys, term=halved)
    left, right = changed_columns(first_layer(beside, keys), first_layer(patched, keys))
    assert left.min() > 0
    assert not right.any()


def test_a_patch_that_overwrites_the_people_is_told_with_the_node_that_put_them_there(model, trained, people, keys):
    patched = dual(model, trained, people)
    for key in keys[:5]:
        patched.set_model_attn2_replace(Chaining(), *key)
    with refused("attention-replaced", "5 of 17 layers", "Apply Dual Pathway"):
        run(patched)


@every_source
def test_a_lora_on_the_same_layers_works_before_and_after(model, trained, people, regions):
    name = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_q.weight"
    change = torch.randn(128, 128, generator=torch.Generator().manual_seed(8)) * 0.05

    def lora(onto):
        onto = onto.clone()
        assert onto.add_patches({name: ("diff", (change,))}, 1.0) == [name]
        return onto

    before, after = (
        run(made) for made in (dual(lora(model), trained, people, regions), lora(dual(model, trained, people, regions)))
    )
    assert torch.equal(before, after)
    assert apart(before, run(dual(model, trained, people, regions))) > 1e-3


# --- guidance that asks more than once ------------------------------------------------------------------------------------

GUIDANCE = {
    "pag": lambda model: PerturbedAttentionGuidance.execute(model, scale=3.0).args[0],
    "sag": lambda model: SelfAttentionGuidance.execute(model, scale=0.5, blur_sigma=2.0).args[0],
}


@every_source
def test_perturbed_attention_guidance_reads_the_people_where_they_are(model, trained, people, regions):
    split, sigma = dual(model, trained, people, regions), sigma_at(model, 500)
    lost = split.clone()
    for index in range(2):
        lost.set_model_attn1_replace(lambda q, k, v, options: v, "middle", 0, index)
    positive, perturbed, guided, plain = (
        predict(guider(made, POSITIVE, NEGATIVE, cfg), PICTURE, sigma)
        for made, cfg in ((split, 1.0), (lost, 1.0), (GUIDANCE["pag"](split), 5.0), (split, 5.0))
    )
    assert apart(positive, perturbed) > 1e-2
    assert apart(guided, plain + (positive - perturbed) * 3.0) < 1e-3 * float(sigma)


@pytest.fixture
def found(monkeypatch):
    """The strength of each step: a number, or the regions found so far."""
    seen, real = [], FindRegions.begin_step

    def looked_at(self, *given):
        step = real(self, *given)
        seen.append(step.strength)
        return step

    monkeypatch.setattr(FindRegions, "begin_step", looked_at)
    return seen


@pytest.mark.parametrize("name", GUIDANCE)
def test_what_guidance_predicts_besides_does_not_count_for_the_regions(model, trained, people, found, name):
    split = dual(model, trained, people, "attention")
    for made in (split, GUIDANCE[name](split)):
        run(made)
    plain, guided = found[1], found[3]
    assert isinstance(plain, torch.Tensor)
    assert torch.allclose(plain, guided, atol=1e-4)


def test_self_attention_guidance_keeps_the_regions_in_its_extra_call(model, adapter, people, monkeypatch):
    seen, real = [], KVCache.attend
    monkeypatch.setattr(KVCache, "attend", lambda *args: seen.append(args[-1]) or real(*args))
    split = dual(model, adapter, people, feather=0)
    predict(guider(GUIDANCE["sag"](split), POSITIVE, NEGATIVE), PICTURE, sigma_at(model, 500))
    assert len(seen) == 17 * 2
    for weights in seen:
        side = int(weights.shape[-1] ** 0.5)
        first, second = weights[0].reshape(2, side, side)
        assert (first[:, : side // 2] == 1).all()
        assert (first[:, side // 2 :] == 0).all()
        assert (second == 1 - first).all()


# --- pieces of the picture, and of a batch ---------------------------------------------------------------------------------


def windows(model, dim, length, overlap):
    """What Context Windows (Manual) does."""
    made = model.clone()
    made.model_options["context_handler"] = cw.IndexListContextHandler(
        cw.get_matching_context_schedule("standard_static"),
        cw.get_matching_fuse_method("pyramid"),
        length,
        overlap,
        dim=dim,
    )
    made.model_options["context_handler"].causal_window_fix = False  # newer ones read one place more before each window
    return made


@every_source
def test_windows_over_a_batch_draw_what_the_whole_batch_draws(model, trained, people, regions):
    whole = dual(model, trained, people, regions)
    one, other = (  # as many noise levels as pictures, or ComfyUI 0.3.64 itself compares what is of two lengths
        sample(guider(made, POSITIVE, NEGATIVE), (4, 4, 16, 16), steps=3) for made in (windows(whole, 0, 3, 1), whole)
    )
    assert torch.allclose(one, other, atol=1e-2)


@pytest.mark.parametrize("regions", ["given", "router"])
def test_windows_over_the_picture_know_their_piece_of_the_regions(model, trained, people, regions):
    ramp = torch.linspace(0.2, 1, 16).expand(1, 16, 16)
    masks, sigma = (ramp, 1 - 0.9 * ramp), sigma_at(model, 500)

    def put(masks):
        settings = DualPathwaySettings(regions=regions, feather=0)
        return apply_dual(model, trained, people, settings, masks=masks if regions == "given" else ())[0]

    got = predict(guider(windows(put(masks), 3, 10, 4), POSITIVE, NEGATIVE), PICTURE, sigma)
    for window, alone in ((slice(0, 10), slice(0, 6)), (slice(6, 16), slice(4, 10))):  # and what is in no other window
        piece = guider(put(tuple(mask[..., window] for mask in masks)), POSITIVE, NEGATIVE)
        expected = predict(piece, PICTURE[..., window], sigma)[..., alone]
        assert apart(got[..., window][..., alone], expected) < 1e-3 * float(sigma)


@pytest.mark.parametrize("dim", [2, 3])
def test_regions_are_found_in_every_window(model, trained, people, found, dim):
    run(windows(dual(model, trained, people, "attention", face_share=0.5), dim, 10, 4))
    regions = found[1].amax(dim=(0, 1))
    assert all(half.max() == 1 for half in regions.chunk(2, dim - 2))


def test_regions_of_a_latent_that_grows_grow_along(model, trained, people):
    """As when a sampler enlarges what it draws."""
    sampler = SamplerLCMUpscale.execute(1.5, 2, "bislerp").result[0]
    for regions in SOURCES:
        patched = dual(model, trained, people, regions)
        schedule = comfy.samplers.KSampler(model, 4, model.load_device, "euler", "normal", 1.0, model.model_options)
        noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
        made = guider(patched, POSITIVE, NEGATIVE).sample(
            noise, torch.zeros_like(noise), sampler, schedule.sigmas, disable_pbar=True, seed=0
        )
        assert made.shape[-2:] == (24, 24)
        assert torch.isfinite(made).all()
