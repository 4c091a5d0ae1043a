"""The tiny base: SDXL's layout in small, the same weights for the same seed, and nothing that blows up."""

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="install it with: pip install diffusers transformers accelerate")

from support.refused import refused

from dhumandiff import testing as tiny
from dhumandiff.faces import FaceAnalyzer
from dhumandiff.hosts.diffusers.attention import cross_attention_layers
from dhumandiff.hosts.diffusers.parts import sdxl_tokenizer
from dhumandiff.references.encode import encode_reference
from dhumandiff.tokenizer import TOKENIZER


@pytest.mark.parametrize(("depth", "layers"), [("tiny", 17), ("sdxl", 70)])
def test_the_adapter_fits_the_unet_s_layers(depth, layers):
    """In number, width and context."""
    info = tiny.tiny_adapter(depth=depth).info
    with torch.device("meta"):  # only the layout counts here
        found = cross_attention_layers(tiny.tiny_unet(depth=depth))
    assert len(found) == info.layers == layers
    assert tuple(module.inner_dim for _, module in found) == info.hidden
    assert {module.cross_attention_dim for _, module in found} == {info.context_width}
    assert all(module.inner_dim == 64 * module.heads for _, module in found)


def test_full_depth_has_sdxl_s_layers_in_small():
    """A tenth of its widths, each in its place."""
    from support.layouts import SDXL_HIDDEN

    assert tiny.tiny_adapter(depth="sdxl").info.hidden == tuple(width // 10 for width in SDXL_HIDDEN)


def test_layers_come_in_the_order_down_up_mid():
    names = [name for name, _ in cross_attention_layers(tiny.tiny_unet())]
    blocks = [name.partition(".")[0] for name in names]
    assert blocks == ["down_blocks"] * 6 + ["up_blocks"] * 9 + ["mid_block"] * 2


@pytest.mark.parametrize(
    "build",
    [
        tiny.tiny_unet,
        lambda seed: tiny.tiny_text_encoders(seed)[0],
        lambda seed: tiny.tiny_text_encoders(seed)[1],
        tiny.tiny_vae,
        lambda seed: tiny.tiny_vision(seed).model,
        tiny.tiny_adapter,
    ],
    ids=["unet", "clip_l", "clip_g", "vae", "vision", "adapter"],
)
def test_same_seed_gives_the_same_weights_whatever_the_global_seed(build):
    torch.manual_seed(1)
    first = build(0).state_dict()
    torch.manual_seed(2)
    second, other = build(0).state_dict(), build(7).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_sampling_ends_in_ordinary_latents():
    """For the UNet predicts mostly its input."""
    unet = tiny.tiny_unet()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 16, 24, generator=generator)
    added = {"text_embeds": torch.randn(1, 128, generator=generator), "time_ids": torch.zeros(1, 6)}
    context = torch.randn(1, 77, 192, generator=generator)
    with torch.no_grad():
        out = unet(x, 500, context, added_cond_kwargs=added).sample
    assert torch.nn.functional.cosine_similarity(out.flatten(), x.flatten(), dim=0) > 0.8
    assert 0.8 < out.std() < 1.5


def test_tokenizer_is_clips_with_both_ways_of_padding():
    first, second = sdxl_tokenizer(), sdxl_tokenizer(second=True)
    assert first("A man")["input_ids"] == [49406, 320, 786, 49407]
    assert first.model_max_length == 77
    settings = {"padding": "max_length", "max_length": 5}
    assert first("a", **settings)["input_ids"] == [49406, 320, 49407, 49407, 49407]
    assert second("a", **settings)["input_ids"] == [49406, 320, 49407, 0, 0]


def test_vocabulary_is_packaged_with_its_license():
    assert "MIT License" in (TOKENIZER / "LICENSE").read_text(encoding="utf-8")


def test_vae_makes_eight_pixels_of_a_latent_pixel():
    vae = tiny.tiny_vae()
    with torch.no_grad():
        picture = vae.decode(torch.randn(1, 4, 6, 8)).sample
        latent = vae.encode(picture).latent_dist.mean
    assert picture.shape == (1, 3, 48, 64)
    assert latent.shape == (1, 4, 6, 8)
    assert picture.isfinite().all()
    assert vae.config.scaling_factor == 0.13025


def test_tiny_references_fit_the_adapter():
    """Out of the tiny vision tower and the tiny faces."""
    pytest.importorskip("cv2", reason="photo quality is measured with OpenCV: pip install opencv-python-headless")
    pixels = np.random.default_rng(0).integers(0, 256, (160, 200, 3), dtype=np.uint8)
    reference, _ = encode_reference(pixels, tiny.tiny_vision(), tiny.tiny_faces(), name="noise")
    assert reference.clip_hidden.shape == (1, 50, 64)
    adapter = tiny.tiny_adapter()
    assert adapter.face_tokens(reference).shape == (1, 16, 192)
    assert adapter.identity_token(reference).shape == (1, 64)
    assert adapter.subject_token(torch.randn(1, 64), reference).isfinite().all()


def test_vision_gives_the_hidden_states_before_the_last_layer():
    vision = tiny.tiny_vision()
    pixels = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        states = vision.model(pixels, output_hidden_states=True).hidden_states
    assert torch.equal(vision(pixels), states[-2])
    assert len(states) == 5


def test_faces_tell_pictures_and_channels_apart():
    """They are found in the middle."""
    faces = tiny.tiny_faces()
    assert isinstance(faces, FaceAnalyzer)
    random = np.random.default_rng(1)
    first, second = (random.integers(0, 256, (120, 200, 3), dtype=np.uint8) for _ in range(2))
    (face,) = faces.detect(first)
    assert face.box.tolist() == pytest.approx([64, 24, 136, 96])
    assert (face.landmarks >= face.box[:2]).all()
    assert (face.landmarks <= face.box[2:]).all()
    identity = faces.identity(first, face)
    assert identity.dtype == np.float32
    assert identity.shape == (512,)
    assert np.linalg.norm(identity) == pytest.approx(1, abs=1e-5)
    assert np.array_equal(identity, tiny.tiny_faces().identity(first, face))
    assert identity @ faces.identity(second, face) < 0.4
    assert identity @ faces.identity(first, face, swap_channels=True) < 0.9


def test_faces_give_a_grey_picture_an_identity_too():
    grey = np.full((100, 100, 3), 128, dtype=np.uint8)
    faces = tiny.tiny_faces()
    assert np.isfinite(faces.identity(grey, faces.detect(grey)[0])).all()


def test_unknown_depth_is_refused():
    with refused("unknown-depth", "'deep'"):
        tiny.tiny_unet(depth="deep")
