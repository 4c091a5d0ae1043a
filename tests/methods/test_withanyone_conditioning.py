"""The people of WithAnyone over a call: halves of a batch, tiles, strengths, second passes, and what is kept in a run."""

from __future__ import annotations

import pytest
import torch
from support import withanyone_files
from support.independent_withanyone import residual as independent
from support.refused import refused

from dhumandiff.conditioning.batch_layout import BatchLayout, Sample, Tile
from dhumandiff.methods.withanyone import WithAnyone, WithAnyoneConditioning, box_weights

SIZE = (128, 96)
LATENT, SHAPE, TOKENS = (12, 16), (6, 8), 48
BOXES = [(0, 0, 80, 64), (48, 32, 128, 96)]
WHOLE = BatchLayout.of_whole_pictures(1, LATENT, guidance=False)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wa")
    return WithAnyone.from_pretrained(withanyone_files.withanyone_file(folder / "withanyone.safetensors"))


@pytest.fixture(scope="module")
def tokens(adapter):
    random = torch.Generator().manual_seed(1)
    embeddings, siglip = torch.randn(2, 512, generator=random), torch.randn(2, 256, 768, generator=random)
    return {"arc": adapter.arc_tokens(embeddings), "sig": adapter.sig_tokens(siglip, embeddings)}


def picture(samples=1, tokens=TOKENS):
    return torch.randn(samples, tokens, 32, generator=torch.Generator().manual_seed(2))


def added(people, shown, layout, shape=SHAPE, strength=1.0, block=3):
    """[B, L, D] of what a conditioning adds."""
    whole = torch.zeros_like(shown)
    for samples, rows, residual in people.residual(block, shown, layout, shape, strength):
        for sample, of_sample in zip(samples, residual, strict=True):
            whole[sample, rows] += of_sample
    return whole


def directly(adapter, tokens, shown, boxes=BOXES, size=SIZE):
    return adapter.residual(3, shown, tokens["arc"], tokens["sig"], boxes, size, 0.3, 0.7)


def make(adapter, tokens, **more):
    return WithAnyoneConditioning(adapter, tokens, 0.3, 0.7, **{"boxes": BOXES, "size": SIZE, **more})


def test_only_what_reads_the_positive_prompt_gets_people(adapter, tokens):
    samples = [Sample(is_cond, Tile(0, 0, 0, *LATENT)) for is_cond in (True, False, True, False)]
    shown = picture(4)
    made = added(make(adapter, tokens), shown, BatchLayout(tuple(samples), LATENT, 1))
    assert not made[1::2].any()
    torch.testing.assert_close(made[::2], directly(adapter, tokens, shown[::2]))


def test_a_tile_shows_its_part_of_the_boxes(adapter, tokens):
    """Two tiles of the whole picture in one batch: each is computed as what it would be of the whole."""
    shown = picture()
    whole = directly(adapter, tokens, shown).view(1, *SHAPE, 32)
    tiles = [Tile(0, 0, 0, 12, 8), Tile(0, 0, 8, 12, 8)]
    of_tiles = torch.cat([shown.view(1, *SHAPE, 32)[:, :, :4], shown.view(1, *SHAPE, 32)[:, :, 4:]]).flatten(1, 2)
    layout = BatchLayout(tuple(Sample(True, tile) for tile in tiles), LATENT, 1)
    made = added(make(adapter, tokens), of_tiles, layout, (6, 4)).view(2, 6, 4, 32)
    torch.testing.assert_close(torch.cat([made[0], made[1]], dim=1)[None], whole)


def test_a_second_pass_at_another_size_keeps_the_boxes_in_place(adapter, tokens):
    large = picture(tokens=4 * TOKENS)
    made = added(make(adapter, tokens), large, BatchLayout.of_whole_pictures(1, (24, 32), guidance=False), (12, 16))
    doubled = [tuple(2 * edge for edge in box) for box in BOXES]
    torch.testing.assert_close(made, directly(adapter, tokens, large, doubled, (256, 192)))


@pytest.mark.parametrize("strengths", [(1.0, 0.0), (0.5, 0.5), (0.4, 1.2)])
def test_a_strength_of_one_person_is_a_weight_of_theirs(adapter, tokens, strengths):
    shares = box_weights(BOXES, SIZE, TOKENS) * torch.tensor(strengths)[:, None]
    made = added(make(adapter, tokens, person_strengths=strengths), picture(), WHOLE)
    told = (3, picture(), tokens["arc"], tokens["sig"], (), SIZE, 0.3, 0.7, withanyone_files.tensors(), shares)
    torch.testing.assert_close(made.double(), independent(*told), atol=1e-5, rtol=1e-5)


def test_strength_scales_what_is_added_and_zero_adds_nothing(adapter, tokens):
    people = make(adapter, tokens)
    torch.testing.assert_close(
        added(people, picture(), WHOLE, strength=0.5), 0.5 * added(people, picture(), WHOLE), atol=1e-6, rtol=1e-5
    )
    assert people.residual(0, picture(), WHOLE, SHAPE, 0.0) == []
    assert not people.counts(0.0)
    assert people.counts(0.5)
    assert not WithAnyoneConditioning(adapter, tokens, 0, 0, boxes=BOXES).counts(1.0)


def test_masks_of_each_picture_hold_for_it_alone(adapter, tokens):
    masks = torch.zeros(2, 2, *reversed(SIZE))
    for place, boxes in enumerate((BOXES, BOXES[::-1])):
        for person, (x1, y1, x2, y2) in enumerate(boxes):
            masks[person, place, y1:y2, x1:x2] = 1
    shown = picture(2)
    people = make(adapter, tokens, boxes=None, masks=masks)
    made = added(people, shown, BatchLayout.of_whole_pictures(2, LATENT, guidance=False))
    torch.testing.assert_close(made[:1], directly(adapter, tokens, shown[:1]))
    torch.testing.assert_close(made[1:], directly(adapter, tokens, shown[1:], BOXES[::-1]))


def test_keys_and_values_are_made_once_a_run(adapter, tokens, monkeypatch):
    asked = []
    make_them = adapter.keys_values
    monkeypatch.setattr(
        adapter, "keys_values", lambda *given: asked.append(given[:2]) or make_them(*given), raising=True
    )
    people = make(adapter, tokens)
    for _ in range(3):
        for block in range(adapter.info.blocks):
            people.residual(block, picture(), WHOLE, SHAPE)
    assert asked == [(block, branch) for block in range(5) for branch in ("arc", "sig")]
    people.clear_cache()
    assert not people._kv
    people.residual(0, picture(), WHOLE, SHAPE)
    assert len(asked) == 12


def test_a_branch_without_weight_needs_no_tokens(adapter, tokens):
    arc = WithAnyoneConditioning(adapter, {"arc": tokens["arc"]}, 1, 0, boxes=BOXES)
    expected = adapter.residual(3, picture(), tokens["arc"], None, BOXES, SIZE, 1, 0)
    torch.testing.assert_close(added(arc, picture(), WHOLE), expected)


def test_another_number_of_boxes_or_strengths_is_refused(adapter, tokens):
    with refused("withanyone-box-count", "1 boxes for 2 people"):
        make(adapter, tokens, boxes=BOXES[:1])
    with refused("person-strength-count", "3 person strengths"):
        make(adapter, tokens, person_strengths=(1, 1, 1))
    with refused("no-reference"):
        make(adapter, {})
