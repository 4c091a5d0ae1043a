"""SigLIP's vision tower as a file: what is read of it, and what is told of another file."""

import pytest
import torch
from safetensors.torch import save_file
from support.refused import refused
from support.siglip import SMALL, siglip_tensors, siglip_tower

from dhumandiff.errors import AdapterError
from dhumandiff.formats import siglip

pytest.importorskip("transformers", reason="install it with: pip install transformers")

WORDS = "text_model.embeddings.token_embedding.weight"


@pytest.fixture
def small(monkeypatch):
    """A small layout in the place of the published one; its tensors."""
    for name, value in SMALL.items():
        monkeypatch.setitem(siglip.CONFIG, name, value)
    return siglip_tensors(siglip_tower(**SMALL))


def saved(folder, tensors):
    path = folder / "model.safetensors"
    save_file(tensors, path)
    return path


def test_the_published_layout_is_known():
    with torch.device("meta"):
        from transformers import SiglipVisionConfig, SiglipVisionModel

        tower = SiglipVisionModel(SiglipVisionConfig(image_size=256))
    shapes = {name: tuple(value.shape) for name, value in siglip_tensors(tower).items() if ".head." not in name}
    assert siglip._shapes() == shapes


def test_only_the_vision_tower_is_read(tmp_path, small):
    text = {WORDS: torch.zeros(siglip._VOCABULARY, 1), "text_model.final_layer_norm.weight": torch.ones(4)}
    path = saved(tmp_path, {**small, **text, "logit_scale": torch.ones(1)})
    read = siglip.read(path)
    assert {*read} == {name for name in small if ".head." not in name}
    assert all(torch.equal(value, small[name]) for name, value in read.items())


def test_half_precision_is_read_as_it_is(tmp_path, small):
    path = saved(tmp_path, {name: value.bfloat16() for name, value in small.items()})
    assert {value.dtype for value in siglip.read(path).values()} == {torch.bfloat16}


def test_another_file_is_told_which(tmp_path, small):
    first = "vision_model.encoder.layers.0.self_attn.q_proj.weight"
    without = {name: value for name, value in small.items() if name != first}
    larger = siglip_tensors(siglip_tower(**{**SMALL, "hidden_size": 96}))
    shorter = siglip_tensors(siglip_tower(**{**SMALL, "num_hidden_layers": 1}))
    for tensors, code, named in [
        (
            {**small, "vision_model.embeddings.class_embedding": torch.zeros(48)},
            "clip-for-siglip",
            "CLIP image encoder",
        ),
        (larger, "siglip-of-another-size", "positions [16, 96], where base-patch16-256 has"),
        (shorter, "tensor-missing", "vision_model.encoder.layers.1."),
        ({WORDS: torch.zeros(3, 4)}, "siglip-without-vision", "a text encoder"),
        ({"lora_up.weight": torch.zeros(2, 2)}, "no-siglip", "a LoRA"),
        ({**small, WORDS: torch.zeros(32_000, 1)}, "siglip-of-another-training", "the English SigLIP"),
        ({**small, WORDS: torch.zeros(256_000, 1)}, "siglip-of-another-training", "SigLIP 2"),
        (without, "tensor-missing", first),
        ({**small, first: torch.zeros(48, 47)}, "tensor-of-another-shape", first),
        ({**small, first: torch.full((48, 48), torch.nan)}, "siglip-not-finite", first),
        ({**small, first: torch.zeros(48, 48, dtype=torch.int8)}, "quantized-weights", "int8"),
    ]:
        with refused(code, "model.safetensors", named, error=AdapterError):
            siglip.read(saved(tmp_path, tensors))


def test_a_damaged_file_is_named(tmp_path, small):
    path = saved(tmp_path, small)
    whole = path.read_bytes()
    for content, code in ((whole[:-9], "file-cut-off"), (b"", "file-empty"), (b"<html>no such file", "no-tensor-file")):
        path.write_bytes(content)
        with refused(code, "model.safetensors", error=AdapterError):
            siglip.read(path)
