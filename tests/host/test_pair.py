"""The pair in ComfyUI: the same numbers as in diffusers, on all layers, on the right rows, in the right places."""

import comfy.model_management
import comfy.samplers
import dhd_pack.dhumandiff.testing as tiny
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from dhd_pack.dhumandiff.errors import DHumanDiffError
from dhd_pack.dhumandiff.hosts.diffusers.attention import attach, cross_attention_layers
from dhd_pack.dhumandiff.methods.paired.conditioning import PairedConditioning
from dhd_pack.nodes.comfy import patch as comfy_apply
from dhd_pack.nodes.comfy.attention import people_of
from dhd_pack.nodes.comfy.batch import CALL
from dhd_pack.nodes.comfy.patch import KEY, apply_people, check_compatible
from support import tiny_comfy
from support.refused import refused
from support.sampling import diffusers_prediction, guider, predict, sample, sigma_at

POSITIVE, NEGATIVE = tiny_comfy.conditioning(1), tiny_comfy.conditioning(2)


@pytest.fixture
def picture():
    return torch.randn(1, 4, 16, 12, generator=torch.Generator().manual_seed(5)) * 10


@pytest.mark.parametrize("depth", ["tiny", "sdxl"])
def test_predictions_equal_those_of_diffusers(depth, people, picture):
    unet = tiny.tiny_unet(depth=depth)
    model, adapter = tiny_comfy.model_patcher(unet, depth), tiny_comfy.adapter_patcher(depth)
    timestep = 601
    sigma = sigma_at(model, timestep)
    for strength in (0.0, 0.7, 1.0):
        with attach(unet, tiny.tiny_adapter(depth=depth), people, strength=strength):
            negative, positive = diffusers_prediction(unet, picture, sigma, timestep, [NEGATIVE, POSITIVE])
        patched = apply_people(model, adapter, people, strength)
        for cfg, expected in ((0.0, negative), (1.0, positive)):
            got = predict(guider(patched, POSITIVE, NEGATIVE, cfg), picture, sigma)
            assert (got - expected).abs().max() / sigma < 1e-4, (strength, cfg)


def test_layers_come_in_the_same_order_in_both_hosts():
    unet = tiny.tiny_unet(depth="sdxl")
    model = tiny_comfy.model_patcher(unet, "sdxl")
    ours = [module.to_k.weight for _, module in comfy_apply.cross_attention_layers(model)]
    theirs = [module.to_k.weight for _, module in cross_attention_layers(unet)]
    assert len(ours) == len(theirs) == 70
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_all_seventy_layers_are_reached_once_a_call(monkeypatch, people, picture):
    model, adapter = tiny_comfy.model_patcher(depth="sdxl"), tiny_comfy.adapter_patcher("sdxl")
    reached = []
    residual = PairedConditioning.residual
    monkeypatch.setattr(
        PairedConditioning, "residual", lambda self, *args: reached.append(args[0]) or residual(self, *args)
    )
    patched = apply_people(model, adapter, people)
    keys = check_compatible(model, adapter.model.info)
    assert [key for key in keys if key[0] == "middle"] == [("middle", 0, index) for index in range(10)]
    predict(guider(patched, POSITIVE, NEGATIVE), picture, sigma_at(model, 500))
    assert sorted(reached) == list(range(70))


def test_at_strength_zero_the_prediction_is_exactly_the_model_s_own(model, adapter, people, picture):
    sigma = sigma_at(model, 500)
    plain = predict(guider(model, POSITIVE, NEGATIVE), picture, sigma)
    for patched in (
        apply_people(model, adapter, people, strength=0.0),
        apply_people(model, adapter, people, person_strengths=(0.0, 0.0)),
    ):
        assert torch.equal(predict(guider(patched, POSITIVE, NEGATIVE), picture, sigma), plain)


def test_the_model_that_was_given_stays_as_it_was(model, adapter, people, picture):
    sigma = sigma_at(model, 500)
    before = predict(guider(model, POSITIVE, NEGATIVE), picture, sigma)
    patched = apply_people(model, adapter, people)
    with_people = predict(guider(patched, POSITIVE, NEGATIVE), picture, sigma)
    assert not torch.allclose(before, with_people, atol=1e-2)
    assert torch.equal(predict(guider(model, POSITIVE, NEGATIVE), picture, sigma), before)
    assert "patches_replace" not in model.model_options["transformer_options"]
    assert not model.get_wrappers(WrappersMP.PREDICT_NOISE, KEY)


