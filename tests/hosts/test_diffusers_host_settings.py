"""Portraits with diffusers of every shape, precision and setting, how a run goes and ends, and what is refused."""

import numpy as np
import pytest
import torch
from support.layouts import small_adapter
from support.tiny_pair import MARKED, SMALL, far

pytest.importorskip("diffusers", reason="install it with: pip install diffusers transformers accelerate")

from dhumandiff.errors import HostError
from dhumandiff.hosts.diffusers.pipeline import Portrait
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
            unet_calls(portrait, lambda mode=mode: portrait.generate(adapter, people, MARKED, mode=mode, **late))
            == calls
        )
    released = {"mode": "released", **late}
    assert unet_calls(portrait, lambda: portrait.generate(adapter, people, MARKED, **released)) == 3 + 1 + 2 * 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start": 0.4, "end": 0.6}, "None of the 3 steps lies between the pair's start and end"),
        ({"start": 0.4, "end": 0.6, "mode": "none"}, "Move start and end apart, or take more steps"),
        ({"start": 0.9995, "mode": "released"}, "starts after the last of the 3 steps. Choose the mode two_strength"),
        ({"end": 0.9, "mode": "released"}, "The pair ends at 0.9 of sampling. Choose the mode two_strength"),
        ({"scene_strength": 0.0, "mode": "released"}, "there are none. The scene strength is 0. Choose the mode"),
        ({"person_strengths": [0.0, 0.0], "mode": "released"}, "All person strengths are 0. Choose the mode"),
        ({"masks": torch.ones(2, 1, 64, 64)}, "mask is 64 x 64, but the picture is 64 x 96"),
        ({"masks": torch.ones(2, 3, 96, 64)}, "3 person masks for 1 pictures"),
        ({"masks": torch.ones(1, 1, 96, 64)}, "one mask a person"),
        ({"person_strengths": [1.0]}, "1 person strengths for 2 references"),
    ],
)
def test_what_would_fail_after_a_run_is_refused_before_it(portrait, adapter, people, settings, message):
    def generate():
        with pytest.raises(HostError, match=message):
            portrait.generate(adapter, people, MARKED, **settings, **SMALL)

    assert unet_calls(portrait, generate) == 0


