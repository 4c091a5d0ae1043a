"""Whole portraits with diffusers on the tiny base, against the same pictures made the long way."""

import numpy as np
import pytest
import torch
from layouts import random_reference, small_adapter

pytest.importorskip("diffusers", reason="install it with: pip install diffusers transformers accelerate")

from dhumandiff import tiny
from dhumandiff.cascade import released_focus_mask
from dhumandiff.errors import HostError
from dhumandiff.focus import FocusMap
from dhumandiff.hosts import diffusers_pipeline
from dhumandiff.hosts.diffusers import attach
from dhumandiff.hosts.diffusers_base import load_pipeline
from dhumandiff.hosts.diffusers_pipeline import NEGATIVE, Portrait
from dhumandiff.hosts.diffusers_text import encode_prompt
from dhumandiff.prompt import parse_prompt

MARKED = "A man@1 and a woman@2 in a garden"
SMALL = {"steps": 3, "size": (64, 96)}


@pytest.fixture(scope="module")
def portrait():
    return Portrait.from_base("tiny", "cpu")


@pytest.fixture(scope="module")
def adapter():
    return tiny.tiny_adapter()


@pytest.fixture(scope="module")
def people(adapter):
    return [random_reference(adapter.info, seed=seed, clip_tokens=50) for seed in (1, 2)]


def far(first, second):
    """Largest difference of two pictures, 0..255."""
    return np.abs(np.asarray(first).astype(int) - np.asarray(second).astype(int)).max()


def noise_at(share):
    """ComfyUI's percent_to_sigma for SDXL's schedule, by hand."""
    if share <= 0 or share >= 1:
        return np.inf if share <= 0 else 0.0
    left = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    return np.exp(np.interp((1 - share) * 999, np.arange(1000), np.log((1 - left) / left) / 2))


