"""Whole pictures from parts with diffusers: the noise schedule, what becomes of a picture and its mask, and the prompt."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support.part_pictures import densepose, openpose
from support.refused import refused
from support.small_parts import parts_base

from dhumandiff.hosts.diffusers.parts2whole_pipeline import PartsPipeline, load_base, make_scheduler
from dhumandiff.methods.paired.settings import SamplingSettings
from dhumandiff.methods.parts2whole import Parts2Whole
from dhumandiff.methods.parts2whole.pictures import check_pose_picture, clip_input, squash, squash_mask
from dhumandiff.methods.parts2whole.schedule import NoiseSchedule

SIZE = (64, 96)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return parts_base(tmp_path_factory.mktemp("Parts2Whole"))


@pytest.fixture(scope="module")
def pipeline(folder):
    return PartsPipeline.from_base(folder, device="cpu")


def blots(seed):
    small = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((40, 60), Image.Resampling.BICUBIC))


def draw(pipeline, parts, prompt="A person in a garden", steps=3, seed=0, **settings):
    sampling = SamplingSettings(steps=steps, cfg=3.5, sampler=settings.pop("sampler", None), seed=seed, size=SIZE)
    return np.asarray(pipeline(parts, prompt, sampling=sampling, **settings)).astype(int)


@pytest.mark.parametrize("sampler", ["ddim", "euler", "euler_ancestral"])
def test_the_noise_is_that_of_plain_linear_betas(sampler):
    scheduler = make_scheduler(NoiseSchedule(), sampler)
    kept = torch.tensor(np.cumprod(1 - np.linspace(0.00085, 0.012, 1000)))
    assert torch.allclose(scheduler.alphas_cumprod.double(), kept, rtol=1e-5)
    scheduler.set_timesteps(50)
    assert (int(scheduler.timesteps[0]), int(scheduler.timesteps[-1])) == (981, 1)


def test_an_unknown_sampler_is_refused():
    with refused("unknown-sampler", "ddim"):
        make_scheduler(NoiseSchedule(), "heun")


def test_pictures_are_squashed_and_their_masks_too():
    wide = np.zeros((20, 80, 3), dtype=np.uint8)
    wide[:, 40:] = 255
    found = squash(wide, (32, 64))
    assert found.shape == (1, 3, 64, 32)
    assert float(found[..., :12].max()) < 0.01
    assert float(found[..., 20:].min()) > 0.99
    mask = squash_mask(np.full((20, 80), 128, dtype=np.uint8), (20, 80), (32, 64), "the face")
    assert torch.allclose(mask, torch.full((1, 1, 64, 32), 128 / 255))
    assert clip_input(wide).shape == (1, 3, 224, 224)  # all of the picture, not its middle
    assert float(clip_input(wide)[0, 0, 0, 0]) == pytest.approx(-0.48145466 / 0.26862954, abs=1e-5)


def test_a_mask_of_another_shape_or_without_anything_in_it_is_refused():
    with refused("mask-of-another-shape", "mask of the face"):
        squash_mask(np.full((80, 20), 255, dtype=np.uint8), (20, 80), (32, 64), "the face")
    with refused("part-mask-empty", "the face"):
        squash_mask(np.zeros((20, 80), dtype=np.uint8), (20, 80), (32, 64), "the face")


def test_a_pose_of_another_kind_is_refused_with_what_makes_the_right_one(tmp_path):
    check_pose_picture(np.asarray(Image.open(densepose(tmp_path / "iuv.png"))), "iuv.png")
    skeleton = np.asarray(Image.open(openpose(tmp_path / "skeleton.png")))
    viridis = np.full((96, 64, 3), (68, 1, 84), dtype=np.uint8)
    for other in (skeleton, viridis, blots(0)):
        with refused("pose-of-another-kind", "pose.png", "detectron2", "OpenPose"):
            check_pose_picture(other, "pose.png")
    with refused("pose-empty", "pose.png"):
        check_pose_picture(np.zeros((96, 64, 3), dtype=np.uint8), "pose.png")


def test_a_part_is_what_the_base_makes_of_its_picture(pipeline):
    mask = np.zeros((60, 40), dtype=np.uint8)
    mask[:30] = 255
    part = pipeline.encode_part(blots(0), "upper", SIZE, mask, person=2, strength=0.5)
    assert (part.label, part.person, part.strength) == ("upper body clothes", 2, 0.5)
    assert part.latent.shape == (1, 4, 12, 8)
    assert part.mask.shape == (1, 1, 96, 64)
    assert part.label_embedding.shape == (1, 77, 24)
    assert part.image_embed.shape == (1, 24)
    assert torch.equal(part.label_embedding, pipeline.encode("upper body clothes"))
    assert torch.equal(part.latent, pipeline.encode_part(blots(0), "upper", SIZE).latent)
    assert not torch.equal(part.latent, pipeline.encode_part(blots(0), "upper", SIZE, seed=1).latent)


def test_the_prompt_the_parts_the_pose_and_the_seed_all_count(pipeline, tmp_path):
    part = pipeline.encode_part(blots(0), "upper", SIZE)
    pose = squash(np.asarray(Image.open(densepose(tmp_path / "iuv.png"))), SIZE)
    usual = draw(pipeline, [part])
    assert np.array_equal(draw(pipeline, [part]), usual)
    for other in (
        draw(pipeline, [part], prompt="A person at night"),
        draw(pipeline, [pipeline.encode_part(blots(1), "upper", SIZE)]),
        draw(pipeline, [part], pose=pose),
        draw(pipeline, [part], seed=1),
        draw(pipeline, [part], negative="blurry"),
        draw(pipeline, [part], scale=0.0),
        draw(pipeline, [part], sampler="euler"),
    ):
        assert not np.array_equal(other, usual)


def test_a_prompt_may_be_longer_than_77_tokens(pipeline):
    part = pipeline.encode_part(blots(0), "upper", SIZE)
    assert draw(pipeline, [part], prompt="a person in a garden, " * 30).shape == (96, 64, 3)


def test_two_people_are_drawn_and_overlap_is_told(pipeline):
    parts = [pipeline.encode_part(blots(n), "upper", SIZE, person=n + 1) for n in (0, 1)]
    left, right = torch.zeros(12, 8), torch.zeros(12, 8)
    left[:, :5], right[:, 4:] = 1, 1
    told = []
    draw(pipeline, parts, regions=[left, right], told=told.append)
    assert len(told) == 1
    assert "overlap" in told[0]
    with refused("people-without-regions"):
        draw(pipeline, parts)


def test_the_unet_of_the_folder_may_hold_decoupled_attention_as_well(folder, tmp_path, pipeline):
    both = parts_base(tmp_path)
    path = both / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({**load_file(path), **load_file(both / "decoupled_attn.pth")}, path)
    again = PartsPipeline.from_base(both, device="cpu")
    part = pipeline.encode_part(blots(0), "face", SIZE)
    assert np.array_equal(draw(again, [part]), draw(pipeline, [part]))


@pytest.mark.parametrize("missing", ["unet", "vae", "text_encoder", "image_encoder"])
def test_a_base_that_lacks_a_part_is_named(folder, tmp_path, missing):
    for path in folder.iterdir():
        if path.name != missing:
            (tmp_path / path.name).symlink_to(path)
    with refused("parts-base-incomplete", f"{missing}/"):
        load_base(tmp_path, None, torch.float32)
    if missing == "image_encoder":
        assert load_base(tmp_path, folder / "image_encoder", torch.float32).image_encoder is not None


def test_half_precision_draws(folder):
    pipeline = PartsPipeline.from_base(folder, device="cpu", dtype="bf16")
    assert Parts2Whole.from_pretrained(folder).placed[1] == torch.float32
    part = pipeline.encode_part(blots(0), "face", SIZE)
    assert draw(pipeline, [part], steps=1).shape == (96, 64, 3)
