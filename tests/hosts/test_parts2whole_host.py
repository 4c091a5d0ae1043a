"""Parts2Whole on diffusers' UNets, against a version written from the description of the method alone."""

import logging

import pytest
import torch
from safetensors.torch import save_file
from support import independent_parts2whole as independent
from support.refused import refused
from support.small_parts import CONTEXT, decoupled_tensors, parts_folder, pose_tensors, random_part, small_unet

from dhumandiff.methods.parts2whole import Part, Parts2Whole

LEFT = torch.zeros(64, 64)
LEFT[:, :32] = 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return parts_folder(tmp_path_factory.mktemp("Parts2Whole"))


@pytest.fixture(scope="module")
def weights(folder):
    return Parts2Whole.from_pretrained(folder)


@pytest.fixture(scope="module")
def encoder():
    """What the folder's encoder was before 24 tensors were left out."""
    return small_unet(100)


@pytest.fixture(scope="module")
def unet():
    return small_unet(1)


@pytest.fixture(scope="module")
def call():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 77, CONTEXT, generator=generator)


@pytest.fixture(scope="module")
def pose():
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


PARTS = {
    "one": [random_part("face", seed=1)],
    "masks": [
        random_part("face", seed=1),
        random_part("upper", seed=2, masked=True),
        random_part("shoes", seed=3, masked=True),
    ],
    "six": [random_part("face", seed=n, masked=n % 2 == 1) for n in range(6)],
}


def predict(unet, call, weights=None, *inputs, **settings):
    x, text = call
    with torch.no_grad():
        if weights is None:
            return unet(x, 500, encoder_hidden_states=text).sample
        with weights.attach(unet, *inputs, **settings):
            return unet(x, 500, encoder_hidden_states=text).sample


def described(parts):
    """Parts as the independent version takes them."""
    return [
        {
            "latent": part.latent,
            "label": part.label_embedding,
            "image": part.image_embed,
            "mask": None if part.mask is None else part.mask[0, 0],
        }
        for part in parts
    ]


def test_the_bank_is_norm1s_output_of_the_16_layers(weights, encoder):
    parts = PARTS["masks"]
    wanted = independent.bank(encoder, [(part.latent, part.label_embedding) for part in parts])
    found = weights.bank(parts)
    assert [tuple(layer.shape) for layer in found] == [tuple(layer.shape) for layer in wanted]
    for layer, like in zip(found, wanted, strict=True):
        assert torch.allclose(layer, like, atol=1e-5, rtol=1e-5)


def test_the_pose_net(weights, pose):
    found = weights.pose_features(pose)
    assert found.shape == (1, 16, 8, 8)
    assert torch.allclose(found, independent.pose_features(pose_tensors(16), pose), atol=1e-5)


def test_one_layer(weights, unet, encoder):
    """Self-attention and cross-attention of the first layer, before to_out, in a batch of both halves."""
    parts = PARTS["masks"]
    block = independent.blocks_of(unet)[0]
    seen = {}
    hooks = [
        getattr(block, name)
        .to_out[0]
        .register_forward_hook(lambda _, args, __, name=name: seen.update({name: args[0]}))
        for name in ("attn1", "attn2")
    ]
    norms = [
        getattr(block, name).register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
        for name in ("norm1", "norm2")
    ]
    x, text = torch.randn(2, 4, 8, 8), torch.randn(2, 77, CONTEXT)
    predict(unet, (x, text), weights, parts)
    for hook in (*hooks, *norms):
        hook.remove()
    features = independent.bank(encoder, [(part.latent, part.label_embedding) for part in parts])[0]
    masks = [None if part.mask is None else part.mask[0, 0] for part in parts]
    wanted = independent.self_attention_layer(block.attn1, seen["norm1"][1], features, masks)
    assert torch.allclose(seen["attn1"][1], wanted, atol=1e-5)
    tensors = decoupled_tensors(unet)
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_{}_dc.weight"
    images = torch.cat([part.image_embed for part in parts])
    kv = tensors[name.format("k")], tensors[name.format("v")]
    wanted = independent.cross_attention_layer(block.attn2, seen["norm2"][1], text[1], images, *kv, 1.0)
    assert torch.allclose(seen["attn2"][1], wanted, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 0.4])
