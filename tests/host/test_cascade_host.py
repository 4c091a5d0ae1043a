"""The cascade in ComfyUI: with any sampler, on any picture shape, beside stock nodes."""

import comfy.model_management
import pytest
import torch
import torch.nn.functional as F
from dhd_pack.dhumandiff.methods.paired.attention_store import AttentionStore
from dhd_pack.dhumandiff.methods.paired.settings import CascadeSettings
from dhd_pack.nodes.comfy.guider import CascadeGuider
from dhd_pack.nodes.comfy.patch import apply_people
from dhd_pack.nodes.sampling import DHDCascadeKSampler
from support import tiny_comfy
from support.refused import refused
from support.sampling import guider, predict, sample, sigma_at

POSITIVE, NEGATIVE = tiny_comfy.conditioning(1), tiny_comfy.conditioning(2)


@pytest.fixture(scope="module")
def paired(model):
    return apply_people(model, tiny_comfy.adapter_patcher(), [tiny_comfy.reference(1), tiny_comfy.reference(2)], 0.3)


def cascade(model, mode="two_strength", scene=0.7, face=1.0, share=0.1, cfg=5.0, positive=POSITIVE, focus=None):
    made = CascadeGuider(model)
    made.set_cascade(CascadeSettings(mode, scene, face, share), focus)
    made.set_conds(positive, NEGATIVE)
    made.set_cfg(cfg)
    return made


def at(model, strength, **options):
    """The same people at a fixed strength, by ComfyUI's own guider."""
    people = [tiny_comfy.reference(1), tiny_comfy.reference(2)]
    return guider(apply_people(model, tiny_comfy.adapter_patcher(), people, strength, **options), POSITIVE, NEGATIVE)


@pytest.mark.parametrize("mode", ["one_pass", "two_strength", "released"])
@pytest.mark.parametrize("shape", [(16, 16), (20, 12), (13, 17)])
def test_equal_strengths_are_a_plain_run_at_that_strength(model, paired, mode, shape):
    run = sample(cascade(paired, mode, scene=0.7, face=0.7), (1, 4, *shape))
    plain = sample(at(model, 0.7), (1, 4, *shape))
    assert torch.allclose(run, plain, atol=1e-3)


def test_a_prediction_is_the_face_s_where_the_focus_is_and_the_scene_s_elsewhere(model, paired):
    picture, sigma = torch.randn(2, 4, 16, 12) * 10, sigma_at(model, 500)
    made = cascade(paired)
    joined = predict(made, picture, sigma)
    scene, face = (predict(at(model, strength), picture, sigma) for strength in (0.7, 1.0))
    assert made.focus.shape == (2, 16, 12)
    assert made.focus.float().mean(dim=(1, 2)).tolist() == pytest.approx([19 / 192] * 2)
    expected = torch.where(made.focus[:, None], face, scene)
    assert (joined - expected).abs().max() / sigma < 1e-3


def test_one_pass_begins_at_the_scene_s_strength_and_goes_on_with_one_for_every_place(model, paired, monkeypatch):
    from dhd_pack.dhumandiff.methods.paired import cascade_modes as listening

    made, maps = cascade(paired, "one_pass", scene=0.2, face=0.9, share=0.25), []
    strength_map = listening.strength_map
    monkeypatch.setattr(listening, "strength_map", lambda *given: maps.append(strength_map(*given)) or maps[-1])
    picture, sigma = torch.randn(2, 4, 16, 12) * 10, sigma_at(model, 500)
    first = predict(made, picture, sigma)
    assert (first - predict(at(model, 0.2), picture, sigma)).abs().max() / sigma < 1e-4
    second = predict(made, picture, sigma, twice=True)
    (field,) = maps
    assert field.shape == (2, 1, 16, 12)
    assert field.amin() < 0.3
    assert field.amax() == pytest.approx(0.9)
    assert (field > 0.9 - 1e-5).float().mean(dim=(1, 2, 3)).tolist() == pytest.approx([0.25] * 2)
    people, both = [tiny_comfy.reference(1), tiny_comfy.reference(2)], [field[:, 0], field[:, 0]]
    masked = apply_people(model, tiny_comfy.adapter_patcher(), people, 1.0, masks=both)
    expected = predict(guider(masked, POSITIVE, NEGATIVE), picture, sigma)
    assert (second - expected).abs().max() / sigma < 1e-4


