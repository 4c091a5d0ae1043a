"""Parts2Whole's own room: parts, masks, the noise schedule, regions, and who reads whose parts in a layer."""

import numpy as np
import pytest
import torch
from support import independent_parts2whole as independent
from support.refused import refused
from support.small_parts import CONTEXT, random_part

from dhumandiff.conditioning.batch_layout import BatchLayout
from dhumandiff.methods.parts2whole import LABELS, Part
from dhumandiff.methods.parts2whole.attention import attend, feature_mask
from dhumandiff.methods.parts2whole.conditioning import PartsConditioning
from dhumandiff.methods.parts2whole.part import ALIASES, check_parts, label_of
from dhumandiff.methods.parts2whole.regions import part_regions
from dhumandiff.methods.parts2whole.schedule import NoiseSchedule

HALVES = [torch.zeros(64, 64), torch.zeros(64, 64)]
HALVES[0][:, :32], HALVES[1][:, 32:] = 1, 1


def test_labels_have_short_names():
    assert {label_of(name) for name in (*ALIASES, *LABELS)} == set(LABELS)
    assert label_of("Upper-body_clothes") == "upper body clothes"
    with refused("unknown-part", "'gloves'", "shoes"):
        label_of("gloves")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"label": "beard"}, "unknown-part"),
        ({"latent": torch.zeros(2, 4, 8, 8)}, "part-shape"),
        ({"label_embedding": torch.zeros(77, CONTEXT)}, "part-shape"),
        ({"image_embed": torch.zeros(CONTEXT)}, "part-shape"),
        ({"mask": torch.ones(1, 1, 8, 8)}, "part-mask-size"),
        ({"mask": torch.ones(1, 1, 64, 72)}, "part-mask-size"),
        ({"mask": torch.zeros(1, 1, 64, 64)}, "part-mask-empty"),
        ({"mask": torch.full((1, 1, 64, 64), 2.0)}, "mask-values"),
        ({"person": 0}, "part-of-nobody"),
        ({"strength": -1.0}, "part-strength"),
        ({"strength": float("nan")}, "part-strength"),
    ],
)
def test_a_part_that_cannot_be_used_is_refused(changes, code):
    usual = random_part()
    fields = {name: getattr(usual, name) for name in ("label", "latent", "mask", "label_embedding", "image_embed")}
    with refused(code):
        Part(**{**fields, **changes})


def test_seven_parts_of_one_person_are_refused():
    six = [random_part(label) for label in LABELS]
    check_parts([*six, random_part("face", person=2)])
    with refused("too-many-parts", "Person 1", "7"):
        check_parts([*six, random_part("face")])
    with refused("no-part"):
        check_parts([])
    with refused("parts-of-several-sizes", "64 x 64", "96 x 64"):
        check_parts([six[0], random_part("shoes", (8, 12))])


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (72, 104), (512, 768)])
def test_masks_reach_the_layers_as_published(size):
    generator = torch.Generator().manual_seed(0)
    mask = (torch.rand(1, 1, *size, generator=generator) > 0.97) * torch.rand(1, 1, *size, generator=generator)
    height, width = size[0] // 8, size[1] // 8
    for _ in range(4):
        if height * width <= 1600:  # the plain version is slow
            wanted = independent.growth(mask[0, 0], height * width)
            assert torch.allclose(feature_mask(mask, height * width)[:, 0], wanted, atol=1e-6)
        height, width = (height + 1) // 2, (width + 1) // 2


def test_a_mask_of_ones_is_no_mask():
    assert torch.equal(feature_mask(torch.ones(1, 1, 64, 96), 96), torch.ones(96, 1))
    with refused("part-mask-layer"):
        feature_mask(torch.ones(1, 1, 64, 64), 50)