@pytest.mark.parametrize("size", [(104, 72), (72, 136), (64, 64)])
@pytest.mark.parametrize("mode", ["one_pass", "two_strength", "released"])
def test_any_picture_shape_works(portrait, adapter, people, size, mode):
    image, focus = portrait.generate(adapter, people, MARKED, steps=2, size=size, mode=mode)
    assert image.size == size
    assert focus.shape == (size[1] // 8, size[0] // 8)


def test_masks_and_person_strengths_reach_the_pair(portrait, adapter, people):
    whole, _ = portrait.generate(adapter, people, MARKED, **SMALL)
    full, _ = portrait.generate(adapter, people, MARKED, masks=torch.ones(2, 1, 96, 64), **SMALL)
    assert far(whole, full) <= 1
    one, _ = portrait.generate(adapter, people, MARKED, person_strengths=[1.0, 0.0], **SMALL)
    hidden = torch.stack([torch.ones(1, 96, 64), torch.zeros(1, 96, 64)])
    assert far(whole, one) > 5
    assert far(one, portrait.generate(adapter, people, MARKED, masks=hidden, mode="none", **SMALL)[0]) > 0
    two = portrait.generate(adapter, people, MARKED, person_strengths=[1.0, 0.0], mode="none", **SMALL)[0]
    assert far(two, portrait.generate(adapter, people, MARKED, masks=hidden, mode="none", **SMALL)[0]) <= 1


def test_persons_without_strength_leave_nothing_to_focus_on(portrait, adapter, people):
    image, focus = portrait.generate(adapter, people, MARKED, person_strengths=[0.0, 0.0], **SMALL)
    plain, _ = portrait.generate(adapter, people, MARKED, mode="none", strength=0.0, **SMALL)
    assert focus is None
    assert far(image, plain) == 0


@pytest.mark.parametrize(("mode", "total"), [("none", 3), ("one_pass", 3), ("two_strength", 3), ("released", 6)])
def test_progress_goes_once_from_start_to_end(portrait, adapter, people, mode, total):
    told = []
    portrait.generate(adapter, people, MARKED, mode=mode, progress=lambda *now: told.append(now), **SMALL)
    assert told == [(done, total) for done in range(1, total + 1)]


def test_an_interrupted_run_leaves_the_unet_clean(portrait, adapter, people):
    before = dict(portrait.pipeline.unet.attn_processors)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        portrait.generate(adapter, people, MARKED, progress=stop, **SMALL)
    after = portrait.pipeline.unet.attn_processors
    assert all(after[name] is before[name] for name in before)


def test_one_person_makes_a_portrait_too(portrait, adapter, people):
    image, focus = portrait.generate(adapter, people[:1], "a man@1 in a garden", **SMALL)
    assert image.size == (64, 96)
    assert focus.any()


def test_weights_without_a_subject_path_leave_the_words_as_they_are(portrait, people):
    shared = small_adapter(names=("",), context_width=192, clip_width=64)
    marked, _ = portrait.generate(shared, people, MARKED, **SMALL)
    assert far(marked, portrait.generate(shared, people, parse_prompt(MARKED), **SMALL)[0]) == 0


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_runs_from_start_to_end(adapter, people, dtype):
    half = Portrait.from_base("tiny", "cpu", dtype)
    image, focus = half.generate(adapter, people, MARKED, **SMALL)
    assert half.dtype in (torch.bfloat16, torch.float16)
    assert np.asarray(image).std() > 10
    assert focus.any()


def test_nan_on_the_way_is_told_with_advice(adapter, people):
    broken = Portrait.from_base("tiny", "cpu")
    broken.pipeline.unet.conv_out.bias.data[0] = float("nan")
    with pytest.raises(HostError, match=r"came out of step 1 of 3. Run the base in another dtype"):
        broken.generate(adapter, people, MARKED, **SMALL)
    broken = Portrait.from_base("tiny", "cpu")
    broken.pipeline.vae.decoder.conv_out.bias.data[0] = float("inf")
    with pytest.raises(HostError, match="came out of decoding the picture"):
        broken.generate(adapter, people, MARKED, **SMALL)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": (500, 512)}, "500 x 512 cannot be made.*Nearest: 496 x 512"),
        ({"size": (0, 512)}, "0 x 512 cannot be made"),
        ({"steps": 0}, "0 steps make no picture"),
        ({"seed": -1}, "seed is -1; it lies between 0 and"),
        ({"cfg": 0.5}, "cfg is 0.5; it lies between 1 and 100"),
        ({"cfg": float("nan")}, "cfg is nan"),
        ({"mode": "cheap"}, "modes none, one_pass, two_strength, released, not 'cheap'"),
        ({"strength": -1.0}, "strength is -1.0; it lies between 0 and 3"),
        ({"scene_strength": 3.5}, "scene strength is 3.5"),
        ({"person_strengths": [1.0, -1.0]}, "strength of person 2 is -1.0; it lies between 0 and 3"),
        ({"person_strengths": [float("nan"), 1.0]}, "strength of person 1 is nan"),
        ({"start": 0.5, "end": 0.5}, "starts at 0.5 and ends at 0.5 of sampling: choose shares from 0 to 1, the start"),
        ({"start": 0.8, "end": 0.2}, "starts at 0.8 and ends at 0.2"),
        ({"start": -0.1}, "starts at -0.1"),
        ({"end": 1.1}, "ends at 1.1"),
        ({"start": float("nan")}, "starts at nan"),
        ({"face_strength": -0.1}, "face strength is -0.1"),
        ({"focus_share": 1.1}, "focus share is 1.1; it lies between 0 and 1"),
    ],
)
def test_settings_that_make_no_picture_are_refused(portrait, adapter, people, settings, message):
    with pytest.raises(HostError, match=message):
        portrait.generate(adapter, people, MARKED, **settings)


@pytest.fixture
def ancestral():
    """A portrait of its own that adds noise at every step."""
    portrait = Portrait.from_base("tiny", "cpu")
    portrait.use_sampler("euler_ancestral")
    return portrait


def test_an_ancestral_sampler_draws_another_picture_and_the_same_seed_the_same(portrait, ancestral, adapter, people):
    plain, _ = portrait.generate(adapter, people, MARKED, **SMALL)
    first, _ = ancestral.generate(adapter, people, MARKED, **SMALL)
    again, _ = ancestral.generate(adapter, people, MARKED, **SMALL)
    assert far(first, again) == 0
    assert far(first, plain) > 0


def test_the_noise_on_the_way_is_that_seed_s_but_not_the_noise_of_the_beginning(
    ancestral, adapter, people, monkeypatch
):
    added = []
    step = type(ancestral.scheduler).step

    def listen(self, *given, generator, **more):
        added.append([one.get_state() for one in generator])
        return step(self, *given, generator=generator, **more)

    monkeypatch.setattr(type(ancestral.scheduler), "step", listen)
    ancestral.generate(adapter, people, MARKED, mode="released", seed=3, steps=2, size=(64, 64))
    (first,), *_ = added
    fresh = torch.Generator()
    fresh.set_state(first)
    begun = ancestral.noise(3, (64, 64))
    assert (torch.randn(begun.shape, generator=fresh) - begun).abs().max() > 1
    assert len(added) == 4
    for one, other in zip(added[:2], added[2:], strict=True):  # both runs meet the same noise
        assert torch.equal(one[0], other[0])


def test_another_sampler_is_refused(portrait):
    with pytest.raises(HostError, match="no sampler 'dpm': choose euler or euler_ancestral"):
        portrait.use_sampler("dpm")


def test_a_scheduler_that_knows_no_generators_still_draws(ancestral, adapter, people):
    from diffusers import DEISMultistepScheduler

    ancestral.scheduler = DEISMultistepScheduler.from_config(ancestral.scheduler.config)
    ancestral.generate(adapter, people, MARKED, mode="none", steps=2, size=(64, 64))