def test_one_pass_asks_the_model_as_often_as_a_plain_run(model, paired):
    def calls(made):
        count = []
        made.model_options = {
            **made.model_options,
            "model_function_wrapper": lambda apply, args: (
                count.append(len(args["input"])) or apply(args["input"], args["timestep"], **args["c"])
            ),
        }
        sample(made, (1, 4, 12, 12))
        return count

    plain = calls(at(model, 0.7))
    assert plain == [2] * 4  # a negative and a positive in each step
    assert calls(cascade(paired, "one_pass")) == plain
    assert calls(cascade(paired, "two_strength")) == [4] * 4
    assert calls(cascade(paired, "released")) == [2] * 4 + [4] * 4


def test_the_focus_is_heard_in_the_last_layer_of_each_of_sdxl_s_transformers(monkeypatch):
    model = tiny_comfy.model_patcher(depth="sdxl")
    paired = apply_people(model, tiny_comfy.adapter_patcher("sdxl"), [tiny_comfy.reference(1), tiny_comfy.reference(2)])
    seen, take_in = {}, AttentionStore.__call__

    def note(self, record):
        seen[record.layer] = record.is_last
        take_in(self, record)

    monkeypatch.setattr(AttentionStore, "__call__", note)
    sample(cascade(paired, "one_pass"), (1, 4, 8, 8), steps=1)
    assert sorted(seen) == list(range(70))
    assert sorted(layer for layer, last in seen.items() if last) == [1, 3, 13, 23, 33, 43, 53, 55, 57, 59, 69]


@pytest.mark.parametrize("mode", ["one_pass", "two_strength", "released"])
def test_the_same_seed_gives_the_same_picture_twice(paired, mode):
    made = cascade(paired, mode)
    first, focus = sample(made, (1, 4, 16, 16), sampler="euler_ancestral"), made.focus
    second = sample(made, (1, 4, 16, 16), sampler="euler_ancestral")
    assert torch.equal(first, second)
    assert torch.equal(focus, made.focus)


@pytest.mark.parametrize("name", ["dpmpp_2m", "heun", "dpm_2", "dpmpp_sde", "uni_pc", "lcm", "ddim"])
@pytest.mark.parametrize("mode", ["one_pass", "two_strength", "released"])
def test_any_sampler_runs(paired, name, mode):
    out = sample(cascade(paired, mode), (1, 4, 12, 12), steps=3, sampler=name, scheduler="karras")
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("mode", ["one_pass", "two_strength", "released"])
def test_without_guidance_it_runs_too(paired, mode):
    made = cascade(paired, mode, cfg=1.0)
    assert torch.isfinite(sample(made, (1, 4, 12, 12))).all()
    assert made.focus.any()


def test_the_released_mask_is_that_of_the_last_step_s_unconditional_half(model, paired, monkeypatch):
    from dhd_pack.dhumandiff.methods.paired import attention_store as listening
    from dhd_pack.dhumandiff.methods.paired.attention import released_attention_map
    from dhd_pack.dhumandiff.methods.paired.cascade import released_focus_mask

    seen = []
    listen = listening.ReleasedAttentionStore.__call__

    def spy(self, record):
        seen.append(record)
        listen(self, record)

    monkeypatch.setattr(listening.ReleasedAttentionStore, "__call__", spy)
    made = cascade(paired, "released")
    sample(made, (1, 4, 64, 64), steps=2)
    assert len(seen) == 17  # only the last step is heard, once
    row = [sample.is_cond for sample in seen[0].layout.samples].index(False)
    seen.sort(key=lambda record: record.layer)
    maps = [released_attention_map(o.query[row : row + 1], o.keys(row)[:1], o.heads)[0] for o in seen]
    assert torch.equal(made.focus[0], released_focus_mask(maps, size=(64, 64)))


def test_progress_runs_once_from_start_to_end(paired):
    steps = []
    sample(cascade(paired, "released"), (1, 4, 12, 12), callback=lambda step, x0, x, total: steps.append((step, total)))
    assert steps == [(step, 8) for step in range(8)]


