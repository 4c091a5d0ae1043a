"""What a whole FLUX predicts with WithAnyone in ComfyUI, against a second version of both."""

import comfy.ldm.flux.math
import comfy.ldm.modules.attention as attention
import pytest
import torch
from dhd_pack.nodes.comfy.flux_patch import apply_withanyone
from support import tiny_flux, tiny_withanyone
from support.sampling import guider, predict

PROMPT = tiny_flux.conditioning(1)
PEOPLE = [tiny_withanyone.person(seed) for seed in (1, 2, 3, 4)]
SIGMA = torch.tensor(0.7)
BOXES = tiny_withanyone.BOXES


@pytest.fixture(scope="module")
def flux():
    return tiny_flux.model_patcher()


@pytest.fixture(scope="module")
def weights():
    return tiny_withanyone.adapter()


def run(model, picture, prompt=PROMPT, negative=None, cfg=1.0):
    return predict(guider(model, prompt, negative, cfg), picture, SIGMA)


def applied(flux, weights, count=2, where="overlapping", form=0.5, **more):
    boxes = tiny_withanyone.bounding_boxes(BOXES[where][:count])
    return apply_withanyone(flux, weights, PEOPLE[:count], form, boxes=boxes, **more)


CASES = [
    *((where, 2, form) for where in BOXES for form in (0.0, 0.5, 1.0)),
    *(("overlapping", count, 0.5) for count in (1, 3, 4)),
    ("off the grid", 4, 0.25),
]


@pytest.mark.parametrize(("where", "count", "form"), CASES)
def test_predictions_equal_the_independent_version(flux, weights, where, count, form):
    picture = tiny_flux.picture()
    got = run(applied(flux, weights, count, where, form), picture)
    given = (PROMPT, PEOPLE[:count], BOXES[where][:count], form)
    assert (got - tiny_withanyone.expected(flux, picture, SIGMA, *given)).abs().max() < 1e-5
    assert (got - run(flux, picture)).abs().max() > 0.02


def test_all_blocks_of_flux_count():
    flux, weights = tiny_flux.model_patcher("flux"), tiny_withanyone.adapter("flux")
    picture = tiny_flux.picture(12, 20)
    boxes = [(0, 0, 64, 64), (60, 30, 160, 96)]
    got = run(apply_withanyone(flux, weights, PEOPLE[:2], boxes=tiny_withanyone.bounding_boxes(boxes)), picture)
    expected = tiny_withanyone.expected(flux, picture, SIGMA, PROMPT, PEOPLE[:2], boxes, depth="flux")
    assert (got - expected).abs().max() < 1e-5


def test_strengths_of_persons_and_soft_masks(flux, weights):
    picture = tiny_flux.picture()
    boxes = BOXES["overlapping"][:2]
    got = run(applied(flux, weights, person_strengths=(0.5, 1.25), strength=0.8), picture)
    given = (flux, picture, SIGMA, PROMPT, PEOPLE[:2], boxes)
    assert (got - tiny_withanyone.expected(*given, strengths=(0.4, 1.0))).abs().max() < 1e-5

    soft = torch.rand(2, 12, 10, generator=torch.Generator().manual_seed(4)) * (torch.rand(2, 12, 10) > 0.4)
    masks = [mask[None].repeat_interleave(16, 1).repeat_interleave(16, 2) for mask in soft]
    got = run(apply_withanyone(flux, weights, PEOPLE[:2], masks=masks), picture)
    assert (got - tiny_withanyone.expected(*given, masks=soft.flatten(1))).abs().max() < 1e-5


def test_at_weight_zero_the_prediction_is_exactly_the_model_s_own(flux, weights):
    picture = tiny_flux.picture()
    plain = run(flux, picture)
    for patched in (
        applied(flux, weights, strength=0.0),
        applied(flux, weights, person_strengths=(0.0, 0.0)),
        applied(flux, weights, start=0.9),
    ):
        assert torch.equal(run(patched, picture), plain)
    assert torch.equal(run(flux, picture), plain)  # nor has the model changed that was given


def test_kontext_s_reference_pictures_and_longer_texts_shift_nothing(flux, weights):
    picture = tiny_flux.picture()
    latents = [tiny_flux.picture(16, 12, seed=8), tiny_flux.picture(8, 12, seed=9)]
    prompt = tiny_flux.conditioning(3, tokens=67, guidance=2.5, references=latents)
    seen = [flux.model.process_latent_in(latent) for latent in latents]
    for where in BOXES:
        got = run(applied(flux, weights, where=where), picture, prompt)
        given = (prompt, PEOPLE[:2], BOXES[where][:2])
        expected = tiny_withanyone.expected(flux, picture, SIGMA, *given, seen=seen)
        assert (got - expected).abs().max() < 1e-5


def test_text_that_another_node_lengthens_shifts_nothing(flux, weights):
    """Styles put tokens before the text; here its own first five once more."""

    def lengthen(args):
        longer = {name: torch.cat([args[name][:, :5], args[name]], dim=1) for name in ("txt", "txt_ids")}
        return {**args, **longer}

    styled = flux.clone()
    styled.set_model_patch(lengthen, "post_input")
    picture = tiny_flux.picture()
    [[text, more]] = PROMPT
    longer = [[torch.cat([text[:, :5], text], dim=1), more]]
    expected = tiny_withanyone.expected(flux, picture, SIGMA, longer, PEOPLE[:2], BOXES["overlapping"][:2])
    assert (run(applied(styled, weights), picture) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["attention_split", "attention_sub_quad", "attention_pytorch"])
def test_every_attention_of_comfyui_gives_the_same(monkeypatch, flux, weights, kind):
    """Where a row is masked altogether, some of them give 0 and others somebody's face: no such row is computed."""
    monkeypatch.setattr(comfy.ldm.flux.math, "optimized_attention", getattr(attention, kind))
    picture = tiny_flux.picture()
    for where in BOXES:
        given = (PROMPT, PEOPLE[:2], BOXES[where][:2])
        expected = tiny_withanyone.expected(flux, picture, SIGMA, *given)
        assert (run(applied(flux, weights, where=where), picture) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(
    ("dtype", "storage"),
    [
        (torch.bfloat16, None),
        (torch.float16, None),
        (torch.bfloat16, torch.float8_e4m3fn),
        (torch.float16, torch.float8_e5m2),
    ],
)
def test_in_other_precisions_the_error_is_the_model_s_own(flux, precision, dtype, storage):
    """Root mean square: at most a thirtieth more than plain FLUX has in these types."""
    model, weights = tiny_flux.model_patcher(dtype=dtype, storage=storage), tiny_withanyone.adapter(precision=precision)
    picture, boxes = tiny_flux.picture(), BOXES["overlapping"][:2]
    exact = tiny_withanyone.expected(flux, picture, SIGMA, PROMPT, PEOPLE[:2], boxes, strengths=(3, 3))
    got = run(applied(model, weights, strength=3.0), picture)
    own = _size(run(model, picture) - run(flux, picture))
    assert _size(exact - run(flux, picture)) > 0.1
    assert _size(got - exact) < own * 1.03 + 1e-3


def _size(difference):
    return float(difference.square().mean().sqrt())
