"""Parts2Whole in ComfyUI: the same numbers as in diffusers, its own noise, two people apart, and beside other nodes."""

import comfy.model_management
import comfy.model_sampling
import folder_paths
import numpy as np
import pytest
import torch
from dhd_pack.nodes.comfy import folders
from dhd_pack.nodes.comfy.attention import PEOPLE
from dhd_pack.nodes.comfy.parts2whole import apply_parts, encode_part
from dhd_pack.nodes.comfy.parts_models import load_parts2whole
from dhd_pack.nodes.parts import DHDApplyParts, DHDEncodePart, DHDLoadParts2Whole
from support import tiny_comfy, tiny_parts
from support.refused import refused
from support.sampling import guider, predict, sample, sigma_at
from support.small_parts import random_part, small_unet

from dhumandiff.methods.parts2whole import Parts2Whole

POSITIVE, NEGATIVE = tiny_parts.conditioning(1), tiny_parts.conditioning(2)
PARTS = (
    random_part("face", (16, 12), seed=1),
    random_part("upper", (16, 12), seed=2, masked=True),
    random_part("shoes", (16, 12), seed=3, masked=True, strength=0.7),
)
LEFT, RIGHT = torch.zeros(1, 128, 96), torch.zeros(1, 128, 96)
LEFT[..., :48], RIGHT[..., 48:] = 1, 1


