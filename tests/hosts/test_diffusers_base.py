"""Bases and image encoders: what is loaded, and what is refused with which words."""

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.layouts import random_reference
from support.portraits import draw
from support.refused import refused

pytest.importorskip("diffusers", reason="install it with: pip install diffusers transformers accelerate")


from dhumandiff import testing as tiny
from dhumandiff.errors import HostError
from dhumandiff.hosts.diffusers.loading import ClipVision, check_base, choose_device
from dhumandiff.hosts.diffusers.pipeline import PortraitPipeline


@pytest.fixture(scope="module")
def portrait():
    return PortraitPipeline.from_base("tiny", "cpu")


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_a_folder_in_diffusers_layout_is_a_base(portrait, tmp_path, variant):
    portrait.pipeline.save_pretrained(tmp_path / "base", variant=variant)
    loaded = PortraitPipeline.from_base(tmp_path / "base", "cpu")
    assert loaded.dtype == torch.float32
    adapter = tiny.tiny_adapter()
    given = (adapter, [random_reference(adapter.info, clip_tokens=50)], "a man@1")
    pictures = [np.asarray(draw(one, *given, steps=2, size=(64, 64))[0]) for one in (loaded, portrait)]
    assert np.array_equal(*pictures)


def checkpoint(path, context=2048, without=()):
    """A file with the names that an SDXL checkpoint is known by; no weights."""
    names = {
        "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (4, context),
        "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight": (4,),
        "conditioner.embedders.1.model.ln_final.weight": (4,),
        "first_stage_model.decoder.conv_in.weight": (4,),
    }
    kept = {name: torch.zeros(shape) for name, shape in names.items() if not name.startswith(tuple(without))}
    save_file(kept, path)
    return path


def test_a_base_that_is_not_there_is_refused(tmp_path):
    with refused("base-missing", "sdxl-base", "hf download"):
        check_base(tmp_path / "sdxl-base")


@pytest.mark.parametrize(
    ("make", "code", "named"),
    [
        (
            lambda path: path.with_suffix(".ckpt").write_bytes(b"x") and path.with_suffix(".ckpt"),
            "unsafe-file",
            ".ckpt",
        ),
        (lambda path: path.write_bytes(b"x" * 100) and path, "base-damaged", "model.safetensors"),
        (lambda path: checkpoint(path, context=768), "base-of-another-family", "a checkpoint of another family"),
        (lambda path: checkpoint(path, without=["model."]), "no-checkpoint", "it has no UNet"),
        (lambda path: checkpoint(path, without=["first_"]), "base-lacks-parts", "no VAE"),
        (
            lambda path: checkpoint(path, without=["first_", "conditioner"]),
            "base-lacks-parts",
            "no text encoders and no VAE",
        ),
    ],
    ids=["ckpt", "damaged", "sd15", "lora", "no vae", "unet alone"],
)
def test_a_file_that_is_no_whole_sdxl_checkpoint_is_refused(tmp_path, make, code, named):
    with refused(code, named, error=HostError):
        check_base(make(tmp_path / "model.safetensors"))


@pytest.mark.parametrize(
    ("index", "code", "named"),
    [
        (None, "no-base-in-folder", "model_index.json"),
        ("{", "base-damaged", "model_index.json"),
        ({"_class_name": "StableDiffusionPipeline"}, "base-of-another-family", "StableDiffusionPipeline"),
        (
            {"_class_name": "StableDiffusionXLImg2ImgPipeline", "text_encoder": [None, None]},
            "base-is-a-refiner",
            "refiner",
        ),
    ],
)
def test_a_folder_that_is_no_sdxl_base_is_refused(tmp_path, index, code, named):
    if index is not None:
        (tmp_path / "model_index.json").write_text(index if isinstance(index, str) else json.dumps(index))
    with refused(code, str(tmp_path), named):
        check_base(tmp_path)


def test_a_folder_with_one_checkpoint_is_refused(tmp_path):
    """With the advice to give the file."""
    checkpoint(tmp_path / "base.safetensors")
    with refused("no-base-in-folder", "base.safetensors"):
        check_base(tmp_path)


def test_a_folder_with_a_damaged_part_is_refused(portrait, tmp_path):
    portrait.pipeline.save_pretrained(tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with refused("base-not-loaded", str(tmp_path)):
        PortraitPipeline.from_base(tmp_path, "cpu")


def test_devices_and_dtypes_that_are_not_there_are_refused():
    assert choose_device("cpu") == "cpu"
    assert choose_device() in ("cuda", "mps", "cpu")
    with refused("device-not-available", "'tpu'", "cpu"):
        choose_device("tpu")
    with refused("unknown-dtype", "'fp8'", "auto, fp16, bf16, fp32"):
        PortraitPipeline.from_base("tiny", "cpu", "fp8")


@pytest.mark.parametrize("name", ["diffusers", "transformers"])
def test_a_missing_package_is_told(monkeypatch, name):
    """With the line that installs it."""
    monkeypatch.setitem(sys.modules, name, None)
    with refused("package-missing", f"need {name} ", "pip install diffusers transformers accelerate"):
        PortraitPipeline.from_base("tiny", "cpu")


def test_an_image_encoder_is_loaded_from_a_folder(tmp_path):
    vision = tiny.tiny_vision()
    vision.model.save_pretrained(tmp_path)
    pixels = torch.randn(1, 3, 224, 224)
    loaded = ClipVision.from_pretrained(tmp_path)
    assert loaded.image_size == 224
    assert torch.allclose(loaded(pixels), vision(pixels), atol=1e-6)
    half = ClipVision.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half(pixels).dtype == torch.float32


def test_an_image_encoder_that_is_not_there_is_refused(tmp_path, monkeypatch):
    with refused("image-encoder-not-loaded", "CLIP ViT-H/14 as one .safetensors"):
        ClipVision.from_pretrained(tmp_path)
    import transformers

    asked = []

    def offline(where, **settings):
        asked.append((where, settings["subfolder"]))
        raise OSError("offline")

    monkeypatch.setattr(transformers.CLIPVisionModelWithProjection, "from_pretrained", offline)
    with refused("image-encoder-not-loaded", "h94/IP-Adapter/models/image_encoder", "offline"):
        ClipVision.from_pretrained()
    assert asked == [("h94/IP-Adapter", "models/image_encoder")]
