"""The cascade's parts: the released mask bit for bit, the project's own mask, the blend, and the listeners."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.layouts import TINY_HIDDEN, random_reference
from support.refused import refused

from dhumandiff.conditioning.batch_layout import BatchLayout, Sample, Tile
from dhumandiff.methods.paired.attention import paired_attention, released_attention_map
from dhumandiff.methods.paired.attention_store import (
    AttentionRecord,
    AttentionStore,
    FocusMap,
    ReleasedAttentionStore,
    last_layers,
    token_contrast,
)
from dhumandiff.methods.paired.cascade import (
    FACE_STRENGTH,
    FOCUS_FRACTION,
    SCENE_STRENGTH,
    blend,
    focus_mask,
    initial_strength,
    released_focus_mask,
    strength_map,
)

SIDES = [32] * 2 + [16] * 4 + [16] * 6 + [32] * 3 + [16] * 2
"""Of the layers of a 512 x 512 picture, in the order down, up, mid."""


def maps_of(seed, dtype=torch.float32, shapes=None):
    """Random maps [heads, places, 16] of 17 layers, with a smooth part, so that the mask is no dust."""
    generator = torch.Generator().manual_seed(seed)
    out = []
    for height, width in shapes or [(side, side) for side in SIDES]:
        coarse = torch.randn(1, 16, 4, 4, generator=generator)
        smooth = F.interpolate(coarse, size=(height, width), mode="bicubic")[0].flatten(1).T
        heads = int(torch.randint(1, 21, (), generator=generator))
        noise = torch.randn(heads, height * width, 16, generator=generator)
        out.append((smooth + 0.3 * noise).to(dtype))
    return out


def released_reference(maps, size=(64, 64), percentile=90, shapes=None):
    """docs/method.md#the-focus-mask, step by step, in the script's own terms."""
    layers = []
    for number, attention in enumerate(maps):
        mean = torch.mean(attention, dim=0)  # over heads, in the maps' dtype
        side = int(np.sqrt(mean.shape[0]))
        height, width = shapes[number] if shapes else (side, side)
        picture = mean.permute(1, 0).reshape(mean.shape[1], height, width)[None].to(torch.float32)
        picture = F.interpolate(picture, size=size, mode="bilinear", align_corners=False)[0]
        layers.append(torch.softmax(picture, dim=0))
    mean = torch.mean(torch.stack(layers, dim=0), dim=0)
    twice = (mean + mean)[0].numpy()  # person 1 taken twice, token 0
    stretched = (twice - np.min(twice)) / (np.max(twice) - np.min(twice)) * 255
    values = stretched.astype(np.uint8)
    values[values < np.percentile(values, percentile)] = 0
    return torch.from_numpy(values > 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("seed", range(5))
def test_the_released_mask_is_reproduced_bit_for_bit(seed, dtype):
    maps = maps_of(seed, dtype)
    mask = released_focus_mask(maps)
    assert mask.dtype == torch.bool
    assert mask.shape == (64, 64)
    assert torch.equal(mask, released_reference(maps))
    assert 0.05 < mask.float().mean() < 0.2  # whole numbers tie, so the tenth is only near


@pytest.mark.parametrize("percentile", [50, 90, 99, 100, 0])
def test_the_released_mask_is_reproduced_at_other_percentiles(percentile):
    maps = maps_of(7)
    assert torch.equal(
        released_focus_mask(maps, percentile=percentile), released_reference(maps, percentile=percentile)
    )


@pytest.mark.parametrize("size", [(64, 96), (96, 64), (52, 68), (65, 33)])
def test_other_picture_shapes_take_the_layers_true_shapes(size):
    halved = [tuple(math.ceil(side / 2) for side in size), tuple(math.ceil(side / 4) for side in size)]
    shapes = [halved[0 if side == 32 else 1] for side in SIDES]
    maps = maps_of(3, shapes=shapes)
    mask = released_focus_mask(maps, size=size, shapes=shapes)
    assert mask.shape == size
    assert torch.equal(mask, released_reference(maps, size=size, shapes=shapes))


def test_a_layer_that_is_no_square_is_refused_without_shapes():
    with refused("layer-not-square", "Layer 1 has 96 positions", "9 x 9"):
        released_focus_mask([torch.zeros(2, 64, 16), torch.zeros(2, 96, 16)])
    with refused("layer-not-square", "Layer 0 has 64 positions", "8 x 9"):
        released_focus_mask([torch.zeros(2, 64, 16)], shapes=[(8, 9)])


def test_no_maps_are_refused():
    with refused("no-attention-maps"):
        released_focus_mask([])


def test_a_flat_released_map_has_no_focus():
    assert not released_focus_mask([torch.ones(2, 64, 16)]).any()


@pytest.mark.parametrize("share", [0.01, 0.1, 0.25, 0.5])
@pytest.mark.parametrize("size", [(16, 16), (24, 16), (13, 17)])
def test_the_focus_is_exactly_the_share_of_each_picture(share, size):
    maps = torch.rand(3, 2, *size, generator=torch.Generator().manual_seed(0))
    mask = focus_mask(maps, share)
    assert mask.shape == (3, *size)
    wanted = max(1, round(share * size[0] * size[1]))
    assert mask.sum(dim=(1, 2)).tolist() == [wanted] * 3


def test_the_focus_is_the_top_of_the_stretched_maps():
    maps = torch.rand(1, 2, 12, 10, generator=torch.Generator().manual_seed(1))
    stretched = [(person - person.min()) / (person.max() - person.min()) for person in maps[0]]
    best = torch.maximum(*stretched).flatten()
    kept = set(best.argsort(descending=True)[:30].tolist())
    assert set(focus_mask(maps, 0.25).flatten().nonzero().flatten().tolist()) == kept


def test_both_persons_get_a_focus_however_faint_one_of_them_is():
    maps = torch.zeros(1, 2, 20, 20)
    maps[0, 0, 2:6, 2:6] = 0.9
    maps[0, 1, 12:16, 12:16] = 0.01
    mask = focus_mask(maps, 32 / 400)[0]
    assert mask[2:6, 2:6].all()
    assert mask[12:16, 12:16].all()
    assert mask.sum() == 32


def test_flat_maps_and_the_ends_of_the_share():
    flat = torch.full((2, 2, 8, 8), 0.3)
    assert not focus_mask(flat, 0.1).any()
    random = torch.rand(2, 2, 8, 8)
    assert not focus_mask(random, 0).any()
    assert focus_mask(random, 1).all()
    assert focus_mask(flat, 1).all()


def test_the_blend_takes_the_face_inside_and_the_scene_outside():
    scene, face = torch.zeros(2, 4, 3, 3), torch.ones(2, 4, 3, 3)
    mask = torch.zeros(2, 3, 3, dtype=torch.bool)
    mask[0, 1, 2] = True
    joined = blend(scene, face, mask)
    assert torch.equal(joined, mask[:, None].expand(-1, 4, -1, -1).float())
    soft = blend(scene, face, torch.full((1, 3, 3), 0.25))
    assert torch.equal(soft, torch.full_like(scene, 0.25))
    assert blend(scene.half(), face.half(), mask).dtype == torch.float16


def test_the_published_values_are_the_defaults():
    assert (SCENE_STRENGTH, FACE_STRENGTH, FOCUS_FRACTION) == (0.7, 1.0, 0.1)


def test_token_contrast_is_the_total_variation_from_the_picture_s_average():
    probabilities = torch.rand(3, 6, 2, 5).softmax(dim=-1)
    seen = token_contrast(probabilities[None])[0]
    for person in range(2):
        for place in range(6):
            distances = []
            for head in range(3):
                average = sum(probabilities[head, other, person] for other in range(6)) / 6
                distances.append(float((probabilities[head, place, person] - average).abs().sum()) / 2)
            assert seen[person, place].item() == pytest.approx(sum(distances) / 3, abs=1e-6)


def test_a_focus_map_lays_each_view_where_it_belongs_and_averages_where_they_overlap():
    random = torch.Generator().manual_seed(0)
    first, second = (torch.rand(2, 16, 1, 4, generator=random).softmax(dim=-1) for _ in range(2))
    focus = FocusMap(images=2, persons=1, size=(8, 12))
    focus.add(first[None], (4, 4), [Tile(image=0, top=0, left=0, height=8, width=8)])
    focus.add(second[None], (4, 4), [Tile(image=0, top=0, left=4, height=8, width=8)])
    parts = [
        F.interpolate(token_contrast(p[None]).view(1, 1, 4, 4), size=(8, 8), mode="bilinear", align_corners=False)[0, 0]
        for p in (first, second)
    ]
    maps = focus.maps()
    assert torch.allclose(maps[0, 0, :, :4], parts[0][:, :4])
    assert torch.allclose(maps[0, 0, :, 4:8], (parts[0][:, 4:] + parts[1][:, :4]) / 2)
    assert torch.allclose(maps[0, 0, :, 8:], parts[1][:, 4:])
    assert not maps[1].any()  # nothing was seen of the second picture


class People:
    """What a store asks of the people whose attention it takes in."""

    def __init__(self, masks=None):
        self.masks = masks

    def masks_on(self, size, images, device):
        return self.masks.to(device)


def record(people, is_cond, tiles, size=(8, 8), shape=(4, 4), layer=0, seed=0, images=1):
    generator = torch.Generator().manual_seed(seed)
    batch = len(is_cond)
    query = torch.randn(batch, shape[0] * shape[1], 8, generator=generator)
    keys = torch.randn(batch, 2, 5, 8, generator=generator)
    _, probabilities = paired_attention(query, keys, keys, 2)
    samples = tuple(Sample(bool(cond), tile) for cond, tile in zip(is_cond, tiles, strict=True))
    layout = BatchLayout(samples, size, images)
    return AttentionRecord(people, layer, shape, 2, query, keys.__getitem__, probabilities, layout, tiles)


WHOLE = Tile(0, 0, 0, 8, 8)


def test_the_focus_listener_hears_conditional_rows_only():
    both = record(People(), [0, 1], [WHOLE, WHOLE])
    store = AttentionStore()
    assert store.maps() is None
    store(both)
    alone = FocusMap(1, 2, (8, 8))
    alone.add(both.probabilities[1:], (4, 4), [WHOLE])
    assert torch.equal(store.maps(), alone.maps())


def test_the_focus_listener_keeps_each_person_inside_their_mask():
    masks = torch.zeros(1, 2, 8, 8)
    masks[:, 0, :, :4] = masks[:, 1, :, 4:] = 1
    store = AttentionStore()
    store(record(People(masks), [1], [WHOLE]))
    maps = store.maps()
    assert not maps[0, 0, :, 4:].any()
    assert not maps[0, 1, :, :4].any()
    assert maps[0, 0, :, :4].any()


def test_the_focus_listener_hears_the_last_layer_of_each_transformer_only():
    store = AttentionStore()
    seen = record(People(), [1], [WHOLE])
    store(dataclasses.replace(seen, is_last=False))
    assert store.maps() is None
    store(seen)
    assert store.maps().any()
    assert last_layers(["down", "down", "up", "mid", "mid", "mid"]) == {1, 2, 5}


def test_the_focus_listener_passes_over_layers_whose_places_were_merged_and_rows_of_unknown_place():
    store = AttentionStore()
    store(record(People(), [1], [None]))
    seen = record(People(), [1], [WHOLE])
    store(dataclasses.replace(seen, shape=(4, 8)))
    assert not store.maps().any()


def test_the_released_listener_makes_the_released_mask_of_the_unconditional_rows():
    store = ReleasedAttentionStore()
    people, expected = People(), []
    for layer, side in enumerate((4, 2, 4)):
        seen = record(people, [0, 1], [WHOLE, WHOLE], shape=(side, side), layer=layer, seed=layer)
        store(record(people, [0, 1], [WHOLE, WHOLE], shape=(side, side), layer=layer, seed=99))  # a former step
        store(seen)
        expected.append(released_attention_map(seen.query[:1], seen.keys(0)[:1], 2)[0])
    mask = store.mask(images=1, percentile=90)
    assert torch.equal(mask[0], released_reference(expected, size=(8, 8)))


def test_the_released_listener_takes_conditional_rows_where_there_are_no_others():
    store = ReleasedAttentionStore()
    seen = record(People(), [1], [WHOLE])
    store(seen)
    expected = [released_attention_map(seen.query, seen.keys(0)[:1], 2)[0]]
    assert torch.equal(store.mask(1, 90)[0], released_reference(expected, size=(8, 8)))


def test_the_released_listener_refuses_views_that_never_show_the_whole_picture():
    store = ReleasedAttentionStore()
    store(record(People(), [0, 1], [Tile(0, 0, 0, 8, 4)] * 2))
    with refused("released-without-mask", "two_strength"):
        store.mask(1, 90)


def test_the_released_mask_of_a_diffusers_unet_is_that_of_its_own_queries_and_keys():
    pytest.importorskip("diffusers", reason="install it with: pip install diffusers transformers accelerate")
    from dhumandiff import testing as tiny
    from dhumandiff.hosts.diffusers.attention import attach, cross_attention_layers

    unet, adapter = tiny.tiny_unet(), tiny.tiny_adapter()
    people = [random_reference(adapter.info, seed=seed, clip_tokens=50) for seed in (1, 2)]
    generator = torch.Generator().manual_seed(0)
    queries, hooks = [], []
    for _, module in cross_attention_layers(unet):
        hooks.append(module.to_q.register_forward_hook(lambda module, _, out: queries.append((module, out[0]))))
    store = ReleasedAttentionStore()
    with torch.no_grad(), attach(unet, adapter, people, 0.7) as attached:
        attached.record = store
        unet(
            torch.randn(1, 4, 64, 64, generator=generator).repeat(2, 1, 1, 1),
            500,
            torch.randn(2, 77, 192, generator=generator),
            added_cond_kwargs={"text_embeds": torch.zeros(2, 128), "time_ids": torch.zeros(2, 6)},
        )
        tokens = adapter.unconditional_tokens(people[0])[0]
    for hook in hooks:
        hook.remove()
    seen = {id(module): query for module, query in queries}
    maps = []
    for number, (_, module) in enumerate(cross_attention_layers(unet)):
        query = seen[id(module.to_q)].unflatten(-1, (module.heads, 64)).transpose(0, 1)
        key = (tokens @ adapter.attention[number].to_k_ip1.weight.T).unflatten(-1, (module.heads, 64))
        maps.append(query @ key.permute(1, 2, 0).softmax(dim=-1))
    assert [m.shape[1] for m in maps] == [side**2 for side in SIDES]
    assert len(maps) == len(TINY_HIDDEN)
    # A product of one row may be summed in another order than one of two, so a place on the edge may differ.
    assert (store.mask(1, 90)[0] != released_reference(maps)).float().mean() < 0.002


def test_strengths_go_softly_from_the_scene_s_to_the_face_s_where_the_focus_is():
    maps = torch.rand(2, 2, 12, 8, generator=torch.Generator().manual_seed(0))
    strengths = strength_map(maps, 0.7, 1.0, 0.25)
    assert strengths.shape == (2, 1, 12, 8)
    assert torch.equal(strengths[:, 0] > 1.0 - 1e-6, focus_mask(maps, 0.25))
    assert 0.7 <= strengths.min() < strengths.max() <= 1.0 + 1e-6
    assert strengths[:, 0].std() > 0.05
    flat = strength_map(torch.full((1, 2, 4, 4), 0.3), 0.7, 1.0)
    assert torch.equal(flat, torch.full((1, 1, 4, 4), 0.7))
    assert [strength_map(maps, 0.7, 1.0, share) for share in (0.0, 1.0)] == [0.7, 1.0]
    assert strength_map(maps, 0.7, 0.7) == 0.7


def test_the_first_step_has_the_scene_s_strength_unless_nobody_would_be_heard_or_all_is_face():
    assert initial_strength(0.7, 1.0) == 0.7
    assert initial_strength(0.0, 1.0) == 1.0
    assert initial_strength(0.0, 1.0, 0.0) == 0.0
    assert initial_strength(0.7, 1.0, 1.0) == 1.0