@pytest.mark.parametrize("posed", [True, False])
@pytest.mark.parametrize("which", PARTS)
def test_the_whole_prediction(weights, encoder, unet, call, pose, which, posed, scale):
    """Conditional with masks and without, and unconditional with the same pose."""
    x, text = call
    found = predict(unet, call, weights, PARTS[which], pose if posed else None, scale=scale)
    features = independent.pose_features(pose_tensors(16), pose) if posed else None
    inputs = (unet, encoder, decoupled_tensors(unet), x, 500, text, described(PARTS[which]))
    wanted = independent.predict(*inputs, pose=features, scale=scale)
    assert torch.allclose(found, wanted, atol=1e-5)
    plain = predict(unet, call)
    assert (found[1] - plain[1]).abs().mean() > 1e-3
    if posed:
        assert (found[0] - plain[0]).abs().mean() > 1e-3
    else:
        assert torch.allclose(found[0], plain[0], atol=1e-5)


def test_what_follows_the_last_layer_that_is_read_changes_nothing(tmp_path, weights, unet, call):
    whole = Parts2Whole.from_pretrained(parts_folder(tmp_path, whole=True))
    for layer, like in zip(whole.bank(PARTS["masks"]), weights.bank(PARTS["masks"]), strict=True):
        assert torch.equal(layer, like)


def test_what_is_absent_by_design_is_said_once(folder, caplog):
    weights = Parts2Whole.from_pretrained(folder)
    with caplog.at_level(logging.INFO):
        weights.bank(PARTS["one"])
        weights.bank([*PARTS["one"], random_part("shoes")])
    assert [record.message for record in caplog.records if "24 tensors" in record.message] == [
        "The appearance encoder lacks 24 tensors that no layer reads, by design; they are zeros."
    ]


def test_each_part_is_encoded_once(folder, unet, call):
    weights = Parts2Whole.from_pretrained(folder)
    weights.bank(PARTS["one"])
    counted = []
    weights.encoder.register_forward_pre_hook(lambda *_: counted.append(1))
    parts = [*PARTS["one"], random_part("shoes")]
    for _ in range(2):
        predict(unet, call, weights, parts)
    assert len(counted) == 1  # the shoes'
    weights.free_encoder()
    assert torch.equal(weights.bank(parts)[0][0], weights.bank(PARTS["one"])[0][0])
    assert weights.encoder is None


def test_the_order_of_parts_changes_nothing(weights, unet, call):
    first = predict(unet, call, weights, PARTS["masks"])
    assert torch.allclose(first, predict(unet, call, weights, PARTS["masks"][::-1]), atol=1e-5)


def test_the_unet_is_left_as_it_was(weights, unet, call):
    before = predict(unet, call)
    attached = weights.attach(unet, PARTS["one"], torch.rand(1, 3, 64, 64))
    with refused("foreign-processor", "detach()"):
        weights.attach(unet, PARTS["one"])
    attached.detach()
    assert torch.equal(predict(unet, call), before)
    with refused("detached"), attached:
        pass


def test_a_batch_of_several_pictures_is_like_one_each(weights, unet):
    generator = torch.Generator().manual_seed(3)
    x, text = torch.randn(4, 4, 8, 8, generator=generator), torch.randn(4, 77, CONTEXT, generator=generator)
    parts = [random_part("face", seed=1), random_part("upper", seed=2, masked=True, person=2)]
    regions = [LEFT, 1 - LEFT]
    both = predict(unet, (x, text), weights, parts, regions=regions)
    for n in (0, 1):
        pair = predict(unet, (x[n::2], text[n::2]), weights, parts, regions=regions)
        assert torch.allclose(both[n::2], pair, atol=1e-5)
    alone = predict(unet, (x[3:], text[3:]), weights, parts, regions=regions)
    assert torch.allclose(both[3:], alone, atol=1e-5)
    conditional = predict(unet, (x[2:], text[2:]), weights, parts, regions=regions, guidance=False)
    assert torch.allclose(both[2:], conditional, atol=1e-5)