def test_an_inpainting_mask_keeps_what_it_covers(paired):
    latent = torch.randn(1, 4, 16, 16)
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 8:] = 1
    for mode in ("one_pass", "two_strength", "released"):
        out = sample(cascade(paired, mode), (1, 4, 16, 16), latent=latent, denoise_mask=mask)
        assert torch.allclose(out[..., :8], latent[..., :8], atol=1e-3)
        assert not torch.allclose(out[..., 8:], latent[..., 8:], atol=1e-1)


def test_an_area_prompt_counts_for_the_focus_where_it_lies(paired):
    area = [[POSITIVE[0][0], {**POSITIVE[0][1], "area": (8, 16, 8, 0), "strength": 1.0}]]
    made = cascade(paired, positive=[*POSITIVE, *area])
    assert torch.isfinite(sample(made, (1, 4, 16, 16))).all()
    only = cascade(paired, positive=area)
    sample(only, (1, 4, 16, 16))
    assert not only.focus[:, :8].any()
    assert only.focus[:, 8:].any()


def test_released_mode_with_nothing_but_areas_says_what_to_choose(paired):
    area = [[POSITIVE[0][0], {**POSITIVE[0][1], "area": (8, 16, 8, 0), "strength": 1.0}]]
    made = CascadeGuider(paired)
    made.set_cascade(CascadeSettings("released"))
    made.set_conds(area, area)
    made.set_cfg(5.0)
    with refused("released-without-mask", "two_strength"):
        sample(made, (1, 4, 16, 16))


def test_person_strengths_multiply_within_the_cascade(model):
    people, adapter = [tiny_comfy.reference(1), tiny_comfy.reference(2)], tiny_comfy.adapter_patcher()
    muted = apply_people(model, adapter, people, person_strengths=(1.0, 0.0))
    alone = apply_people(model, adapter, people[:1])
    a, b = (sample(cascade(m, scene=0.7, face=0.7), (1, 4, 16, 16)) for m in (muted, alone))
    assert torch.allclose(a, b, atol=1e-3)


def test_the_sampler_node_gives_latent_and_mask(paired):
    latent = {"samples": torch.zeros(2, 4, 20, 12)}
    out, focus = DHDCascadeKSampler.execute(
        paired, 7, 3, 5.0, "euler", "normal", POSITIVE, NEGATIVE, latent, 1.0, 0.7, 1.0, 0.1, "two_strength"
    ).args
    assert out["samples"].shape == (2, 4, 20, 12)
    assert focus.shape == (2, 160, 96)
    assert set(focus.unique().tolist()) == {0.0, 1.0}


def test_image_to_image_starts_from_the_picture(paired):
    latent = {"samples": torch.randn(1, 4, 16, 16)}
    near, far = (
        DHDCascadeKSampler.execute(
            paired, 7, 4, 5.0, "euler", "normal", POSITIVE, NEGATIVE, latent, denoise, 0.7, 1.0, 0.1, "two_strength"
        ).args[0]["samples"]
        for denoise in (0.1, 1.0)
    )
    assert (near - latent["samples"]).abs().mean() < (far - latent["samples"]).abs().mean()


def test_a_model_without_people_is_refused(model):
    with refused("cascade-without-people", "Apply Disparity-Aware Conditioning"):
        CascadeGuider(model).set_cascade()


def test_the_focus_is_found_also_when_the_scene_has_no_faces(paired):
    made = cascade(paired, scene=0.0, face=1.0)
    assert torch.isfinite(sample(made, (1, 4, 12, 12))).all()
    assert made.focus.any()


def test_released_mode_without_faces_in_the_scene_says_what_it_needs(paired):
    with refused("released-without-mask", "scene strength is 0"):
        sample(cascade(paired, "released", scene=0.0), (1, 4, 12, 12))


@pytest.mark.parametrize(
    ("options", "named"),
    [({"end": 0.5}, "do not act in the last step"), ({"person_strengths": (0.0, 0.0)}, "All person strengths are 0")],
    ids=str,
)
def test_released_mode_is_refused_before_sampling_when_the_people_do_not_count_at_the_end(
    model, adapter, people, options, named
):
    made = cascade(apply_people(model, adapter, people, **options), "released")
    steps = []
    with refused("released-without-mask", named):
        sample(made, (1, 4, 12, 12), callback=lambda *step: steps.append(step))
    assert steps == []


