"""Whole portraits with diffusers on the tiny base, against the same pictures made the long way."""

import pytest
import torch
from support.portraits import draw
from support.tiny_pair import MARKED, SMALL, far

pytest.importorskip("diffusers", reason="install it with: pip install diffusers transformers accelerate")

from support.straightforward import Straightforward, noise_at

from dhumandiff.hosts.diffusers import pipeline as diffusers_pipeline
from dhumandiff.hosts.diffusers.attention import attach
from dhumandiff.hosts.diffusers.loading import load_pipeline
from dhumandiff.hosts.diffusers.pipeline import NEGATIVE, PortraitPipeline


@pytest.mark.parametrize("mode", ["none", "one_pass", "two_strength", "released"])
def test_the_same_seed_gives_the_same_picture_and_another_seed_another(portrait, adapter, people, mode):
    first, focus = draw(portrait, adapter, people, MARKED, mode=mode, **SMALL)
    second, again = draw(portrait, adapter, people, MARKED, mode=mode, **SMALL)
    other, _ = draw(portrait, adapter, people, MARKED, mode=mode, seed=1, **SMALL)
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
    ours, _ = draw(portrait, adapter, people, MARKED, mode="none", strength=0.0, **SMALL)
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
    ours, _ = draw(portrait, adapter, people, MARKED, mode="none", strength=strength, **SMALL)
    expected = Straightforward(portrait, adapter, people)
    assert far(ours, expected.plain(strength)) <= 1
    assert far(ours, expected.plain(0.0)) > 5


def test_the_mode_two_strength_is_the_straightforward_one(portrait, adapter, people):
    settings = {"scene_strength": 0.2, "face_strength": 1.5, "focus_fraction": 0.25}
    ours, focus = draw(portrait, adapter, people, MARKED, mode="two_strength", **settings, **SMALL)
    expected, masks = Straightforward(portrait, adapter, people).two_strength(0.2, 1.5, 0.25)
    assert len(masks) == 3
    assert torch.equal(focus, masks[-1])
    assert far(ours, expected) <= 1


@pytest.mark.parametrize("share", [(0, 1), (0.3, 1)])
def test_the_mode_one_pass_is_the_straightforward_one(portrait, adapter, people, share):
    settings = {"scene_strength": 0.2, "face_strength": 1.5, "focus_fraction": 0.25, "start": share[0]}
    ours, focus = draw(portrait, adapter, people, MARKED, mode="one_pass", **settings, **SMALL)
    expected, mask = Straightforward(portrait, adapter, people, share=share).one_pass(0.2, 1.5, 0.25)
    assert torch.equal(focus, mask)
    assert far(ours, expected) <= 1
    assert far(ours, Straightforward(portrait, adapter, people, share=share).plain(0.2)) > 1


def test_the_mode_released_is_the_straightforward_one(portrait, adapter, people):
    settings = {"scene_strength": 0.2, "face_strength": 1.5, "focus_fraction": 0.25}
    ours, focus = draw(portrait, adapter, people, MARKED, mode="released", **settings, **SMALL)
    expected, mask = Straightforward(portrait, adapter, people).released(0.2, 1.5, 0.25)
    assert torch.equal(focus, mask)
    assert far(ours, expected) <= 1


SHARES = {"early": (0.0, 0.5), "late": (0.5, 1.0), "middle": (0.4, 0.8)}


@pytest.mark.parametrize("share", SHARES.values(), ids=SHARES)
def test_the_pair_acts_in_its_share_of_the_noise_only(portrait, adapter, people, share):
    ours, _ = draw(portrait, adapter, people, MARKED, mode="none", start=share[0], end=share[1], **SMALL)
    expected = Straightforward(portrait, adapter, people, share=share)
    assert far(ours, expected.plain(1.0)) <= 1
    whole, _ = draw(portrait, adapter, people, MARKED, mode="none", **SMALL)
    assert far(ours, whole) > 3


