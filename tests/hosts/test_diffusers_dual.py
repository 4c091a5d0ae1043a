"""Whole portraits by the dual pathway with diffusers: against DHumanDiff's, with regions from everywhere, at every shape."""

import pytest
import torch
from support.independent_dual_pathway import dual_by_formula
from support.portraits import draw
from support.refused import refused
from support.tiny_dual import halves, tiny_dual
from support.tiny_pair import MARKED, far, inputs, run

pytest.importorskip("diffusers", reason="install it with: pip install diffusers transformers accelerate")

from dhumandiff.conditioning.attention_store import AttentionStore
from dhumandiff.conditioning.batch_layout import BatchLayout
from dhumandiff.hosts.diffusers.attention import attach
from dhumandiff.hosts.diffusers.dual_pathway import attach_dual, attach_dual_couples, draw_dual
from dhumandiff.methods.dual_pathway import DualPathway, DualPathwaySettings
from dhumandiff.methods.dual_pathway.finding import FindRegions, found_regions
from dhumandiff.methods.dual_pathway.regions import regions_of
from dhumandiff.methods.paired.settings import CascadeSettings, SamplingSettings

SMALL = {"steps": 3, "size": (64, 96)}
SOURCES = ("given", "attention", "router")


def portrait_of(portrait, dual, people, masks=None, size=(64, 96), steps=3, **settings):
    sampling = SamplingSettings(steps=steps, size=size)
    return draw_dual(
        portrait, dual, people, MARKED, settings=DualPathwaySettings(**settings), sampling=sampling, masks=masks
    )


def test_a_region_of_everything_draws_dhumandiffs_portrait(portrait, adapter, people):
    pair, _ = draw(portrait, adapter, people, MARKED, mode="none", strength=1.0, **SMALL)
    ours, focus = portrait_of(portrait, DualPathway(adapter), people, torch.ones(2, 1, 12, 8))
    assert far(ours, pair) == 0
    assert focus is None
    halved, _ = portrait_of(portrait, DualPathway(adapter), people, halves(size=(12, 8)))
    assert far(halved, pair) > 5


