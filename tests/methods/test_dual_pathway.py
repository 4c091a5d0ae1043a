"""The dual pathway: what is true of it whatever its weights, in a layer and in a whole UNet's prediction."""

import dataclasses

import pytest
import torch
from support.refused import refused
from support.tiny_dual import HEAD, halves, tiny_dual
from support.tiny_pair import inputs, run, two_people

pytest.importorskip("diffusers", reason="install it with: pip install diffusers transformers accelerate")

from dhumandiff import testing as tiny
from dhumandiff.conditioning.batch_layout import BatchLayout
from dhumandiff.conditioning.kv_cache import KVCache
from dhumandiff.errors import AdapterError
from dhumandiff.hosts.diffusers.attention import attach
from dhumandiff.hosts.diffusers.dual_pathway import attach_dual
from dhumandiff.methods.dual_pathway import DualPathway, DualPathwaySettings, Gates, blend, region_masks
from dhumandiff.methods.dual_pathway.blending import dual_residual

EVERYWHERE, NOWHERE = torch.ones(2, 1, 16, 16), torch.zeros(2, 1, 16, 16)


@pytest.fixture(scope="module")
def unet():
    return tiny.tiny_unet()


@pytest.fixture(scope="module")
def adapter():
    return tiny.tiny_adapter()


@pytest.fixture(scope="module")
def people(adapter):
    return two_people(adapter)


@pytest.fixture(scope="module", params=["untrained", "trained"])
def dual(request, adapter):
    return DualPathway(adapter) if request.param == "untrained" else tiny_dual(adapter, gates=False)


def same(first, second, dual):
    """To the last bit untrained; trained to the rounding of one product, which both paths go through together."""
    return torch.equal(first, second) if not dual.trained else torch.allclose(first, second, rtol=0, atol=2e-6)


def predict(unet, dual, people, masks, given=None, **settings):
    with attach_dual(unet, dual, people, DualPathwaySettings(**settings), masks=masks):
        return run(unet, given or inputs())


def test_a_mask_of_ones_is_the_pair(unet, adapter, people, dual):
    with attach(unet, adapter, people, strength=0.8):
        pair = run(unet, inputs())
    assert same(predict(unet, dual, people, EVERYWHERE, identity_strength=0.8), pair, dual)


def test_a_mask_of_zeros_is_the_text_consistency_path_whatever_the_identity_strength(unet, people, dual):
    first = predict(unet, dual, people, NOWHERE, identity_strength=0.2)
    second = predict(unet, dual, people, NOWHERE, identity_strength=1.3)
    assert torch.equal(first, second)
    assert not torch.equal(first, predict(unet, dual, people, NOWHERE, text_strength=0.9))


def test_untrained_the_text_consistency_path_is_the_pair_at_its_strength(unet, adapter, people):
    with attach(unet, adapter, people, strength=0.4):
        weak = run(unet, inputs())
    assert torch.equal(predict(unet, DualPathway(adapter), people, NOWHERE, text_strength=0.4), weak)


def test_equal_paths_make_the_mask_void(unet, adapter, people):
    alone = people[:1]
    with attach(unet, adapter, alone, strength=0.6):
        pair = run(unet, inputs())
    for mask in (halves()[:1], torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))):
        blended = predict(unet, DualPathway(adapter), alone, mask, identity_strength=0.6, text_strength=0.6)
        assert torch.equal(blended, pair)


def test_without_identity_the_base_predicts(unet, people, dual):
    base = run(unet, inputs())
    assert torch.equal(predict(unet, dual, people, halves(), identity_strength=0, text_strength=0), base)
    with attach_dual(unet, dual, people, DualPathwaySettings(), person_strengths=[0, 0], masks=halves()):
        assert torch.equal(run(unet, inputs()), base)
    with attach_dual(unet, dual, people, DualPathwaySettings(), masks=halves()) as attached:
        attached.strength = 0.0
        assert torch.equal(run(unet, inputs()), base)
    assert torch.equal(run(unet, inputs()), base)


def test_face_tokens_from_which_nothing_is_read_leave_the_base(unet, people):
    empty = tiny.tiny_adapter()
    for name, parameter in empty.named_parameters():
        if "to_v_ip" in name:
            parameter.data.zero_()
    assert torch.equal(predict(unet, DualPathway(empty), people, halves()), run(unet, inputs()))


def test_one_attention_is_the_blend_of_both_paths(adapter):
    random = torch.Generator().manual_seed(0)
    query = torch.randn(2, 30, 64, generator=random)
    identity, words = (KVCache.from_kv(*torch.randn(2, 2, 2, 5, 64, generator=random), heads=4) for _ in range(2))
    shares, mask = region_masks(torch.rand(2, 2, 30, generator=random))
    s_v, s_t = torch.tensor([1.0, 0.8]), torch.tensor([0.4, 0.5])
    seen, probabilities = identity.attend(query, s_v[None, :, None] * shares)
    for path in (words, None):
        said, _ = (path or identity).attend(query, s_t[None, :, None])
        for own in (mask, (mask * torch.rand(1, 4, 1, generator=random))):
            residual, seen_by = dual_residual(query, identity, path, shares, own, s_v, s_t)
            assert torch.allclose(residual, blend(said, seen, own), atol=1e-6)
            assert torch.allclose(seen_by, probabilities, atol=1e-6)


