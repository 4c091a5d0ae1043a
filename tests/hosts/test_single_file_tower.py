"""Image encoders in one file: loaded without a network, number by number what was put in."""

import pytest
import torch
from safetensors.torch import save_file
from support import checkpoints
from support.refused import refused

from dhumandiff.formats import clip_vision
from dhumandiff.hosts.diffusers.loading import ClipVision

pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("no_network")


@pytest.mark.parametrize("layout", ["transformers", "open_clip", "open_clip with words"])
def test_an_image_encoder_in_one_file_sees_what_it_saw(tower, tmp_path, layout):
    path = tmp_path / "clip.safetensors"
    tensors = tower.state_dict() if layout == "transformers" else checkpoints.open_clip_vision(tower)
    if "words" in layout:
        tensors = {**tensors, "token_embedding.weight": torch.zeros(4, 4), "logit_scale": torch.ones(())}
    save_file(tensors, path)
    found = ClipVision.from_pretrained(path)
    checkpoints.same_numbers(found.model, tower)
    size = found.image_size
    pixels = torch.linspace(-1, 1, 3 * size * size).reshape(1, 3, size, size)
    assert torch.equal(found(pixels), ClipVision(tower)(pixels))
    assert clip_vision.width(path) == tower.config.hidden_size


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        (
            lambda t: {"vision_model.embeddings.patch_embedding.weight": torch.zeros(768, 3, 16, 16)},
            "no-image-encoder",
            "SigLIP",
        ),
        (lambda t: {"lora_te_x.lora_up.weight": torch.zeros(2)}, "no-image-encoder", "a LoRA"),
        (lambda t: {n: v for n, v in t.items() if ".layers.1." not in n}, "image-encoder-of-another-size", "layers"),
        (lambda t: {n: v for n, v in t.items() if "pre_layrnorm" not in n}, "text-encoder-tensors", "pre_layrnorm"),
        (
            lambda t: {
                **t,
                "vision_model.embeddings.class_embedding": torch.zeros(1664),
                "vision_model.embeddings.patch_embedding.weight": torch.zeros(1664, 3, 14, 14),
            },
            "image-encoder-of-another-size",
            "1664",
        ),
    ],
    ids=["siglip", "lora", "layers", "tensor", "bigG"],
)
def test_an_image_encoder_that_is_another_is_refused(tower, tmp_path, change, code, named):
    path = tmp_path / "clip.safetensors"
    save_file(change(tower.state_dict()), path)
    with refused(code, "clip.safetensors", named):
        ClipVision.from_pretrained(path)


def test_a_half_image_encoder_is_refused(tower, tmp_path):
    path = tmp_path / "clip.safetensors"
    save_file(tower.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-500])
    with refused("file-cut-off", "clip.safetensors"):
        ClipVision.from_pretrained(path)