def test_two_people_change_their_own_side_most(weights, unet):
    """A whole run of a few steps: the change of person 2's clothes falls into their region, though a UNet mixes everything."""
    generator = torch.Generator().manual_seed(4)
    size = (16, 16)
    noise, text = torch.randn(1, 4, *size, generator=generator), torch.randn(2, 77, CONTEXT, generator=generator)
    left = torch.zeros(128, 128)
    left[:, :64] = 1
    one = random_part("face", size, seed=1)

    def run(seed):
        x = noise
        with weights.attach(unet, [one, random_part("upper", size, seed=seed, person=2)], regions=[left, 1 - left]):
            for t in (999, 749, 499, 249):
                with torch.no_grad():
                    plain, drawn = unet(torch.cat([x, x]), t, encoder_hidden_states=text).sample.chunk(2)
                x = x - 0.25 * (plain + 3.5 * (drawn - plain))
        return x

    change = (run(2) - run(3)).square().sum(dim=(0, 1, 2))
    assert change[8:].sum() / change.sum() > 0.6


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.03), (torch.float16, 0.004)])
def test_half_precision(folder, call, pose, dtype, tolerance):
    unet, x, text = small_unet(1), *call
    full = predict(unet, call, Parts2Whole.from_pretrained(folder), PARTS["masks"], pose)
    half = Parts2Whole.from_pretrained(folder).to(dtype)
    assert all(layer.dtype == dtype for layer in half.bank(PARTS["masks"]))
    found = predict(unet.to(dtype), (x.to(dtype), text.to(dtype)), half, PARTS["masks"], pose)
    assert found.dtype == dtype
    assert ((found.float() - full).norm() / full.norm()) < tolerance


@pytest.mark.parametrize(
    ("code", "parts", "settings"),
    [
        ("no-part", [], {}),
        ("too-many-parts", [random_part(seed=n) for n in range(7)], {}),
        ("parts-of-several-sizes", [random_part(), random_part(size=(8, 16))], {}),
        ("people-without-regions", [random_part(), random_part(person=2)], {}),
        ("mask-of-another-shape", [random_part()], {"regions": [torch.ones(64, 96)]}),
        ("pose-map-shape", [random_part()], {"pose": torch.zeros(1, 1, 64, 64)}),
        ("pose-map-values", [random_part()], {"pose": torch.full((1, 3, 64, 64), 255.0)}),
        ("image-embed-of-another-width", [random_part(context=CONTEXT + 8)], {}),
        (
            "part-of-another-base",
            [Part("face", torch.zeros(1, 16, 8, 8), None, torch.zeros(1, 77, CONTEXT), torch.zeros(1, CONTEXT))],
            {},
        ),
        ("pose-map-of-another-size", [random_part()], {"pose": torch.zeros(1, 3, 96, 64)}),
        ("parts-of-another-size", [random_part(size=(16, 8))], {}),
    ],
)
def test_what_does_not_fit_is_refused_and_the_unet_left_as_it_was(weights, unet, call, code, parts, settings):
    before = predict(unet, call)
    with refused(code):
        predict(unet, call, weights, parts, **settings)
    assert torch.equal(predict(unet, call), before)


def test_a_pose_net_of_another_width_matters_only_for_a_pose(tmp_path, unet, call, pose):
    folder = parts_folder(tmp_path)
    save_file(pose_tensors(24), folder / "pose_guider" / "diffusion_pytorch_model.safetensors")
    weights = Parts2Whole.from_pretrained(folder)
    assert weights.pose_features(pose).shape == (1, 24, 8, 8)
    predict(unet, call, weights, PARTS["one"])
    with refused("pose-net-of-another-base", "24", "16"):
        predict(unet, call, weights, PARTS["one"], pose)


def test_another_base_is_refused(weights):
    from dhumandiff.testing import tiny_unet

    with refused("parts2whole-of-another-base", "Stable Diffusion 1.5"):
        weights.attach(tiny_unet(), PARTS["one"])
