"""SigLIP outside of ComfyUI: what references for WithAnyone are encoded with."""

import pytest
import torch
from safetensors.torch import save_file
from support.refused import refused
from support.siglip import SMALL, siglip_tensors, siglip_tower

from dhumandiff.errors import AdapterError
from dhumandiff.formats import siglip
from dhumandiff.references.encode import encode_reference
from dhumandiff.testing import tiny_faces

pytest.importorskip("transformers", reason="install it with: pip install transformers")

from dhumandiff.hosts.diffusers.vision import SiglipVision


@pytest.fixture
def tower(monkeypatch):
    """A small layout in the place of the published one."""
    for name, value in SMALL.items():
        monkeypatch.setitem(siglip.CONFIG, name, value)
    return siglip_tower(**SMALL)


def test_a_file_gives_the_tower_s_own_numbers(tower, tmp_path):
    save_file(siglip_tensors(tower), tmp_path / "s.safetensors")
    ours = SiglipVision.from_file(tmp_path / "s.safetensors")
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours(pixels), tower(pixels).last_hidden_state)
    assert ours.image_size == 64
    half = SiglipVision.from_file(tmp_path / "s.safetensors", dtype=torch.bfloat16)
    assert (half(pixels) - ours(pixels)).abs().max() < 0.2


def test_a_person_is_encoded_with_it_alone(tower, tmp_path):
    save_file(siglip_tensors(tower), tmp_path / "s.safetensors")
    photo = torch.rand(200, 200, 3, generator=torch.Generator().manual_seed(0))
    ours = SiglipVision.from_file(tmp_path / "s.safetensors")
    made, _ = encode_reference(photo, None, tiny_faces(), siglip=ours)
    assert made.siglip_hidden.shape == (1, 16, 48)
    assert made.clip_hidden is None


def test_another_file_is_named(tower, tmp_path):
    save_file({"vision_model.embeddings.class_embedding": torch.zeros(4)}, tmp_path / "clip.safetensors")
    with refused("clip-for-siglip", "clip.safetensors", error=AdapterError):
        SiglipVision.from_file(tmp_path / "clip.safetensors")
