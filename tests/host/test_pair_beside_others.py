"""The pair lives with what else is done to a model, and leaves nothing behind."""

import comfy.model_management
import comfy.samplers
import dhd_pack.dhumandiff.testing as tiny
import pytest
import torch
from dhd_pack.nodes.comfy.attention import people_of
from dhd_pack.nodes.comfy.guider import CascadeGuider
from dhd_pack.nodes.comfy.patch import apply_people, check_compatible
from support import tiny_comfy
from support.other_packs import Chaining, with_chain, with_ip_adapter
from support.refused import refused
from support.sampling import guider, predict, sample, sigma_at

POSITIVE, NEGATIVE = tiny_comfy.conditioning(1), tiny_comfy.conditioning(2)
PICTURE = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3)) * 10


def run(model, sigma=None):
    return predict(guider(model, POSITIVE, NEGATIVE), PICTURE, sigma_at(model, 500))


@pytest.mark.parametrize("other", [with_chain, with_ip_adapter], ids=["chaining replace", "IPAdapter_plus"])
def test_another_attention_patch_works_before_and_after(model, adapter, people, other):
    keys = check_compatible(model, adapter.model.info)
    before = run(apply_people(other(model, keys), adapter, people))
    after = run(other(apply_people(model, adapter, people), keys))
    pair_only, other_only = run(apply_people(model, adapter, people)), run(other(model, keys))
    assert torch.allclose(before, after, atol=1e-4)
    assert not torch.allclose(before, pair_only, atol=1e-2)
    assert not torch.allclose(before, other_only, atol=1e-2)


def test_a_term_joined_to_a_clone_does_not_leak_back(model, adapter, people):
    patched = apply_people(model, adapter, people)
    before = run(patched)
    with_ip_adapter(patched, check_compatible(model, adapter.model.info))
    assert torch.equal(run(patched), before)


def test_a_patch_that_overwrites_the_pair_is_noticed(model, adapter, people):
    patched = apply_people(model, adapter, people)
    for key in check_compatible(model, adapter.model.info)[:5]:
        patched.set_model_attn2_replace(Chaining(), *key)
    with refused("attention-replaced", "5 of 17 layers"):
        run(patched)


def test_two_pairs_add_up(model, adapter, people):
    halves = apply_people(apply_people(model, adapter, people, 0.5), adapter, people, 0.5)
    assert len(people_of(halves)) == 2
    assert torch.allclose(run(halves), run(apply_people(model, adapter, people, 1.0)), atol=1e-2)


def test_a_lora_on_the_same_layers_works_before_and_after(model, adapter, people):
    name = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_q.weight"
    change = {name: (torch.randn(128, 128) * 0.05,)}

    def lora(m):
        m = m.clone()
        assert m.add_patches({name: ("diff", change[name])}, 1.0) == [name]
        return m

    before, after = run(apply_people(lora(model), adapter, people)), run(lora(apply_people(model, adapter, people)))
    assert torch.equal(before, after)
    assert not torch.allclose(before, run(apply_people(model, adapter, people)), atol=1e-3)


def test_a_controlnet_s_residuals_reach_the_same_model(model, adapter, people):
    class Control:
        """As much of a ControlNet as sampling asks for."""

        previous_controlnet = None
        extra_hooks = None
        multigpu_clones = {}

        def get_control(self, x, t, cond, batched_number, options):
            return {"middle": [torch.full((x.shape[0], 128, 4, 4), 0.3)], "output": [], "input": []}

        def get_models(self):
            return []

        def inference_memory_requirements(self, dtype):
            return 0

        def pre_run(self, *args):
            pass

        def cleanup(self):
            pass

        def get_extra_hooks(self):
            return []

    control = Control()
    positive, negative = ([[p[0][0], {**p[0][1], "control": control}]] for p in (POSITIVE, NEGATIVE))
    patched = apply_people(model, adapter, people)
    out = predict(guider(patched, positive, negative), PICTURE, sigma_at(model, 500))
    assert torch.isfinite(out).all()
    assert not torch.allclose(out, run(patched), atol=1e-3)


# --- runs -----------------------------------------------------------------------------------------------------------


def test_start_and_end_are_shares_of_sampling(model, adapter, people):
    def last_half(share_start, share_end):
        patched = apply_people(model, adapter, people, start=share_start, end=share_end)
        early = predict(guider(patched, POSITIVE, NEGATIVE), PICTURE, sigma_at(model, 900))
        late = predict(guider(patched, POSITIVE, NEGATIVE), PICTURE, sigma_at(model, 100))
        return early, late

    plain = [predict(guider(model, POSITIVE, NEGATIVE), PICTURE, sigma_at(model, t)) for t in (900, 100)]
    whole = last_half(0.0, 1.0)
    early_only, late_only = last_half(0.0, 0.5), last_half(0.5, 1.0)
    assert torch.equal(early_only[0], whole[0])
    assert torch.equal(early_only[1], plain[1])
    assert torch.equal(late_only[0], plain[0])
    assert torch.equal(late_only[1], whole[1])


