"""Portraits with diffusers of every shape, precision and setting, how a run goes and ends, and what is refused."""

import copy

import numpy as np
import pytest
import torch
from support.layouts import small_adapter
from support.portraits import draw
from support.refused import refused
from support.tiny_pair import MARKED, SMALL, far

pytest.importorskip("diffusers", reason="install it with: pip install diffusers transformers accelerate")

from dhumandiff.hosts.diffusers.pipeline import PortraitPipeline
from dhumandiff.prompts import parse_prompt


def unet_calls(portrait, generate):
    """How often the UNet runs in a call."""
    calls = []
    hook = portrait.pipeline.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        generate()
    finally:
        hook.remove()
    return len(calls)


def test_where_the_pair_does_not_act_one_prediction_is_enough(portrait, adapter, people):
    late = {"start": 0.5, **SMALL}  # in two of the three steps
    for mode, calls in (("one_pass", 3), ("two_strength", 1 + 2 * 2)):
        assert (
            unet_calls(portrait, lambda mode=mode: draw(portrait, adapter, people, MARKED, mode=mode, **late)) == calls
        )
    released = {"mode": "released", **late}
    assert unet_calls(portrait, lambda: draw(portrait, adapter, people, MARKED, **released)) == 3 + 1 + 2 * 2


@pytest.mark.parametrize(
    ("settings", "code", "named"),
    [
        ({"start": 0.4, "end": 0.6}, "acts-in-no-step", "3 steps"),
        ({"start": 0.4, "end": 0.6, "mode": "none"}, "acts-in-no-step", "Move start and end apart"),
        ({"start": 0.9995, "mode": "released"}, "released-without-mask", "do not act in the last step"),
        ({"end": 0.9, "mode": "released"}, "released-without-mask", "do not act in the last step"),
        ({"scene_strength": 0.0, "mode": "released"}, "released-without-mask", "The scene strength is 0"),
        ({"person_strengths": [0.0, 0.0], "mode": "released"}, "released-without-mask", "All person strengths are 0"),
        ({"masks": torch.ones(2, 1, 64, 64)}, "mask-of-another-shape", "64 x 64, but the picture is 64 x 96"),
        ({"masks": torch.ones(2, 3, 96, 64)}, "mask-count", "3 person masks for 1 pictures"),
        ({"masks": torch.ones(1, 1, 96, 64)}, "person-mask-shape", "one mask a person"),
        ({"person_strengths": [1.0]}, "person-strength-count", "1 person strengths for 2 references"),
    ],
)
def test_what_would_fail_after_a_run_is_refused_before_it(portrait, adapter, people, settings, code, named):
    def generate():
        with refused(code, named):
            draw(portrait, adapter, people, MARKED, **settings, **SMALL)

    assert unet_calls(portrait, generate) == 0


