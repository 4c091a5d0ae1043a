"""One to four people with diffusers: against the formula, with masks, whole portraits with the cascade, and what is refused."""

import pytest
import torch
from support.by_formula import adapter_for, people_by_formula
from support.layouts import random_reference
from support.portraits import draw
from support.refused import refused
from support.tiny_pair import SMALL, far, inputs, run

pytest.importorskip("diffusers", reason="install it with: pip install diffusers transformers accelerate")

from support.straightforward import Straightforward

from dhumandiff.hosts.diffusers.attention import attach
from dhumandiff.layout.layout import layout_masks
from dhumandiff.layout.presets import preset_boxes

SENTENCE = "A man@1, a woman@2, a boy@3 and a girl@4 in a garden"
STRENGTHS = (1.0, 0.6, 1.3, 0.8)


def of(adapter, persons):
    return [random_reference(adapter.info, seed=seed, clip_tokens=50) for seed in range(persons)]


def beside_each_other(persons, size=(96, 128)):
    """Soft masks [P, 1, H, W] of a picture; everywhere for one person."""
    if persons == 1:
        return torch.ones(1, 1, *size[::-1])
    return layout_masks(preset_boxes("close together", *size, persons), *size, feather=0.2)[:, None]


@pytest.mark.parametrize("masked", [False, True], ids=["anywhere", "masks"])
@pytest.mark.parametrize("shared", [False, True], ids=["K/V each", "one K/V"])
@pytest.mark.parametrize("persons", [1, 2, 3, 4])
def test_a_prediction_is_the_formula_s(unet, adapter, persons, shared, masked):
    adapter = adapter_for(adapter, None if shared else persons)
    people, given = of(adapter, persons), inputs(rows=2, size=(16, 12))
    masks = beside_each_other(persons) if masked else None
    with people_by_formula(
        unet, adapter, people, (False, True), 0.8, STRENGTHS, None if masks is None else masks[:, 0]
    ):
        expected = run(unet, given)
    with attach(unet, adapter, people, 0.8, STRENGTHS[:persons], masks):
        ours = run(unet, given)
    assert (ours - expected).abs().max() < 1e-5
    assert (ours - run(unet, given)).abs().max() > 1e-2


@pytest.mark.parametrize("persons", [3, 4])
def test_a_person_is_drawn_alike_whoever_else_is_there(unet, adapter, persons):
    """At strength 0 the others are as if they were not there."""
    adapter = adapter_for(adapter, None)
    people, given = of(adapter, persons), inputs(rows=2, size=(16, 12))
    alone = [0.0] * (persons - 1) + [1.0]
    with attach(unet, adapter, people, person_strengths=alone):
        among = run(unet, given)
    with attach(unet, adapter, people[-1:]):
        assert (run(unet, given) - among).abs().max() < 1e-5


@pytest.mark.parametrize("persons", [3, 4])
def test_the_cascade_hears_everybody(portrait, adapter, persons):
    adapter = adapter_for(adapter, persons)
    people = of(adapter, persons)
    words = SENTENCE if persons == 4 else "A man@1, a woman@2 and a boy@3 in a garden"
    cascade = {"scene_strength": 0.2, "face_strength": 1.5, "focus_fraction": 0.25}
    ours, focus = draw(portrait, adapter, people, words, mode="one_pass", **cascade, **SMALL)
    expected, mask = Straightforward(portrait, adapter, people, words).one_pass(0.2, 1.5, 0.25)
    assert torch.equal(focus, mask)
    assert far(ours, expected) <= 1
    ours, focus = draw(portrait, adapter, people, words, mode="two_strength", **cascade, **SMALL)
    expected, masks = Straightforward(portrait, adapter, people, words).two_strength(0.2, 1.5, 0.25)
    assert torch.equal(focus, masks[-1])
    assert far(ours, expected) <= 1


def test_one_projection_for_everybody_draws_four_with_masks(portrait, adapter):
    """And each place follows its own person."""
    adapter = adapter_for(adapter, None)
    people = of(adapter, 4)
    settings = {"mode": "one_pass", "masks": beside_each_other(4, (64, 96)), **SMALL}
    picture, _ = draw(portrait, adapter, people, SENTENCE, **settings)
    again, _ = draw(portrait, adapter, people, SENTENCE, **settings)
    swapped, _ = draw(portrait, adapter, [people[k] for k in (0, 1, 3, 2)], SENTENCE, **settings)
    assert far(picture, again) == 0
    assert far(picture, swapped) > 5


def test_weights_of_two_take_no_third_person(portrait, unet, adapter):
    """The way out is named: another kind of file."""
    people = of(adapter, 3)
    with refused("too-many-references", "3 references", "hold 2 persons", "IP-Adapter"):
        attach(unet, adapter, people)
    with refused("too-many-references", "IP-Adapter"):
        draw(portrait, adapter, people, "A man@1, a woman@2 and a boy@3", **SMALL)