def test_the_schedule_is_plain_linear_betas():
    betas = np.linspace(0.00085, 0.012, 1000)
    kept = np.cumprod(1 - betas)
    sigmas = NoiseSchedule().sigmas().numpy()
    assert np.allclose(sigmas, np.sqrt((1 - kept) / kept), rtol=1e-5)
    assert sigmas[-1] == pytest.approx(25.15, abs=0.005)
    stable_diffusion = NoiseSchedule(beta_schedule="scaled_linear").sigmas()
    assert float(stable_diffusion[-1]) == pytest.approx(14.61, abs=0.01)


def test_overlapping_regions_are_said_and_the_first_person_wins():
    first = torch.zeros(64, 64)
    first[:, :40] = 1
    regions, notes = part_regions([first, HALVES[1]], 2)
    assert torch.equal(regions[0, 0], first)
    assert torch.equal(regions[1, 0], HALVES[1] * (1 - first))
    assert len(notes) == 1
    assert "12.5%" in notes[0]
    assert "person 1 is drawn" in notes[0]
    assert part_regions(HALVES, 2)[1] == []


def test_a_person_without_a_region_has_what_the_others_leave():
    regions, notes = part_regions([None, HALVES[1]], 2)
    assert torch.equal(regions[:, 0], torch.stack(HALVES))
    assert not notes
    assert part_regions(None, 1) == (None, [])


@pytest.mark.parametrize(
    ("regions", "code"),
    [
        (None, "people-without-regions"),
        ([None, None], "people-without-regions"),
        ([HALVES[0]], "people-without-regions"),
        ([HALVES[0], torch.zeros(64, 64)], "region-empty"),
        ([HALVES[0], HALVES[0]], "region-empty"),
        ([HALVES[0], torch.ones(32, 32)], "masks-differ"),
    ],
)
def test_regions_that_do_not_tell_two_people_apart_are_refused(regions, code):
    with refused(code):
        part_regions(regions, 2)


