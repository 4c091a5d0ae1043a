"""Masks of people: brought to the picture's size, and drawn where a face is."""

import numpy as np
import pytest
import torch
from support.refused import refused

from dhumandiff.evaluation.person_masks import face_mask, resize_person_masks

SIZE = (48, 64)


def test_masks_are_brought_to_the_picture_s_size():
    one, three = torch.ones(24, 32), torch.zeros(3, 96, 128)
    masks = resize_person_masks([one, three], SIZE, 3)
    assert masks.shape == (2, 3, *SIZE)
    assert (masks[0] == 1).all()
    assert (masks[1] == 0).all()
    assert resize_person_masks([None, None], SIZE, 3) is None


@pytest.mark.parametrize(
    ("masks", "code", "named"),
    [
        ([torch.ones(48, 64), None], "one-mask-of-two", "for each person"),
        ([torch.ones(48, 64), torch.ones(64, 64)], "mask-of-another-shape", "mask_2 is 64 x 64"),
        ([torch.ones(2, 48, 64), torch.ones(48, 64)], "mask-count", "mask_1 holds 2 masks for 3"),
    ],
)
def test_masks_that_cannot_be_used_are_refused(masks, code, named):
    with refused(code, named):
        resize_person_masks(masks, SIZE, 3)


def test_a_face_mask_is_an_ellipse_in_the_box():
    box = np.array([10, 10, 30, 40], np.float32)
    plain = face_mask(box, SIZE, grow=0.0, feather=0.0)
    assert plain.shape == SIZE
    assert plain[25, 20] == 1
    assert plain[10, 10] == plain[25, 35] == 0
    assert face_mask(box, SIZE, grow=1.0, feather=0.0).sum() > 2 * plain.sum()
    assert ((face_mask(box, SIZE, grow=0.0, feather=0.2) > 0.05) & (plain == 0)).any()
    assert not face_mask(None, SIZE, grow=0.3, feather=0.1).any()


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), 1e9])
@pytest.mark.parametrize("name", ["grow", "feather"])
def test_an_edge_out_of_reach_is_refused(name, value):
    with refused("mask-edge", name):
        face_mask(np.array([10, 10, 30, 40], np.float32), SIZE, **{"grow": 0.3, "feather": 0.1, name: value})