class Straightforward:
    """The same picture the long way: one call of the UNet for each row, sigmas by hand, a new attachment each time."""

    def __init__(
        self, portrait, adapter, people, marked=MARKED, negative=NEGATIVE, cfg=5.0, size=(64, 96), steps=3, share=(0, 1)
    ):
        self.first, self.last = map(noise_at, share)
        self.parts, self.adapter, self.people, self.cfg = portrait.pipeline, adapter, people, cfg
        tokenizers = (self.parts.tokenizer, self.parts.tokenizer_2)
        encoders = (self.parts.text_encoder, self.parts.text_encoder_2)
        self.positive = encode_prompt(tokenizers, encoders, parse_prompt(marked), adapter, people)[:2]
        self.negative = encode_prompt(tokenizers, encoders, negative)[:2]
        width, height = size
        self.ids = torch.tensor([[float(height), width, 0, 0, height, width]])
        self.noise = torch.randn(1, 4, height // 8, width // 8, generator=torch.Generator().manual_seed(0))
        scheduler = tiny.tiny_scheduler()
        scheduler.set_timesteps(steps)
        self.sigmas, self.times = scheduler.sigmas, scheduler.timesteps

    def rows(self, strength, x, sigma, t):
        """Predictions of the unconditional and the conditional row, and what the layers saw."""
        out, seen = [], ([], [])
        for role, (embeds, pooled) in enumerate((self.negative, self.positive)):
            with torch.no_grad(), attach(self.parts.unet, self.adapter, self.people, strength) as attached:
                if role == 0:  # a lone row counts as conditional: give it the unconditional tokens
                    attached.tokens = attached.tokens[[0, 0]]
                attached.observe = seen[role].append
                added = {"text_embeds": pooled, "time_ids": self.ids}
                scaled = x / (sigma**2 + 1) ** 0.5
                out.append(self.parts.unet(scaled, t, embeds, added_cond_kwargs=added).sample)
        return *out, seen

    def guided(self, strength, x, sigma, t):
        strength = strength if self.last <= sigma <= self.first else 0.0
        unconditional, conditional, seen = self.rows(strength, x, sigma, t)
        return unconditional + self.cfg * (conditional - unconditional), seen

    def euler(self, predict):
        x = self.noise * (self.sigmas[0] ** 2 + 1) ** 0.5
        for i, t in enumerate(self.times):
            x = x + (self.sigmas[i + 1] - self.sigmas[i]) * predict(x, self.sigmas[i], t)
        return self.decode(x)

    def decode(self, x):
        with torch.no_grad():
            picture = self.parts.vae.decode(x / 0.13025).sample[0]
        return ((picture / 2 + 0.5).clamp(0, 1) * 255).round().permute(1, 2, 0)

    def plain(self, strength):
        return self.euler(lambda *at: self.guided(strength, *at)[0])

    def two_strength(self, scene, face, share):
        focus = FocusMap(1, 2, tuple(self.noise.shape[-2:]))
        masks = []

        def predict(x, sigma, t):
            at_scene, (_, seen) = self.guided(scene, x, sigma, t)
            at_face, (_, seen_at_face) = self.guided(face, x, sigma, t)
            for layer in seen or seen_at_face:
                focus.add(layer.probabilities[0], layer.shape, layer.places[0])
            if not focus.count.any():
                return at_scene
            low, high = focus.maps()[0].amin((1, 2), keepdim=True), focus.maps()[0].amax((1, 2), keepdim=True)
            best = ((focus.maps()[0] - low) / (high - low)).amax(0)
            kept = best.flatten().sort(descending=True).values[round(share * best.numel()) - 1]
            masks.append(best >= kept)
            return torch.where(masks[-1], at_face, at_scene)

        return self.euler(predict), masks

    def released(self, scene, face, share):
        last = []

        def first(x, sigma, t):
            guided, (seen, _) = self.guided(scene, x, sigma, t)
            last[:] = seen
            return guided

        self.euler(first)
        maps = []
        for layer in last:
            query = layer.query[0].unflatten(-1, (layer.heads, -1)).transpose(0, 1)
            key = layer.keys[0, 0].unflatten(-1, (layer.heads, -1)).permute(1, 2, 0)
            maps.append(query @ key.softmax(dim=-1))
        size = tuple(self.noise.shape[-2:])
        mask = released_focus_mask(maps, size, 100 * (1 - share), [layer.shape for layer in last])

        def second(x, sigma, t):
            return torch.where(mask, self.guided(face, x, sigma, t)[0], self.guided(scene, x, sigma, t)[0])

        return self.euler(second), mask


@pytest.mark.parametrize("mode", ["none", "two_strength", "released"])
def test_the_same_seed_gives_the_same_picture_and_another_seed_another(portrait, adapter, people, mode):
    first, focus = portrait.generate(adapter, people, MARKED, mode=mode, **SMALL)
    second, again = portrait.generate(adapter, people, MARKED, mode=mode, **SMALL)
    other, _ = portrait.generate(adapter, people, MARKED, mode=mode, seed=1, **SMALL)
    assert first.size == (64, 96)
    assert first.mode == "RGB"
    assert far(first, second) == 0
    assert far(first, other) > 50
    if mode == "none":
        assert focus is None
    else:
        assert focus.shape == (12, 8)
        assert focus.dtype == torch.bool
        assert torch.equal(focus, again)


def test_at_strength_0_the_picture_is_that_of_diffusers_own_pipeline(portrait, adapter, people):
    ours, _ = portrait.generate(adapter, people, MARKED, mode="none", strength=0.0, **SMALL)
    straight = Straightforward(portrait, adapter, people)
    embeds, pooled = straight.positive
    negative, negative_pooled = straight.negative
    theirs = load_pipeline("tiny", torch.float32)(
        prompt_embeds=embeds,
        pooled_prompt_embeds=pooled,
        negative_prompt_embeds=negative,
        negative_pooled_prompt_embeds=negative_pooled,
        latents=straight.noise.clone(),
        num_inference_steps=3,
        guidance_scale=5.0,
        width=64,
        height=96,
    ).images[0]
    assert far(ours, theirs) <= 1


@pytest.mark.parametrize("strength", [0.7, 1.0])
def test_without_the_cascade_the_picture_is_the_straightforward_one(portrait, adapter, people, strength):
    ours, _ = portrait.generate(adapter, people, MARKED, mode="none", strength=strength, **SMALL)
    expected = Straightforward(portrait, adapter, people)
    assert far(ours, expected.plain(strength)) <= 1
    assert far(ours, expected.plain(0.0)) > 5


def test_the_mode_two_strength_is_the_straightforward_one(portrait, adapter, people):
    settings = {"scene_strength": 0.2, "face_strength": 1.5, "focus_share": 0.25}
    ours, focus = portrait.generate(adapter, people, MARKED, mode="two_strength", **settings, **SMALL)
    expected, masks = Straightforward(portrait, adapter, people).two_strength(0.2, 1.5, 0.25)
    assert len(masks) == 3
    assert torch.equal(focus, masks[-1])
    assert far(ours, expected) <= 1


def test_the_mode_released_is_the_straightforward_one(portrait, adapter, people):
    settings = {"scene_strength": 0.2, "face_strength": 1.5, "focus_share": 0.25}
    ours, focus = portrait.generate(adapter, people, MARKED, mode="released", **settings, **SMALL)
    expected, mask = Straightforward(portrait, adapter, people).released(0.2, 1.5, 0.25)
    assert torch.equal(focus, mask)
    assert far(ours, expected) <= 1


SHARES = {"early": (0.0, 0.5), "late": (0.5, 1.0), "middle": (0.4, 0.8)}


@pytest.mark.parametrize("share", SHARES.values(), ids=SHARES)
def test_the_pair_acts_in_its_share_of_the_noise_only(portrait, adapter, people, share):
    ours, _ = portrait.generate(adapter, people, MARKED, mode="none", start=share[0], end=share[1], **SMALL)
    expected = Straightforward(portrait, adapter, people, share=share)
    assert far(ours, expected.plain(1.0)) <= 1
    whole, _ = portrait.generate(adapter, people, MARKED, mode="none", **SMALL)
    assert far(ours, whole) > 3


@pytest.mark.parametrize("share", SHARES.values(), ids=SHARES)
def test_the_cascade_keeps_to_the_share_too(portrait, adapter, people, share):
    settings = {"scene_strength": 0.2, "face_strength": 1.5, "focus_share": 0.25}
    ours, focus = portrait.generate(adapter, people, MARKED, start=share[0], end=share[1], **settings, **SMALL)
    expected, masks = Straightforward(portrait, adapter, people, share=share).two_strength(0.2, 1.5, 0.25)
    assert torch.equal(focus, masks[-1])
    assert far(ours, expected) <= 1


def test_the_mode_released_may_begin_later(portrait, adapter, people):
    settings = {"scene_strength": 0.2, "face_strength": 1.5, "focus_share": 0.25, "start": 0.5}
    ours, focus = portrait.generate(adapter, people, MARKED, mode="released", **settings, **SMALL)
    expected, mask = Straightforward(portrait, adapter, people, share=(0.5, 1)).released(0.2, 1.5, 0.25)
    assert torch.equal(focus, mask)
    assert far(ours, expected) <= 1


@pytest.mark.parametrize("spacing", ["karras", "trailing"])
def test_a_share_is_one_of_noise_however_the_steps_are_spaced(adapter, people, monkeypatch, spacing):
    portrait = Portrait.from_base("tiny", "cpu")
    change = {"use_karras_sigmas": True} if spacing == "karras" else {"timestep_spacing": "trailing"}
    portrait.scheduler = type(portrait.scheduler).from_config(portrait.scheduler.config, **change)
    pairs, strengths = [], []
    monkeypatch.setattr(diffusers_pipeline, "attach", lambda *given: pairs.append(attach(*given)) or pairs[-1])
    portrait.pipeline.unet.register_forward_pre_hook(lambda *_: strengths.append(pairs[0].strength))
    size, share = (64, 64), {"start": 0.3, "end": 0.7}
    portrait.generate(adapter, people, MARKED, mode="none", cfg=1.0, steps=8, size=size, **share)
    acts = [noise_at(0.7) <= sigma <= noise_at(0.3) for sigma in portrait.scheduler.sigmas[:-1].tolist()]
    assert 0 < sum(acts) < 8
    assert strengths == [1.0 if step else 0.0 for step in acts]


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
    assert unet_calls(portrait, lambda: portrait.generate(adapter, people, MARKED, **late)) == 1 + 2 * 2
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
        ({"masks": torch.ones(2, 3, 96, 64)}, "3 masks of a person for 1 pictures"),
        ({"masks": torch.ones(1, 1, 96, 64)}, "one mask a person"),
        ({"person_strengths": [1.0]}, "1 person strengths for 2 references"),
    ],
)
def test_what_would_fail_after_a_run_is_refused_before_it(portrait, adapter, people, settings, message):
    def generate():
        with pytest.raises(HostError, match=message):
            portrait.generate(adapter, people, MARKED, **settings, **SMALL)

    assert unet_calls(portrait, generate) == 0