# --- who reads whom -------------------------------------------------------------------------------------------------


def test_the_negative_never_reads_a_person(model, adapter, people, picture):
    others = [tiny_comfy.reference(3), tiny_comfy.reference(4)]
    sigma = sigma_at(model, 500)
    both = [
        predict(guider(apply_people(model, adapter, pair), POSITIVE, NEGATIVE, cfg=0.0), picture, sigma)
        for pair in (people, others)
    ]
    assert torch.equal(*both)


def test_a_person_never_reads_the_other_s_tokens(model, adapter, people, picture):
    sigma = sigma_at(model, 500)
    alone = predict(guider(apply_people(model, adapter, people[:1]), POSITIVE, cfg=1.0), picture, sigma)
    muted = apply_people(model, adapter, people, person_strengths=(1.0, 0.0))
    assert torch.allclose(predict(guider(muted, POSITIVE, cfg=1.0), picture, sigma), alone, atol=1e-3)


def test_swapping_references_is_not_the_same_as_swapping_nothing(model, adapter, people, picture):
    sigma = sigma_at(model, 500)
    straight, swapped = (
        predict(guider(apply_people(model, adapter, pair), POSITIVE, cfg=1.0), picture, sigma)
        for pair in (people, people[::-1])
    )
    assert not torch.allclose(straight, swapped, atol=1e-2)


class Roles:
    """Listens behind the pair and checks every row of every call against the prompt it carries."""

    def __init__(self, positives):
        self.positives = positives  # prompts' context tensors
        self.calls = []

    def listen(self, model):
        def calc(executor, model_, conds, x, timestep, options):
            for group in conds:
                for cond in group or ():
                    self.prompts[cond["uuid"]] = cond["cross_attn"]
            return executor(model_, conds, x, timestep, options)

        def apply(executor, x, t, c_concat, c_crossattn, control, options, **kwargs):
            call = options[CALL]
            is_cond = [sample.is_cond for sample in call.layout.samples]
            per = len(is_cond) // len(options["uuids"])
            for chunk, uuid in enumerate(options["uuids"]):
                positive = any(self.prompts[uuid] is context for context in self.positives)
                assert is_cond[chunk * per : (chunk + 1) * per] == [positive] * per
            self.calls.append((tuple(options["cond_or_uncond"]), tuple(x.shape)))
            return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

        self.prompts = {}
        listened = model.clone()
        listened.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "test", calc)
        listened.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", apply)
        return listened


def combined(guider_, expected, picture, sigma, scale=1e-4):
    got = predict(guider_, picture, sigma)
    assert (got - expected).abs().max() / sigma < scale


def test_guidance_joins_the_rows_that_single_calls_give(model, adapter, people, picture):
    patched, sigma = apply_people(model, adapter, people), sigma_at(model, 500)
    positive = predict(guider(patched, POSITIVE, NEGATIVE, 1.0), picture, sigma)
    negative = predict(guider(patched, POSITIVE, NEGATIVE, 0.0), picture, sigma)
    combined(guider(patched, POSITIVE, NEGATIVE, 5.0), negative + 5 * (positive - negative), picture, sigma, 1e-3)


def test_a_batch_of_three_gives_what_three_single_pictures_give(model, adapter, people):
    patched, sigma = apply_people(model, adapter, people), sigma_at(model, 500)
    pictures = torch.randn(3, 4, 16, 12, generator=torch.Generator().manual_seed(6)) * 10
    together = predict(guider(patched, POSITIVE, NEGATIVE), pictures, sigma)
    single = torch.cat([predict(guider(patched, POSITIVE, NEGATIVE), one[None], sigma) for one in pictures])
    assert (together - single).abs().max() / sigma < 1e-3


@pytest.mark.parametrize("apart", [False, True], ids=["one call", "separate calls"])
@pytest.mark.parametrize("lengths", [(77, 77), (154, 77)], ids=["like lengths", "unlike lengths"])
def test_rows_are_told_apart_however_comfyui_batches_them(monkeypatch, adapter, people, picture, apart, lengths):
    model = tiny_comfy.model_patcher()
    positives = [tiny_comfy.conditioning(1, lengths[0])[0], tiny_comfy.conditioning(7, lengths[1])[0]]
    if apart:  # what low memory does
        monkeypatch.setattr(model.model, "memory_required", lambda *args, **kwargs: 1e18)
    roles = Roles([positives[0][0], positives[1][0]])
    patched = roles.listen(apply_people(model, adapter, people))
    predict(guider(patched, positives, NEGATIVE), picture, sigma_at(model, 500))
    assert sum(len(indices) for indices, _ in roles.calls) == 3
    if apart:
        assert len(roles.calls) == 3