@pytest.mark.parametrize("name", ["dpm_fast", pytest.param("dpm_adaptive", marks=pytest.mark.slow)])
def test_samplers_with_steps_of_their_own_run_in_released_mode(paired, name):
    made = cascade(paired, "released")
    assert torch.isfinite(sample(made, (1, 4, 8, 8), steps=3, sampler=name)).all()
    assert made.focus.any()


def test_two_pairs_both_count_for_the_released_mask(paired, adapter):
    both = apply_people(paired, adapter, [tiny_comfy.reference(5), tiny_comfy.reference(6)])
    one, two = cascade(paired, "released"), cascade(both, "released")
    sample(two, (1, 4, 16, 16))
    last = cascade(apply_people(paired.parent, adapter, [tiny_comfy.reference(5), tiny_comfy.reference(6)]), "released")
    sample(one, (1, 4, 16, 16))
    sample(last, (1, 4, 16, 16))
    assert not torch.equal(two.focus, one.focus)
    assert not torch.equal(two.focus, last.focus)


def count_rows(made, calls, indices=None):
    """Note the rows of every call of the model, and the indices that other packs are told."""

    def wrapper(apply, args):
        calls.append(len(args["input"]))
        return apply(args["input"], args["timestep"], **args["c"])

    made.model_options = {**made.model_options, "model_function_wrapper": wrapper}
    if indices is not None:
        options = dict(made.model_options["transformer_options"])
        patches = dict(options.get("patches", {}))
        patches["attn2_patch"] = [lambda q, k, v, o: indices.append(tuple(o["cond_or_uncond"])) or (q, k, v)]
        made.model_options["transformer_options"] = {**options, "patches": patches}
    return made


@pytest.mark.parametrize("mode", ["two_strength", "released"])
def test_without_memory_for_both_predictions_they_are_made_one_after_the_other(paired, mode, monkeypatch):
    together, apart = [], []
    plenty = sample(count_rows(cascade(paired, mode), together), (2, 4, 12, 12))
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *_, **__: 0)
    scarce = sample(count_rows(cascade(paired, mode), apart), (2, 4, 12, 12))
    assert max(together) == 8  # two pictures, negative and positive, at two strengths
    assert set(apart) == {2}
    assert torch.allclose(plenty, scarce, atol=1e-3)


@pytest.mark.parametrize("cfg", [1.0, 5.0])
def test_other_packs_see_the_prompts_as_always(paired, cfg):
    indices = []
    sample(count_rows(cascade(paired, cfg=cfg), [], indices), (1, 4, 12, 12), steps=2)
    assert {index for told in indices for index in told} == ({0} if cfg == 1 else {0, 1})


