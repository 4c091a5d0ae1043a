"""How a batch is made up is known, not assumed: windows, caches, wrappers, and regions of other nodes."""

import uuid

import comfy.context_windows as cw
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_advanced_samplers import SamplerLCMUpscale
from comfy_extras.nodes_custom_sampler import Guider_DualCFG
from comfy_extras.nodes_easycache import EasyCacheNode
from dhd_pack.dhumandiff.methods.paired import cascade_modes
from dhd_pack.dhumandiff.methods.paired.settings import CascadeSettings
from dhd_pack.nodes.comfy.guider import CascadeGuider
from dhd_pack.nodes.comfy.patch import apply_people
from support import tiny_comfy
from support.refused import refused
from support.sampling import guider, predict, sample, sigma_at

POSITIVE, NEGATIVE = tiny_comfy.conditioning(1), tiny_comfy.conditioning(2)


@pytest.fixture(scope="module")
def paired(model, adapter, people):
    return apply_people(model, adapter, people)


def cascade(model, mode, scene=0.2, share=0.1):
    made = CascadeGuider(model)
    made.set_cascade(CascadeSettings(mode, scene, 1.0, share))
    made.set_conds(POSITIVE, NEGATIVE)
    made.set_cfg(5.0)
    return made


# --- caches that keep something for each id of a conditioning ---------------------------------------------------------


@pytest.mark.parametrize("mode", ["two_strength", "released"])
def test_a_cache_keeps_the_predictions_of_both_strengths_apart(paired, mode, monkeypatch):
    cached = EasyCacheNode.execute(paired, 0.2, 0.15, 0.95, False).result[0]
    apart, blend = [], cascade_modes.blend

    def looked_at(scene, face, mask):
        apart.append(float((scene - face).abs().max()))
        return blend(scene, face, mask)

    monkeypatch.setattr(cascade_modes, "blend", looked_at)
    sample(cascade(cached, mode), (1, 4, 16, 16), steps=12)
    assert apart
    assert min(apart) > 0


# --- windows over a batch, or over the picture ------------------------------------------------------------------------


def windows(model, dim=0, length=3, overlap=1, schedule="standard_static"):
    """What Context Windows (Manual) does."""
    made = model.clone()
    made.model_options["context_handler"] = cw.IndexListContextHandler(
        cw.get_matching_context_schedule(schedule), cw.get_matching_fuse_method("pyramid"), length, overlap, dim=dim
    )
    return made


def drawn(model, shape=(4, 4, 16, 16)):
    return sample(guider(model, POSITIVE, NEGATIVE), shape, steps=2)


def masks(images=1):
    """Left and right, the other way round in every other picture."""
    left = torch.zeros(images, 16, 16)
    left[0::2, :, :8] = left[1::2, :, 8:] = 1
    return left, 1 - left


@pytest.mark.parametrize("length", [3, 1])
@pytest.mark.parametrize("mask_images", [0, 4])
def test_windows_over_a_batch_draw_what_the_whole_batch_draws(model, adapter, people, length, mask_images):
    given = masks(mask_images) if mask_images else ()
    pair = apply_people(model, adapter, people, masks=given)
    assert torch.allclose(drawn(windows(pair, length=length, overlap=0 if length == 1 else 1)), drawn(pair), atol=1e-3)


def test_windows_over_pictures_of_one_noise_get_each_picture_s_masks(model, adapter, people):
    pair = apply_people(model, adapter, people, masks=masks(4))
    picture = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)).repeat(4, 1, 1, 1) * 10
    one, all_ = (
        predict(guider(made, POSITIVE, NEGATIVE), picture, sigma_at(model, 500))
        for made in (windows(pair, length=2), pair)
    )
    assert torch.allclose(one, all_, atol=1e-3)


@pytest.mark.parametrize("mode", ["one_pass", "two_strength", "released"])
def test_the_cascade_hears_every_window_and_draws_what_the_whole_batch_draws(paired, mode):
    apart, whole = cascade(windows(paired), mode, 0.3), cascade(paired, mode, 0.3)
    pictures = [sample(made, (4, 4, 16, 16), steps=2) for made in (apart, whole)]
    assert (apart.focus.flatten(1).sum(1) > 0).all()
    assert torch.equal(apart.focus, whole.focus)
    assert (pictures[0] - pictures[1]).abs().mean() < 0.01  # rounding may move a pixel at the focus's edge


def test_people_with_a_cascade_of_their_own_hear_every_window(model, adapter, people):
    pair = apply_people(model, adapter, people, cascade=CascadeSettings("one_pass", 0.3, 1.0, 0.1))
    assert torch.allclose(drawn(windows(pair)), drawn(pair), atol=1e-2)


