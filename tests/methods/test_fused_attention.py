"""Each person's attention in one kernel, as GPUs have it, is the attention of `KVCache`."""

import pytest
import torch

from dhumandiff.conditioning.batch_layout import BatchLayout
from dhumandiff.conditioning.finished_keys_values import FinishedKeysValues
from dhumandiff.conditioning.kv_cache import FusedKV, KVCache
from dhumandiff.methods.dual_pathway import DualPathway, DualPathwaySettings
from dhumandiff.methods.paired.conditioning import PairedConditioning

BATCH, PERSONS, TOKENS, HEADS, WIDTH, POSITIONS = 4, 3, 5, 2, 8, 12


def random(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def tensors():
    keys, values = (random(BATCH, PERSONS, TOKENS, WIDTH, seed=seed) for seed in (1, 2))
    return random(BATCH, POSITIONS, WIDTH, seed=0), keys, values


@pytest.mark.parametrize("weights", [1.0, 0.7, random(1, PERSONS, 1, seed=3), random(BATCH, PERSONS, 1, seed=4)])
def test_weights_that_do_not_vary_over_the_picture_are_in_the_values(tensors, weights):
    query, keys, values = tensors
    expected, _ = KVCache.from_kv(keys, values, HEADS).attend(query, weights)
    got = FusedKV.from_kv(keys, values, HEADS, weights).attend(query)
    assert torch.allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("rows", [1, BATCH])
def test_weights_that_vary_count_at_every_position(tensors, rows):
    query, keys, values = tensors
    weights, out = random(rows, PERSONS, POSITIONS, seed=5), random(BATCH, POSITIONS, WIDTH, seed=6)
    expected, _ = KVCache.from_kv(keys, values, HEADS).attend(query, weights)
    fused = FusedKV.from_kv(keys, values, HEADS)
    assert torch.allclose(fused.attend(query, weights), expected, atol=1e-6)
    assert torch.allclose(fused.attend(query, weights, out), out + expected, atol=1e-6)


@pytest.mark.parametrize("own", [(1.0, 0.5, 0.0), None])
def test_a_conditioning_follows_strengths_that_change_from_step_to_step(own):
    layers = [tuple(random(2, 1, PERSONS, TOKENS, WIDTH, seed=seed) for seed in (7, 8))]
    people = PairedConditioning(FinishedKeysValues(layers), PERSONS, person_strengths=own)
    layout, query = BatchLayout.of_whole_pictures(1, (3, 4), strengths=2), random(BATCH, POSITIONS, WIDTH, seed=9)
    varying = torch.rand(1, 1, 3, 4, generator=torch.Generator().manual_seed(1))
    for strength in (0.7, 0.7, (0.2, 1.0), 0.7, varying, 0.3):
        expected = people.residual(0, query, HEADS, layout, (3, 4), strength)
        weights = people.weights(layout, (3, 4), POSITIONS, query.device, strength)
        assert torch.allclose(people.fused(0, query, HEADS, layout, weights), expected, atol=1e-6)


def test_finished_keys_and_values_are_those_that_were_given_in_any_precision():
    layers = [tuple(random(2, 1, 2, TOKENS, width, seed=seed) for seed in (1, 2)) for width in (8, 4)]
    finished = FinishedKeysValues(layers)
    for number, pair in enumerate(layers):
        for dtype in (torch.float32, torch.float16):
            there = finished(number, torch.device("cpu"), dtype)
            assert all(torch.equal(one, other.to(dtype)) for one, other in zip(there, pair, strict=True))


@pytest.mark.parametrize("strength", [1.0, "found"])
def test_the_dual_pathway_without_trained_parts_is_the_same_in_one_kernel(adapter, people, strength):
    masks = torch.zeros(2, 1, 16, 16)
    masks[0, ..., :8] = masks[1, ..., 8:] = 1
    settings = DualPathwaySettings(regions="given" if strength == 1.0 else "attention")
    if strength == "found":
        strength = torch.rand(1, 2, 16, 16, generator=torch.Generator().manual_seed(2))
    conditioning = DualPathway(adapter).conditioning([people], settings, None, masks)
    layout, heads = BatchLayout.of_whole_pictures(1, (16, 16)), adapter.info.hidden[0] // 64
    query, out = random(2, 64, adapter.info.hidden[0], seed=3), random(2, 64, adapter.info.hidden[0], seed=4)
    where = (0, query, heads, layout, (8, 8), strength)
    expected = conditioning.residual(*where)
    weights = conditioning._weights_at(*where, None)
    assert torch.allclose(conditioning.fused(0, query, heads, layout, weights), expected, atol=1e-6)
    assert torch.equal(conditioning.residual(*where, onto=out), out + expected)