@pytest.mark.parametrize("share", SHARES.values(), ids=SHARES)
def test_the_cascade_keeps_to_the_share_too(portrait, adapter, people, share):
    settings = {"scene_strength": 0.2, "face_strength": 1.5, "focus_fraction": 0.25, "mode": "two_strength"}
    ours, focus = draw(portrait, adapter, people, MARKED, start=share[0], end=share[1], **settings, **SMALL)
    expected, masks = Straightforward(portrait, adapter, people, share=share).two_strength(0.2, 1.5, 0.25)
    assert torch.equal(focus, masks[-1])
    assert far(ours, expected) <= 1


def test_the_mode_released_may_begin_later(portrait, adapter, people):
    settings = {"scene_strength": 0.2, "face_strength": 1.5, "focus_fraction": 0.25, "start": 0.5}
    ours, focus = draw(portrait, adapter, people, MARKED, mode="released", **settings, **SMALL)
    expected, mask = Straightforward(portrait, adapter, people, share=(0.5, 1)).released(0.2, 1.5, 0.25)
    assert torch.equal(focus, mask)
    assert far(ours, expected) <= 1


@pytest.mark.parametrize("spacing", ["karras", "trailing"])
def test_a_share_is_one_of_noise_however_the_steps_are_spaced(adapter, people, monkeypatch, spacing):
    portrait = PortraitPipeline.from_base("tiny", "cpu")
    change = {"use_karras_sigmas": True} if spacing == "karras" else {"timestep_spacing": "trailing"}
    portrait.scheduler = type(portrait.scheduler).from_config(portrait.scheduler.config, **change)
    pairs, strengths = [], []
    monkeypatch.setattr(diffusers_pipeline, "attach", lambda *given: pairs.append(attach(*given)) or pairs[-1])
    portrait.pipeline.unet.register_forward_pre_hook(lambda *_: strengths.append(pairs[0].strength))
    size, share = (64, 64), {"start": 0.3, "end": 0.7}
    draw(portrait, adapter, people, MARKED, mode="none", cfg=1.0, steps=8, size=size, **share)
    acts = [noise_at(0.7) <= sigma <= noise_at(0.3) for sigma in portrait.scheduler.sigmas[:-1].tolist()]
    assert 0 < sum(acts) < 8
    assert strengths == [1.0 if step else 0.0 for step in acts]


def test_without_faces_in_the_scene_the_focus_is_heard_from_the_faces(portrait, adapter, people):
    settings = {"scene_strength": 0.0, "face_strength": 1.5, "focus_fraction": 0.25}
    ours, focus = draw(portrait, adapter, people, MARKED, mode="two_strength", **settings, **SMALL)
    expected, masks = Straightforward(portrait, adapter, people).two_strength(0.0, 1.5, 0.25)
    assert torch.equal(focus, masks[-1])
    assert focus.any()
    assert far(ours, expected) <= 1
    ours, focus = draw(portrait, adapter, people, MARKED, mode="one_pass", **settings, **SMALL)
    expected, mask = Straightforward(portrait, adapter, people).one_pass(0.0, 1.5, 0.25)
    assert torch.equal(focus, mask)
    assert far(ours, expected) <= 1


@pytest.mark.parametrize("mode", ["one_pass", "two_strength", "released"])
def test_with_equal_strengths_the_cascade_is_a_plain_run(portrait, adapter, people, mode):
    ours, _ = draw(portrait, adapter, people, MARKED, mode=mode, scene_strength=0.8, face_strength=0.8, **SMALL)
    plain, _ = draw(portrait, adapter, people, MARKED, mode="none", strength=0.8, **SMALL)
    assert far(ours, plain) <= 1


@pytest.mark.parametrize("mode", ["one_pass", "two_strength"])
def test_a_share_of_0_is_the_scene_and_of_1_the_face(portrait, adapter, people, mode):
    for share, strength in ((0.0, 0.7), (1.0, 1.0)):
        ours, focus = draw(portrait, adapter, people, MARKED, mode=mode, focus_fraction=share, **SMALL)
        plain, _ = draw(portrait, adapter, people, MARKED, mode="none", strength=strength, **SMALL)
        assert focus.float().mean() == share
        assert far(ours, plain) <= 1