def test_without_faces_in_the_scene_the_focus_is_heard_from_the_faces(portrait, adapter, people):
    settings = {"scene_strength": 0.0, "face_strength": 1.5, "focus_share": 0.25}
    ours, focus = portrait.generate(adapter, people, MARKED, **settings, **SMALL)
    expected, masks = Straightforward(portrait, adapter, people).two_strength(0.0, 1.5, 0.25)
    assert torch.equal(focus, masks[-1])
    assert focus.any()
    assert far(ours, expected) <= 1


@pytest.mark.parametrize("mode", ["two_strength", "released"])
def test_with_equal_strengths_the_cascade_is_a_plain_run(portrait, adapter, people, mode):
    ours, _ = portrait.generate(adapter, people, MARKED, mode=mode, scene_strength=0.8, face_strength=0.8, **SMALL)
    plain, _ = portrait.generate(adapter, people, MARKED, mode="none", strength=0.8, **SMALL)
    assert far(ours, plain) <= 1


def test_a_share_of_0_is_the_scene_and_of_1_the_face(portrait, adapter, people):
    for share, strength in ((0.0, 0.7), (1.0, 1.0)):
        ours, focus = portrait.generate(adapter, people, MARKED, focus_share=share, **SMALL)
        plain, _ = portrait.generate(adapter, people, MARKED, mode="none", strength=strength, **SMALL)
        assert focus.float().mean() == share
        assert far(ours, plain) <= 1