@pytest.mark.parametrize(("dim", "mode"), [(2, "one_pass"), (3, "two_strength")])
def test_windows_over_the_picture_know_their_piece_of_masks_and_focus(model, adapter, people, dim, mode):
    cut = windows(apply_people(model, adapter, people, masks=masks()), dim, 10, 4)
    made = cascade(cut, mode)
    assert torch.isfinite(sample(made, (1, 4, 16, 16), steps=2)).all()
    assert made.focus.any()
    with refused("released-without-mask", "context windows"):
        sample(cascade(cut, "released"), (1, 4, 16, 16))


# --- regional prompts inside of the attention -------------------------------------------------------------------------


def coupled(model, copies=lambda kind: 1 if kind else 2, changed=lambda q: q):
    """What attention couple does: samples once for each region, then joined again."""

    def before(q, k, v, extra):
        kinds = extra["cond_or_uncond"]
        n = len(q) // len(kinds)
        rows = [i * n + row for i, kind in enumerate(kinds) for _ in range(copies(kind)) for row in range(n)]
        return changed(q[rows]), k[rows], v[rows]

    def after(out, extra):
        kinds = extra["cond_or_uncond"]
        parts = iter(out.split(len(out) // sum(map(copies, kinds))))
        return torch.cat([sum(next(parts) for _ in range(copies(kind))) / copies(kind) for kind in kinds])

    made = model.clone()
    made.set_model_attn2_patch(before)
    made.set_model_attn2_output_patch(after)
    return made


@pytest.mark.parametrize("copies", [lambda kind: 1 if kind else 2, lambda kind: 3 if kind else 1, lambda kind: 2])
def test_regions_inside_of_the_attention_draw_the_faces_of_their_prompt(model, adapter, people, copies):
    pair = apply_people(model, adapter, people, masks=masks())
    shape = (2, 4, 16, 16)
    assert torch.allclose(drawn(coupled(pair, copies), shape), drawn(pair, shape), atol=1e-3)


@pytest.mark.parametrize("mode", ["one_pass", "two_strength", "released"])
def test_the_cascade_draws_regions_inside_of_the_attention(paired, mode):
    pictures = [sample(cascade(made, mode), (1, 4, 16, 16), steps=2) for made in (coupled(paired), paired)]
    assert (pictures[0] - pictures[1]).abs().mean() < 0.01


def test_samples_of_the_attention_that_cannot_be_told_are_refused(paired):
    with refused("repeated-attention", "areas"):
        drawn(coupled(paired, changed=lambda q: q + torch.arange(len(q))[:, None, None]), (1, 4, 16, 16))


# --- latents that grow while they are sampled -------------------------------------------------------------------------


def grown(made, steps=4):
    model = made.model_patcher
    sampler = SamplerLCMUpscale.execute(1.5, 2, "bislerp").result[0]
    sigmas = comfy.samplers.KSampler(
        model, steps, model.load_device, "euler", "normal", 1.0, model.model_options
    ).sigmas
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    return made.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=0)


@pytest.mark.parametrize("mode", ["one_pass", "two_strength", "released"])
@pytest.mark.parametrize("provided", [False, True])
def test_the_focus_grows_with_the_latent(paired, mode, provided):
    made = cascade(paired, mode)
    if provided:
        made.set_cascade(made.settings, masks()[0])
    assert grown(made).shape[-2:] == (24, 24)
    assert made.focus.shape == (1, 24, 24)
    assert made.focus.any()


def test_people_with_a_cascade_of_their_own_grow_with_the_latent(model, adapter, people):
    pair = apply_people(model, adapter, people, masks=masks(), cascade=CascadeSettings("one_pass", 0.3, 1.0, 0.1))
    assert grown(guider(pair, POSITIVE, NEGATIVE)).shape[-2:] == (24, 24)


# --- wrappers that call the model for one prompt after the other ------------------------------------------------------


@pytest.mark.parametrize("cut", [("cond_or_uncond",), ("cond_or_uncond", "uuids"), ()])
def test_a_wrapper_that_splits_a_call_gets_each_prompt_s_faces_or_a_sentence(paired, cut):
    def one_by_one(apply_model, args):
        x, t, c = args["input"], args["timestep"], args["c"]
        count, outs = len(args["cond_or_uncond"]), []
        for number in range(count):

            def part(value, number=number):
                return value.chunk(count)[number] if torch.is_tensor(value) else value

            options = dict(c["transformer_options"])
            options.update({key: options[key][number : number + 1] for key in cut})
            given = {key: part(value) for key, value in c.items()} | {"transformer_options": options}
            outs.append(apply_model(part(x), part(t), **given))
        return torch.cat(outs)

    split = paired.clone()
    split.set_model_unet_function_wrapper(one_by_one)
    shape = (2, 4, 16, 16)
    if cut:
        assert torch.allclose(drawn(split, shape), drawn(paired, shape), atol=1e-3)
    else:
        with refused("unknown-batch"):
            drawn(split, shape)


def test_a_wrapper_that_names_prompts_that_nobody_asked_for_is_refused(paired):
    def renumbered(apply_model, args):
        options = {**args["c"]["transformer_options"], "cond_or_uncond": [7]}
        parts = [
            apply_model(x, t, **{**args["c"], "c_crossattn": words, "y": y, "transformer_options": options})
            for x, t, words, y in zip(
                *(
                    value.chunk(2)
                    for value in (args["input"], args["timestep"], args["c"]["c_crossattn"], args["c"]["y"])
                ),
                strict=True,
            )
        ]
        return torch.cat(parts)

    split = paired.clone()
    split.set_model_unet_function_wrapper(renumbered)
    with refused("cut-call", "1 prompts and the ids of 2"):
        drawn(split, (1, 4, 16, 16))


@pytest.mark.parametrize("mode", ["two_strength", "released"])
@pytest.mark.parametrize("change", [0.0, 0.5])
def test_a_part_of_the_picture_that_is_found_nowhere_is_refused_where_the_focus_matters(
    model, adapter, people, mode, change
):
    def halves(executor, model, conds, x, timestep, options):
        left, right = (executor(model, conds, part + change, timestep, options) for part in x.chunk(2, dim=-1))
        return [torch.cat(pair, dim=-1) for pair in zip(left, right, strict=True)]

    other = model.clone()
    other.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "halves", halves)
    made = cascade(apply_people(other, adapter, people), mode)
    made.set_cascade(made.settings, masks()[0])
    if change == 0:  # then it is known where each half lies
        assert torch.isfinite(sample(made, (1, 4, 16, 16), steps=2)).all()
    else:
        with refused("unknown-window", "1 of 8 x 16", "one_pass"):
            sample(made, (1, 4, 16, 16), steps=2)


