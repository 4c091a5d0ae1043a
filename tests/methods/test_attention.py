"""Paired attention: one layer, and a whole UNet's prediction, against references written from docs/method.md."""

import math

import pytest
import torch
import torch.nn.functional as F
from support.layouts import random_reference
from support.tiny_pair import inputs, run

pytest.importorskip("diffusers", reason="install it with: pip install diffusers transformers accelerate")

from dhumandiff import testing as tiny
from dhumandiff.conditioning.masks import downsample_masks, resize_masks
from dhumandiff.hosts.diffusers.attention import attach
from dhumandiff.methods.paired.attention import paired_attention, released_attention_map


class ReferenceProcessor:
    """h = text + sum over persons of w_p * Attn(Q, K_p f_p, V_p f_p), a loop over rows and persons.

    weights: [rows, P] or [rows, P, places]. tokens: [rows, P, 16, C], each row's own.
    """

    def __init__(self, layer, tokens, weights):
        self.layer, self.tokens, self.weights = layer, tokens, weights

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        assert attention_mask is None

        def heads(x):
            return x.unflatten(-1, (attn.heads, -1)).transpose(-3, -2)

        rows = []
        for row, hidden in enumerate(hidden_states):
            query = attn.to_q(hidden)
            context = encoder_hidden_states[row]
            parts = [(attn.to_k(context), attn.to_v(context), 1.0)]
            for person, tokens in enumerate(self.tokens[row]):
                weight = self.weights[row, person]
                key, value = (tokens @ getattr(self.layer, f"to_{kind}_ip{person + 1}").weight.T for kind in ("k", "v"))
                parts.append((key, value, weight[:, None] if weight.ndim else weight))
            total = 0
            for key, value, weight in parts:
                out = F.scaled_dot_product_attention(heads(query)[None], heads(key)[None], heads(value)[None])
                total = total + weight * out[0].transpose(0, 1).flatten(1)
            rows.append(total)
        return attn.to_out[0](torch.stack(rows))


def reference_prediction(unet, adapter, people, given, weights, guidance=True):
    """The UNet's prediction with `ReferenceProcessor` everywhere; weights(h, w) -> [rows, P(, h * w)]."""
    rows, size = len(given["sample"]), given["sample"].shape[-2:]
    with torch.no_grad():
        positive = torch.stack([adapter.face_tokens(person)[0] for person in people])
        negative = torch.stack([adapter.unconditional_tokens(person)[0] for person in people])
    negatives = rows // 2 if guidance and rows % 2 == 0 else 0
    tokens = torch.stack([negative if row < negatives else positive for row in range(rows)])
    # Halvings of the latent, as each block of SDXL sees it.
    level = {"down_blocks.1": 1, "down_blocks.2": 2, "up_blocks.0": 2, "up_blocks.1": 1, "mid_block": 2}
    before = dict(unet.attn_processors)
    processors, number = {}, 0
    for name, processor in before.items():
        processors[name] = processor
        if "attn2" in name:
            halvings = next(count for block, count in level.items() if name.startswith(block))
            shape = tuple(math.ceil(side / 2**halvings) for side in size)
            processors[name] = ReferenceProcessor(adapter.attention[number], tokens, weights(*shape))
            number += 1
    assert number == len(adapter.attention)
    unet.set_attn_processor(processors)
    try:
        return run(unet, given)
    finally:
        unet.set_attn_processor(before)


def constant(rows, *strengths):
    return lambda height, width: torch.tensor([strengths] * rows)


def test_one_layer_is_the_sum_of_two_attentions_written_with_loops():
    generator = torch.Generator().manual_seed(0)
    heads, width = 3, 24
    query = torch.randn(2, 10, heads * width, generator=generator)
    keys, values = torch.randn(2, 2, 2, 5, heads * width, generator=generator)
    weights = torch.rand(2, 2, 10, generator=generator)
    term, probabilities = paired_attention(query, keys, values, heads, weights)
    expected = torch.zeros_like(term)
    for row in range(2):
        for place in range(10):
            for head in range(heads):
                own = slice(head * width, (head + 1) * width)
                for person in range(2):
                    scores = torch.stack([query[row, place, own] @ key for key in keys[row, person, :, own]])
                    shares = (scores / math.sqrt(width)).softmax(dim=0)
                    assert torch.allclose(probabilities[row, head, place, person], shares, atol=1e-6)
                    gathered = (shares[:, None] * values[row, person, :, own]).sum(dim=0)
                    expected[row, place, own] += weights[row, person, place] * gathered
    assert (term - expected).abs().max() < 1e-5


