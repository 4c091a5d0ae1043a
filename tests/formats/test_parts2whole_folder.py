"""Parts2Whole's released folder: read without running anything, and each file that is missing or wrong is named."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.refused import refused
from support.small_parts import parts_folder

from dhumandiff import formats
from dhumandiff.formats import parts2whole
from dhumandiff.methods.paired.adapter import Adapter
from dhumandiff.methods.parts2whole import Parts2Whole

REFERENCE = "reference_unet/diffusion_pytorch_model.safetensors"
POSE = "pose_guider/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    return parts_folder(tmp_path_factory.mktemp("released"))


@pytest.fixture
def folder(released, tmp_path):
    """A folder of links to a whole one, so that a test may take any of them away."""
    for path in released.rglob("*"):
        if path.is_file():
            link = tmp_path / path.relative_to(released)
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(path)
    return tmp_path


def replace(path, tensors):
    path.unlink()
    save_file(tensors, path)


def test_the_method_needs_three_things(folder):
    found = parts2whole.load(folder)
    assert len(found.decoupled) == 16
    assert next(iter(found.decoupled)).startswith("down_blocks.0")
    assert list(found.decoupled)[6].startswith("mid_block")
    assert not found.schedule


def test_another_methods_loader_says_what_it_is(folder):
    assert formats.detect(folder) == "parts2whole"
    with refused("weights-of-parts2whole", "Parts2Whole", "Stable Diffusion 1.5"):
        Adapter.from_pretrained(folder)


def test_the_released_encoder_lacks_24_tensors_and_another_may_have_them(folder, tmp_path_factory):
    assert Parts2Whole.from_pretrained(folder).info.absent == 24
    whole = parts_folder(tmp_path_factory.mktemp("whole"), whole=True)
    assert Parts2Whole.from_pretrained(whole).info.absent == 0


def test_sizes_come_from_the_tensors(folder):
    info = Parts2Whole.from_pretrained(folder).info
    assert (info.context_width, info.image_width, info.pose_channels) == (24, 24, 16)
    assert info.hidden[:7] == (16, 16, 24, 24, 32, 32, 32)


@pytest.mark.parametrize("missing", ["reference_unet", "pose_guider", "decoupled_attn.pth"])
def test_a_missing_part_of_the_folder_is_named(folder, missing):
    (folder / missing).rename(folder / "elsewhere")
    with refused("parts2whole-incomplete", str(folder), missing):
        Parts2Whole.from_pretrained(folder)


@pytest.mark.parametrize("name", [REFERENCE, POSE, "reference_unet/config.json"])
def test_a_folder_that_was_half_fetched_is_named(folder, name):
    (folder / name).unlink()
    with refused("parts2whole-incomplete", name.split("/")[0]):
        Parts2Whole.from_pretrained(folder)


@pytest.mark.parametrize("name", [REFERENCE, POSE, "decoupled_attn.pth"])
def test_a_file_that_is_cut_off_is_named(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    (folder / name).write_bytes(content[: len(content) // 2])
    with refused("file-cut-off", name):
        Parts2Whole.from_pretrained(folder)


def test_code_in_a_file_of_that_name_is_not_run(folder):
    class Evil:
        def __reduce__(self):
            return (pytest.fail, ("it was run",))

    path = folder / "decoupled_attn.pth"
    path.unlink()
    path.write_bytes(pickle.dumps({"x": Evil()}))
    with refused("code-in-weights", "decoupled_attn.pth"):
        Parts2Whole.from_pretrained(folder)


def test_another_file_under_that_name_is_said(folder):
    replace(folder / "decoupled_attn.pth", {"lora_unet.lora_up.weight": torch.zeros(2, 2)})
    with refused("no-decoupled-attention", "a LoRA"):
        Parts2Whole.from_pretrained(folder)


def test_layers_that_are_not_the_encoders_are_refused(folder):
    tensors = load_file(folder / "decoupled_attn.pth")
    del tensors["mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_v_dc.weight"]
    replace(folder / "decoupled_attn.pth", tensors)
    with refused("decoupled-layers", "mid_block"):
        Parts2Whole.from_pretrained(folder)


def test_layers_of_another_width_are_refused(folder):
    tensors = load_file(folder / "decoupled_attn.pth")
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_v_dc.weight"
    replace(folder / "decoupled_attn.pth", tensors | {name: torch.zeros(8, 24)})
    with refused("decoupled-shapes", "mid_block"):
        Parts2Whole.from_pretrained(folder)


def test_another_model_in_place_of_the_encoder_is_said(folder):
    replace(folder / REFERENCE, {"vision_model.embeddings.weight": torch.zeros(2, 2)})
    with refused("no-appearance-encoder", "reference_unet", "a CLIP image encoder"):
        Parts2Whole.from_pretrained(folder)


def test_sdxl_in_place_of_the_encoder_is_said(folder):
    tensors = load_file(folder / REFERENCE)
    tensors["down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"] = torch.zeros(16, 2048)
    replace(folder / REFERENCE, tensors)
    with refused("encoder-of-another-base", "SDXL", "Stable Diffusion 1.5"):
        Parts2Whole.from_pretrained(folder)


def test_a_tensor_beyond_the_24_that_is_missing_is_named(folder):
    tensors = load_file(folder / REFERENCE)
    del tensors["conv_in.bias"]
    replace(folder / REFERENCE, tensors)
    from dhumandiff.hosts.diffusers.parts2whole import make_encoder

    with refused("encoder-tensors", "conv_in.bias"):
        make_encoder(parts2whole.load(folder))


@pytest.mark.parametrize("change", ["a block less", "another name", "another shape"])
def test_another_net_in_place_of_the_pose_net_is_refused(folder, change):
    tensors = load_file(folder / POSE)
    if change == "a block less":
        tensors = {name: t for name, t in tensors.items() if "blocks.5" not in name}
    elif change == "another name":
        tensors["mid.weight"] = tensors.pop("blocks.3.weight")
    else:
        tensors["blocks.2.weight"] = tensors["blocks.2.weight"][:, :8].contiguous()
    replace(folder / POSE, tensors)
    with refused("no-pose-net", "pose_guider"):
        Parts2Whole.from_pretrained(folder)


def test_settings_that_are_no_json_are_named(folder):
    (folder / "reference_unet" / "config.json").unlink()
    (folder / "reference_unet" / "config.json").write_text("{")
    with refused("parts2whole-json", "config.json"):
        Parts2Whole.from_pretrained(folder)


def test_a_schedule_that_ships_is_believed(folder):
    (folder / "scheduler").mkdir()
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"beta_schedule": "scaled_linear", "beta_end": 0.02, "clip_sample": False}))
    schedule = Parts2Whole.from_pretrained(folder).info.schedule
    assert (schedule.beta_schedule, schedule.beta_start, schedule.beta_end) == ("scaled_linear", 0.00085, 0.02)
    path.write_text(json.dumps({"beta_schedule": "squaredcos_cap_v2"}))
    with refused("unknown-noise-schedule", "squaredcos_cap_v2"):
        Parts2Whole.from_pretrained(folder)
    for strange in (
        {"rescale_betas_zero_snr": True},
        {"trained_betas": [0.1]},
        {"beta_end": "0.012"},
        {"beta_start": 0},
    ):
        path.write_text(json.dumps(strange))
        with refused("unknown-betas", "scheduler_config.json"):
            Parts2Whole.from_pretrained(folder)