@pytest.fixture(autouse=True)
def _known(monkeypatch):
    tiny_parts.know_tiny_sd15(monkeypatch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_parts.released(tmp_path_factory.mktemp("models") / "Parts2Whole")


@pytest.fixture(scope="module")
def loaded(folder):
    with pytest.MonkeyPatch.context() as patch:
        tiny_parts.know_tiny_sd15(patch)
        return load_parts2whole(folder)


@pytest.fixture
def model(loaded):
    return loaded[0]


@pytest.fixture
def weights(loaded):
    return loaded[1]


@pytest.fixture
def picture():
    return torch.randn(1, 4, 16, 12, generator=torch.Generator().manual_seed(5)) * 10


def iuv(height=128, width=96):
    """A DensePose map as IMAGE."""
    pose = torch.zeros(1, height, width, 3)
    pose[:, 16:-16, 24:-24, 0] = torch.linspace(0.1, 0.9, width - 48)
    pose[:, 16:-16, 24:-24, 1] = 0.5
    pose[:, 16:-16, 24:-24, 2] = 12 / 255
    return pose


def diffusers_prediction(folder, picture, sigma, timestep, parts, pose=None, **settings):
    """(negative, positive) clean pictures as diffusers predicts them."""
    unet, weights = small_unet(1, **tiny_parts.SIZES), Parts2Whole.from_pretrained(folder)
    scaled = picture / (sigma**2 + 1) ** 0.5
    text = torch.cat([NEGATIVE[0][0], POSITIVE[0][0]])
    pose = None if pose is None else pose.movedim(-1, 1)
    with torch.no_grad(), weights.attach(unet, parts, pose, **settings):
        noise = unet(scaled.expand(2, -1, -1, -1), timestep, encoder_hidden_states=text).sample
    return picture - noise[:1] * sigma, picture - noise[1:] * sigma


@pytest.mark.parametrize("posed", [False, True])
@pytest.mark.parametrize("two", [False, True])
def test_predictions_equal_those_of_diffusers(folder, model, weights, picture, two, posed):
    parts, regions = PARTS, []
    if two:
        parts, regions = (*PARTS[:2], random_part("whole", (16, 12), seed=4, person=2)), [LEFT, RIGHT]
    pose = (iuv() * 255).round() / 255 if posed else None
    sigma = sigma_at(model, 601)
    patched, _ = apply_parts(model, weights, parts, regions=regions, pose=pose)
    wanted = diffusers_prediction(folder, picture, sigma, 601, parts, pose, regions=regions or None)
    for cfg, expected in zip((0.0, 1.0), wanted, strict=True):
        got = predict(guider(patched, POSITIVE, NEGATIVE, cfg), picture, sigma)
        assert (got - expected).abs().max() / sigma < 1e-4
    plain = predict(guider(model, POSITIVE, NEGATIVE, 1.0), picture, sigma)
    assert (plain - wanted[1]).abs().max() / sigma > 1e-2


def test_the_bank_equals_that_of_diffusers(folder, weights):
    wanted = Parts2Whole.from_pretrained(folder).bank(PARTS)
    for layer, like in zip(weights.model.bank(PARTS), wanted, strict=True):
        assert torch.allclose(layer, like, atol=1e-4)


def test_the_noise_is_that_of_plain_linear_betas(model):
    kept = np.cumprod(1 - np.linspace(0.00085, 0.012, 1000))
    sampling = model.get_model_object("model_sampling")
    assert np.allclose(sampling.sigmas.numpy(), np.sqrt((1 - kept) / kept), rtol=1e-5)
    assert float(sampling.sigma_max) == pytest.approx(25.15, abs=0.005)


def test_each_part_is_encoded_once_and_the_encoder_leaves_the_device(weights, model, monkeypatch):
    from dhd_pack.nodes.comfy import parts_models

    counted = []
    run = parts_models._run_encoder
    monkeypatch.setattr(parts_models, "_run_encoder", lambda *inputs: counted.append(1) or run(*inputs))
    parts = (random_part("face", (16, 12), seed=8), random_part("upper", (16, 12), seed=9))
    apply_parts(model, weights, parts)
    apply_parts(model, weights, (parts[0], random_part("shoes", (16, 12), seed=10)), scale=0.5)
    assert len(counted) == 3
    on_device = [entry.model for entry in comfy.model_management.current_loaded_models]
    assert weights.model.encoder_patcher not in on_device


def test_one_part_of_a_chain_is_changed_and_one_is_encoded(weights, model, monkeypatch):
    """ComfyUI runs all Encode Parts behind a changed one again, with the same IMAGEs."""
    from dhd_pack.nodes.comfy import parts_models

    counted, run = [], parts_models._run_encoder
    monkeypatch.setattr(parts_models, "_run_encoder", lambda *inputs: counted.append(1) or run(*inputs))
    sources = (tiny_parts.Clip(), tiny_parts.Vae(), tiny_parts.Vision())
    images = torch.rand(4, 60, 50, 3, generator=torch.Generator().manual_seed(1)).split(1)

    def bank(*of, strength=1.0, label="face", sources=sources):
        parts = [encode_part(weights, images[n], label, (96, 128), *sources, strength=strength) for n in of]
        return apply_parts(model, weights, parts)[0].model_options["transformer_options"][PEOPLE][0].people.bank

    for chain, more, encoded in (
        ((0, 1, 2), {}, 3),
        ((3, 1, 2), {}, 4),
        ((3, 1, 2), {"strength": 0.5}, 4),
        ((3,), {"label": "shoes"}, 5),
        ((3,), {"sources": (tiny_parts.Clip(), *sources[1:])}, 6),
        ((3, 0), {}, 6),
    ):
        bank(*chain, **more)
        assert len(counted) == encoded
    assert not torch.equal(bank(0)[0], bank(3)[0])


def test_nobody_reads_the_other_persons_parts(model, weights, picture):
    """In the first self-attention of a call, where the picture is still the same."""
    seen = []

    def look(n, extra):
        if tuple(extra["block"]) == ("input", 1):
            seen.append(n.clone())
        return n

    for seed in (2, 3):
        parts = (PARTS[0], random_part("upper", (16, 12), seed=seed, person=2))
        patched, _ = apply_parts(model, weights, parts, regions=[LEFT, RIGHT])
        patched.set_model_attn1_output_patch(look)
        predict(guider(patched, POSITIVE, NEGATIVE), picture, sigma_at(model, 500))
    first, second = (layer[-1].reshape(16, 12, -1) for layer in seen)
    rows = [layer.reshape(-1, 16, 12, layer.shape[-1]) for layer in seen]
    changed = (rows[0] - rows[1]).abs().amax(dim=(0, 1, 3))
    assert not changed[:6].any()
    assert changed[6:].min() > 0
    assert first.shape == second.shape


def test_the_model_that_was_given_stays_as_it_was(model, weights, picture):
    sigma = sigma_at(model, 500)
    before = predict(guider(model, POSITIVE, NEGATIVE), picture, sigma)
    patched, _ = apply_parts(model, weights, PARTS, pose=iuv())
    assert not torch.allclose(predict(guider(patched, POSITIVE, NEGATIVE), picture, sigma), before, atol=1e-2)
    assert torch.equal(predict(guider(model, POSITIVE, NEGATIVE), picture, sigma), before)


def test_a_whole_run_and_a_batch(model, weights):
    patched, notes = apply_parts(model, weights, PARTS, pose=iuv())
    assert not notes
    one = sample(guider(patched, POSITIVE, NEGATIVE), (1, 4, 16, 12), steps=2)
    assert torch.isfinite(one).all()
    assert torch.equal(sample(guider(patched, POSITIVE, NEGATIVE), (1, 4, 16, 12), steps=2), one)
    two = sample(guider(patched, POSITIVE, NEGATIVE), (2, 4, 16, 12), steps=2)
    assert torch.allclose(two[:1], one, atol=1e-3)


def test_parts_may_begin_late_and_end_early(model, weights, picture):
    patched, _ = apply_parts(model, weights, PARTS, pose=iuv(), end=0.5)
    early, late = sigma_at(model, 900), sigma_at(model, 100)
    for sigma, same in ((early, False), (late, True)):
        plain = predict(guider(model, POSITIVE, NEGATIVE), picture, sigma)
        assert torch.equal(predict(guider(patched, POSITIVE, NEGATIVE), picture, sigma), plain) is same


def test_beside_perturbed_attention_guidance(model, weights, picture):
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    sigma = sigma_at(model, 500)
    patched, _ = apply_parts(model, weights, PARTS)
    with_pag = PerturbedAttentionGuidance.execute(patched, 3.0)[0]
    alone = predict(guider(patched, POSITIVE, NEGATIVE), picture, sigma)
    both = predict(guider(with_pag, POSITIVE, NEGATIVE), picture, sigma)
    assert (alone - both).abs().max() / sigma > 1e-3
    plain = PerturbedAttentionGuidance.execute(model, 3.0)[0]
    without = predict(guider(plain, POSITIVE, NEGATIVE), picture, sigma)
    assert (without - both).abs().max() / sigma > 1e-2


def test_keys_of_parts_go_through_a_lora_too(folder, model, weights, picture):
    """Put on before or behind: the UNet's own projections read the parts, with whatever patches they have."""
    name = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_k.weight"
    changed = small_unet(1, **tiny_parts.SIZES)
    weight = changed.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_k.weight
    added = torch.randn(weight.shape, generator=torch.Generator().manual_seed(7))
    sigma, text = sigma_at(model, 601), torch.cat([NEGATIVE[0][0], POSITIVE[0][0]])
    scaled = (picture / (sigma**2 + 1) ** 0.5).expand(2, -1, -1, -1)
    weight.data += added
    with torch.no_grad(), Parts2Whole.from_pretrained(folder).attach(changed, PARTS):
        noise = changed(scaled, 601, encoder_hidden_states=text).sample[1:]
    for before in (True, False):
        patched = model.clone() if before else apply_parts(model, weights, PARTS)[0]
        assert patched.add_patches({name: (added,)}) == [name]
        patched = apply_parts(patched, weights, PARTS)[0] if before else patched
        got = predict(guider(patched, POSITIVE, NEGATIVE, 1.0), picture, sigma)
        assert (got - (picture - noise * sigma)).abs().max() / sigma < 1e-4


def test_another_noise_schedule_is_told(model, weights):
    class Stock(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):
        pass

    stock = model.clone()
    stock.add_object_patch("model_sampling", Stock())
    (note,) = apply_parts(stock, weights, PARTS)[1]
    assert "14.6" in note
    assert "25.1" in note


def test_the_cascade_is_not_for_parts(model, weights):
    from dhd_pack.nodes.comfy.guider import CascadeGuider

    with refused("cascade-on-parts", "Apply Parts"):
        CascadeGuider(apply_parts(model, weights, PARTS)[0]).set_cascade()


def test_an_area_of_the_picture_gets_its_part_of_pose_and_regions(model, weights):
    """A conditioning with an area is a cropped call."""
    parts = (PARTS[0], random_part("whole", (16, 12), seed=4, person=2))
    patched, _ = apply_parts(model, weights, parts, regions=[LEFT, RIGHT], pose=iuv())
    corner = [[POSITIVE[0][0], {"area": (8, 12, 8, 0), "strength": 1.0, "set_area_to_bounds": False}]]
    found = sample(guider(patched, [*POSITIVE, *corner], NEGATIVE), (1, 4, 16, 12), steps=1)
    whole = sample(guider(patched, POSITIVE, NEGATIVE), (1, 4, 16, 12), steps=1)
    assert torch.isfinite(found).all()
    assert torch.allclose(found[..., :8, :], whole[..., :8, :], atol=1e-4)


def test_nodes_from_a_folder_to_a_model(folder, monkeypatch, picture):
    monkeypatch.setitem(folder_paths.folder_names_and_paths, folders.ADAPTERS, ([str(folder.parent)], {".safetensors"}))
    assert folders.parts_choices() == ["Parts2Whole"]
    assert folders.adapter_choices() == []
    model, weights = DHDLoadParts2Whole.execute("Parts2Whole").args
    image = torch.rand(1, 60, 50, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 60, 50)
    mask[:, :30] = 1
    sources = (tiny_parts.Clip(), tiny_parts.Vae(), tiny_parts.Vision())
    parts = DHDEncodePart.execute(weights, image, "face", *sources, 96, 128, 1, 1.0).args[0]
    parts = DHDEncodePart.execute(weights, image, "upper body clothes", *sources, 96, 128, 2, 0.5, mask, parts).args[0]
    assert [(part.label, part.person, part.strength) for part in parts] == [
        ("face", 1, 1.0),
        ("upper body clothes", 2, 0.5),
    ]
    assert parts[1].mask.shape == (1, 1, 128, 96)
    assert parts[0].latent.shape == (1, 4, 16, 12)
    assert torch.allclose(parts[0].latent[0, 0, 0, 0] / 0.18215, tiny_parts.Vae().encode(_squashed(image))[0, 0, 0, 0])
    patched = DHDApplyParts.execute(model, weights, parts, 1.0, "left out", 0.0, 1.0, None, LEFT).args[0]
    found = predict(guider(patched, POSITIVE, NEGATIVE), picture, sigma_at(model, 500))
    assert torch.isfinite(found).all()


def _squashed(image):
    from dhd_pack.dhumandiff.methods.parts2whole.pictures import squash

    pixels = (image[0] * 255).round().to(torch.uint8).numpy()
    return squash(pixels, (96, 128)).movedim(1, -1)


def test_a_folder_that_is_not_there_says_how_to_get_it():
    message = DHDLoadParts2Whole.validate_inputs("Parts3Whole")
    assert "download" in message
    assert "--method parts2whole" in message
    with refused("parts2whole-missing", "Parts3Whole"):
        DHDLoadParts2Whole.execute("Parts3Whole")


def test_what_does_not_fit_is_refused(model, weights, picture):
    two = (PARTS[0], random_part("upper", (16, 12), person=2))
    with refused("people-without-regions"):
        apply_parts(model, weights, two)
    with refused("image-embed-of-another-width", "ViT-L/14"):
        apply_parts(model, weights, [random_part("face", (16, 12), context=32)])
    with refused("pose-of-another-kind", "OpenPose"):
        apply_parts(model, weights, PARTS, pose=torch.rand(1, 128, 96, 3))
    with refused("several-pose-maps", "2 pictures"):
        apply_parts(model, weights, PARTS, pose=iuv().repeat(2, 1, 1, 1))
    with refused("pose-picture-of-another-shape", "128 x 128"):
        apply_parts(model, weights, PARTS, pose=iuv(128, 128))
    with refused("parts2whole-of-another-base", "Load Parts2Whole"):
        apply_parts(tiny_comfy.model_patcher(), weights, PARTS)
    with refused("start-not-before-end"):
        apply_parts(model, weights, PARTS, start=0.5, end=0.5)
    patched, _ = apply_parts(model, weights, PARTS)
    with refused("self-attention-replaced"):
        apply_parts(patched, weights, PARTS)
    with refused("parts-of-another-size", "96 x 128"):
        predict(guider(patched, POSITIVE, NEGATIVE), torch.zeros(1, 4, 16, 16), sigma_at(model, 500))


def test_what_is_transparent_is_no_part(weights):
    sources = (tiny_parts.Clip(), tiny_parts.Vae(), tiny_parts.Vision())
    picture, mask = torch.rand(1, 60, 50, 4), torch.zeros(1, 60, 50)
    mask[:, :30] = 1
    picture[..., 3] = mask
    masked = encode_part(weights, picture, "shoes", (96, 128), *sources, mask=mask)
    assert torch.equal(encode_part(weights, picture, "shoes", (96, 128), *sources).mask, masked.mask)
    picture[..., 3] = 1
    assert encode_part(weights, picture, "shoes", (96, 128), *sources).mask is None


def test_several_pictures_of_one_part_are_refused(weights):
    sources = (tiny_parts.Clip(), tiny_parts.Vae(), tiny_parts.Vision())
    with refused("part-of-several-pictures", "face"):
        encode_part(weights, torch.rand(2, 60, 50, 3), "face", (96, 128), *sources)
    with refused("mask-values", "The mask of the face"):
        encode_part(weights, torch.rand(1, 60, 50, 3), "face", (96, 128), *sources, mask=torch.full((1, 60, 50), 2.0))
    with refused("mask-of-another-shape", "mask of the face"):
        encode_part(weights, torch.rand(1, 60, 50, 3), "face", (96, 128), *sources, mask=torch.ones(1, 50, 60))
    other = tiny_parts.Vision()
    other.encode_image = lambda picture, crop: {"image_embeds": torch.zeros(1, 1024)}
    with refused("image-embed-of-another-width", "1024", "ViT-L/14"):
        encode_part(weights, torch.rand(1, 60, 50, 3), "face", (96, 128), *sources[:2], other)
    with refused("part-mask-empty"):
        encode_part(weights, torch.rand(1, 60, 50, 3), "face", (96, 128), *sources, mask=torch.zeros(1, 60, 50))


def test_a_folder_without_the_unet_that_draws_is_said(folder, tmp_path):
    for path in folder.iterdir():
        if path.name != "unet":
            (tmp_path / path.name).symlink_to(path)
    with refused("parts2whole-without-unet", "unet/"):
        load_parts2whole(tmp_path)
