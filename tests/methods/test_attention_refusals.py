"""A pair that does not fit its UNet, its pictures or its people is refused with what to do instead."""

import pytest
import torch
from support.layouts import random_reference, small_adapter
from support.refused import refused
from support.tiny_pair import CONTEXT, inputs, run

pytest.importorskip("diffusers", reason="install it with: pip install diffusers transformers accelerate")

from dhumandiff.errors import AdapterError, FaceReferenceError
from dhumandiff.hosts.diffusers.attention import attach


def test_three_references_are_refused_when_the_weights_hold_two_persons(unet, adapter, people):
    before = dict(unet.attn_processors)
    with pytest.raises(AdapterError, match="3 references were given, but these weights hold 2 persons"):
        attach(unet, adapter, [*people, people[0]])
    assert unet.attn_processors == before


def test_three_references_are_welcome_where_one_key_value_serves_everyone(unet, people):
    shared = small_adapter(names=("",), context_width=CONTEXT, clip_width=64)
    with attach(unet, shared, [*people, people[0]]):
        assert run(unet, inputs()).isfinite().all()


def test_strengths_masks_and_references_of_unlike_number_are_refused(unet, adapter, people):
    with refused("no-reference"):
        attach(unet, adapter, [])
    with refused("person-strength-count", "1 person strengths for 2"):
        attach(unet, adapter, people, person_strengths=[1.0])
    with refused("person-mask-shape", "[1, 1, 16, 16]", "[2, pictures or 1"):
        attach(unet, adapter, people, masks=torch.ones(1, 1, 16, 16))


def test_masks_of_another_shape_or_number_than_the_pictures_are_refused(unet, adapter, people):
    with (
        attach(unet, adapter, people, masks=torch.ones(2, 1, 16, 32)),
        refused("mask-of-another-shape", "person mask is 32 x 16", "128 x 128"),
    ):
        run(unet, inputs())
    with (
        attach(unet, adapter, people, masks=torch.ones(2, 3, 16, 16)),
        refused("mask-count", "3 person masks for 1 pictures"),
    ):
        run(unet, inputs())


def test_an_adapter_for_another_base_is_refused(unet, people):
    with refused("adapter-of-another-base", "context 96", "17 layers, context 192"):
        attach(unet, small_adapter(), people)
    with refused("adapter-of-another-base", "4 cross-attention layers"):
        attach(unet, small_adapter(layers=4, context_width=CONTEXT), people)


def test_a_reference_of_another_vision_tower_is_refused(unet, adapter):
    with pytest.raises(FaceReferenceError, match="image encoder of width 80"):
        attach(unet, adapter, [random_reference(clip_width=80)])


def test_a_unet_with_a_foreign_processor_is_refused_rather_than_overwritten(unet, adapter, people):
    with attach(unet, adapter, people), refused("foreign-processor", "PairedProcessor"):
        attach(unet, adapter, people)


def test_a_pair_that_was_detached_is_not_entered_again_without_a_word(unet, adapter, people):
    attached = attach(unet, adapter, people)
    with attached:
        pass
    with refused("detached"), attached:
        pass


def test_a_second_pair_on_the_same_unet_says_how_to_detach_the_first(unet, adapter, people):
    with attach(unet, adapter, people), refused("foreign-processor", "Other people are attached"):
        attach(unet, adapter, people)


def test_one_reference_without_a_list_is_refused_with_what_to_write(unet, adapter, people):
    with refused("references-no-list"):
        attach(unet, adapter, people[0])