def test_equal_paths_of_one_attention_make_the_mask_void():
    random = torch.Generator().manual_seed(0)
    query, pair = torch.randn(2, 30, 64, generator=random), torch.randn(2, 2, 1, 5, 64, generator=random)
    cache = KVCache.from_kv(*pair, heads=4)
    half = torch.tensor([0.5])
    alone, _ = cache.attend(query, 0.5)
    for mask in torch.rand(3, 1, 1, 30, generator=random):
        shares, own = region_masks(mask)
        assert torch.allclose(dual_residual(query, cache, cache, shares, own, half, half)[0], alone, atol=1e-6)
        assert torch.equal(dual_residual(query, cache, None, shares, own, half, half)[0], alone)


def test_gates_that_training_has_not_touched_let_the_mask_act_as_given(unet, adapter, people):
    plain = tiny_dual(adapter, gates=False)
    heads = [width // HEAD for width in adapter.info.hidden]
    gated = DualPathway(adapter, plain.tca, Gates.for_heads(heads))
    assert same(predict(unet, gated, people, halves()), predict(unet, plain, people, halves()), plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_blend_of_a_layer_is_exact_at_its_ends(dtype):
    random = torch.Generator().manual_seed(0)
    words, identity = torch.randn(2, 3, 40, 8, generator=random).to(dtype)
    mask = torch.rand(3, 4, 40, generator=random)
    assert torch.equal(blend(words, identity, torch.zeros(1, 1, 40)), words)
    assert torch.equal(blend(words, identity, torch.ones(1, 4, 40)), identity)
    assert torch.equal(blend(words, words, mask), words)


def test_in_a_region_nobody_else_counts_and_outside_of_all_the_mask_is_zero():
    regions = torch.tensor([[1.0, 0.0, 0.0, 1.0, 0.3], [0.0, 1.0, 0.0, 1.0, 0.2]])[None]
    shares, mask = region_masks(regions)
    assert mask[0, 0].tolist() == pytest.approx([1, 1, 0, 1, 0.5])
    assert shares[0].tolist() == [pytest.approx([1, 0, 0, 1, 0.6]), pytest.approx([0, 1, 0, 1, 0.4])]


def test_weights_say_whether_they_are_trained(adapter):
    untrained, trained = DualPathway(adapter), tiny_dual(adapter)
    assert not untrained.trained
    assert trained.trained
    assert trained.require_tca() is trained.tca
    with refused("dual-untrained", error=AdapterError):
        untrained.require_tca()
    with refused("dual-untrained", error=AdapterError):
        untrained.check(DualPathwaySettings(require_trained=True))
    with refused("dual-no-router", error=AdapterError):
        untrained.check(DualPathwaySettings(regions="router"))


def test_weights_say_what_is_to_be_known_of_them(adapter):
    assert "untrained" in " ".join(DualPathway(adapter).notes)
    assert tiny_dual(adapter).notes == []
    parts = tiny_dual(adapter)
    other = DualPathway(adapter, parts.tca, metadata={"pathway_identity": "somebody's adapter"})
    assert "another adapter (somebody's adapter)" in " ".join(other.notes)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float16, 0.004), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize("regions", ["given", "router"])
def test_in_half_precision_a_layer_stays_close_to_single(adapter, people, dtype, error, regions):
    dual = tiny_dual(adapter)
    masks = halves() if regions == "given" else None
    layout = BatchLayout.of_whole_pictures(1, (16, 16))
    query = torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(0))
    made = dual.conditioning([people], DualPathwaySettings(regions=regions), masks=masks)
    whole, half = (made.residual(0, query.to(kind), 1, layout, (8, 8), 1.0) for kind in (torch.float32, dtype))
    assert half.dtype == dtype
    assert (half.float() - whole).norm() < error * whole.norm()


@pytest.mark.parametrize(
    ("code", "setting"),
    [
        ("dual-unknown-regions", {"regions": "drawn"}),
        ("dual-out-of-range", {"identity_strength": 3.1}),
        ("dual-out-of-range", {"text_strength": -0.1}),
        ("dual-out-of-range", {"face_share": float("nan")}),
        ("dual-start-not-before-end", {"start": 0.5, "end": 0.5}),
    ],
)
def test_settings_that_make_no_picture_are_refused(code, setting):
    with refused(code):
        dataclasses.replace(DualPathwaySettings(), **setting).check()


def test_regions_and_people_must_be_of_one_number(unet, adapter, people):
    with refused("person-mask-shape", "[2, pictures"):
        attach_dual(unet, DualPathway(adapter), people, DualPathwaySettings(), masks=halves(3))
    with refused("dual-no-regions", "2 people"):
        attach_dual(unet, DualPathway(adapter), people, DualPathwaySettings())
    with refused("no-reference"):
        attach_dual(unet, DualPathway(adapter), [], DualPathwaySettings(), masks=halves())
    with refused("too-many-references"):
        attach_dual(unet, DualPathway(adapter), [*people, *people], DualPathwaySettings(), masks=halves(4))
    with refused("references-no-list"):
        attach_dual(unet, DualPathway(adapter), people[0], DualPathwaySettings(), masks=halves())


def test_a_region_of_another_shape_than_the_picture_is_refused(unet, adapter, people):
    with (
        refused("mask-of-another-shape", "20 x 16"),
        attach_dual(unet, DualPathway(adapter), people, DualPathwaySettings(), masks=halves(size=(16, 20))),
    ):
        run(unet, inputs())


def test_a_cascade_over_the_dual_pathway_is_refused(unet, adapter, people):
    with attach_dual(unet, DualPathway(adapter), people, DualPathwaySettings(), masks=halves()) as attached:
        for strength in ((0.7, 1.0), torch.ones(1, 1, 16, 16)):
            attached.strength = strength
            with refused("dual-under-a-cascade"):
                attached.people.residual(0, torch.zeros(2, 64, 64), 1, attached.layout(2), (8, 8), strength)
