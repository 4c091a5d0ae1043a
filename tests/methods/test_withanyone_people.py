"""What WithAnyone reads of references, and where its people are on a latent."""

import pytest
import torch
from support.refused import refused
from support.withanyone_files import withanyone_file

from dhumandiff.conditioning.batch_layout import BatchLayout
from dhumandiff.methods.withanyone import WithAnyone, WithAnyoneConditioning, box_weights
from dhumandiff.methods.withanyone.people import (
    RECOGNIZER,
    RECOGNIZER_HASH,
    check_references,
    people_tokens,
    unknown_recognizers,
)
from dhumandiff.references.reference import FaceReference

BOXES = [(16, 32, 64, 96), (70, 10, 120, 90)]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return WithAnyone.from_pretrained(withanyone_file(tmp_path_factory.mktemp("weights") / "withanyone.safetensors"))


def person(seed=1, photos=1, recognizer=RECOGNIZER, **without):
    random = torch.Generator().manual_seed(seed)
    parts = {
        "identity": torch.nn.functional.normalize(torch.randn(photos, 512, generator=random), dim=-1),
        "identity_length": 20 + torch.rand(photos, generator=random),
        "siglip_hidden": torch.randn(photos, 256, 768, generator=random),
    }
    return FaceReference(**{**parts, **without}, recognizer=recognizer, name=f"person {seed}")


def test_tokens_are_made_of_embeddings_of_the_recognizer_s_length(adapter):
    one, several = person(1), person(2, photos=3)
    tokens = people_tokens(adapter, [one, several], ("arc", "sig"))
    mean = several.mean_identity() * several.identity_length.mean()
    embeddings = torch.cat([one.raw_identity(), mean])
    states = torch.cat([one.siglip_hidden, several.siglip_hidden[:1]])
    assert torch.allclose(tokens["arc"], adapter.arc_tokens(embeddings), atol=1e-5)
    assert torch.allclose(tokens["sig"], adapter.sig_tokens(states, embeddings), atol=1e-5)
    assert list(people_tokens(adapter, [one], ("arc",))) == ["arc"]


def test_what_a_reference_lacks_is_said():
    check_references([person(siglip_hidden=None)], ("arc",))
    with refused("reference-without-siglip", "person 1", "Load SigLIP Vision"):
        check_references([person(siglip_hidden=None)], ("arc", "sig"))
    with refused("reference-without-length", "person 2"):
        check_references([person(), person(2, identity_length=None)], ("arc",))
    with refused("withanyone-other-recognizer", "Reference 2", "buffalo_l/w600k_r50", "antelopev2"):
        check_references([person(), person(2, recognizer="buffalo_l/w600k_r50")], ("arc",))
    check_references([person(recognizer="mine/net", recognizer_hash=RECOGNIZER_HASH)], ("arc",))  # a renamed pack
    auraface = person(recognizer=RECOGNIZER, recognizer_hash="0123456789abcdef")  # of the same name
    with refused("withanyone-other-recognizer", "sha256 0123456789abcdef", f"sha256 {RECOGNIZER_HASH}"):
        check_references([auraface], ("arc",))
    with refused("withanyone-people-count", "5 people"):
        check_references([person(seed) for seed in range(5)], ("arc",))


def test_an_unknown_recognizer_is_noted():
    assert unknown_recognizers([person()]) is None
    assert "reference 2" in unknown_recognizers([person(), person(2, recognizer="")])


def conditioning(adapter, people, **more):
    return WithAnyoneConditioning(adapter, people_tokens(adapter, people, ("arc", "sig")), 0.5, 0.5, **more)


def weights(conditioning, size, shape):
    layout = BatchLayout.of_whole_pictures(1, size, guidance=False)
    return conditioning.weights(layout, shape, shape[0] * shape[1], torch.device("cpu"), 1.0)[0]


def test_some_may_have_boxes_and_others_masks(adapter):
    people = [person(1), person(2)]
    mask = torch.zeros(1, 96, 128)
    mask[:, 16:64, 80:112] = 1
    masks = torch.stack([torch.ones_like(mask), mask])
    mixed = weights(conditioning(adapter, people, boxes=[BOXES[0], None], masks=masks), (12, 16), (6, 8))
    assert torch.equal(mixed, box_weights([BOXES[0], (80, 16, 112, 64)], (128, 96), 48))
    with refused("withanyone-box-thin", "person 2"):
        weights(conditioning(adapter, people, boxes=[None, (0, 0, 8, 8)], masks=masks), (12, 16), (6, 8))
    with refused("withanyone-no-regions"):
        conditioning(adapter, people, boxes=[BOXES[0], None])


def test_the_last_token_of_an_odd_latent_is_filled_up(adapter):
    """120 x 88 px are 15 x 11 latent pixels and 8 x 6 tokens; no token is in a box by half."""
    boxes = [(16, 32, 64, 88), (64, 0, 120, 88)]
    made = weights(conditioning(adapter, [person(1), person(2)], boxes=boxes), (11, 15), (6, 8))
    assert torch.equal(made, box_weights(boxes, (120, 88), 48))


def test_kept_keys_and_values_add_the_same(adapter):
    people = [person(1), person(2)]
    tokens = people_tokens(adapter, people, ("arc", "sig"))
    kept = [
        {branch: adapter.keys_values(block, branch, of_branch) for branch, of_branch in tokens.items()}
        for block in range(adapter.info.blocks)
    ]
    picture = torch.randn(1, 48, adapter.info.width, generator=torch.Generator().manual_seed(0))
    given = (3, picture, BatchLayout.of_whole_pictures(1, (12, 16), guidance=False), (6, 8))
    [(_, _, made)] = conditioning(adapter, people, boxes=BOXES).residual(*given)
    [(_, _, again)] = WithAnyoneConditioning(adapter, {}, 0.5, 0.5, boxes=BOXES, kept=kept).residual(*given)
    assert torch.equal(made, again)