def test_one_layer_at_the_sizes_of_sdxl_agrees_with_torch_s_own_attention():
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 256, 1280, generator=generator)
    keys, values = torch.randn(2, 2, 2, 16, 1280, generator=generator)
    term, _ = paired_attention(query, keys, values, 20)
    q, k, v = (x.unflatten(-1, (20, 64)).transpose(-3, -2) for x in (query, keys, values))
    expected = sum(F.scaled_dot_product_attention(q, k[:, p], v[:, p]) for p in range(2))
    assert (term - expected.transpose(1, 2).flatten(2)).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)], ids=["float16", "bfloat16"]
)  # a few roundings: float16 keeps 11 bits, bfloat16 8
def test_one_layer_in_half_precision_stays_near_float32(dtype, tolerance):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 64, 128, generator=generator).to(dtype)
    keys, values = torch.randn(2, 1, 2, 16, 128, generator=generator).to(dtype)
    weights = torch.rand(1, 2, 64, generator=generator)
    near, _ = paired_attention(query, keys, values, 2, weights)
    exact, _ = paired_attention(query.float(), keys.float(), values.float(), 2, weights)
    assert near.dtype == dtype
    assert (near.float() - exact).abs().max() < tolerance * exact.abs().max()


def test_large_activations_do_not_overflow_in_float16():
    query, keys = (
        torch.full((1, 4, 64), 60.0, dtype=torch.float16),
        torch.full((1, 1, 3, 64), 60.0, dtype=torch.float16),
    )
    term, probabilities = paired_attention(query, keys, keys, 1)  # 64 * 60 * 60 is above 65504
    assert term.isfinite().all()
    assert torch.allclose(probabilities, torch.full_like(probabilities, 1 / 3))


def test_the_released_map_is_the_query_times_the_softmax_of_the_keys_over_the_tokens():
    query, keys = torch.randn(1, 6, 8), torch.randn(1, 4, 8)
    seen = released_attention_map(query, keys, heads=2)
    for head in range(2):
        own = slice(4 * head, 4 * head + 4)
        softened = torch.stack([keys[0, :, channel].softmax(dim=0) for channel in range(8)][own])  # [4, tokens]
        assert torch.allclose(seen[0, head], query[0, :, own] @ softened, atol=1e-6)


def test_at_strength_0_the_prediction_is_exactly_the_unpatched_one(unet, adapter, people):
    given = inputs()
    plain = run(unet, given)
    with attach(unet, adapter, people, strength=0.0):
        assert torch.equal(run(unet, given), plain)
    with attach(unet, adapter, people, person_strengths=[0.0, 0.0]):
        assert torch.equal(run(unet, given), plain)


@pytest.mark.parametrize("strength", [0.7, 1.0])
@pytest.mark.parametrize("rows", [1, 2, 3, 6])
def test_the_whole_unet_agrees_with_the_reference(unet, adapter, people, strength, rows):
    given = inputs(rows)
    expected = reference_prediction(unet, adapter, people, given, constant(rows, strength, strength))
    plain = run(unet, given)
    with attach(unet, adapter, people, strength=strength):
        seen = run(unet, given)
    assert (seen - expected).abs().max() < 1e-5
    assert (seen - plain).abs().max() > 1e-2


def test_all_70_layers_of_sdxl_s_layout_agree_with_the_reference(people):
    unet, adapter = tiny.tiny_unet(depth="sdxl"), tiny.tiny_adapter(depth="sdxl")
    given = inputs(2, (8, 8))
    expected = reference_prediction(unet, adapter, people, given, constant(2, 1.0, 1.0))
    seen = {}
    with attach(unet, adapter, people) as attached:
        attached.record = lambda record: seen.update({record.layer: record.is_last})
        assert (run(unet, given) - expected).abs().max() < 1e-5
    assert sorted(seen) == list(range(70))
    # The last layers of two transformers of 2 and two of 10 on the way down, three of 10 and three of 2 up, one of 10 between.
    assert sorted(layer for layer, last in seen.items() if last) == [1, 3, 13, 23, 33, 43, 53, 55, 57, 59, 69]


def test_each_person_has_a_strength_of_their_own(unet, adapter, people):
    given = inputs()
    expected = reference_prediction(unet, adapter, people, given, constant(2, 0.7 * 0.5, 0.7 * 1.5))
    with attach(unet, adapter, people, 0.7, person_strengths=[0.5, 1.5]):
        assert (run(unet, given) - expected).abs().max() < 1e-5


def test_one_person_uses_only_the_first_keys_and_values(unet, adapter, people):
    given = inputs()
    expected = reference_prediction(unet, adapter, people[:1], given, constant(2, 1.0))
    with attach(unet, adapter, people[:1]):
        assert (run(unet, given) - expected).abs().max() < 1e-5


def test_without_guidance_every_row_is_conditional(unet, adapter, people):
    given = inputs(2)
    expected = reference_prediction(unet, adapter, people, given, constant(2, 1.0, 1.0), guidance=False)
    with attach(unet, adapter, people, guidance=False):
        assert (run(unet, given) - expected).abs().max() < 1e-5