@pytest.mark.parametrize("size", [(104, 72), (72, 136), (64, 64)])
@pytest.mark.parametrize("mode", ["one_pass", "two_strength", "released"])
def test_any_picture_shape_works(portrait, adapter, people, size, mode):
    image, focus = draw(portrait, adapter, people, MARKED, steps=2, size=size, mode=mode)
    assert image.size == size
    assert focus.shape == (size[1] // 8, size[0] // 8)


def test_masks_and_person_strengths_reach_the_pair(portrait, adapter, people):
    whole, _ = draw(portrait, adapter, people, MARKED, **SMALL)
    full, _ = draw(portrait, adapter, people, MARKED, masks=torch.ones(2, 1, 96, 64), **SMALL)
    assert far(whole, full) <= 1
    one, _ = draw(portrait, adapter, people, MARKED, person_strengths=[1.0, 0.0], **SMALL)
    hidden = torch.stack([torch.ones(1, 96, 64), torch.zeros(1, 96, 64)])
    assert far(whole, one) > 5
    assert far(one, draw(portrait, adapter, people, MARKED, masks=hidden, mode="none", **SMALL)[0]) > 0
    two = draw(portrait, adapter, people, MARKED, person_strengths=[1.0, 0.0], mode="none", **SMALL)[0]
    assert far(two, draw(portrait, adapter, people, MARKED, masks=hidden, mode="none", **SMALL)[0]) <= 1


def test_persons_without_strength_leave_nothing_to_focus_on(portrait, adapter, people):
    image, focus = draw(portrait, adapter, people, MARKED, person_strengths=[0.0, 0.0], **SMALL)
    plain, _ = draw(portrait, adapter, people, MARKED, mode="none", strength=0.0, **SMALL)
    assert focus is None
    assert far(image, plain) == 0


@pytest.mark.parametrize(("mode", "total"), [("none", 3), ("one_pass", 3), ("two_strength", 3), ("released", 6)])
def test_progress_goes_once_from_start_to_end(portrait, adapter, people, mode, total):
    told = []
    draw(portrait, adapter, people, MARKED, mode=mode, progress=lambda *now: told.append(now), **SMALL)
    assert told == [(done, total) for done in range(1, total + 1)]


def test_an_interrupted_run_leaves_the_unet_clean(portrait, adapter, people):
    before = dict(portrait.pipeline.unet.attn_processors)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(portrait, adapter, people, MARKED, progress=stop, **SMALL)
    after = portrait.pipeline.unet.attn_processors
    assert all(after[name] is before[name] for name in before)


def test_one_person_makes_a_portrait_too(portrait, adapter, people):
    image, focus = draw(portrait, adapter, people[:1], "a man@1 in a garden", **SMALL)
    assert image.size == (64, 96)
    assert focus.any()


def test_weights_without_a_subject_path_leave_the_words_as_they_are(portrait, people):
    shared = small_adapter(names=("",), context_width=192, clip_width=64)
    marked, _ = draw(portrait, shared, people, MARKED, **SMALL)
    assert far(marked, draw(portrait, shared, people, parse_prompt(MARKED), **SMALL)[0]) == 0


def test_a_damaged_adapter_is_not_blamed_on_the_base(portrait, adapter, people):
    damaged = copy.deepcopy(adapter)
    damaged.state_dict()["attention.0.to_k_ip1.weight"][0, 0] = float("nan")
    with refused("adapter-not-finite", "attention.0.to_k_ip1.weight"):
        draw(portrait, damaged, people, MARKED, **SMALL)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_runs_from_start_to_end(adapter, people, dtype):
    half = PortraitPipeline.from_base("tiny", "cpu", dtype)
    image, focus = draw(half, adapter, people, MARKED, **SMALL)
    assert half.dtype in (torch.bfloat16, torch.float16)
    assert np.asarray(image).std() > 10
    assert focus.any()


def test_nan_on_the_way_is_told_with_advice(adapter, people):
    broken = PortraitPipeline.from_base("tiny", "cpu")
    broken.pipeline.unet.conv_out.bias.data[0] = float("nan")
    with refused("not-finite", "step 1 of 3", "another dtype"):
        draw(broken, adapter, people, MARKED, **SMALL)
    broken = PortraitPipeline.from_base("tiny", "cpu")
    broken.pipeline.vae.decoder.conv_out.bias.data[0] = float("inf")
    with refused("not-finite", "decoding the picture"):
        draw(broken, adapter, people, MARKED, **SMALL)


@pytest.mark.parametrize(
    ("settings", "code", "named"),
    [
        ({"size": (500, 512)}, "picture-size", "Nearest: 496 x 512"),
        ({"size": (0, 512)}, "picture-size", "0 x 512"),
        ({"steps": 0}, "no-steps", "0 steps"),
        ({"seed": -1}, "seed", "seed is -1"),
        ({"cfg": 0.5}, "out-of-range", "cfg is 0.5; it lies between 1 and 100"),
        ({"cfg": float("nan")}, "out-of-range", "cfg is nan"),
        ({"mode": "cheap"}, "unknown-mode", "modes none, one_pass, two_strength, released, not 'cheap'"),
        ({"strength": -1.0}, "out-of-range", "strength is -1.0; it lies between 0 and 3"),
        ({"scene_strength": 3.5}, "out-of-range", "scene strength is 3.5"),
        ({"person_strengths": [1.0, -1.0]}, "out-of-range", "strength of person 2 is -1.0; it lies between 0 and 3"),
        ({"person_strengths": [float("nan"), 1.0]}, "out-of-range", "strength of person 1 is nan"),
        ({"start": 0.5, "end": 0.5}, "start-not-before-end", "start at 0.5 and end at 0.5"),
        ({"start": 0.8, "end": 0.2}, "start-not-before-end", "start at 0.8 and end at 0.2"),
        ({"start": -0.1}, "start-not-before-end", "start at -0.1"),
        ({"end": 1.1}, "start-not-before-end", "end at 1.1"),
        ({"start": float("nan")}, "start-not-before-end", "start at nan"),
        ({"face_strength": -0.1}, "out-of-range", "face strength is -0.1"),
        ({"focus_fraction": 1.1}, "out-of-range", "focus share is 1.1; it lies between 0 and 1"),
    ],
)
def test_settings_that_make_no_picture_are_refused(portrait, adapter, people, settings, code, named):
    with refused(code, named):
        draw(portrait, adapter, people, MARKED, **settings)


@pytest.fixture
def ancestral():
    """A portrait of its own that adds noise at every step."""
    portrait = PortraitPipeline.from_base("tiny", "cpu")
    portrait.use_sampler("euler_ancestral")
    return portrait


def test_an_ancestral_sampler_draws_another_picture_and_the_same_seed_the_same(portrait, ancestral, adapter, people):
    plain, _ = draw(portrait, adapter, people, MARKED, **SMALL)
    first, _ = draw(ancestral, adapter, people, MARKED, **SMALL)
    again, _ = draw(ancestral, adapter, people, MARKED, **SMALL)
    assert far(first, again) == 0
    assert far(first, plain) > 0


def test_noise_on_the_way_is_the_seed_s_own(ancestral, adapter, people, monkeypatch):
    """And not the noise of the beginning."""
    added = []
    step = type(ancestral.scheduler).step

    def listen(self, *given, generator, **more):
        added.append([one.get_state() for one in generator])
        return step(self, *given, generator=generator, **more)

    monkeypatch.setattr(type(ancestral.scheduler), "step", listen)
    draw(ancestral, adapter, people, MARKED, mode="released", seed=3, steps=2, size=(64, 64))
    (first,), *_ = added
    fresh = torch.Generator()
    fresh.set_state(first)
    begun = ancestral.noise(3, (64, 64))
    assert (torch.randn(begun.shape, generator=fresh) - begun).abs().max() > 1
    assert len(added) == 4
    for one, other in zip(added[:2], added[2:], strict=True):  # both runs meet the same noise
        assert torch.equal(one[0], other[0])


def test_another_sampler_is_refused(portrait):
    with refused("unknown-sampler", "'dpm'", "euler or euler_ancestral"):
        portrait.use_sampler("dpm")


def test_a_scheduler_that_knows_no_generators_still_draws(ancestral, adapter, people):
    from diffusers import DEISMultistepScheduler

    ancestral.scheduler = DEISMultistepScheduler.from_config(ancestral.scheduler.config)
    draw(ancestral, adapter, people, MARKED, mode="none", steps=2, size=(64, 64))
