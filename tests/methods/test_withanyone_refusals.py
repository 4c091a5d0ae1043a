"""What WithAnyone refuses: boxes, masks, embeddings and tokens that cannot be meant."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.refused import refused
from support.withanyone_files import branch_file, withanyone_file

from dhumandiff.methods.withanyone import WithAnyone, box_weights, mask_weights, regions_of, token_grid

SIZE, TOKENS = (128, 96), 48
BOX = (0, 0, 64, 64)
NAN = float("nan")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return WithAnyone.from_pretrained(withanyone_file(tmp_path_factory.mktemp("wa") / "withanyone.safetensors"))


def embeddings(people: int = 2) -> torch.Tensor:
    return torch.randn(people, 512, generator=torch.Generator().manual_seed(1))


def residual(adapter, boxes, people=2, size=SIZE, tokens=TOKENS, width=32):
    return adapter.residual(0, torch.randn(1, tokens, width), torch.randn(people, 8, 32), None, boxes, size, 1, 0)


@pytest.mark.parametrize(
    ("code", "box", "named"),
    [
        ("withanyone-no-box", None, "None"),
        ("withanyone-no-box", (1, 2, 3), "four numbers"),
        ("withanyone-no-box", (0, 0, NAN, 64), "nan"),
        ("withanyone-no-box", (0, 0, float("inf"), 64), "inf"),
        ("withanyone-no-box", "left", "left"),
        ("withanyone-box-empty", (40, 0, 40, 64), "40 0 40 64"),
        ("withanyone-box-empty", (60, 0, 20, 64), "left, top, right, bottom"),
        ("withanyone-box-empty", (0, 64, 64, 0), "empty"),
        ("withanyone-box-outside", (128, 0, 190, 64), "128 x 96"),
        ("withanyone-box-outside", (0, -90, 64, 0), "outside"),
        ("withanyone-box-thin", (0, 0, 15, 64), "15 x 64"),
        ("withanyone-box-thin", (120, 0, 300, 64), "8 x 64"),
        ("withanyone-box-twice", BOX, "Person 1 and person 2"),
    ],
)
def test_a_box_that_cannot_be_meant_is_refused(adapter, code, box, named):
    with refused(code, "person 2", named):
        residual(adapter, [BOX, box])


@pytest.mark.parametrize(
    ("people", "boxes", "named"), [(2, 1, "person 2 has no box"), (1, 3, "2 more than there are people")]
)
def test_each_person_needs_one_box(adapter, people, boxes, named):
    with refused("withanyone-box-count", named):
        residual(adapter, [(16 * n, 0, 16 * n + 32, 64) for n in range(boxes)], people)


@pytest.mark.parametrize("people", [0, 5])
def test_more_people_than_the_weights_know_are_refused(adapter, people):
    with refused("withanyone-people-count", str(people), "1 to 4"):
        residual(adapter, [(16 * n, 0, 16 * n + 32, 64) for n in range(people)], people)
    with refused("withanyone-people-count", str(people)):
        adapter.arc_tokens(embeddings(people))
    with refused("withanyone-people-count", str(people)):
        mask_weights(torch.ones(people, 96, 128), SIZE, TOKENS)


@pytest.mark.parametrize(
    ("code", "change", "named"),
    [
        ("withanyone-embeddings-shape", lambda e: e[:, :128], "[2, 128]"),
        ("withanyone-embeddings-shape", lambda e: e[0], "[512]"),
        ("withanyone-embedding-empty", lambda e: torch.stack([e[0], 0 * e[1]]), "person 2"),
        ("withanyone-embedding-empty", lambda e: torch.stack([e[0] * NAN, e[1]]), "person 1"),
        ("withanyone-embedding-normalized", F.normalize, "10 to 30"),
        ("withanyone-embedding-normalized", lambda e: F.normalize(e).half(), "length 1"),
    ],
)
def test_embeddings_that_are_not_the_recognizer_s_own_are_refused(adapter, code, change, named):
    with refused(code, named):
        adapter.arc_tokens(change(embeddings()))
    with refused(code, named):
        adapter.sig_tokens(torch.randn(2, 256, 768), change(embeddings()))


@pytest.mark.parametrize(
    ("code", "siglip", "named"),
    [
        ("withanyone-siglip-shape", torch.zeros(2, 256, 1152), "1152"),
        ("withanyone-siglip-shape", torch.zeros(2, 196, 768), "196"),
        ("withanyone-siglip-shape", torch.zeros(256, 768), "[256, 768]"),
        ("withanyone-siglip-count", torch.zeros(1, 256, 768), "1 people"),
        ("withanyone-siglip-not-finite", torch.full((2, 256, 768), NAN), "NaN"),
    ],
)
def test_hidden_states_of_another_encoder_are_refused(adapter, code, siglip, named):
    with refused(code, named):
        adapter.sig_tokens(siglip, embeddings())


def test_a_branch_that_is_not_there_is_named(tmp_path):
    arc = WithAnyone.from_pretrained(branch_file(tmp_path / "arc.safetensors", "arc"))
    sig = WithAnyone.from_pretrained(branch_file(tmp_path / "sig.safetensors", "sig"))
    with refused("withanyone-branch-missing", "arc.safetensors", "SigLIP"):
        arc.sig_tokens(torch.zeros(2, 256, 768), embeddings())
    with refused("withanyone-branch-missing", "sig.safetensors", "ArcFace"):
        sig.arc_tokens(embeddings())
    tokens = arc.arc_tokens(embeddings())
    with refused("withanyone-branch-missing", "arc.safetensors"):
        arc.residual(0, torch.randn(1, TOKENS, 32), tokens, None, [BOX, (64, 0, 128, 64)], SIZE, 0.5, 0.5)


def test_a_weight_without_tokens_is_refused(adapter):
    with refused("withanyone-tokens-missing", "'sig'", "0.5"):
        tokens = adapter.arc_tokens(embeddings())
        adapter.residual(0, torch.randn(1, TOKENS, 32), tokens, None, [BOX, (64, 0, 128, 64)], SIZE, 0.5, 0.5)


def test_another_block_or_width_is_refused(adapter):
    with refused("no-such-layer", "Block 5", "0 to 4"):
        adapter.keys_values(5, "arc", torch.zeros(1, 8, 32))
    with refused("no-such-layer", "-1"):
        adapter.keys_values(-1, "arc", torch.zeros(1, 8, 32))
    with refused("withanyone-branch-missing", "'both'"):
        adapter.keys_values(0, "both", torch.zeros(1, 8, 32))
    with refused("withanyone-tokens-shape", "[8, 32]"):
        adapter.keys_values(0, "arc", torch.zeros(8, 32))
    with refused("withanyone-picture-shape", "width 32", "48"):
        residual(adapter, [BOX, (64, 0, 128, 64)], width=48)


def test_tokens_that_no_picture_of_this_size_has_are_refused(adapter):
    with refused("withanyone-token-count", "8 x 6", "47"):
        residual(adapter, [BOX, (64, 0, 128, 64)], tokens=47)
    with refused("withanyone-picture-size", "8 x 96"):
        token_grid((8, 96), 6)
    with refused("withanyone-picture-size", "nan"):
        token_grid((NAN, 96), 6)


def test_a_side_between_tokens_is_cut_off_or_filled_up_as_the_tokens_say():
    size = (100, 90)
    assert token_grid(size, 6 * 5) == (6, 5)
    assert token_grid(size, 7 * 6) == (7, 6)
    edge = [(60, 60, 100, 90)]
    assert box_weights(edge, size, 30).view(5, 6)[3:, 3:].sum() == 6 == box_weights(edge, size, 30).sum()
    assert box_weights(edge, size, 42).view(6, 7)[3:, 3:].sum() == 12 == box_weights(edge, size, 42).sum()
    beyond = [
        (0, 0, 32, 32),
        (80, 60, 100 - 4, 90),
    ]  # cut off with the rest of the last column? its token is still there
    assert box_weights(beyond, size, 30)[1].sum() == 2


@pytest.mark.parametrize(
    ("code", "change", "named"),
    [
        ("withanyone-mask-empty", lambda m: torch.stack([m[0], 0 * m[1]]), "person 2"),
        ("mask-values", lambda m: m * 2, "0 and 1"),
        ("mask-values", lambda m: m * NAN, "0 and 1"),
        ("mask-of-another-shape", lambda m: m[:, :48], "128 x 48"),
        ("no-mask", lambda m: m[:, :0], "[2, 0, 128]"),
    ],
)
def test_a_mask_that_cannot_be_meant_is_refused(code, change, named):
    with refused(code, named):
        mask_weights(change(torch.ones(2, 96, 128)), SIZE, TOKENS)


def test_boxes_and_masks_are_told_apart_and_counted(adapter):
    arc, shown = torch.randn(2, 8, 32), torch.randn(1, TOKENS, 32)
    for boxes, masks in ((None, None), ([BOX, (64, 0, 128, 64)], torch.ones(2, 96, 128))):
        with refused("withanyone-boxes-or-masks"):
            adapter.residual(0, shown, arc, None, boxes, SIZE, 1, 0, masks=masks)
    with refused("withanyone-mask-count", "3 masks for 2 people"):
        adapter.residual(0, shown, arc, None, None, SIZE, 1, 0, masks=torch.ones(3, 96, 128))


def test_a_mask_of_another_resolution_is_taken_to_the_tokens():
    masks = torch.zeros(1, 960, 1280)
    masks[0, :, :640] = 1
    assert torch.equal(mask_weights(masks, SIZE, TOKENS), mask_weights(masks[:, ::20, ::20], SIZE, TOKENS))


def test_nobody_anywhere_adds_nothing(adapter):
    regions = regions_of(torch.zeros(2, TOKENS))
    kept = {"arc": adapter.keys_values(0, "arc", adapter.arc_tokens(embeddings()))}
    assert adapter.residual_rows(0, torch.randn(1, TOKENS, 32), kept, regions, 1, 0) is None