@pytest.mark.parametrize("mode", ["none", "one_pass", "two_strength", "released"])
def test_a_cfg_of_1_computes_no_unconditional_half(portrait, adapter, people, mode):
    rows = []
    hook = portrait.pipeline.unet.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append((len(args[0]), len(kwargs["encoder_hidden_states"]))), with_kwargs=True
    )
    try:
        image, _ = draw(portrait, adapter, people, MARKED, cfg=1.0, mode=mode, **SMALL)
        one = draw(portrait, adapter, people, MARKED, "other words", cfg=1.0, mode=mode, **SMALL)[0]
    finally:
        hook.remove()
    assert set(rows) == {(1, 1)}
    assert len(rows) == 2 * 3 * {"none": 1, "one_pass": 1, "two_strength": 2, "released": 3}[mode]
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
    ours, _ = draw(portrait, adapter, people, marked, negative, mode="none", **SMALL)
    expected = Straightforward(portrait, adapter, people, marked, negative)
    assert far(ours, expected.plain(1.0)) <= 1


@pytest.mark.parametrize(("mode", "scene"), [("two_strength", 0.2), ("two_strength", 0.0), ("released", 0.2)])
def test_both_predictions_of_a_step_may_be_made_in_one_call(adapter, people, mode, scene):
    portrait, rows = PortraitPipeline.from_base("tiny", "cpu"), []
    masks = torch.rand(2, 1, 12, 8)
    settings = {"mode": mode, "scene_strength": scene, "face_strength": 1.5, "masks": masks, **SMALL}
    apart, focus = draw(portrait, adapter, people, MARKED, **settings)
    portrait.pipeline.unet.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    portrait.batched = True
    joined, same = draw(portrait, adapter, people, MARKED, **settings)
    assert rows == ([4] * 3 if mode == "two_strength" else [2] * 3 + [4] * 3)
    assert torch.equal(focus, same)
    assert far(apart, joined) <= 1


def test_where_memory_is_short_one_follows_the_other(adapter, people, caplog):
    """And it is said."""
    portrait, rows = PortraitPipeline.from_base("tiny", "cpu"), []
    settings = {"mode": "two_strength", "scene_strength": 0.2, "face_strength": 1.5, **SMALL}
    apart, focus = draw(portrait, adapter, people, MARKED, **settings)
    portrait.batched = True

    def short(module, args):  # half of the layers have been heard by then
        if len(args[0]) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    portrait.pipeline.unet.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    portrait.pipeline.unet.up_blocks[0].register_forward_pre_hook(
        lambda module, args, kwargs: short(module, (kwargs["hidden_states"],)), with_kwargs=True
    )
    with caplog.at_level("INFO"):
        seen, same = draw(portrait, adapter, people, MARKED, **settings)
    assert rows == [4, 2, 2, 2, 2, 2, 2]
    assert "one after the other" in caplog.text
    assert torch.equal(focus, same)
    assert far(apart, seen) <= 1


@pytest.mark.parametrize("mode", ["one_pass", "two_strength", "released"])
def test_a_given_focus_stands_in_for_the_one_that_is_found(portrait, adapter, people, mode):
    settings = {"mode": mode, "scene_strength": 0.2, "face_strength": 1.5, **SMALL}
    steps = []
    for value, strength in ((0.0, 0.2), (1.0, 1.5)):
        given = torch.full((1, 96, 64), value)
        ours, focus = draw(
            portrait, adapter, people, MARKED, focus=given, progress=lambda *told: steps.append(told), **settings
        )
        plain, _ = draw(portrait, adapter, people, MARKED, mode="none", strength=strength, **SMALL)
        assert far(ours, plain) <= 1
        assert torch.equal(focus, torch.full((12, 8), value))
    assert steps == [(1, 3), (2, 3), (3, 3)] * 2  # no run for the mask