# --- areas, which ComfyUI copies from one prompt to the other -------------------------------------------------------------


def area(made, height=16, width=8, top=0, left=0):
    return [[made[0][0], {**made[0][1], "area": (height, width, top, left), "strength": 1.0}]]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("mode", [None, "two_strength"])
def test_what_is_drawn_beside_an_area_keeps_the_faces_of_its_own_prompt(model, adapter, people, turned, mode):
    """ComfyUI gives the prompt without the area a copy of the other's, with the other's id; here, beside one that is given."""
    pair = apply_people(model, adapter, people, masks=masks())

    def picture(one, other):
        made = guider(pair, POSITIVE) if mode is None else cascade(pair, mode)
        made.set_conds(*((other, one) if turned else (one, other)))
        return sample(made, (2, 4, 16, 16), steps=2)

    with_area = POSITIVE + area(tiny_comfy.conditioning(3))
    assert torch.allclose(picture(with_area, NEGATIVE), picture(with_area, NEGATIVE + area(NEGATIVE)), atol=1e-3)


@pytest.mark.parametrize("prompts", ["middle", "negative"])
def test_three_prompts_keep_their_own_faces_beside_an_area(paired, prompts):
    def picture(**given):
        made = Guider_DualCFG(paired)
        words = {"positive": POSITIVE + area(tiny_comfy.conditioning(3)), "middle": tiny_comfy.conditioning(4)}
        words = {**words, "negative": NEGATIVE, **given}
        made.set_conds(words["positive"], words["middle"], words["negative"])
        made.set_cfg(5.0, 3.0)
        return sample(made, (1, 4, 16, 16), steps=2)

    words = tiny_comfy.conditioning(4) if prompts == "middle" else NEGATIVE
    assert torch.allclose(picture(), picture(**{prompts: words + area(words)}), atol=1e-3)


# --- prompts that are not the guider's -------------------------------------------------------------------------------------


@pytest.mark.parametrize("replaced", ["positive", "both", "negative"])
def test_prompts_in_the_place_of_the_guider_s_are_refused_where_the_faces_would_be_missing(paired, replaced):
    def other_prompts(executor, model, conds, x, timestep, options):
        turn = {"positive": (1,), "negative": (0,), "both": (0, 1)}[replaced]  # ComfyUI asks for the negative second
        given = list(conds)
        for number in turn:
            place = 1 - number
            given[place] = [{**cond, "uuid": uuid.uuid4()} for cond in conds[place]]
        return executor(model, given, x, timestep, options)

    made = paired.clone()
    made.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "prompts", other_prompts)
    if replaced == "negative":
        assert torch.allclose(drawn(made, (1, 4, 16, 16)), drawn(paired, (1, 4, 16, 16)), atol=1e-3)
    else:
        with refused("prompts-replaced", "Another node"):
            drawn(made, (1, 4, 16, 16))
