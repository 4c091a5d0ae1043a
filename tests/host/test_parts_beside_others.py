"""Parts beside a ControlNet and beside what other packs put into attention: both act, and neither acts in the other's place."""

import comfy.cldm.cldm
import comfy.controlnet
import comfy.ops
import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from comfy_extras.nodes_sag import SelfAttentionGuidance
from dhd_pack.nodes.comfy.parts2whole import apply_parts
from dhd_pack.nodes.comfy.parts_models import load_parts2whole
from support import tiny_parts
from support.comfyui import stock_nodes
from support.other_packs import Chaining, with_chain, with_ip_adapter
from support.refused import refused
from support.sampling import guider, predict, sample, sigma_at
from support.small_parts import random_part

POSITIVE, NEGATIVE = tiny_parts.conditioning(1), tiny_parts.conditioning(2)
PARTS = (random_part("face", (16, 12), seed=1), random_part("upper", (16, 12), seed=2, masked=True))
PICTURE = torch.randn(1, 4, 16, 12, generator=torch.Generator().manual_seed(5)) * 10
LEFT, RIGHT = torch.zeros(1, 128, 96), torch.zeros(1, 128, 96)
LEFT[..., :48], RIGHT[..., 48:] = 1, 1


@pytest.fixture(autouse=True)
def _known(monkeypatch):
    tiny_parts.know_tiny_sd15(monkeypatch)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        tiny_parts.know_tiny_sd15(patch)
        return load_parts2whole(tiny_parts.released(tmp_path_factory.mktemp("models") / "Parts2Whole"))


@pytest.fixture
def model(loaded):
    return loaded[0]


@pytest.fixture
def weights(loaded):
    return loaded[1]


@pytest.fixture
def keys(model):
    """The cross-attention layers, as other packs name them."""
    numbers = {"input": (1, 2, 4, 5, 7, 8), "middle": (0,), "output": range(3, 12)}
    return [(part, number, 0) for part, of in numbers.items() for number in of]


def run(model, positive=POSITIVE, negative=NEGATIVE, cfg=5.0):
    return predict(guider(model, positive, negative, cfg), PICTURE, sigma_at(model, 500))


def two_people(seed=3):
    """Parts of two people, and their halves."""
    return (PARTS[0], random_part("whole", (16, 12), seed=seed, person=2)), [LEFT, RIGHT]


def first_layer(model, kind="attn2", **prompts):
    """What the first layer's attention gives for the conditional sample, [16, 12, C]."""
    seen = []

    def look(n, extra):
        if tuple(extra["block"]) == ("input", 1):
            seen.append(n.clone())
        return n

    watched = model.clone()
    getattr(watched, f"set_model_{kind}_output_patch")(look)
    run(watched, cfg=1.0, **prompts)
    return seen[0][-1].reshape(16, 12, -1)


# --- ControlNet -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def control_net(loaded):
    """A ControlNet of Stable Diffusion 1.5's layout, random."""
    config = {name: value for name, value in loaded[0].model.model_config.unet_config.items() if name != "out_channels"}
    network = comfy.cldm.cldm.ControlNet(**config, hint_channels=3, operations=comfy.ops.disable_weight_init)
    random = torch.Generator().manual_seed(11)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=random) / max(1, parameter[0].numel()) ** 0.5
    return comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"))


@pytest.fixture
def controlled(control_net):
    """Both prompts, as Apply ControlNet gives them."""
    image = torch.rand(1, 128, 96, 3, generator=torch.Generator().manual_seed(4))
    apply = stock_nodes().ControlNetApplyAdvanced().apply_controlnet
    return apply(POSITIVE, NEGATIVE, control_net, image, 0.7, 0.0, 1.0)


def test_a_controlnet_and_parts_both_act_and_the_controlnet_never_reads_parts(model, weights, control_net, controlled):
    said = []
    hook = control_net.control_model.register_forward_hook(
        lambda _, __, out: said.append([tensor.clone() for tensor in out["output"]])
    )
    dressed, _ = apply_parts(model, weights, PARTS)
    try:
        both, control_only, parts_only = run(dressed, *controlled), run(model, *controlled), run(dressed)
    finally:
        hook.remove()
    assert len(said) == 2
    assert all(torch.equal(a, b) for a, b in zip(*said, strict=True))
    assert not torch.allclose(both, control_only, atol=1e-2)
    assert not torch.allclose(both, parts_only, atol=1e-2)


def test_what_parts_do_in_a_layer_is_the_same_with_a_controlnet(model, weights, controlled):
    """In the first layer, to which the ControlNet adds only later."""
    dressed, _ = apply_parts(model, weights, PARTS)
    prompts = {"positive": controlled[0], "negative": controlled[1]}
    for kind in ("attn1", "attn2"):
        assert torch.equal(first_layer(dressed, kind, **prompts), first_layer(dressed, kind))


def test_two_people_keep_to_their_halves_with_a_controlnet(model, weights, controlled):
    layers = []
    for seed in (3, 4):
        parts, regions = two_people(seed)
        dressed, _ = apply_parts(model, weights, parts, regions=regions)
        layers.append(first_layer(dressed, positive=controlled[0], negative=controlled[1]))
    changed = (layers[0] - layers[1]).abs().amax(dim=(0, 2))
    assert not changed[:6].any()
    assert changed[6:].min() > 0