def test_dual_guidance_keeps_faces_out_of_both_negatives(model, adapter, people, picture):
    import comfy_extras.nodes_custom_sampler as custom

    middle = tiny_comfy.conditioning(3)
    roles = Roles([POSITIVE[0][0]])
    patched = roles.listen(apply_people(model, adapter, people))
    for nested in (False, True):
        made = custom.Guider_DualCFG(patched)
        made.set_conds(POSITIVE, middle, NEGATIVE)
        made.set_cfg(4.0, 3.0, nested=nested)
        predict(made, picture, sigma_at(model, 500))
    assert {index for indices, _ in roles.calls for index in indices} == {0, 1, 2}


def test_perp_neg_guidance_keeps_faces_out_of_negative_and_empty_prompt(model, adapter, people, picture):
    import comfy_extras.nodes_perpneg as perpneg

    roles = Roles([POSITIVE[0][0]])
    made = perpneg.Guider_PerpNeg(roles.listen(apply_people(model, adapter, people)))
    made.set_conds(POSITIVE, NEGATIVE, tiny_comfy.conditioning(3))
    made.set_cfg(4.0, 1.0)
    predict(made, picture, sigma_at(model, 500))
    assert roles.calls


@pytest.mark.parametrize("name", ["pag", "sag"])
def test_perturbed_and_self_attention_guidance_read_the_right_tokens(model, adapter, people, name):
    if name == "pag":
        from comfy_extras.nodes_pag import PerturbedAttentionGuidance as Node

        options = {"scale": 3.0}
    else:
        from comfy_extras.nodes_sag import SelfAttentionGuidance as Node

        options = {"scale": 0.5, "blur_sigma": 2.0}
    roles = Roles([POSITIVE[0][0]])
    patched = roles.listen(apply_people(model, adapter, people))
    patched = Node.execute(patched, **options).args[0]
    predict(guider(patched, POSITIVE, NEGATIVE), torch.randn(1, 4, 16, 16) * 10, sigma_at(model, 500))
    assert [indices for indices, _ in roles.calls][-1] == (0,)  # the extra call passes one list, as index 0
    assert len(roles.calls) == 2


def test_a_guider_that_is_not_asked_for_noise_is_taken_by_comfyui_s_convention(model, adapter, people, caplog):
    patched = apply_people(model, adapter, people)
    options = {**patched.model_options["transformer_options"], "cond_or_uncond": [1, 0], "wrappers": patched.wrappers}
    x = torch.randn(2, 4, 16, 12)
    context, pooled = torch.cat([NEGATIVE[0][0], POSITIVE[0][0]]), torch.randn(2, 128 + 1536)
    comfy.model_management.load_models_gpu([patched])
    out = patched.model.apply_model(
        x, torch.tensor([1.0, 1.0]), c_crossattn=context, y=pooled, transformer_options=options
    )
    assert torch.isfinite(out).all()
    assert "no guider named its positive" in caplog.text


@pytest.mark.parametrize(
    ("during", "expected"), [("start and end", (0.2, 0.5)), ("whole run", (0.0, 1.0)), ("first 80 %", (0.0, 0.8))]
)
def test_the_node_s_preset_stands_in_for_start_and_end(model, adapter, people, during, expected):
    from dhd_pack.nodes.conditioning import DHDApplyPair

    def sampled(start, end, **more):
        (patched,) = DHDApplyPair.execute(model, adapter, people[0], 0.3, 1.0, 1.0, start, end, people[1], **more).args
        return sample(guider(patched, POSITIVE, NEGATIVE), (1, 4, 8, 8), steps=5)

    chosen = sampled(0.2, 0.5, during=during)
    assert torch.equal(chosen, sampled(*expected))
    assert torch.equal(chosen, sampled(0.2, 0.5)) == (during == "start and end")
    refused = DHDApplyPair.validate_inputs(start=0.9, end=0.1, during=during)
    assert (refused is True) == (during != "start and end")


# --- bad input ------------------------------------------------------------------------------------------------------