@pytest.mark.parametrize("mode", ["one_pass", "two_strength", "released"])
@pytest.mark.parametrize("size", [(16, 12), (128, 96)], ids=["latent pixels", "pixels"])
def test_a_given_focus_stands_in_for_the_one_that_is_found(model, paired, mode, size):
    left = torch.zeros(1, *size)
    left[..., : size[1] // 2] = 1
    calls, (picture, sigma) = [], (torch.randn(2, 4, 16, 12) * 10, sigma_at(model, 500))
    made = count_rows(cascade(paired, mode, scene=0.2, face=0.9, focus=left), calls)
    seen = predict(made, picture, sigma)
    assert calls == [4 if mode == "one_pass" else 8]  # no run for the mask
    assert torch.equal(made.focus[0], F.interpolate(left[None], (16, 12))[0, 0])
    scene, face = (predict(at(model, strength), picture, sigma) for strength in (0.2, 0.9))
    if mode == "one_pass":
        people = [tiny_comfy.reference(1), tiny_comfy.reference(2)]
        field = 0.2 + 0.7 * made.focus
        masked = apply_people(model, tiny_comfy.adapter_patcher(), people, 1.0, masks=(field, field))
        expected = predict(guider(masked, POSITIVE, NEGATIVE), picture, sigma)
    else:
        expected = torch.cat([face[..., :6], scene[..., 6:]], dim=-1)
    assert (seen - expected).abs().max() / sigma < 1e-4


def test_a_focus_of_another_shape_or_number_is_refused(paired):
    with refused("mask-of-another-shape", "focus mask is 96 x 32", "96 x 128"):
        sample(cascade(paired, focus=torch.ones(1, 32, 96)), (1, 4, 16, 12))
    with refused("mask-count", "3 focus masks for 2"):
        sample(cascade(paired, focus=torch.ones(3, 128, 96)), (2, 4, 16, 12))
    with refused("mask-values", "focus mask"):
        cascade(paired, focus=torch.full((1, 128, 96), 2.0))


def own_cascade(model, scene=0.2, face=0.9, share=0.25, **options):
    """The same people with `cascade` one_pass in Apply Disparity-Aware Conditioning."""
    people = [tiny_comfy.reference(1), tiny_comfy.reference(2)]
    settings = CascadeSettings("one_pass", scene, face, share)
    return apply_people(model, tiny_comfy.adapter_patcher(), people, face, cascade=settings, **options)


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "heun", "dpmpp_2m"])
@pytest.mark.parametrize("focus", [None, torch.eye(12).expand(1, 12, 12)], ids=["found", "given"])
def test_a_pair_with_a_cascade_of_its_own_draws_with_ksampler_what_the_cascade_draws(model, paired, sampler, focus):
    theirs = sample(cascade(paired, "one_pass", 0.2, 0.9, 0.25, focus=focus), (2, 4, 12, 12), sampler=sampler)
    plain = guider(own_cascade(model, focus=focus), POSITIVE, NEGATIVE)
    for _ in range(2):  # nothing of a run stays for the next
        ours = sample(plain, (2, 4, 12, 12), sampler=sampler)
        assert torch.allclose(ours, theirs, atol=1e-4)
    assert not torch.allclose(sample(at(model, 0.9), (2, 4, 12, 12), sampler=sampler), theirs, atol=1e-2)


def test_guidance_that_asks_again_is_not_heard(model, paired):
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    guided = [PerturbedAttentionGuidance.execute(m, 3.0).args[0] for m in (own_cascade(model), paired)]
    ours = sample(guider(guided[0], POSITIVE, NEGATIVE), (1, 4, 12, 12))
    theirs = sample(cascade(guided[1], "one_pass", 0.2, 0.9, 0.25), (1, 4, 12, 12))
    assert torch.allclose(ours, theirs, atol=1e-3)


def test_a_cascade_in_two_places_is_refused(model):
    with refused("cascade-twice"):
        CascadeGuider(own_cascade(model)).set_cascade()


def test_two_pairs_may_each_have_a_cascade_or_not(model, adapter):
    others = [tiny_comfy.reference(5), tiny_comfy.reference(6)]
    both = apply_people(own_cascade(model), adapter, others, 0.5)
    alone = apply_people(model, adapter, others, 0.5)
    people = [tiny_comfy.reference(1), tiny_comfy.reference(2)]
    flat = apply_people(alone, adapter, people, 0.4)
    level = apply_people(own_cascade(model, scene=0.4, face=0.4), adapter, others, 0.5)
    shape = (1, 4, 12, 12)
    assert torch.isfinite(sample(guider(both, POSITIVE, NEGATIVE), shape)).all()
    seen, expected = (sample(guider(m, POSITIVE, NEGATIVE), shape) for m in (level, flat))
    assert torch.allclose(seen, expected, atol=1e-3)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_few_steps_without_guidance_run_and_use_the_focus_from_the_second_step_on(model, paired, steps):
    shape, few = (1, 4, 12, 12), {"steps": steps, "sampler": "lcm", "scheduler": "sgm_uniform"}
    seen = sample(cascade(paired, "one_pass", 0.2, 0.9, cfg=1.0), shape, **few)
    plain = at(model, 0.2)
    plain.set_cfg(1.0)
    same = torch.allclose(seen, sample(plain, shape, **few), atol=1e-3)
    assert same == (steps == 1)
    given = sample(cascade(paired, "one_pass", 0.2, 0.9, cfg=1.0, focus=torch.ones(1, 12, 12)), shape, **few)
    plain = at(model, 0.9)
    plain.set_cfg(1.0)
    assert torch.allclose(given, sample(plain, shape, **few), atol=1e-3)