@pytest.mark.parametrize("cascade", [False, True])
def test_an_interrupted_run_leaves_everything_clean(model, adapter, people, cascade):
    patched = apply_people(model, adapter, people)
    run_ = guider(patched, POSITIVE, NEGATIVE)
    if cascade:
        run_ = CascadeGuider(patched)
        run_.set_cascade()
        run_.set_conds(POSITIVE, NEGATIVE)
        run_.set_cfg(5.0)
    whole = sample(run_, (1, 4, 12, 12))

    def interrupt(step, *_):
        if step == 1:
            raise comfy.model_management.InterruptProcessingException

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(run_, (1, 4, 12, 12), callback=interrupt)
    assert people_of(patched)[0].people._kv == {}
    assert torch.equal(sample(run_, (1, 4, 12, 12)), whole)


def test_a_second_pass_over_an_enlarged_picture_works(model, adapter, people):
    patched = apply_people(model, adapter, people, masks=(torch.ones(1, 96, 96), None))
    small = sample(guider(patched, POSITIVE, NEGATIVE), (1, 4, 12, 12))
    large = torch.nn.functional.interpolate(small, scale_factor=2)
    out = sample(guider(patched, POSITIVE, NEGATIVE), tuple(large.shape), latent=large)
    assert torch.isfinite(out).all()


def loaded_models():
    return [entry.model.model for entry in comfy.model_management.current_loaded_models]


def test_adapter_weights_are_counted_by_comfyui_and_not_needed_while_sampling(model, people):
    adapter = tiny_comfy.adapter_patcher()
    assert adapter.model_size() == sum(p.numel() * p.element_size() for p in adapter.model.parameters())
    patched = apply_people(model, adapter, people)
    assert adapter.model in loaded_models()
    assert patched.model_patches_models() == []
    comfy.model_management.unload_all_models()
    run(patched)
    assert loaded_models() == [model.model]
    comfy.model_management.unload_all_models()


def test_keys_and_values_follow_what_the_model_computes_in(adapter, people):
    patched = apply_people(tiny_comfy.model_patcher(), adapter, people)
    [applied] = people_of(patched)
    later = patched.clone()
    later.set_model_compute_dtype(torch.bfloat16)  # a node behind Apply
    out = sample(guider(later, POSITIVE, NEGATIVE), (1, 4, 12, 12), steps=2)
    assert torch.isfinite(out).all()
    assert applied.people.keys_values.dtype == torch.bfloat16
    sample(guider(patched, POSITIVE, NEGATIVE), (1, 4, 12, 12), steps=2)
    assert applied.people.keys_values.dtype == torch.float32


def test_keys_and_values_are_made_before_all_runs_and_leave_the_device_with_each(model, people, monkeypatch):
    adapter = tiny_comfy.adapter_patcher()
    made = []
    real = type(adapter.model).keys_values
    monkeypatch.setattr(
        type(adapter.model), "keys_values", lambda self, *args: made.append(args[0]) or real(self, *args)
    )
    patched = apply_people(model, adapter, people)
    assert made == list(range(17))
    for _ in range(2):
        sample(guider(patched, POSITIVE, NEGATIVE), (1, 4, 12, 12), steps=3)
    assert len(made) == 17
    paired = people_of(patched)[0].people
    assert paired._kv == paired.keys_values._placed == {}


def test_the_tiny_adapter_has_a_layer_for_each_of_the_model(model, adapter):
    assert (
        len(check_compatible(model, adapter.model.info)) == adapter.model.info.layers == tiny.tiny_adapter().info.layers
    )


def test_attention_that_is_passed_over_is_not_blamed_on_the_order(model, adapter, people):
    """A node that runs the layers in its own way: putting Apply after it would change nothing."""
    from comfy.patcher_extension import WrappersMP

    def skips(executor, x, t, context, y, control, transformer_options, **more):
        options = {name: value for name, value in transformer_options.items() if name != "patches_replace"}
        return executor(x, t, context, y, control, options, **more)

    patched = apply_people(model, adapter, people)
    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "skips", skips)
    with refused("attention-passed-over", "17 of 17 layers", "order of the nodes changes nothing"):
        sample(guider(patched, POSITIVE, NEGATIVE), (1, 4, 16, 16), steps=1)
