"""What is true of the dual pathway whatever the paper says, in every batching that ComfyUI makes; and whole portraits of both hosts."""

import comfy.k_diffusion.sampling
import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_custom_sampler import Guider_DualCFG
from dhd_pack.dhumandiff.hosts.diffusers import dual_pathway as diffusers_dual
from dhd_pack.dhumandiff.hosts.diffusers.pipeline import PortraitPipeline
from dhd_pack.dhumandiff.methods.dual_pathway import DualPathway, DualPathwaySettings
from dhd_pack.dhumandiff.methods.paired.settings import SamplingSettings
from dhd_pack.dhumandiff.miniature import mini_adapter
from dhd_pack.dhumandiff.miniature.design import DESIGN
from dhd_pack.dhumandiff.prompts import parse_prompt
from dhd_pack.dhumandiff.references.encode import encode_reference
from dhd_pack.nodes.comfy.adapter import load_adapter
from dhd_pack.nodes.comfy.dual import apply_dual
from dhd_pack.nodes.comfy.encoders import encode_subject_prompt
from dhd_pack.nodes.comfy.patch import apply_people
from dhd_pack.nodes.comfy.vision import ClipVisionEncoder
from dhd_pack.nodes.miniature import DHDDrawPerson, DHDLoadMiniature
from support import tiny_comfy
from support.sampling import guider, left_and_right, predict, sigma_at, tiled
from support.tiny_dual import tiny_dual

from dhumandiff.testing import tiny_adapter

POSITIVE, NEGATIVE = tiny_comfy.conditioning(1), tiny_comfy.conditioning(2)
PICTURE = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3)) * 10
EVERYWHERE = torch.ones(1, 16, 16)
SOFT = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(4))
LONG = tiny_comfy.conditioning(7, 154)
AREA = [[LONG[0][0], {**LONG[0][1], "area": (8, 8, 4, 8), "strength": 1.0}]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Without gates, which change the mask that is given."""
    path = tmp_path_factory.mktemp("dual") / "pathway.safetensors"
    tiny_dual(tiny_adapter(), gates=False).save_pretrained(path)
    return load_adapter(path)


# --- every batching -------------------------------------------------------------------------------------------------------


def seen(made, picture=PICTURE):
    """The second prediction of a run: the first one may find regions."""
    return predict(made, picture, sigma_at(made.model_patcher, 500), twice=True)


def one_by_one(model):
    """As when memory is low: each prompt in a call of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.model, "memory_required", lambda *args, **kwargs: 1e18)
        return seen(guider(model, [*POSITIVE, *AREA], NEGATIVE))


def three_prompts(model):
    """The positive stands last, between others."""
    made = Guider_DualCFG(model)
    made.set_conds(POSITIVE, tiny_comfy.conditioning(6), NEGATIVE)
    made.set_cfg(4.0, 3.0)
    return seen(made)


BATCHINGS = {
    "positive and negative": lambda model: seen(guider(model, POSITIVE, NEGATIVE)),
    "positive alone": lambda model: seen(guider(model, POSITIVE, NEGATIVE, 1.0)),
    "two prompts and an area": lambda model: seen(guider(model, [*POSITIVE, *AREA], NEGATIVE)),
    "one by one": one_by_one,
    "three prompts": three_prompts,
    "three pictures": lambda model: seen(
        guider(model, POSITIVE, NEGATIVE), torch.cat([PICTURE, -PICTURE, 2 * PICTURE])
    ),
    "a tile a call": lambda model: seen(guider(tiled(model, False), POSITIVE, NEGATIVE)),
    "all tiles in one call": lambda model: seen(guider(tiled(model, True), POSITIVE, NEGATIVE)),
}
in_every_batching = pytest.mark.parametrize("drawn", BATCHINGS.values(), ids=BATCHINGS)


def dual(model, adapter, people, masks=(), **settings):
    return apply_dual(model, adapter, people, DualPathwaySettings(**settings), masks=masks)[0]


def same(one, other):
    """To the rounding of sums in another order, in predictions of values up to 40."""
    return (one - other).abs().max() < 1e-4


@in_every_batching
def test_a_mask_of_ones_is_the_identity_path(model, adapter, trained, people, drawn):
    pair = drawn(apply_people(model, adapter, people, 0.8))
    for weights in (adapter, trained):
        assert same(drawn(dual(model, weights, people, (EVERYWHERE,) * 2, identity_strength=0.8)), pair)


