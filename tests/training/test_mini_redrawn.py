"""Pictures that the base draws anew, for a decoder that makes up for its errors."""

import numpy as np
import pytest
import torch

for package in ("diffusers", "transformers"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from types import SimpleNamespace

from dhumandiff.hosts.diffusers.parts import sdxl_scheduler
from dhumandiff.miniature.autoencoder import Autoencoder
from dhumandiff.miniature.base import mini_text_encoders, mini_unet, mini_vae
from dhumandiff.miniature.design import SECOND
from training.miniature import autoencoder
from training.miniature.autoencoder import encode_all
from training.miniature.base import Texts
from training.miniature.redrawn import redraw, take_away
from training.miniature.renders import render_pictures

pytestmark = pytest.mark.usefixtures("one_thread")


def knows(clean, guidance=None):
    """A UNet that knows the pictures: its velocity leads back to them; with a sentence only, if guidance is to matter."""
    products = sdxl_scheduler().alphas_cumprod

    def velocity(noisy, heights, text, added_cond_kwargs):
        kept, lost = (share.sqrt()[:, None, None, None] for share in (products[heights], 1 - products[heights]))
        true = clean.repeat(2, 1, 1, 1)
        found = kept * (noisy - kept * true) / lost - lost * true
        if guidance is not None:
            found[len(clean) :] += guidance
        return SimpleNamespace(sample=found)

    return velocity


def test_a_base_without_errors_gives_the_pictures_back():
    random = torch.Generator().manual_seed(3)
    clean, noise = torch.randn(2, 3, 8, 4, 6, generator=random)
    given = (clean, noise, torch.tensor([120, 300, 490]), torch.zeros(6, 77, 8), torch.zeros(6, 8))
    assert torch.allclose(take_away(knows(clean), *given), clean, atol=1e-4)
    assert not torch.allclose(take_away(knows(clean, guidance=0.5), *given), clean, atol=0.05)


def test_pictures_come_back_nearly_and_are_drawn_but_once(tmp_path):
    renders = render_pictures(tmp_path / "pictures", 3, 1)
    latents, said = encode_all(mini_vae(), renders["images"]), renders.descriptions()
    texts = Texts(*mini_text_encoders())
    found = redraw(tmp_path / "redrawn.npy", latents, said, mini_unet(), texts)
    assert found.shape == latents.shape
    assert found.isfinite().all()
    assert np.load(tmp_path / "redrawn.npy").dtype == np.float16
    again = redraw(tmp_path / "redrawn.npy", latents, said, None, None)
    assert torch.allclose(again, found, atol=0.01)


def test_half_of_the_decoder_s_crops_are_redrawn(tmp_path, monkeypatch):
    monkeypatch.setattr(autoencoder, "CROPS", 4)
    renders, vae = render_pictures(tmp_path, 2, 1, size=SECOND.size), Autoencoder(SECOND)
    # Latents that say where they are: the picture's number and the place.
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(32.0), indexing="ij")
    places = torch.stack([torch.full((24, 32), 0.0), y, x, *[torch.zeros(24, 32)] * 5]).expand(2, -1, -1, -1)
    pixels, weights, wrong = autoencoder._some(renders, torch.Generator().manual_seed(1), places)
    assert (len(pixels), len(weights), len(wrong)) == (4, 4, 2)
    for picture, latent in zip(pixels, wrong, strict=False):
        top, left = (8 * int(latent[k, 0, 0]) for k in (1, 2))
        crops = autoencoder.pixels_of(renders["images"][:, top : top + 96, left : left + 96])
        assert any(torch.equal(picture, crop) for crop in crops)
    assert autoencoder._some(renders, torch.Generator().manual_seed(1))[2] is None
    vae.requires_grad_(False)
    autoencoder.train_sharp_decoder(tmp_path, vae, renders, 1, places)
