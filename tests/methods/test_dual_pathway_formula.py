"""The dual pathway against a version written from the description of the method: one layer, and a whole UNet's prediction."""

import pytest
import torch
from support.independent_dual_pathway import dual_by_formula
from support.tiny_dual import halves, tiny_dual
from support.tiny_pair import inputs, run, two_people

pytest.importorskip("diffusers", reason="install it with: pip install diffusers transformers accelerate")

from dhumandiff import testing as tiny
from dhumandiff.hosts.diffusers.attention import PairedProcessor, cross_attention_layers
from dhumandiff.hosts.diffusers.dual_pathway import attach_dual
from dhumandiff.methods.dual_pathway import DualPathway, DualPathwaySettings

SIZES = [(16, 16), (24, 8), (8, 32)]
"""Latents of several shapes, (height, width)."""

PARTS = {
    "untrained": {"tca": False, "gates": False, "router": False},
    "trained": {"gates": False, "router": False},
    "gates alone": {"tca": False, "router": False},
    "all": {},
}


@pytest.fixture(scope="module")
def unet():
    return tiny.tiny_unet()


@pytest.fixture(scope="module")
def adapter():
    return tiny.tiny_adapter()


@pytest.fixture(scope="module")
def people(adapter):
    return two_people(adapter)


def soft_regions(size, seed=0):
    """Regions that overlap and have any values."""
    return torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(seed))


def both(unet, dual, people, size, masks, own=None, layer=None, **settings):
    """Our prediction and the independent one, of the UNet or of one of its layers."""
    settings = DualPathwaySettings(**settings)
    given = inputs(size=size, rows=2, tokens=9)
    by_formula = {
        "identity_strength": settings.identity_strength,
        "text_strength": settings.text_strength,
        "regions": None if masks is None else masks[:, 0],
        "own": own,
        "feather": round(settings.feather / 8),
        "route": settings.regions == "router",
        "hard": settings.hard_routes,
    }
    with attach_dual(unet, dual, people, settings, own, masks) as attached:
        attached.size = size
        ours = run(unet, given) if layer is None else run_layer(unet, layer, given)
    with dual_by_formula(unet, dual, people, [False, True], **by_formula):
        expected = run(unet, given) if layer is None else run_layer(unet, layer, given)
    return ours, expected


def run_layer(unet, number, given):
    """The output of one cross-attention layer for random hidden states."""
    name, module = cross_attention_layers(unet)[number]
    level = 1 if name.startswith(("down_blocks.1", "up_blocks.1")) else 2
    positions = given["sample"][0, 0].numel() // 4**level
    hidden = torch.randn(2, positions, module.inner_dim, generator=torch.Generator().manual_seed(number))
    if isinstance(module.processor, PairedProcessor):
        module.processor.conditioning._layout = None
    with torch.no_grad():
        return module(hidden, given["encoder_hidden_states"])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_a_layer_is_that_of_the_formula(unet, adapter, people, parts, size):
    dual = tiny_dual(adapter, **parts)
    for layer in (0, 5, 16):
        ours, expected = both(unet, dual, people, size, soft_regions(size), layer=layer, feather=8, text_strength=0.3)
        assert (ours - expected).abs().max() < 1e-5


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_a_prediction_is_that_of_the_formula(unet, adapter, people, parts):
    dual = tiny_dual(adapter, **parts)
    settings = {"identity_strength": 1.2, "text_strength": 0.3, "feather": 16}
    ours, expected = both(unet, dual, people, (16, 16), halves(), own=[0.9, 1.1], **settings)
    assert (ours - expected).abs().max() < 1e-5
    assert (ours - run(unet, inputs(size=(16, 16), rows=2, tokens=9))).abs().max() > 1e-2


@pytest.mark.parametrize("size", SIZES)
def test_a_prediction_of_any_shape_is_that_of_the_formula(unet, adapter, people, size):
    ours, expected = both(unet, DualPathway(adapter), people, size, soft_regions(size, seed=1))
    assert (ours - expected).abs().max() < 1e-5


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_a_routed_prediction_is_that_of_the_formula(unet, adapter, people, hard, given):
    masks = halves() if given else None
    dual = tiny_dual(adapter, seed=3)
    ours, expected = both(unet, dual, people, (16, 16), masks, regions="router", hard_routes=hard, feather=0)
    assert (ours - expected).abs().max() < 1e-5