@in_every_batching
def test_a_mask_of_zeros_is_the_path_of_the_words(model, adapter, trained, people, drawn):
    """Of a face that takes up nothing of the picture, whatever the strength of the identity."""
    for weights in (adapter, trained):
        first, second, other = (
            drawn(dual(model, weights, people, regions="attention", face_share=0, identity_strength=s, text_strength=t))
            for s, t in ((0.2, 0.4), (1.3, 0.4), (0.2, 0.9))
        )
        assert torch.equal(first, second)
        assert not same(first, other)
        if weights is adapter:  # untrained it is a weaker identity
            assert same(first, drawn(apply_people(model, adapter, people, 0.4)))


@in_every_batching
def test_equal_paths_make_the_mask_void(model, adapter, people, drawn):
    alone = people[:1]
    pair = drawn(apply_people(model, adapter, alone, 0.6))
    assert same(drawn(dual(model, adapter, alone, (SOFT,), identity_strength=0.6, text_strength=0.6)), pair)


@in_every_batching
def test_without_identity_the_base_predicts(model, adapter, trained, people, drawn):
    """To the bit: by strengths of zero, and by face tokens from which nothing is read."""
    base, masks = drawn(model), (SOFT, 1 - SOFT)
    assert torch.equal(drawn(dual(model, trained, people, masks, identity_strength=0, text_strength=0)), base)
    silent = apply_dual(model, trained, people, DualPathwaySettings(), person_strengths=(0, 0), masks=masks)[0]
    assert torch.equal(drawn(silent), base)
    empty = tiny_comfy.adapter_patcher()
    for name, parameter in empty.model.named_parameters():
        if "to_v_ip" in name:
            parameter.data.zero_()
    assert torch.equal(drawn(dual(model, empty, people, masks)), base)


def test_the_mask_counts_elsewhere(model, adapter, people):
    """Or the tests above would say little."""
    drawn = BATCHINGS["positive and negative"]
    halves = drawn(dual(model, adapter, people, left_and_right(16, 16)))
    assert not same(halves, drawn(dual(model, adapter, people, (EVERYWHERE,) * 2)))
    assert not same(halves, drawn(model))


# --- whole portraits on the miniature ---------------------------------------------------------------------------------------

SENTENCE = "A woman@1 on the left in a red dress and a man@2 on the right in a blue suit stand on a beach."
SIZE, STEPS, CFG = DESIGN.size, 8, 2.0


class _Euler(comfy.samplers.Sampler):
    """Euler's steps from a latent that has its noise already."""

    def __init__(self, latent):
        self.latent = latent

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, *_, **__):
        return comfy.k_diffusion.sampling.sample_euler(model_wrap, self.latent, sigmas, extra_args, disable=True)


@pytest.mark.parametrize("regions", ["given", "attention", "router"])
def test_a_whole_portrait_of_drawn_people_is_that_of_diffusers(tmp_path, monkeypatch, regions):
    model, clip, _, vision, faces, adapter = DHDLoadMiniature.execute().result
    photos = [DHDDrawPerson.execute(number, gender, 0, 384).result[0] for number, gender in ((8, "woman"), (7, "man"))]
    people = [encode_reference(photo, ClipVisionEncoder(vision), faces)[0] for photo in photos]
    masks = left_and_right(SIZE[1] // 8, SIZE[0] // 8) if regions == "given" else ()
    settings, theirs = DualPathwaySettings(regions=regions), DualPathway(mini_adapter())
    if regions == "router":
        tiny_dual(mini_adapter(), gates=False).save_pretrained(tmp_path / "pathway.safetensors")
        theirs, adapter = (
            load(tmp_path / "pathway.safetensors") for load in (DualPathway.from_pretrained, load_adapter)
        )

    latents = []
    monkeypatch.setattr(diffusers_dual, "decode", lambda vae, latent: latents.append(latent))
    portrait = PortraitPipeline.from_base("mini", "cpu")
    sampling = SamplingSettings(steps=STEPS, cfg=CFG, seed=1, size=SIZE)
    given = {"settings": settings, "sampling": sampling, "masks": torch.stack(masks) if masks else None}
    diffusers_dual.draw_dual(portrait, theirs, people, SENTENCE, "", **given)

    patched, _ = apply_dual(model, adapter, people, settings, masks=masks)
    positive, _ = encode_subject_prompt(clip, adapter, people, parse_prompt(SENTENCE, 2))
    made = guider(patched, positive, clip.encode_from_tokens_scheduled(clip.tokenize("")), CFG)
    scheduler, noise = portrait.scheduler, portrait.noise(1, SIZE)
    sampler = _Euler(noise * scheduler.init_noise_sigma)
    ours = made.sample(noise, torch.zeros_like(noise), sampler, scheduler.sigmas, disable_pbar=True, seed=1)
    ours = model.model.process_latent_in(ours)
    assert (ours - latents[0]).abs().max() < 1e-4 * latents[0].abs().max()