@pytest.mark.parametrize("regions", SOURCES)
@pytest.mark.parametrize("size", [(64, 96), (160, 64), (104, 152)])
def test_the_same_seed_gives_the_same_picture_wherever_regions_come_from(portrait, adapter, people, regions, size):
    dual, masks = tiny_dual(adapter), halves(size=(size[1] // 8, size[0] // 8)) if regions == "given" else None
    first, focus = portrait_of(portrait, dual, people, masks, size, regions=regions)
    again, _ = portrait_of(portrait, dual, people, masks, size, regions=regions)
    assert first.size == size
    assert far(first, again) == 0
    if regions == "given":
        assert focus is None
    else:
        assert focus.shape == (size[1] // 8, size[0] // 8)
        assert 0 <= focus.min() < focus.max() <= 1


def test_regions_found_in_the_attention_take_up_the_share_that_is_face(portrait, adapter, people):
    _, focus = portrait_of(portrait, DualPathway(adapter), people, regions="attention", face_share=0.25)
    assert 12 <= int((focus == 1).sum()) <= 24  # of 96, half of it each person's
    with_faces, without = (
        portrait_of(portrait, DualPathway(adapter), people, regions="attention", face_share=share, text_strength=0)[0]
        for share in (0.25, 0)
    )
    assert far(with_faces, without) > 1


def test_people_act_in_their_share_of_sampling_only(portrait, adapter, people):
    masks = halves(size=(12, 8))
    whole, _ = portrait_of(portrait, DualPathway(adapter), people, masks)
    half, _ = portrait_of(portrait, DualPathway(adapter), people, masks, start=0.5)
    assert far(whole, half) > 1
    with refused("acts-in-no-step"):
        portrait_of(portrait, DualPathway(adapter), people, masks, start=0.5, end=0.51)


def test_a_mask_of_another_shape_and_weights_that_lack_a_part_are_refused_before_anything_is_drawn(
    portrait, adapter, people
):
    with refused("mask-of-another-shape"):
        portrait_of(portrait, DualPathway(adapter), people, halves(size=(8, 12)))
    with refused("dual-no-router"):
        portrait_of(portrait, DualPathway(adapter), people, regions="router")
    with refused("dual-untrained"):
        portrait_of(portrait, DualPathway(adapter), people, halves(size=(12, 8)), require_trained=True)
    damaged = tiny_dual(adapter)
    damaged.tca.layers[3].to_v.up.weight[0, 0] = torch.nan
    with refused("adapter-not-finite", "tca.layers.3"):
        portrait_of(portrait, damaged, people, halves(size=(12, 8)))


def test_masks_of_any_size_of_the_pictures_shape_do(portrait, adapter, people):
    first, _ = portrait_of(portrait, DualPathway(adapter), people, halves(size=(12, 8)))
    second, _ = portrait_of(portrait, DualPathway(adapter), people, halves(size=(96, 64)))
    assert far(first, second) <= 1


@pytest.mark.parametrize("regions", ["given", "router"])
def test_every_batch_draws_what_its_pictures_alone_would(portrait, adapter, people, regions):
    unet, dual, settings = portrait.pipeline.unet, tiny_dual(adapter), DualPathwaySettings(regions=regions)
    masks = torch.cat([halves(), halves().flip(0)], dim=1) if regions == "given" else None  # of two pictures
    together = inputs(rows=4)
    with attach_dual_couples(unet, dual, [people, people[::-1]], settings, masks=masks):
        batch = run(unet, together)
    for image, couple in enumerate((people, people[::-1])):
        rows = [image, 2 + image]
        alone = {
            **together,
            **{name: together[name][rows] for name in ("sample", "encoder_hidden_states")},
            "added_cond_kwargs": {name: value[rows] for name, value in together["added_cond_kwargs"].items()},
        }
        own = None if masks is None else masks[:, image : image + 1]
        with attach_dual(unet, dual, couple, settings, masks=own):
            assert (run(unet, alone) - batch[rows]).abs().max() < 1e-5


def test_without_guidance_every_sample_is_conditional(portrait, adapter, people):
    unet, dual = portrait.pipeline.unet, tiny_dual(adapter)
    given, masks = inputs(rows=2, tokens=9), halves()
    with attach_dual(unet, dual, people, DualPathwaySettings(feather=0), masks=masks, guidance=False):
        ours = run(unet, given)
    with dual_by_formula(unet, dual, people, [True, True], 1.0, 0.4, masks[:, 0]):
        assert (ours - run(unet, given)).abs().max() < 1e-5


def test_one_person_in_one_region_draws_by_the_formula(portrait, adapter, people):
    unet, dual = portrait.pipeline.unet, DualPathway(adapter)
    given, mask = inputs(rows=2, tokens=9), halves()[:1]
    with attach_dual(unet, dual, people[:1], DualPathwaySettings(feather=0), masks=mask):
        ours = run(unet, given)
    with dual_by_formula(unet, dual, people[:1], [False, True], 1.0, 0.4, mask[:, 0]):
        assert (ours - run(unet, given)).abs().max() < 1e-5


def test_the_router_says_where_people_are_and_the_mode_gathers_it(portrait, adapter, people):
    unet, dual = portrait.pipeline.unet, tiny_dual(adapter)
    mode = FindRegions(DualPathwaySettings(regions="router"))
    mode.begin((16, 16), 1)
    with attach_dual(unet, dual, people, mode.settings) as attached:
        attached.record = mode.begin_step().store
        run(unet, inputs())
    regions = mode.regions()
    assert regions.shape == (1, 2, 16, 16)
    assert 0 < regions.min() <= regions.sum(dim=1).max() <= 1 + 1e-6
    mode.resize((32, 32))
    assert mode.regions().shape == (1, 2, 32, 32)


def test_each_person_has_as_much_of_the_share_that_is_face():
    maps = (
        torch.rand(2, 2, 10, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 0.01])[:, None, None]
    )
    found = found_regions(maps, 0.25)
    assert (found == 1).sum(dim=(2, 3)).tolist() == [[10, 10], [10, 10]]
    assert found.min() >= 0
    assert not found_regions(maps, 0).any()
    assert bool((found_regions(maps, 1) == 1).all())


def test_untrained_regions_found_in_the_attention_make_dhumandiffs_one_pass_of_one_person(portrait, adapter, people):
    strengths = {"scene_strength": 0.4, "face_strength": 1.0, "focus_fraction": 0.25}
    prompt, sampling = "A man@1 in a garden", SamplingSettings(steps=3, size=(64, 96))
    one_pass, focus = portrait(
        adapter, people[:1], prompt, cascade=CascadeSettings("one_pass", **strengths), sampling=sampling
    )
    settings = DualPathwaySettings(regions="attention", text_strength=0.4, face_share=0.25)
    ours, found = draw_dual(portrait, DualPathway(adapter), people[:1], prompt, settings=settings, sampling=sampling)
    assert far(ours, one_pass) <= 1
    assert torch.equal(found == 1, focus)


def test_masks_say_whose_the_faces_are_that_are_found(portrait, adapter, people):
    dual, masks = DualPathway(adapter), halves(size=(16, 16))
    layout = BatchLayout.of_whole_pictures(1, (16, 16))
    settings = DualPathwaySettings(regions="attention", feather=0)
    found = torch.ones(1, 2, 16, 16)
    query = torch.zeros(2, 64, 64)
    with_masks, without = (
        dual.conditioning([people], settings, masks=given)._shares_and_mask(layout, (8, 8), query, found)
        for given in (masks, None)
    )
    left = torch.arange(64) % 8 < 4
    assert torch.equal(with_masks[0][0], torch.stack([left, ~left]).float())
    assert torch.equal(without[0], torch.ones(1, 2, 64))
    assert torch.equal(with_masks[1], without[1])


def test_layers_of_merged_positions_are_refused(adapter, people):
    dual = DualPathway(adapter)
    made = dual.conditioning([people], DualPathwaySettings(), masks=halves())
    layout = BatchLayout.of_whole_pictures(1, (16, 16))
    with refused("merged-positions"):
        made.residual(0, torch.zeros(2, 60, 64), 1, layout, (8, 8), 1.0)


def test_the_attention_found_is_dhumandiffs(portrait, adapter, people):
    unet = portrait.pipeline.unet
    stores = AttentionStore(), AttentionStore()
    with attach_dual(
        unet, DualPathway(adapter), people, DualPathwaySettings(), masks=torch.ones(2, 1, 16, 16)
    ) as attached:
        attached.record = stores[0]
        run(unet, inputs())
    with attach(unet, adapter, people) as attached:
        attached.record = stores[1]
        run(unet, inputs())
    assert torch.equal(stores[0].maps(), stores[1].maps())


def test_regions_are_counted_and_looked_at():
    given, left = DualPathwaySettings(), halves()[0]
    masks, notes = regions_of([left, 1 - left], 2, given)
    assert masks.shape == (2, 1, 16, 16)
    assert not notes
    assert regions_of(None, 2, DualPathwaySettings(regions="attention")) == (None, [])
    assert regions_of([None, left], 2, DualPathwaySettings(regions="attention"))[0].shape == (2, 1, 16, 16)
    assert "covers the whole picture" in regions_of([torch.ones(1, 16, 16), left], 2, given)[1][0]
    for regions, persons in (([left], 2), ([left, None], 2), ([left, left, left], 2), ([], 1)):
        with refused("dual-region-count", f"{persons} pe"):
            regions_of(regions, persons, given)
    with refused("dual-region-count"):
        regions_of([left, left], 1, DualPathwaySettings(regions="attention"))
    with refused("dual-region-empty", "person 2"):
        regions_of([left, torch.zeros(1, 16, 16)], 2, given)
    with refused("masks-differ"):
        regions_of([left, torch.ones(1, 8, 16)], 2, given)