def test_the_unconditional_half_reads_no_person(unet, adapter, people):
    given = inputs(2)
    zero = people[0].clip_hidden_zero
    others = [random_reference(adapter.info, seed=seed, clip_tokens=50) for seed in (3, 4)]
    for person in (*people, *others):
        object.__setattr__(person, "clip_hidden_zero", zero)
    with attach(unet, adapter, people):
        first = run(unet, given)
    with attach(unet, adapter, others):
        second = run(unet, given)
    assert torch.allclose(first[0], second[0], atol=1e-6)
    assert not torch.allclose(first[1], second[1], atol=1e-3)


@pytest.mark.parametrize("size", [(24, 16), (16, 24), (14, 10), (13, 17)], ids=["portrait", "landscape", "even", "odd"])
def test_masks_land_where_they_should_on_any_picture_shape(unet, adapter, people, size):
    given = inputs(4, size)
    left = torch.zeros(1, *size)
    left[:, :, : size[1] // 2] = 1
    masks = torch.stack([left, 1 - left])

    def weights(height, width):
        # By hand: each place averages the latent pixels that it covers, wholly or in part.
        out = torch.zeros(2, height, width)
        for y in range(height):
            for x in range(width):
                rows = slice(y * size[0] // height, -(-(y + 1) * size[0] // height))
                columns = slice(x * size[1] // width, -(-(x + 1) * size[1] // width))
                out[:, y, x] = masks[:, 0, rows, columns].mean(dim=(1, 2))
        return out.flatten(1).expand(4, -1, -1)

    expected = reference_prediction(unet, adapter, people, given, weights)
    with attach(unet, adapter, people, masks=masks):
        assert (run(unet, given) - expected).abs().max() < 1e-5


def test_a_mask_for_each_picture_meets_that_picture_in_both_halves(unet, adapter, people):
    given = inputs(4)
    masks = torch.tensor([[1.0, 0.0], [0.25, 0.5]])[:, :, None, None].expand(2, 2, 16, 16)
    rows = torch.tensor([[1.0, 0.25], [0.0, 0.5]] * 2)  # pictures 0 and 1, unconditional and conditional
    expected = reference_prediction(unet, adapter, people, given, lambda height, width: rows)
    with attach(unet, adapter, people, masks=masks):
        assert (run(unet, given) - expected).abs().max() < 1e-5


def test_masks_of_the_picture_s_own_size_are_averaged_not_sampled():
    thin = torch.zeros(1, 1, 128, 128)
    thin[..., 60] = 1  # one pixel wide
    fitted = resize_masks(thin, (16, 16), images=1)
    assert fitted.shape == (1, 1, 16, 16)
    assert fitted[0, 0, :, 7].tolist() == pytest.approx([1 / 8] * 16)
    assert downsample_masks(fitted, (4, 4))[0, 0].sum().item() == pytest.approx(4 / 32)


def test_masks_smaller_than_the_latent_are_enlarged():
    assert resize_masks(torch.ones(2, 1, 4, 4), (16, 16), images=3).shape == (1, 2, 16, 16)
    assert downsample_masks(torch.ones(1, 2, 4, 4), (8, 8)).shape == (1, 2, 64)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 0.04), (torch.float16, 0.01)], ids=["bfloat16", "float16"]
)  # mean error as a share of the mean prediction, over the roundings of 17 layers
def test_a_unet_in_half_precision_stays_near_float32(unet, adapter, people, dtype, tolerance):
    given = inputs()
    with attach(unet, adapter, people):
        exact = run(unet, given)
    halved = tiny.tiny_unet().to(dtype)
    given = {
        name: {k: v.to(dtype) for k, v in value.items()} if isinstance(value, dict) else value
        for name, value in given.items()
    }
    given["sample"], given["encoder_hidden_states"] = (
        given[name].to(dtype) for name in ("sample", "encoder_hidden_states")
    )
    with attach(halved, adapter, people):
        near = run(halved, given)
    assert near.dtype == dtype
    assert (near.float() - exact).abs().mean() < tolerance * exact.abs().mean()


def test_detaching_leaves_no_trace(unet, adapter, people):
    before = dict(unet.attn_processors)
    plain = run(unet, inputs())
    with attach(unet, adapter, people):
        assert not torch.equal(run(unet, inputs()), plain)
    with pytest.raises(RuntimeError, match="shape"), attach(unet, adapter, people):
        run(unet, {**inputs(), "encoder_hidden_states": torch.zeros(2, 77, 5)})  # an error in the middle of a call
    after = unet.attn_processors
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    for module in unet.modules():
        assert not module._forward_pre_hooks
        assert not module._forward_pre_hooks_with_kwargs
        assert not module._forward_hooks
    assert torch.equal(run(unet, inputs()), plain)


def test_detaching_twice_does_nothing_more(unet, adapter, people):
    attached = attach(unet, adapter, people)
    attached.detach()
    attached.detach()
