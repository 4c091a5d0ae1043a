"""WithAnyone against a second version that was written from the description of the method."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support import independent_withanyone as independent
from support import withanyone_files

from dhumandiff.methods.withanyone import WithAnyone, regions_of

SIZE = (128, 96)
TOKENS = 8 * 6
BOXES = {
    "disjoint": [(0, 0, 32, 48), (64, 16, 112, 96), (32, 48, 64, 80), (112, 0, 128, 16)],
    "overlapping": [(0, 0, 80, 64), (48, 32, 128, 96), (32, 16, 96, 80), (0, 0, 128, 96)],
    "off the grid": [(3.5, 1, 37, 50), (61, 15, 115, 95), (-5, 40, 30, 200), (90, 3, 127, 31)],
}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return withanyone_files.withanyone_file(tmp_path_factory.mktemp("wa") / "withanyone.safetensors")


@pytest.fixture(scope="module")
def tensors():
    return withanyone_files.tensors()


@pytest.fixture(scope="module")
def adapter(file):
    return WithAnyone.from_pretrained(file)


def people(count: int = 2, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 512, generator=generator), torch.randn(count, 256, 768, generator=generator)


def picture(samples: int = 1, width: int = 32) -> torch.Tensor:
    return torch.randn(samples, TOKENS, width, generator=torch.Generator().manual_seed(2))


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(ours.double(), theirs, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_tokens_are_those_of_the_description(adapter, tensors, count):
    embeddings, siglip = people(count)
    arc, sig = adapter.arc_tokens(embeddings), adapter.sig_tokens(siglip, embeddings)
    assert (arc.shape, sig.shape) == ((count, 8, 32), (count, 264, 32))
    close(arc, independent.arc_tokens(embeddings, tensors))
    close(sig, independent.sig_tokens(siglip, embeddings, tensors))


@pytest.mark.parametrize("slider", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("where", BOXES)
def test_a_block_adds_what_the_description_says(adapter, tensors, where, count, slider):
    embeddings, siglip = people(count)
    arc, sig = adapter.arc_tokens(embeddings), adapter.sig_tokens(siglip, embeddings)
    said = (3, picture(2), arc, sig, BOXES[where][:count], SIZE, 1 - slider, slider)
    close(adapter.residual(*said), independent.residual(*said, tensors))


@pytest.mark.parametrize("kind", [torch.tensor, np.array, lambda boxes: [[int(edge) for edge in box] for box in boxes]])
def test_boxes_come_as_a_tensor_an_array_or_lists_too(adapter, kind):
    tokens = adapter.arc_tokens(people(2)[0])
    boxes = BOXES["overlapping"][:2]
    wanted = adapter.residual(0, picture(), tokens, None, boxes, SIZE, 1, 0)
    assert torch.equal(adapter.residual(0, picture(), tokens, None, kind(boxes), SIZE, 1, 0), wanted)


def test_soft_masks_share_the_softmax_and_fade_what_is_added(adapter, tensors):
    embeddings, siglip = people(2)
    arc, sig = adapter.arc_tokens(embeddings), adapter.sig_tokens(siglip, embeddings)
    shares = torch.rand(2, TOKENS, generator=torch.Generator().manual_seed(3))
    shares[0, :9], shares[1, 5:12] = 0, 0
    regions = regions_of(shares)
    kept = {"arc": adapter.keys_values(1, "arc", arc), "sig": adapter.keys_values(1, "sig", sig)}
    added = torch.zeros_like(picture()).index_copy(
        1, regions.rows, adapter.residual_rows(1, picture(), kept, regions, 0.3, 0.7)
    )
    close(added, independent.residual(1, picture(), arc, sig, (), SIZE, 0.3, 0.7, tensors, shares))
    assert not added[:, 5:9].any()


def test_masks_of_zero_and_one_are_boxes(adapter):
    masks = torch.zeros(2, SIZE[1], SIZE[0])
    masks[0, 0:48, 0:32], masks[1, 16:96, 64:112] = 1, 1
    embeddings, siglip = people()
    arc, sig = adapter.arc_tokens(embeddings), adapter.sig_tokens(siglip, embeddings)
    boxed = adapter.residual(0, picture(), arc, sig, BOXES["disjoint"][:2], SIZE, 0.5, 0.5)
    assert torch.equal(adapter.residual(0, picture(), arc, sig, None, SIZE, 0.5, 0.5, masks=masks), boxed)


def test_a_branch_without_weight_is_not_computed(adapter):
    embeddings, siglip = people()
    arc, sig = adapter.arc_tokens(embeddings), adapter.sig_tokens(siglip, embeddings)
    boxes = BOXES["overlapping"][:2]
    nan = torch.full_like(sig, float("nan"))
    alone = adapter.residual(0, picture(), arc, None, boxes, SIZE, 1, 0)
    assert torch.equal(adapter.residual(0, picture(), arc, nan, boxes, SIZE, 1, 0), alone)
    assert not adapter.residual(0, picture(), arc, sig, boxes, SIZE, 0, 0).any()


def test_outside_of_the_boxes_nothing_is_added(adapter):
    embeddings, siglip = people()
    arc, sig = adapter.arc_tokens(embeddings), adapter.sig_tokens(siglip, embeddings)
    added = adapter.residual(2, picture(), arc, sig, BOXES["disjoint"][:2], SIZE, 0.5, 0.5)
    inside = set().union(*(independent.tokens_of_box(box, SIZE) for box in BOXES["disjoint"][:2]))
    outside = [token for token in range(TOKENS) if token not in inside]
    assert torch.equal(added[:, outside], torch.zeros(1, len(outside), 32))
    assert added[:, sorted(inside)].abs().amin(-1).min() >= 0
    assert bool(added[:, sorted(inside)].any(-1).all())


def test_the_order_of_people_changes_nothing(adapter):
    embeddings, siglip = people(3)
    boxes = BOXES["overlapping"][:3]
    order = [2, 0, 1]

    def added(of):
        arc, sig = adapter.arc_tokens(embeddings[of]), adapter.sig_tokens(siglip[of], embeddings[of])
        return adapter.residual(0, picture(), arc, sig, [boxes[person] for person in of], SIZE, 0.5, 0.5)

    torch.testing.assert_close(added(order), added([0, 1, 2]), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_half_precision_is_near(file, tensors, dtype, tolerance):
    adapter = WithAnyone.from_pretrained(file, dtype=dtype)
    embeddings, siglip = people()
    rounded = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    arc, sig = adapter.arc_tokens(embeddings), adapter.sig_tokens(siglip, embeddings)
    shown = picture().to(dtype)
    said = (4, shown, arc, sig, BOXES["overlapping"][:2], SIZE, 0.5, 0.5)
    ours, theirs = adapter.residual(*said), independent.residual(*said, rounded)
    assert ours.dtype == dtype
    assert (ours.double() - theirs).norm() / theirs.norm() < tolerance