class Layer:
    """One layer of random weights, with everything that a host gives to the conditioning."""

    def __init__(self, size=(8, 8), width=16, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.size, self.heads = size, 2
        self.weights = [torch.randn(width, width, generator=generator) / 4 for _ in range(2)]
        self.query, self.key, self.value = torch.randn(3, 2, size[0] * size[1], width, generator=generator).unbind()
        self.image = [torch.randn(width, CONTEXT, generator=generator) / 4 for _ in range(2)]
        self.layout = BatchLayout.of_whole_pictures(1, size)

    def project(self, features):
        return features @ self.weights[0], features @ self.weights[1]

    def run(self, parts, features, masks=None, **settings):
        def images(tokens):
            return tokens @ self.image[0].T, tokens @ self.image[1].T

        conditioning = PartsConditioning(parts, [features], [images], CONTEXT, masks, **settings)
        places = (self.heads, self.layout, self.size)
        own = (self.query, self.key, self.value, self.project)
        return conditioning.self_attention(0, *own, *places), conditioning.residual(0, self.query, *places)


def features_of(parts, size=(8, 8), width=16, seed=5):
    return torch.randn(len(parts), size[0] * size[1], width, generator=torch.Generator().manual_seed(seed))


def test_nobody_reads_the_other_persons_parts():
    layer = Layer()
    parts = [random_part("face", seed=1), random_part("upper", seed=2, masked=True, person=2)]
    other = [parts[0], random_part("upper", seed=3, masked=True, person=2)]
    features = features_of(parts)
    changed = torch.stack([features[0], features_of(parts, seed=9)[1]])
    masks = torch.zeros(2, 1, 64, 64)  # the picture's middle belongs to nobody
    masks[0, :, :, :24], masks[1, :, :, 40:] = 1, 1
    column = torch.arange(64) % 8
    for before, after in zip(layer.run(parts, features, masks), layer.run(other, changed, masks), strict=True):
        assert torch.equal(before[0], after[0])  # unconditional
        assert torch.equal(before[1, column < 5], after[1, column < 5])
        assert (before[1, column >= 5] - after[1, column >= 5]).abs().min(dim=1).values.max() > 1e-3
    attention, images = layer.run(parts, features, masks)
    plain = attend(layer.query, layer.key, layer.value, layer.heads)
    nobody = (column >= 3) & (column < 5)
    assert torch.allclose(attention[1, nobody], plain[1, nobody], atol=1e-6)
    assert not images[1, nobody].any()
    assert not images[0].any()


def test_each_person_gets_what_they_would_get_alone():
    layer = Layer()
    parts = [random_part("face", seed=1), random_part("upper", seed=2, person=2)]
    features = features_of(parts)
    together = layer.run(parts, features, part_regions(HALVES, 2)[0])
    column = torch.arange(64) % 8
    for person in (0, 1):
        mine = [random_part(parts[person].label, seed=person + 1)]
        alone = layer.run(mine, features[person : person + 1])
        own = column < 4 if person == 0 else column >= 4
        for both, one in zip(together, alone, strict=True):
            assert torch.allclose(both[1, own], one[1, own], atol=1e-6)


def test_a_small_layer_gives_a_position_to_who_has_most_of_it():
    layer = Layer(size=(2, 2))
    parts = [random_part("face", seed=1), random_part("face", seed=2, person=2)]
    masks = torch.zeros(2, 1, 64, 64)
    masks[0, :, :, :20] = 1  # 20 of 32 columns of the first position
    masks[1, :, :, 20:44] = 1  # 12 of 32 columns of the first, 12 of the second: of neither the half
    _, images = layer.run(parts, features_of(parts, (2, 2)), masks)
    _, alone = layer.run(parts[:1], features_of(parts, (2, 2))[:1])
    assert torch.allclose(images[1, [0, 2]], alone[1, [0, 2]], atol=1e-6)
    assert not images[1, [1, 3]].any()


def test_strength_0_is_as_if_the_part_were_not_there_and_more_draws_more():
    layer = Layer()
    parts = [random_part("face", seed=1), random_part("upper", seed=2)]
    features = features_of(parts)

    def at(strength):
        return layer.run([parts[0], random_part("upper", seed=2, strength=strength)], features)

    absent = layer.run(parts[:1], features[:1])
    as_trained = layer.run(parts, features)
    assert all(map(torch.equal, at(0.0), absent))
    assert all(map(torch.equal, at(1.0), as_trained))
    distance = [
        [float((now - then).abs().mean()) for now, then in zip(at(s), absent, strict=True)] for s in (0.5, 1, 2)
    ]
    assert distance[0] < distance[1] < distance[2]


def test_dropped_features_take_no_attention_and_zeroed_ones_do():
    layer = Layer()
    parts = [random_part("upper", seed=2, masked=True)]
    features = features_of(parts)
    zeroed, _ = layer.run(parts, features)
    dropped, _ = layer.run(parts, features, drop_masked=True)
    weight = feature_mask(parts[0].mask, 64)[:, 0]
    inside = features[0][weight > 0] * weight[weight > 0, None]
    wanted = attend(
        layer.query[1:],
        torch.cat([layer.key[1], inside @ layer.weights[0]])[None],
        torch.cat([layer.value[1], inside @ layer.weights[1]])[None],
        layer.heads,
    )
    assert torch.allclose(dropped[1], wanted[0], atol=1e-6)
    assert (dropped[1] - zeroed[1]).abs().max() > 1e-2
    assert torch.equal(dropped[0], zeroed[0])


def test_scale_0_leaves_the_words_alone():
    layer = Layer()
    parts = [random_part("face")]
    assert not layer.run(parts, features_of(parts), scale=0)[1].any()
    half, full = (layer.run(parts, features_of(parts), scale=scale)[1] for scale in (0.5, 1.0))
    assert torch.allclose(2 * half, full, atol=1e-6)


def test_another_image_encoders_embedding_is_refused():
    with refused("image-embed-of-another-width", "face", "ViT-L/14"):
        PartsConditioning([random_part("face", context=32)], [torch.zeros(1, 64, 16)], [None], CONTEXT)