def test_three_references_are_more_than_the_weights_hold(model, adapter, people):
    with pytest.raises(DHumanDiffError, match="3 references .* 2 persons"):
        apply_people(model, adapter, [*people, tiny_comfy.reference(3)])


def test_start_must_be_before_end(model, adapter, people):
    with refused("start-not-before-end"):
        apply_people(model, adapter, people, start=0.8, end=0.2)


def test_a_model_with_other_layers_is_refused_before_sampling(adapter, people):
    with refused("adapter-of-another-base", "17 cross-attention layers", "70 layers"):
        apply_people(tiny_comfy.model_patcher(depth="sdxl"), adapter, people)


def test_a_model_without_a_unet_is_refused(adapter, people):
    import comfy.model_patcher

    class Flux(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.diffusion_model = torch.nn.Linear(1, 1)

    patcher = comfy.model_patcher.ModelPatcher(Flux(), torch.device("cpu"), torch.device("cpu"))
    with refused("no-unet", "Flux"):
        apply_people(patcher, adapter, people)


def test_a_reference_of_another_vision_tower_is_refused_before_sampling(model, adapter, people):
    from dhd_pack.dhumandiff.references.reference import FaceReference

    wide = FaceReference(identity=None, clip_hidden=torch.randn(1, 50, 96), clip_hidden_zero=torch.randn(1, 50, 96))
    with pytest.raises(DHumanDiffError, match="width 96"):
        apply_people(model, adapter, [people[0], wide])


def test_nan_from_the_model_is_said_with_what_to_do(adapter, people):
    model = tiny_comfy.model_patcher()
    patched = apply_people(model, adapter, people)
    model.model.diffusion_model.out[2].bias.data[:] = float("nan")
    with refused("not-finite", "--force-fp32"):
        sample(guider(patched, POSITIVE, NEGATIVE), (1, 4, 16, 16), steps=1)


def test_a_mask_without_its_person_is_refused(model, adapter, people):
    from dhd_pack.nodes.conditioning import DHDApplyPair

    with refused("mask-without-person", "mask_2", "reference_2"):
        DHDApplyPair.execute(model, adapter, people[0], 1.0, 1.0, 1.0, 0.0, 1.0, mask_2=torch.ones(1, 64, 64))


def test_start_and_end_follow_a_change_of_the_noise_schedule_after_the_pair(model, adapter, people):
    from comfy.model_sampling import EPS, ModelSamplingDiscrete

    class Other(ModelSamplingDiscrete, EPS):
        pass

    other = Other()
    other._register_schedule(None, "linear", 1000, linear_start=0.0001, linear_end=0.005)
    patched = apply_people(model, adapter, people, end=0.5)
    changed = patched.clone()
    changed.add_object_patch("model_sampling", other)
    predict(guider(changed, POSITIVE, NEGATIVE), torch.randn(1, 4, 16, 12), sigma_at(model, 500))
    assert people_of(changed)[0].sigma_range[1] == pytest.approx(float(other.percent_to_sigma(0.5)))
    assert float(other.percent_to_sigma(0.5)) != pytest.approx(
        float(model.get_model_object("model_sampling").percent_to_sigma(0.5))
    )


def test_infinite_values_are_said_at_the_first_step(adapter, people):
    model = tiny_comfy.model_patcher()
    patched = apply_people(model, adapter, people)
    model.model.diffusion_model.out[2].bias.data[:] = float("inf")
    steps = []
    with refused("not-finite"):
        sample(guider(patched, POSITIVE, NEGATIVE), (1, 4, 16, 16), callback=lambda *step: steps.append(step))
    assert len(steps) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
@pytest.mark.parametrize("part", ["face_projection.norm_out.weight", "attention.3.to_v_ip2.weight", "mapping."])
def test_a_damaged_adapter_is_named_before_sampling(model, people, part, value):
    damaged = tiny_comfy.adapter_patcher()
    name = next(name for name in damaged.model.state_dict() if name.startswith(part))
    damaged.model.state_dict()[name].view(-1)[0] = value
    with refused("adapter-not-finite", name):
        apply_people(model, damaged, people)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "1"])
@pytest.mark.parametrize("which", ["strength", "person"])
def test_a_linked_strength_that_is_no_number_is_refused(model, adapter, people, value, which):
    """ComfyUI compares numbers with their limits only while they are written on the node itself."""
    given = {"strength": value} if which == "strength" else {"person_strengths": (1.0, value)}
    with refused("strength-not-a-number", str(value)):
        apply_people(model, adapter, people, **given)