@pytest.mark.parametrize("mode", ["none", "two_strength", "released"])
def test_a_cfg_of_1_computes_no_unconditional_half(portrait, adapter, people, mode):
    rows = []
    hook = portrait.pipeline.unet.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append((len(args[0]), len(kwargs["encoder_hidden_states"]))), with_kwargs=True
    )
    try:
        image, _ = portrait.generate(adapter, people, MARKED, cfg=1.0, mode=mode, **SMALL)
        one = portrait.generate(adapter, people, MARKED, "other words", cfg=1.0, mode=mode, **SMALL)[0]
    finally:
        hook.remove()
    assert set(rows) == {(1, 1)}
    assert len(rows) == 2 * 3 * {"none": 1, "two_strength": 2, "released": 3}[mode]
    assert far(image, one) == 0  # the negative prompt is without effect
    if mode == "none":
        expected = Straightforward(portrait, adapter, people, cfg=1.0)
        assert far(image, expected.plain(1.0)) <= 1


@pytest.mark.parametrize(
    ("marked", "negative"),
    [("a man@1 and a woman@2, " + "flowers, " * 60, NEGATIVE), (MARKED, "rain, " * 90), (MARKED, "")],
    ids=["long prompt", "long negative", "empty negative"],
)
def test_prompts_of_unlike_length_go_together(portrait, adapter, people, marked, negative):
    ours, _ = portrait.generate(adapter, people, marked, negative, mode="none", **SMALL)
    expected = Straightforward(portrait, adapter, people, marked, negative)
    assert far(ours, expected.plain(1.0)) <= 1


@pytest.mark.parametrize("size", [(104, 72), (72, 136), (64, 64)])
@pytest.mark.parametrize("mode", ["two_strength", "released"])
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


@pytest.mark.parametrize(("mode", "total"), [("none", 3), ("two_strength", 3), ("released", 6)])
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
        ({"mode": "cheap"}, "modes none, two_strength, released, not 'cheap'"),
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