def test_a_whole_run_with_pose_parts_and_a_controlnet_of_half_the_run(model, weights, control_net):
    image = torch.rand(1, 128, 96, 3, generator=torch.Generator().manual_seed(4))
    prompts = (
        stock_nodes().ControlNetApplyAdvanced().apply_controlnet(POSITIVE, NEGATIVE, control_net, image, 0.7, 0.0, 0.5)
    )
    pose = torch.zeros(1, 128, 96, 3)
    pose[:, 16:-16, 24:-24] = torch.tensor([0.5, 0.5, 12 / 255])
    dressed, _ = apply_parts(model, weights, PARTS, pose=pose)
    made = sample(guider(dressed, *prompts), (1, 4, 16, 12), steps=3)
    assert torch.isfinite(made).all()
    assert not torch.allclose(made, sample(guider(dressed, POSITIVE, NEGATIVE), (1, 4, 16, 12), steps=3), atol=1e-2)


# --- attention of other packs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [with_chain, with_ip_adapter], ids=["chaining replace", "IPAdapter_plus"])
def test_another_cross_attention_patch_works_before_and_after(model, weights, keys, other):
    before, _ = apply_parts(other(model, keys), weights, PARTS)
    dressed, _ = apply_parts(model, weights, PARTS)
    after = run(other(dressed, keys))
    assert torch.allclose(run(before), after, atol=1e-3)
    assert not torch.allclose(after, run(dressed), atol=1e-2)
    assert not torch.allclose(after, run(other(model, keys)), atol=1e-2)


def test_an_ip_adapter_of_one_half_leaves_the_other_half_of_a_layer_to_the_parts(model, weights, keys):
    side = torch.zeros(1, 16, 12, 1)
    side[:, :, :6] = 1
    dressed, _ = apply_parts(model, weights, PARTS)

    def halved(out, q, *_, size, **__):
        return size * q * side.reshape(1, -1, 1) if q.shape[1] == 192 else torch.zeros_like(q)

    beside = with_ip_adapter(dressed, keys, term=halved)
    changed = (first_layer(beside) - first_layer(dressed)).abs().amax(dim=(0, 2))
    assert changed[:6].min() > 0
    assert not changed[6:].any()


def test_two_people_keep_to_their_halves_with_an_ip_adapter(model, weights, keys):
    layers = []
    for seed in (3, 4):
        parts, regions = two_people(seed)
        layers.append(first_layer(with_ip_adapter(apply_parts(model, weights, parts, regions=regions)[0], keys)))
    changed = (layers[0] - layers[1]).abs().amax(dim=(0, 2))
    assert not changed[:6].any()
    assert changed[6:].min() > 0


def more_tokens(n, context, value, extra):
    """What a pack adds that lengthens a layer's keys and values, as reference-only and prompt injection do."""
    added = torch.full_like(context[:, :3], 0.3)
    return n, torch.cat([context, added], 1), torch.cat([value, added], 1)


@pytest.mark.parametrize("kind", ["attn1", "attn2"])
def test_keys_that_another_pack_adds_are_read_beside_the_parts(model, weights, kind):
    dressed, _ = apply_parts(model, weights, PARTS)
    both, other = dressed.clone(), model.clone()
    for patched in (both, other):
        getattr(patched, f"set_model_{kind}_patch")(more_tokens)
    assert not torch.allclose(run(both), run(dressed), atol=1e-2)
    assert not torch.allclose(run(both), run(other), atol=1e-2)


def test_a_patch_that_overwrites_the_parts_is_noticed(model, weights, keys):
    dressed, _ = apply_parts(model, weights, PARTS)
    for key in keys[:5]:
        dressed.set_model_attn2_replace(Chaining(), *key)
    with refused("attention-replaced", "5 of 16 layers"):
        run(dressed)


def test_self_attention_that_another_pack_replaces_is_noticed_before_and_behind(model, weights, keys):
    def plain(q, k, v, extra):
        return optimized_attention(q, k, v, extra["n_heads"])

    behind, _ = apply_parts(model, weights, PARTS)
    behind.set_model_attn1_replace(plain, *keys[0])
    with refused("parts-attention-replaced", "1 of 16 layers"):
        run(behind)
    before = model.clone()
    before.set_model_attn1_replace(plain, *keys[0])
    with refused("self-attention-replaced"):
        apply_parts(before, weights, PARTS)


def test_self_attention_guidance_is_refused_and_perturbed_attention_guidance_runs(model, weights):
    dressed, _ = apply_parts(model, weights, PARTS)
    with refused("parts-attention-replaced", "SelfAttentionGuidance"):
        run(SelfAttentionGuidance.execute(dressed, scale=0.5, blur_sigma=2.0).args[0])
    guided = run(PerturbedAttentionGuidance.execute(dressed, scale=3.0).args[0])
    assert not torch.allclose(guided, run(dressed), atol=1e-2)
