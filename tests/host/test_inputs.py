"""What links bring to inputs when a node runs: what is certain is taken, everything else is refused by its name."""

import pytest
import torch
from dhd_pack.dhumandiff.errors import HostError, ImageError
from dhd_pack.nodes.comfy.parts2whole import encode_part
from dhd_pack.nodes.comfy.sampling import sample_like_ksampler
from dhd_pack.nodes.layout import DHDPortraitLayout
from dhd_pack.nodes.prompt import DHDSentences
from dhd_pack.nodes.references import DHDSwapPersons
from dhd_pack.nodes.withanyone import DHDApplyWithAnyone
from support.refused import refused

LAYOUT = {"preset": "custom", "boxes": "0 0 0.5 1; 0.5 0 1 1", "width": 64, "height": 64}


def test_what_is_certain_is_taken():
    plain = DHDPortraitLayout.execute(**LAYOUT).result[0]
    linked = DHDPortraitLayout.execute(**{**LAYOUT, "width": 64.0}, feather=None, latent=None, background=None).result[
        0
    ]
    assert torch.equal(plain, linked)
    assert DHDSentences.execute("a man", before=None).result == (["a man"],)
    assert DHDSwapPersons.execute("one", "two", 1).result == ("two", "one")


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("width", "64", "a whole number"),
        ("width", 64.5, "a whole number"),
        ("width", 10**30, "a whole number"),
        ("feather", "soft", "a number"),
        ("feather", float("nan"), "a number"),
        ("boxes", 7, "a text"),
        ("background", [1], "an IMAGE"),
        ("latent", {}, "a LATENT"),
        ("latent", {"samples": torch.zeros(1, 4, 8, 8), "batch_index": ["x"]}, "a LATENT"),
    ],
)
def test_everything_else_is_refused_by_name(name, value, wanted):
    with refused("input-of-another-kind", name, wanted, error=HostError):
        DHDPortraitLayout.execute(**{**LAYOUT, name: value})


def test_a_text_is_no_switch():
    with refused("input-of-another-kind", "swap", "true or false", error=HostError):
        DHDSwapPersons.execute("one", "two", "no")


@pytest.mark.parametrize(
    ("changed", "code", "named"),
    [
        ({"steps": 10**9}, "steps-out-of-range", "1000000000"),
        ({"steps": -1}, "steps-out-of-range", "-1"),
        ({"latent_image": {"samples": torch.ones(1, 16, 8, 8)}}, "latent-of-another-model", "[1, 16, 8, 8]"),
        (
            {"latent_image": {"samples": torch.ones(1, 4, 2, 8, 8)}},
            "latent-of-another-model",
            "[pictures, 4, height, width]",
        ),
        ({"latent_image": {"samples": torch.zeros(0, 4, 8, 8)}}, "latent-of-another-model", "[0, 4, 8, 8]"),
    ],
)
def test_what_the_sampler_cannot_begin_with_is_refused(model, changed, code, named):
    given = {"latent_image": {"samples": torch.zeros(1, 4, 8, 8)}, "steps": 1, **changed}
    words = {"seed": 0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    with refused(code, named, error=HostError):
        sample_like_ksampler(None, model, given.pop("latent_image"), **words, **given)


def test_inputs_that_a_node_takes_together_are_looked_at_too():
    with refused("input-of-another-kind", "mask_2", "a MASK", error=HostError):
        DHDApplyWithAnyone.execute(None, None, None, 0.5, 1.0, mask_2="left")


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"size": (0, 64)}, "part-size"),
        ({"size": (64, 10**6)}, "part-size"),
        ({"mask": torch.ones(1, 8, 8, 1)}, "no-mask"),
        ({"mask": torch.full((1, 8, 8), float("nan"))}, "mask-values"),
    ],
)
def test_what_is_no_size_or_mask_of_a_part_is_refused(changed, code):
    with refused(code, error=ImageError):
        encode_part(
            None, torch.rand(1, 8, 8, 3), "face", **{"size": (64, 64), **changed}, clip=None, vae=None, clip_vision=None
        )
